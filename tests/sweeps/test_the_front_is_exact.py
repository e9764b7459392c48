"""The Pareto front equals the definition, point for point, ties and duplicates included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from simulator import InputError
from sweeps.pareto import front, front_rows, non_dominated
from sweeps.run import run_study
from sweeps.task import Row


def by_definition(costs):
    return np.array([not any(all(b <= a) and any(b < a) for b in costs) for a in costs], dtype=bool)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5).flatmap(lambda width: arrays(
    np.float64, st.tuples(st.integers(1, 25), st.just(width)),
    # Few values: ties and duplicates in most examples.
    elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, np.inf]))))
def test_equals_the_definition(costs):
    assert non_dominated(costs).tolist() == by_definition(costs).tolist()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_equals_the_definition_without_ties(width, points, seed):
    costs = np.random.default_rng(seed).random((points, width))
    assert non_dominated(costs).tolist() == by_definition(costs).tolist()


def test_nan_is_refused_and_nothing_gives_nothing():
    with pytest.raises(ValueError, match=r"NaN"):
        non_dominated(np.array([[np.nan, 1.0]]))
    assert non_dominated(np.empty((0, 3))).tolist() == []


def _row(name, workload, metrics, error=None):
    return Row(name, workload, "m", {}, metrics, error)


def test_each_workload_has_its_own_front_and_failed_or_incomplete_rows_are_on_none():
    rows = [_row("a", "small", {"t": 1, "e": 2.0}), _row("b", "small", {"t": 2, "e": 3.0}),
            _row("c", "big", {"t": 9, "e": 9}),
            _row("d", "big", {"t": 1, "e": None}), _row("e", "big", {}, "failed")]
    assert [row.task_id for row in front_rows(rows, ["t", "e"])] == ["a", "c"]
    assert [row.task_id for row in front_rows(rows, ["max t"])] == ["b", "c"]


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match=r"no result has a number 'latency'.*did you mean 'latency_s'"):
        front_rows([_row("a", "w", {"latency_s": 1.0})], ["latency"])


def test_front_of_a_store_uses_the_objectives_of_its_study(study, tmp_path):
    path = study("sweep_evaluations:with_accuracy", cols="[4]", more='objectives = ["latency_s", "max accuracy"]')
    run_study(path, tmp_path / "a.db", jobs=1, progress=False)
    # 4 rows: slower than 8 and less accurate; 16 and 32 are faster and less accurate.
    assert [line["rows"] for line in front(tmp_path / "a.db")] == [32, 16, 8]
    assert [line["rows"] for line in front(tmp_path / "a.db", ["max accuracy"])] == [8]
