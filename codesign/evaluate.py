"""How a network that is already there does on machines: from files to reports.

A run directory, an exported directory or a trace goes in; its layers are traced anew from the masks on
file, so the figures are those that training logged.  Networks that Espalier did not write are left out
for now.  Read export.py for the files, simulator/engine.py for the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simulator import Machine, Report, Trace, load_machine, simulate
from simulator.errors import InputError

from .config import DataConfig, load_config
from .export import Exported, is_exported, load_exported
from .lookup import look_up
from .run_directory import RunDirectory

SCHEMA = 1
EVALUATION_BATCH = 500


@dataclass(frozen=True, eq=False)
class Evaluation:
    """reports: one per machine, in the order asked for.  accuracy: percent of the test images, where data was given."""

    trace: Trace
    reports: Sequence[Report]
    accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `espalier evaluate --json` prints."""
        table: dict[str, Any] = {"schema": SCHEMA, "machines": [report.to_dict() for report in self.reports]}
        return table if self.accuracy is None else table | {"accuracy": self.accuracy}


def evaluate(
    model: str | Path, machines: Iterable[str | Machine], data: str | None = None, *, build: str | None = None
) -> Evaluation:
    """Score a run directory, an exported directory or a trace file on every machine.

    data: an image set to measure the accuracy on, by name or folder, as in models/data.py.  build: the
    network's builder where it is not one of the package `models`.  Raises InputError for a file that is missing,
    damaged or of no kind that is known here, and for data that do not fit the network.
    """
    chosen = [machine if isinstance(machine, Machine) else load_machine(machine) for machine in machines]
    path = Path(model)
    if path.is_dir():
        exported, config = load_network(path, build)
        trace, accuracy = exported.trace(), None
        if data is not None:
            accuracy = accuracy_on(exported, data, config)
    else:
        trace, accuracy = _trace_file(path), None
        if data is not None:
            raise InputError(
                "a trace has no weights to measure an accuracy with",
                where=str(path),
                expected="a run or an exported directory with --data",
                fix="leave out --data",
            )
    return Evaluation(trace, [simulate(trace, machine) for machine in chosen], accuracy)


def load_network(path: Path, build: str | None = None) -> tuple[Exported, DataConfig]:
    """The network of a run or exported directory, and how its data are read."""
    run = RunDirectory(path)
    if is_exported(path):
        return load_exported(path, build), DataConfig()
    if is_exported(run.model):
        config = load_config(str(run.config)) if run.config.is_file() else None
        # The run's own configuration names the builder, and whoever trained it has run that code already.
        own = None if config is None or build is not None else config.model.build
        return load_exported(run.model, build or own), DataConfig() if config is None else config.data
    if run.config.is_file():
        raise InputError(
            "this run has not finished",
            where=str(path),
            expected="a run with a model/ directory",
            fix=f"finish it: espalier train --resume --out {path}",
        )
    raise InputError(
        "neither a run nor an exported network",
        where=str(path),
        expected="a directory with config.toml and model/, or with architecture.json",
    )


def accuracy_on(exported: Exported, source: str, how: DataConfig) -> float:
    """Percent of the test images of `source` that the network gets right."""
    load: Any = look_up(how.load, {}, "data.load")
    data = load(source)
    wanted, found = exported.architecture.input_shape[1:], tuple(data.test_images.shape[1:])
    if found != wanted:
        raise InputError(
            f"images are {list(found)}", where=f"data {source!r}", expected=f"{list(wanted)}, as the network takes"
        )
    known = exported.architecture.classes
    if known and len(data.classes) != len(known):
        raise InputError(
            f"{len(data.classes)} classes", where=f"data {source!r}", expected=f"{len(known)}, as the network has"
        )
    batches: Any = look_up(how.batches, {}, "data.batches")
    scale = {"mean": exported.architecture.mean, "std": exported.architecture.std}
    return accuracy_and_loss(
        exported.model, batches(data.test_images, data.test_labels, EVALUATION_BATCH, 0, 0, **scale)
    )[0]


@torch.no_grad()
def accuracy_and_loss(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """(percent right, mean cross-entropy) in evaluation mode; the model is left in that mode."""
    model.eval()
    right = seen = 0
    loss = 0.0
    for x, y in batches:
        logits = model(x)
        right += int((logits.argmax(1) == y).sum())
        loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
        seen += len(x)
    return 100.0 * right / seen, loss / seen


def _trace_file(path: Path) -> Trace:
    if path.suffix.lower() == ".onnx":
        raise InputError(
            "ONNX files are not supported yet",
            where=str(path),
            expected="a run directory, an exported directory or a trace",
            fix="load the network in PyTorch and write codesign.trace.trace_model(model, example).save(FILE)",
        )
    if not path.exists():
        raise InputError(
            "no such file or directory",
            where=str(path),
            expected="a run directory, an exported directory or a trace written by Trace.save",
        )
    return Trace.load(path)
