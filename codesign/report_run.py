"""What the report is made from: one finished run, read back from its directory and checked.

The figures of the pruned network are those of report.json.  The same layers dense are simulated again from
the trace, because report.json keeps only their sum, and compared with that sum.  It leaves out all markup:
read report.py for the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator import Machine, Trace, load_machine, simulate
from simulator.errors import InputError
from simulator.trace import LayerTrace

from .config import TrainConfig, load_config
from .run_directory import RunDirectory

COMPARED = ("accuracy", "cycles", "energy_pj", "speedup", "weight_sparsity")
TOTAL = (
    "cycles",
    "issued_macs",
    "dense_macs",
    "utilisation",
    "dram_read_bytes",
    "dram_write_bytes",
    "energy_pj",
    "latency_s",
)
SPENT = ("seconds", "selection_seconds", "macs", "dense_macs")
PRICED = ("cycles", "energy_pj", "dense_cycles", "dense_energy_pj")
EPOCH = ("epoch", "step", "train_loss", "train_accuracy", "validation_accuracy", "validation_loss", "weight_sparsity")


@dataclass(frozen=True)
class LayerOnMachine:
    """One layer on one machine: T of the JSON interface as pruned and as dense."""

    name: str
    executed_as: str
    now: Mapping[str, Any]
    dense: Mapping[str, Any]

    @property
    def speedup(self) -> float | None:
        """Dense cycles over these; None for a layer that takes no cycles any more."""
        return self.dense["cycles"] / self.now["cycles"] if self.now["cycles"] else None


@dataclass(frozen=True, eq=False)
class OnMachine:
    """The network on one machine.  given: the machine's name with its overrides, as the configuration has it."""

    machine: Machine
    given: str
    row: Mapping[str, Any]
    layers: Sequence[LayerOnMachine]
    notes: Sequence[str]

    @property
    def now(self) -> Mapping[str, Any]:
        """T of the pruned network."""
        return dict(self.row["total"])

    @property
    def dense(self) -> Mapping[str, Any]:
        """T of the dense network."""
        return dict(self.row["dense"])

    @property
    def share(self) -> float:
        """Cycles over dense cycles."""
        return float(self.now["cycles"] / self.dense["cycles"])


@dataclass(frozen=True)
class LayerShape:
    """What pruning left of one layer: (kept, of how many) input channels and filters, and how its mask is called."""

    trace: LayerTrace
    inputs: tuple[int, int]
    filters: tuple[int, int]
    predicted_cycles: float | None = None

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.trace.name


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: table is report.json, epochs and selections the lines of metrics.jsonl."""

    config: TrainConfig
    config_text: str
    table: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    selections: Sequence[Mapping[str, Any]]
    layers: Sequence[LayerShape]
    machines: Sequence[OnMachine]
    provenance: Mapping[str, Any]
    comparison: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def read_run(run_dir: str | Path) -> Run:
    """The finished run in a directory.

    Raises InputError where a file is missing, damaged or does not fit the others, and where a machine of
    the run cannot be loaded any more.
    """
    run = RunDirectory(Path(run_dir))
    if not run.config.is_file():
        raise InputError(
            "holds no training run",
            where=str(run_dir),
            expected="a directory with config.toml, as `espalier train` writes it",
        )
    for path in (run.report, run.metrics, run.trace):
        if not path.is_file():
            raise InputError(
                "no such file: this run has not finished, or was copied in part",
                where=str(path),
                expected="a finished run",
                fix=f"finish it: espalier train --resume --out {run_dir}",
            )
    config = load_config(str(run.config))
    table = _json(_text(run.report), str(run.report))
    lines = [
        _json(line, f"{run.metrics}, line {number}")
        for number, line in enumerate(_text(run.metrics).splitlines(), start=1)
    ]
    trace = Trace.load(run.trace)
    try:
        _numbers(table, ("seed", "accuracy", "weight_sparsity"), str(run.report))
        _numbers(table["training"], SPENT, f"{run.report}, training")
        epochs = [_epoch(line, str(run.metrics)) for line in lines if line["event"] == "epoch"]
        selections = [_selection(line, str(run.metrics)) for line in lines if line["event"] == "selection"]
        comparison = [_numbers(row, COMPARED, f"{run.report}, comparison") for row in table.get("comparison", ())]
        names = [table["name"], *(row["label"] for row in comparison)]
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"a name among {names} is not a text")
        machines = _on_machines(config.machines, table["machines"], trace, str(run.report))
        predicted = {
            choice["layer"]: float(choice["cycles"])
            for choice in (selections[-1].get("choices", ()) if selections else ())
        }
        layers = [_shape(layer, predicted.get(layer.name)) for layer in trace.layers]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"a field is missing or of a wrong type ({type(error).__name__}: {error})",
            where=str(run_dir),
            expected="files written by `espalier train`",
            fix="copy them again, or train again",
        ) from None
    if not epochs:
        raise InputError("no line of an epoch", where=str(run.metrics), expected="at least one")
    return Run(
        config,
        run.config.read_text(encoding="utf-8"),
        table,
        epochs,
        selections,
        layers,
        machines,
        trace.provenance,
        comparison,
    )


def _on_machines(given: Sequence[str], rows: Sequence[Mapping[str, Any]], trace: Trace, where: str) -> list[OnMachine]:
    machines = [load_machine(name) for name in given]
    if [machine.name for machine in machines] != [row["machine"] for row in rows]:
        raise InputError(
            f"scored on {', '.join(str(row['machine']) for row in rows) or 'no machine'}",
            where=where,
            expected=f"{', '.join(machine.name for machine in machines) or 'no machine'}, as config.toml says",
            fix="both files must be of the same run",
        )
    return [
        _on_machine(machine, name, row, trace, where) for machine, name, row in zip(machines, given, rows, strict=True)
    ]


def _on_machine(machine: Machine, given: str, row: Mapping[str, Any], trace: Trace, where: str) -> OnMachine:
    names = [layer["name"] for layer in row["layers"]]
    if names != [layer.name for layer in trace.layers]:
        raise InputError(
            "its layers are not those of trace.safetensors",
            where=where,
            expected="files of the same run",
            fix="copy the run again",
        )
    place = f"{where}, machine {machine.name}"
    for total in (row["total"], row["dense"], *(layer["total"] for layer in row["layers"])):
        _total(total, place)
    if row["dense"]["cycles"] <= 0:
        raise InputError(f"dense.cycles = {row['dense']['cycles']}", where=place, expected="at least one cycle")
    dense = simulate(trace.dense(), machine, compare_dense=False)
    layers = [
        LayerOnMachine(
            layer["name"], str(layer.get("executed_as", layer["structure"])), layer["total"], again.total.to_dict()
        )
        for layer, again in zip(row["layers"], dense.layers, strict=True)
    ]
    notes = [str(note) for note in row.get("notes", ())]
    covered = row.get("coverage")
    if isinstance(covered, Mapping) and isinstance(covered.get("line"), str):
        notes.insert(0, covered["line"])
    if dense.cycles != row["dense"]["cycles"]:
        notes.insert(
            0,
            f"the dense layers below were simulated when this page was written, and take {dense.cycles:,} cycles "
            f"in all; the run logged {row['dense']['cycles']:,}: the machine or the simulator changed in between",
        )
    return OnMachine(machine, given, row, layers, notes)


def _shape(layer: LayerTrace, predicted: float | None) -> LayerShape:
    mask = layer.weight_matrix()  # bool[groups, k, n]
    groups, k, n = mask.shape
    window = getattr(layer.operation, "kernel_h", 1) * getattr(layer.operation, "kernel_w", 1)
    inputs = mask.reshape(groups, k // window, window * n).any(axis=2)
    filters = mask.any(axis=1)
    return LayerShape(
        layer, (int(np.count_nonzero(inputs)), inputs.size), (int(np.count_nonzero(filters)), filters.size), predicted
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"not text ({error})",
            where=str(path),
            expected="a file written by `espalier train`",
            fix="copy it again, or train again",
        ) from None


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"not valid JSON ({error})",
            where=where,
            expected="a file written by `espalier train`",
            fix="copy it again, or train again",
        ) from None
    if not isinstance(table, dict):
        raise InputError(f"holds a {type(table).__name__}", where=where, expected="a JSON object")
    return table


def _numbers(table: Mapping[str, Any], keys: Sequence[str], where: str, *, finite: bool = True) -> Mapping[str, Any]:
    """The table, once every key holds a number."""
    wrong = [key for key in keys if not _is_number(table.get(key), finite)]
    if wrong:
        found = ", ".join(f"{key} = {table[key]!r}" if key in table else f"{key} missing" for key in wrong)
        raise InputError(
            found,
            where=where,
            expected="a number in each, as `espalier train` writes it",
            fix="copy the file again, or train again",
        )
    return table


def _is_number(value: object, finite: bool) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (not finite or math.isfinite(value))


def _total(total: Mapping[str, Any], where: str) -> None:
    _numbers(total, TOTAL, where)
    for key in ("cycles_by_cause", "energy_pj_by_component"):
        _numbers(total[key], list(total[key]), f"{where}, {key}")


def _epoch(line: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    _numbers(line, EPOCH, where, finite=False)  # a validation loss may overflow; charts leave such points out
    for name, priced in line.get("machines", {}).items():
        _numbers(priced, PRICED, f"{where}, machine {name}")
    return line


def _selection(line: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    _numbers(line, ("step",), where)
    for one in line.get("finalists", ()):
        judged = () if one.get("judged") is None else ("judged",)
        _numbers(one, ("latency", "energy", "loss", *judged), f"{where}, finalist {one.get('label')}", finite=False)
    return line
