"""One option per layer under a budget, exactly: the multiple-choice knapsack with coupled channel groups.

Every layer (an `Item`) has options, each with a predicted loss and a cost per budget; an option also says how many
channels of each group it assumes, and layers that share a group must assume the same.  Left out: where options
come from (candidates.py) and what they cost (oracle.py).  Read cost.py for who asks.

Solved as a mixed-integer linear programme by scipy.optimize.milp (HiGHS): a binary per option and per group level,
with sum of options = 1 per layer, sum of a layer's options at a level = that level's binary, cost <= budget.
Without groups this is the multiple-choice knapsack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OBJECTIVE_SCALE = 1e3
"""The largest loss is scaled to this: HiGHS stops at an absolute gap of 1e-6, far below any difference that matters."""
TIE_SHARE = 1e-6
"""Weight of cost in the objective, as a share of a whole dense network costing OBJECTIVE_SCALE: among equal losses
the cheaper wins, so the answer does not depend on the solver's taste."""
RELATIVE_GAP = 1e-7
SLACK = 0.97
"""A network whose real cost is below this share of its budget is given more, where the table had overstated it."""


@dataclass(frozen=True)
class Option:
    """levels: level of each of its item's groups.  loss: predicted damage.  costs: one per budget."""

    levels: tuple[int, ...]
    loss: float
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Item:
    """A layer: the groups (by index) whose channels it makes or reads, and what it can become."""

    name: str
    groups: tuple[int, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Problem:
    """levels: how many levels each group has.  items: the layers; each has at least one option."""

    levels: tuple[int, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Solution:
    """options: index of the option taken by each item.  levels: level of each group.  Sums over the items."""

    options: tuple[int, ...]
    levels: tuple[int, ...]
    loss: float
    costs: tuple[float, ...]


def solve(problem: Problem, budgets: Sequence[float]) -> Solution | None:
    """The solution of least loss whose costs are within the budgets, or None where there is none.

    Exact up to a relative gap of 1e-7; equal losses are decided by cost, then by the solver, which is deterministic.
    """
    losses = np.array([option.loss for item in problem.items for option in item.options])
    costs = _costs(problem)
    largest = max(float(losses.max()), np.finfo(float).tiny)
    whole = np.maximum(costs.max(axis=0).sum(), np.finfo(float).tiny)
    objective = OBJECTIVE_SCALE * (losses / largest + TIE_SHARE * costs.sum(axis=1) / whole)
    return _solve(problem, objective, np.asarray(budgets, dtype=np.float64))


def cheapest(problem: Problem, budget: int = 0) -> Solution:
    """The solution that costs least in one budget, whatever its loss."""
    costs = _costs(problem)[:, budget]
    found = _solve(problem, OBJECTIVE_SCALE * costs / max(float(costs.max()), np.finfo(float).tiny), None)
    assert found is not None  # with no budget, level 0 of every group is always a solution
    return found


def solve_within(
    problem: Problem,
    budgets: Sequence[float],
    reprice: Callable[[Solution], Sequence[float]],
    attempts: int = 5,
) -> tuple[Solution, tuple[float, ...]] | None:
    """(solution, real costs): the best found whose *real* costs, by `reprice`, are within the budgets.

    A table prices each layer by itself; `reprice` prices the network.  Where the two differ, the budget given to the
    solver is scaled by their ratio and the problem solved again: tightened while the network is over, relaxed while
    it is well under because the table overstated it.  None where no solution within the budgets was found.
    """
    wanted = np.asarray(budgets, dtype=np.float64)
    given = wanted.copy()
    best: tuple[Solution, tuple[float, ...]] | None = None
    tried: set[tuple[int, ...]] = set()
    for _ in range(attempts):
        solution = solve(problem, given.tolist())
        if solution is None or solution.options in tried:
            break
        tried.add(solution.options)
        real = np.asarray(reprice(solution), dtype=np.float64)
        share = float((real / wanted).max())
        if share <= 1.0:
            if best is None or solution.loss < best[0].loss:
                best = solution, tuple(float(value) for value in real)
            overstated = real / np.asarray(solution.costs)
            if share >= SLACK or float(overstated.max()) >= SLACK:
                break
            given = wanted / overstated
        else:
            # A little more than the ratio: steps of a staircase would otherwise be missed by a hair again.
            given = np.minimum(given, np.asarray(solution.costs)) / share * 0.999
    if best is None:
        for index in range(len(wanted)):
            solution = cheapest(problem, index)
            real = np.asarray(reprice(solution), dtype=np.float64)
            if (real <= wanted).all():
                return solution, tuple(float(value) for value in real)
    return best


def without_dominated(options: Sequence[Option]) -> list[int]:
    """Indices of the options that no other option of the same levels beats in loss and in every cost."""
    kept: list[int] = []
    by_levels: dict[tuple[int, ...], list[int]] = {}
    order = sorted(range(len(options)), key=lambda i: (options[i].loss, options[i].costs, i))
    for index in order:
        rivals = by_levels.setdefault(options[index].levels, [])
        costs = options[index].costs
        if not any(all(a <= b for a, b in zip(options[other].costs, costs, strict=True)) for other in rivals):
            rivals.append(index)
            kept.append(index)
    return sorted(kept)


def _costs(problem: Problem) -> Floats:
    return np.array([option.costs for item in problem.items for option in item.options], dtype=np.float64)


def _solve(problem: Problem, objective: Floats, budgets: Floats | None) -> Solution | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    costs = _costs(problem)
    count = len(costs)
    level_start = count + np.concatenate([[0], np.cumsum(problem.levels)]).astype(int)
    rows: list[tuple[list[int], list[float], float]] = []  # columns, coefficients, right-hand side; all equalities
    first = 0
    for item in problem.items:
        columns = list(range(first, first + len(item.options)))
        rows.append((columns, [1.0] * len(columns), 1.0))
        for place, group in enumerate(item.groups):
            at: dict[int, list[int]] = {level: [] for level in range(problem.levels[group])}
            for column, option in zip(columns, item.options, strict=True):
                at[option.levels[place]].append(column)
            for level, members in at.items():
                rows.append(([*members, level_start[group] + level], [1.0] * len(members) + [-1.0], 0.0))
        first += len(item.options)
    for group, levels in enumerate(problem.levels):
        rows.append((list(range(level_start[group], level_start[group] + levels)), [1.0] * levels, 1.0))
    variables = int(level_start[-1])
    at_row = np.concatenate([np.full(len(columns), index) for index, (columns, _, _) in enumerate(rows)])
    at_column = np.concatenate([columns for columns, _, _ in rows])
    values = np.concatenate([coefficients for _, coefficients, _ in rows])
    matrix = coo_array((values, (at_row, at_column)), shape=(len(rows), variables)).tocsr()
    right = np.array([value for _, _, value in rows])
    constraints = [LinearConstraint(matrix, right, right)]
    padded = np.concatenate([objective, np.zeros(variables - count)])
    limit = None if budgets is None else budgets.copy()
    # HiGHS lets a row miss by 1e-6; a choice that is over by that much is asked for again with as much less.
    for _ in range(8):
        more = []
        if limit is not None:
            unit = np.where(limit > 0, limit, 1.0)
            scaled = np.zeros((len(limit), variables))
            scaled[:, :count] = costs.T / unit[:, None]
            more = [LinearConstraint(scaled, -np.inf, limit / unit)]
        answer = milp(padded, integrality=np.ones(variables), bounds=Bounds(0, 1), constraints=[*constraints, *more],
                      options={"mip_rel_gap": RELATIVE_GAP})
        if answer.x is None:
            return None
        solution = _read(problem, answer.x, level_start)
        if budgets is None or limit is None or (np.asarray(solution.costs) <= budgets).all():
            return solution
        limit = limit * (1.0 - 2e-6)
    return None


def _read(problem: Problem, x: Floats, level_start: NDArray[np.int_]) -> Solution:
    options, loss, costs, first = [], 0.0, np.zeros(len(problem.items[0].options[0].costs)), 0
    for item in problem.items:
        index = int(np.argmax(x[first : first + len(item.options)]))
        options.append(index)
        loss += item.options[index].loss
        costs += item.options[index].costs
        first += len(item.options)
    levels = tuple(int(np.argmax(x[level_start[g] : level_start[g + 1]])) for g in range(len(problem.levels)))
    return Solution(tuple(options), levels, float(loss), tuple(float(value) for value in costs))
