"""run_study(path): run a study, or go on where it was stopped.  The page to read first.

A point's id is the hash of all that decides its row, so resuming, running shards and merging them are one
thing: do the ids that are not there yet.  Schedulers of clusters are left out.  Read space.py for what a
study is, pool.py for how its points are spread over processes.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulator import InputError

from . import store, task, workloads
from .pool import Setting, Task, evaluate_all
from .progress import progress_of
from .space import Study, load_study
from .task import Row

COMMIT_ROWS, COMMIT_SECONDS = 256, 0.25  # a kill loses at most this much finished work


@dataclass(frozen=True)
class RunSummary:
    """What a run did.  `points` counts different tasks of this shard; all of them are in `database` now."""

    study: str
    database: Path
    points: int
    already_done: int
    evaluated: int
    failed: int  # of those evaluated in this run
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {**asdict(self), "database": str(self.database)}


def run_study(
    study_path: str | Path, out: str | Path | None = None, jobs: int | None = None,
    shard: tuple[int, int] | str | None = None, progress: bool = True,
) -> RunSummary:
    """Run the points of a study (a TOML file or a shipped name) that the store `out` does not have yet.

    `out` is NAME.db in the working directory unless given; `jobs` is the number of processes, by default
    one per usable core; `shard` (i, n) or "i/n" takes every n-th part of the points, by their hash.
    Raises InputError for a mistake in the study, the store or an argument; KeyboardInterrupt passes
    through after what was done has been written.
    """
    started = time.monotonic()
    study = load_study(study_path)
    part = parse_shard(shard)
    count = _jobs(jobs)
    suffix = "" if part == (1, 1) else f".{part[0]}of{part[1]}"
    database = Path(out) if out is not None else Path(f"{study.name}{suffix}.db")
    setting = _setting(study)
    tasks = {item.task_id: item for item in _tasks(study, setting) if in_shard(item.task_id, part)}
    with store.open_store(database, task.code_version(study.evaluate)) as db:
        store.write_meta(db, "study", _description(study))
        present = store.task_ids(db)
        pending = [item for task_id, item in tasks.items() if task_id not in present]
        failed = _run(db, pending, setting, count, progress)
    return RunSummary(study.name, database, len(tasks), len(tasks) - len(pending), len(pending), failed,
                      time.monotonic() - started)


def _run(db: sqlite3.Connection, pending: list[Task], setting: Setting, jobs: int, progress: bool) -> int:
    """Evaluate and store `pending`; returns how many failed.  Whatever interrupts, finished rows are kept."""
    failed, batch, committed = 0, list[Row](), time.monotonic()
    rows = evaluate_all(pending, setting, jobs)
    try:
        with progress_of(len(pending), progress) as advance:
            for row in rows:
                batch.append(row)
                failed += row.error is not None
                advance(row.error is not None)
                if len(batch) >= COMMIT_ROWS or time.monotonic() - committed > COMMIT_SECONDS:
                    store.append(db, batch)
                    batch, committed = [], time.monotonic()
    finally:
        store.append(db, batch)
        rows.close()  # type: ignore[attr-defined]  # stops the workers now, not when collected
    return failed


def parse_shard(shard: tuple[int, int] | str | None) -> tuple[int, int]:
    """(i, n) with 1 <= i <= n from a pair, "i/n" or None (all of it); InputError for anything else."""
    if shard is None:
        return 1, 1
    parts = shard.split("/") if isinstance(shard, str) else [str(part) for part in shard]
    try:
        index, total = (int(part) for part in parts)
    except ValueError:
        index, total = 0, 0
    if not 1 <= index <= total:
        raise InputError(f"shard {shard!r}", where="--shard", expected="I/N with I from 1 to N, such as 1/3")
    return index, total


def in_shard(task_id: str, shard: tuple[int, int]) -> bool:
    """Whether a task belongs to shard (i, n): its hash modulo n, the same on every machine."""
    return int(task_id[:15], 16) % shard[1] == shard[0] - 1


def _jobs(jobs: int | None) -> int:
    if jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise InputError(f"jobs = {jobs!r}", where="--jobs", expected="an integer of at least 1")
    return jobs


def _setting(study: Study) -> Setting:
    machines = {name: machine.to_dict() for name, machine in study.machines.items()}
    conventions = {task.convention(machine) for machine in machines.values()} | set(study.axes.get("convention", ()))
    digests = {name: {word: workloads.digest(workloads.load(where, word)) for word in sorted(conventions)}
               for name, where in study.workloads.items()}
    return Setting(study.workloads, digests, machines, study.evaluate, study.seed)


def _tasks(study: Study, setting: Setting) -> Iterator[Task]:
    for point in study.points():
        described = {**setting.machines[point.machine], **point.axes}
        digest = setting.digests[point.workload][task.convention(described)]
        task_id = task.task_id(described, digest, study.seed, study.evaluate)
        yield Task(task_id, point.workload, point.machine, point.axes)


def _description(study: Study) -> str:
    return task.canonical({
        "name": study.name, "description": study.description, "objectives": study.objectives,
        "axes": list(study.axes), "workloads": list(study.workloads), "machines": list(study.machines),
    })
