"""Schedules against published numbers, and the law of every one of them: never back, and exactly 1 at the end."""

import itertools

import pytest

from codesign.schedules import SCHEDULES, OneCycle, parse_schedule
from simulator.errors import InputError

TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# One-Cycle Pruning, arXiv 2107.02086: s(t) for alpha 14, to four decimals
ONE_CYCLE = {
    5: (0.0266, 0.0998, 0.3101, 0.6457, 0.8809, 0.9678, 0.9920, 0.9981),
    6: (0.0100, 0.0392, 0.1419, 0.4014, 0.7313, 0.9171, 0.9784, 0.9948),
}


@pytest.mark.parametrize("beta", ONE_CYCLE)
def test_one_cycle_matches_the_papers_curve(beta: int) -> None:
    schedule = OneCycle(beta=beta)
    assert [round(schedule(t), 4) for t in TIMES] == list(ONE_CYCLE[beta])


def test_presets_are_the_papers_and_the_librarys() -> None:
    assert SCHEDULES["one_cycle"] == OneCycle(14.0, 5.0)
    assert SCHEDULES["one_cycle_fasterai"] == OneCycle(14.0, 6.0)


@pytest.mark.parametrize("name", [name for name, known in SCHEDULES.items() if getattr(known, "nested", True)])
def test_every_schedule_ends_at_exactly_one_and_never_goes_back(name: str) -> None:
    shares = [SCHEDULES[name](i / 1000) for i in range(1001)]
    assert shares[-1] == 1.0
    assert all(0.0 <= a <= b <= 1.0 for a, b in itertools.pairwise(shares))


@pytest.mark.parametrize("alpha", [13, 14, 15])
@pytest.mark.parametrize("beta", [3, 4, 5, 6, 7])
def test_one_cycle_ends_at_exactly_one_for_every_parameter_of_the_authors_grid(alpha: int, beta: int) -> None:
    assert OneCycle(alpha, beta)(1.0) == 1.0


def test_one_shot_jumps_at_forty_percent() -> None:
    schedule = SCHEDULES["one_shot"]
    assert (schedule(0.399), schedule(0.4)) == (0.0, 1.0)


def test_iterative_takes_three_equal_steps_from_twenty_percent() -> None:
    schedule = SCHEDULES["iterative"]
    third = 0.8 / 3
    assert [schedule(t) for t in (0.0, 0.2, 0.21, 0.2 + third, 0.21 + third, 0.2 + 2 * third, 0.21 + 2 * third)] == [
        0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1.0,
    ]  # fmt: skip


def test_agp_is_the_cubic_from_twenty_percent() -> None:
    schedule = SCHEDULES["agp"]
    assert schedule(0.2) == 0.0
    assert schedule(0.6) == pytest.approx(1 - 0.5**3)


def test_parameters_by_name() -> None:
    assert parse_schedule({"name": "one_cycle", "beta": 6}) == OneCycle(14.0, 6)


def test_a_function_or_a_dotted_path_is_a_schedule() -> None:
    assert parse_schedule(lambda progress: progress)(0.25) == 0.25
    assert parse_schedule("codesign.schedules:OneCycle") is OneCycle


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one_cycel", "did you mean 'one_cycle'"),
        ({"name": "agp", "strat": 0.1}, "did you mean 'start'"),
        ({"name": "constant", "start": 0.1}, "it has none"),
        ({"name": "agp", "start": 1.0}, r"expected a share of training in \[0, 1\)"),
        ({"name": "iterative", "steps": 0}, "expected an integer of at least 1"),
        ({"name": "one_cycle", "alpha": "14"}, "expected a number"),
        ("codesign.schedules:Missing", "cannot load"),
    ],
)
def test_mistakes_name_what_is_wrong(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_schedule(given)  # type: ignore[arg-type]


def test_an_era_begins_and_ends_where_it_says_and_is_a_line_or_a_cubic_between() -> None:
    line, cubic = parse_schedule({"name": "era", "start": 0.2, "end": 0.6}), SCHEDULES["cubic_era"]
    assert [line(t) for t in (0.0, 0.2, 0.6, 0.9, 1.0)] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert line(0.4) == pytest.approx(0.5)
    assert cubic(0.25) == pytest.approx(1 - 0.5**3) and cubic(0.5) == 1.0


def test_a_cosine_is_slow_at_both_ends() -> None:
    schedule = SCHEDULES["cosine"]
    assert schedule(0.5) == pytest.approx(0.5) and schedule(0.25) == pytest.approx((1 - 2**-0.5) / 2)


def test_alternation_ends_compressed_and_has_dense_phases_of_the_same_length() -> None:
    schedule = parse_schedule({"name": "alternate", "warmup": 0.1, "period": 0.1, "finish": 0.7})
    assert [schedule(t) for t in (0.05, 0.1, 0.19, 0.2, 0.29, 0.3, 0.45, 0.65, 0.7, 0.8, 1.0)] == [
        0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1]
