"""Worker processes that evaluate points: who died over which point is known exactly.

Standard pools break as a whole when one worker is killed; here each worker has its own pipe, so that one
death costs one point.  Results pass as JSON text, row by row.  Read run.py for what is done with them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from simulator import InputError

from . import task, workloads
from .task import Row

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
MOST_TASKS_AT_ONCE = 32
DIED = "the worker process died twice over this point"


@dataclass(frozen=True)
class Task:
    """A point with its id; `workload` and `machine` are names in the Setting."""

    task_id: str
    workload: str
    machine: str
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all tasks of a run share; plain values that travel to the workers once, as JSON."""

    workloads: Mapping[str, str]  # name: what workloads.load takes
    digests: Mapping[str, Mapping[str, str]]  # name: {convention: digest of the trace under it}
    machines: Mapping[str, Mapping[str, Any]]  # name: Machine.to_dict()
    evaluate: str
    seed: int


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    tasks: deque[Task] = field(default_factory=deque)  # handed out and not yet answered, in order


def evaluate_all(tasks: Sequence[Task], setting: Setting, jobs: int) -> Iterator[Row]:
    """Rows of all `tasks` in the order in which they are done, from `jobs` processes.

    A point over which a worker dies is tried once more, by a worker of its own, then fails.  Raises
    InputError where a workload's file has changed under the run and RuntimeError where no worker starts.
    """
    waiting, retried = deque(tasks), set[str]()
    alone: deque[Task] = deque()
    workers: list[_Worker] = []
    try:
        workers.extend(_start(setting) for _ in range(min(jobs, len(tasks))))
        for worker in workers:
            _await(worker)
        while waiting or alone or any(worker.tasks for worker in workers):
            for worker in workers:
                if not worker.tasks:
                    _hand_out(worker, waiting, alone, jobs)
            for pipe in wait([worker.pipe for worker in workers if worker.tasks]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                try:
                    answer = json.loads(worker.pipe.recv_bytes())
                except (EOFError, OSError):
                    suspect, *unharmed = worker.tasks
                    waiting.extendleft(reversed(unharmed))
                    if suspect.task_id in retried:
                        yield Row(suspect.task_id, suspect.workload, suspect.machine, suspect.axes, {}, DIED)
                    else:
                        retried.add(suspect.task_id)
                        alone.append(suspect)
                    _stop([worker])
                    workers[workers.index(worker)] = worker = _start(setting)
                    _await(worker)
                    continue
                if "stop" in answer:
                    raise InputError(answer["stop"], where="sweep")
                done = worker.tasks.popleft()
                yield Row(done.task_id, done.workload, done.machine, done.axes, answer["metrics"], answer["error"])
    finally:
        _stop(workers)


def _hand_out(worker: _Worker, waiting: deque[Task], alone: deque[Task], jobs: int) -> None:
    """Give an idle worker its next tasks: fewer towards the end, so that all workers finish together."""
    if alone:
        worker.tasks.append(alone.popleft())
    else:
        for _ in range(min(len(waiting), max(1, min(MOST_TASKS_AT_ONCE, len(waiting) // (4 * jobs))))):
            worker.tasks.append(waiting.popleft())
    if worker.tasks:
        message = [[item.task_id, item.workload, item.machine, dict(item.axes)] for item in worker.tasks]
        # One that died while idle cannot take it: reading its pipe says so, and its first task is tried again.
        with suppress(OSError):
            worker.pipe.send_bytes(json.dumps(message).encode())


def _start(setting: Setting) -> _Worker:
    # Spawn, not fork: a forked child inherits threads' locks and OpenMP pools in whatever state they are.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    with _one_thread():
        process.start()
    theirs.close()
    worker = _Worker(process, ours)
    with suppress(OSError):  # it died at once: _await says so
        ours.send_bytes(json.dumps(asdict(setting)).encode())
    return worker


def _await(worker: _Worker) -> None:
    """Until the worker has imported what it needs."""
    try:
        worker.pipe.recv_bytes()
    except (EOFError, OSError):
        raise RuntimeError("a worker process did not start; a script that calls run_study must do so under "
                           "`if __name__ == '__main__':`") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Children start with one thread each, for numerical libraries read these variables when imported."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join()


def _work(pipe: Connection) -> None:
    """A worker: answer each task with a line until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        setting = Setting(**json.loads(pipe.recv_bytes()))
        function = task.evaluation(setting.evaluate)
        pipe.send_bytes(b"{}")
        loaded, trace = None, None
        while True:
            for task_id, workload, machine, axes in json.loads(pipe.recv_bytes()):
                described = {**setting.machines[machine], **axes}
                convention = task.convention(described)
                if trace is None or loaded != (workload, convention):
                    loaded, trace = (workload, convention), workloads.load(setting.workloads[workload], convention)
                    if workloads.digest(trace) != setting.digests[workload][convention]:
                        raise InputError(f"workload {workload!r} changed while the study ran")
                row = task.evaluate_row(Row(task_id, workload, machine, axes, {}), function, trace, described,
                                        setting.seed)
                pipe.send_bytes(json.dumps({"metrics": row.metrics, "error": row.error}).encode())
    except InputError as error:
        pipe.send_bytes(json.dumps({"stop": str(error)}).encode())
    except (EOFError, BrokenPipeError):
        pass
