"""The exact Pareto front: every configuration that no other one beats.

A point is on the front where no other is at least as good in all objectives and better in one; equal
points are on it together.  Hypervolume and robust fronts are left out.  Read report.py next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator import InputError
from simulator.errors import nearest

from . import store
from .space import DEFAULT_OBJECTIVES
from .task import Row, Value, objective


def non_dominated(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """costs: float64[points, objectives], less is better -> bool[points], True on the front.

    Raises ValueError on NaN, which is neither better nor worse than anything.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if np.isnan(costs).any():
        raise ValueError("costs hold NaN; leave those points out")
    if not costs.size:
        return np.ones(len(costs), dtype=bool)
    # Sorted by the first objective, then the second ...: a point can only be dominated by an earlier one.
    distinct, index = np.unique(costs, axis=0, return_inverse=True)
    front = _sweep(distinct) if costs.shape[1] <= 2 else _filter(distinct)
    return front[index.reshape(-1)]


def _sweep(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """One or two objectives, O(n): on the front where the last objective is below all before."""
    last = points[:, -1]
    best_before = np.concatenate(([np.inf], np.minimum.accumulate(last)[:-1]))
    front: NDArray[np.bool_] = last < best_before
    front[0] = True  # also where its value is infinite
    return front


def _filter(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Three and more: take the next point left, drop all that it dominates.  O(n x front), one pass of numpy each."""
    front = np.zeros(len(points), dtype=bool)
    left, index = points, np.arange(len(points))
    while len(left):
        front[index[0]] = True
        # Those after it are no better in the first objective: they live where they are better in another.
        alive = (left[1:, 1:] < left[0, 1:]).any(axis=1)
        left, index = left[1:][alive], index[1:][alive]
    return front


def front_rows(rows: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Rows on the front of their own workload, in the given order.

    Failed rows and rows without a value for some objective are on no front.  Raises InputError for an
    objective that no row has.
    """
    chosen = [objective(word) for word in objectives]
    good = [row for row in rows if row.error is None]
    known = sorted({name for row in good for name, value in row.metrics.items() if isinstance(value, (int, float))})
    for column, _ in chosen:
        if good and column not in known:
            raise InputError(f"no result has a number {column!r}", where="objectives", fix=nearest(column, known))
    on_front: set[str] = set()
    for workload in {row.workload for row in good}:
        costed = [(row.task_id, [sign * value for (column, sign) in chosen
                                 if isinstance(value := row.metrics.get(column), (int, float))])
                  for row in good if row.workload == workload]
        complete = [(task_id, cost) for task_id, cost in costed if len(cost) == len(chosen)]
        if complete:
            mask = non_dominated(np.array([cost for _, cost in complete]))
            on_front.update(task_id for (task_id, _), on in zip(complete, mask, strict=True) if on)
    return [row for row in rows if row.task_id in on_front]


def front(db_path: str | Path, objectives: Sequence[str] | None = None) -> list[dict[str, Value]]:
    """The front of a store as flat rows, by workload and then by the first objective.

    `objectives` are columns to minimise, or "max COLUMN"; without them those of the study that filled
    the store.  Raises InputError for a damaged store or an unknown objective.
    """
    with store.read_store(db_path) as db:
        words = list(objectives or store.study_of(db).get("objectives", DEFAULT_OBJECTIVES))
        found = [store.flat(row) for row in front_rows(list(store.rows(db)), words)]
    columns = [objective(word) for word in words]

    def rank(line: dict[str, Value]) -> tuple[object, ...]:
        return (line["workload"], [sign * float(line[column] or 0) for column, sign in columns], line["task_id"])

    return sorted(found, key=rank)
