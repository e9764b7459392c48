"""One evaluation: a pure function of (machine, trace, seed, code), and the hash that names it.

What a point yields is a flat row of numbers, or the reason why there are none; times and paths stay out,
so that the same task gives the same row anywhere.  Read store.py next.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import simulator
from simulator import InputError, Machine, Trace, simulate

SCHEMA = 1
SIMULATION = "sweeps.task:simulation"
Value = int | float | str | None
Evaluation = Callable[[Trace, Machine, int], Mapping[str, Any]]

NUMBERS = (
    "cycles", "latency_s", "energy_j", "area_mm2", "utilisation", "speedup", "energy_ratio", "useful_macs",
    "issued_macs", "dense_macs", "dram_read_bytes", "dram_write_bytes", "sram_read_bytes", "sram_write_bytes",
    "metadata_bytes", "energy_pj",
)


@dataclass(frozen=True)
class Row:
    """One result.  `error` is None and `metrics` has the numbers, or `error` says why there are none."""

    task_id: str
    workload: str
    machine: str
    axes: Mapping[str, Any]
    metrics: Mapping[str, Value]
    error: str | None = None


def simulation(trace: Trace, machine: Machine, seed: int) -> dict[str, Value]:
    """The NUMBERS of a simulation, beside the same network dense, and the cycles by cause as JSON text."""
    del seed  # a simulation draws nothing
    report = simulate(trace, machine)
    total = report.total.to_dict()
    total.update(energy_j=report.cost.energy_j, area_mm2=report.area_mm2, speedup=report.speedup,
                 energy_ratio=report.energy_ratio)
    return {**{name: total[name] for name in NUMBERS}, "cycles_by_cause": canonical(total["cycles_by_cause"])}


def evaluation(path: str) -> Evaluation:
    """The function `(trace, machine, seed) -> {column: value}` that `package.module:function` names."""
    module_name, colon, name = path.partition(":")
    if not colon:
        raise InputError(f"evaluate = {path!r}", expected="package.module:function")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"evaluate = {path!r} cannot be imported ({error})", expected="package.module:function",
                         fix="install the package or set PYTHONPATH") from None
    if not callable(found):
        raise InputError(f"evaluate = {path!r} is not a function", expected="package.module:function")
    return found  # type: ignore[no-any-return]


@cache
def code_version(path: str) -> str:
    """sha256 of the source that decides a result: the simulator, its tables and the evaluation's module."""
    state = hashlib.sha256(f"schema {SCHEMA}".encode())
    root = Path(simulator.__file__).parent
    sources = [file for file in sorted(root.rglob("*.py")) if "reference" not in file.relative_to(root).parts]
    # A machine's own TOML is in the task; the tables that price its counts are only named there.
    for file in [*sources, *sorted(root.glob("presets/*/*.toml"))]:
        state.update(f"\n{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    own = inspect.getsourcefile(inspect.unwrap(evaluation(path)))
    if own is not None:
        state.update(b"\n" + Path(own).read_bytes())
    return state.hexdigest()


def task_id(machine: Mapping[str, Any], trace_digest: str, seed: int, evaluate: str) -> str:
    """sha256 over all that decides a row; `machine` is Machine.to_dict() with the axes put in."""
    described = {key: value for key, value in machine.items() if key not in ("name", "description")}
    text = canonical([described, trace_digest, seed, evaluate, code_version(evaluate)])
    return hashlib.sha256(text.encode()).hexdigest()


def convention(machine: Mapping[str, Any]) -> str:
    """Whose output sizes a topology csv has on this machine; models without the field follow PyTorch."""
    return str(machine.get("convention", "pytorch"))


def evaluate_row(row: Row, function: Evaluation, trace: Trace, machine: Mapping[str, Any], seed: int) -> Row:
    """`row` with its metrics, or with the error that the evaluation raised; never raises for a bad point."""
    from simulator.hardware import build

    try:
        metrics = checked(function(trace, build(machine, row.machine), seed), row.axes)
    except InputError as error:
        return Row(row.task_id, row.workload, row.machine, row.axes, {}, str(error))
    except Exception as error:  # a failed configuration is a row, whatever the evaluation does
        return Row(row.task_id, row.workload, row.machine, row.axes, {}, f"{type(error).__name__}: {error}")
    return Row(row.task_id, row.workload, row.machine, row.axes, metrics)


def checked(metrics: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, Value]:
    """What an evaluation returned, if a table can hold it: text names that no axis has, plain values."""
    found: dict[str, Value] = {}
    for name, value in dict(metrics).items():
        if hasattr(value, "item"):  # a numpy scalar
            value = value.item()
        if not isinstance(name, str) or name in axes or name in COLUMNS:
            raise InputError(f"the evaluation returned a column {name!r}", expected="names other than the axes'")
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, float, str, type(None))) or (isinstance(value, float) and math.isnan(value)):
            raise InputError(f"the evaluation returned {name} = {value!r}", expected="a number, a text or None")
        found[name] = value
    return found


COLUMNS = ("task_id", "workload", "machine", "status", "error")


def objective(word: str) -> tuple[str, int]:
    """(column, sign) of "latency_s", "min latency_s" or "max accuracy"; sign x value is to be small."""
    direction, space, column = word.partition(" ")
    if space and direction in ("min", "max"):
        return column.strip(), 1 if direction == "min" else -1
    return word, 1


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats as repr writes them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
