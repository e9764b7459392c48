"""The exact choice against every combination there is, on small random instances, with and without coupled groups."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.selection import Item, Option, Problem, Solution, cheapest, solve, solve_within, without_dominated

VALUES = st.integers(0, 40)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, tuple[float, ...]]:
    """Up to 4 layers, 3 groups of up to 3 levels and 2 budgets; small integers, so that ties and equal sums occur."""
    budgets = draw(st.integers(1, 2))
    levels = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    items = []
    for index in range(draw(st.integers(1, 4))):
        groups = tuple(sorted(draw(st.sets(st.integers(0, len(levels) - 1), max_size=2)))) if levels else ()
        options = []
        for state in itertools.product(*(range(levels[group]) for group in groups)):
            for _ in range(draw(st.integers(1, 3))):
                costs = tuple(float(draw(VALUES)) for _ in range(budgets))
                options.append(Option(state, float(draw(VALUES)), costs))
        items.append(Item(f"layer{index}", groups, tuple(options)))
    return Problem(levels, tuple(items)), tuple(float(draw(st.integers(0, 120))) for _ in range(budgets))


def brute_force(problem: Problem, budgets: tuple[float, ...]) -> float | None:
    """The least loss over every combination that agrees on levels and fits, or None."""
    best = None
    for levels in itertools.product(*(range(count) for count in problem.levels)):
        allowed = [[option for option in item.options if option.levels == tuple(levels[g] for g in item.groups)]
                   for item in problem.items]
        for chosen in itertools.product(*allowed):
            costs = [sum(option.costs[b] for option in chosen) for b in range(len(budgets))]
            if all(cost <= budget for cost, budget in zip(costs, budgets, strict=True)):
                loss = sum(option.loss for option in chosen)
                best = loss if best is None else min(best, loss)
    return best


def consistent(problem: Problem, solution: Solution) -> bool:
    chosen = [item.options[index] for item, index in zip(problem.items, solution.options, strict=True)]
    return (all(option.levels == tuple(solution.levels[g] for g in item.groups)
                for item, option in zip(problem.items, chosen, strict=True))
            and math.isclose(solution.loss, sum(option.loss for option in chosen), abs_tol=1e-9)
            and all(math.isclose(cost, sum(option.costs[b] for option in chosen), abs_tol=1e-9)
                    for b, cost in enumerate(solution.costs)))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_least_loss_is_that_of_brute_force(drawn: tuple[Problem, tuple[float, ...]]) -> None:
    problem, budgets = drawn
    wanted = brute_force(problem, budgets)
    found = solve(problem, budgets)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert consistent(problem, found)
    assert all(cost <= budget for cost, budget in zip(found.costs, budgets, strict=True))
    assert found.loss == wanted


@settings(max_examples=40, deadline=None)
@given(problems())
def test_dropping_dominated_options_changes_no_optimum(drawn: tuple[Problem, tuple[float, ...]]) -> None:
    problem, budgets = drawn
    thinner = Problem(problem.levels, tuple(
        Item(item.name, item.groups, tuple(item.options[index] for index in without_dominated(item.options)))
        for item in problem.items))
    assert brute_force(thinner, budgets) == brute_force(problem, budgets)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_cheapest_is_the_least_budget_that_can_be_met(drawn: tuple[Problem, tuple[float, ...]]) -> None:
    problem, budgets = drawn
    least = cheapest(problem, 0)
    unlimited = (math.inf,) * (len(budgets) - 1)
    assert consistent(problem, least)
    assert brute_force(problem, (least.costs[0], *unlimited)) is not None
    assert brute_force(problem, (least.costs[0] - 1, *unlimited)) is None


def test_layers_of_one_group_agree_even_where_each_alone_would_not() -> None:
    """Layer a would take level 1, layer b level 0; together they can afford neither of the mixed states."""
    group = (0,)
    a = Item("a", group, (Option((0,), 0.0, (10.0,)), Option((1,), 1.0, (2.0,))))
    b = Item("b", group, (Option((0,), 0.0, (3.0,)), Option((1,), 9.0, (2.0,))))
    found = solve(Problem((2,), (a, b)), (12.0,))
    assert found is not None
    assert (found.levels, found.loss, found.costs) == ((1,), 10.0, (4.0,))


def test_the_cheaper_of_two_equal_losses_is_taken() -> None:
    item = Item("a", (), (Option((), 1.0, (9.0,)), Option((), 1.0, (3.0,)), Option((), 1.0, (6.0,))))
    found = solve(Problem((), (item,)), (10.0,))
    assert found is not None
    assert found.options == (1,)


def staircase(count: int = 6) -> Problem:
    """Layers that can cost 10 down to 1 at a loss of 0 up to 9."""
    options = tuple(Option((), float(step), (10.0 - step,)) for step in range(10))
    return Problem((), tuple(Item(f"layer{index}", (), options) for index in range(count)))


@pytest.mark.parametrize("factor", [1.02, 1.34, 1.8])
def test_a_network_that_costs_more_than_its_table_is_chosen_again_until_it_fits(factor: float) -> None:
    found = solve_within(staircase(), (30.0,), lambda solution: (solution.costs[0] * factor,))
    assert found is not None
    real = found[1]
    assert real[0] <= 30.0
    assert real[0] > 30.0 - 2 * factor  # one step of a layer more would not fit


@pytest.mark.parametrize("factor", [0.9, 0.6, 0.36])
def test_a_table_that_overstates_leaves_no_slack_unused(factor: float) -> None:
    found = solve_within(staircase(), (20.0,), lambda solution: (solution.costs[0] * factor,))
    assert found is not None
    assert 20.0 * 0.97 - factor <= found[1][0] <= 20.0


def test_no_network_over_its_budget_is_ever_returned() -> None:
    assert solve_within(staircase(), (30.0,), lambda solution: (31.0,)) is None
    assert solve_within(staircase(), (5.0,), lambda solution: solution.costs) is None
