"""The networks that ours is shown beside: dense, blind to the machine, or one structure everywhere.

Each row is an ordinary training run with the same data, network, seed and epochs, in a folder of its own under
`compare/`, so that it resumes and reports like any other.  It leaves out the rivals that see the machine:
`hardware.only` takes those.  Read train.py for what a run is.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from simulator.errors import InputError
from simulator.structure import of_one_layer
from simulator.trace import Trace

from .config import PruneConfig, TrainConfig
from .report import write_report
from .run_directory import open_run, write_whole
from .train import Progress, TrainResult, run_training

OURS = "Espalier's choice"
DEFAULT_START = 0.25
"""When a row without [hardware] prunes, as a share of training: one-shot, as selection by hardware does it."""


def check_row(row: str) -> None:
    """Raises InputError unless `row` names a network to compare with."""
    if row not in ("dense", "magnitude") and of_one_layer(row).fixed_density is None:
        raise InputError(f"compare row {row!r}", expected='"dense", "magnitude" or a structure that fixes its density',
                         fix='for example "2:4"')


def add_comparison(result: TrainResult, *, device: str = "auto", progress: Progress | None = None) -> TrainResult:
    """Train every row of [compare] that is not there yet, and write the table into report.json and report.html.

    The result itself where [compare] asks for nothing.  Raises what training raises.
    """
    run, config = open_run(result.run, None, resume=True)
    if not config.compare.rows:
        return result
    rows = [_row(OURS, dict(result.table))]
    for name in config.compare.rows:
        folder = Path(run.path) / "compare" / re.sub(r"[^\w.-]+", "-", name)
        beside = _beside(config, name, run.trace)
        begun = (folder / "config.toml").is_file()
        trained = run_training(beside, folder, resume=begun, device=device, progress=progress)
        rows.append(_row(_label(name), dict(trained.table)))
    table = {**result.table, "comparison": [*rows[1:], rows[0]]}
    write_whole(run.report, json.dumps(table, indent=1) + "\n")
    write_report(run.path)
    return TrainResult(run.path, table)


def _beside(config: TrainConfig, row: str, ours: Path) -> TrainConfig:
    """The configuration of a row: ours without hardware feedback, scored on the same machines."""
    start = config.hardware.select_at[-1] if config.hardware is not None else DEFAULT_START
    once: dict[str, str | float] = {"name": "one_shot", "start": start}
    prune = None
    if row == "magnitude":
        prune = PruneConfig(structure="unstructured", scope="global", schedule=once, criterion="magnitude",
                            sparsity=_same_weights(Trace.load(ours)))
    elif row != "dense":
        prune = PruneConfig(structure=row, schedule=once, criterion="magnitude")
    changes = {
        "name": f"{config.name}-{re.sub(r'[^A-Za-z0-9]+', '-', row)}", "prune": prune, "hardware": None,
        "compare": type(config.compare)(), "output": config.output.model_copy(update={"machines": config.machines}),
    }
    return config.model_copy(update=changes)


def _same_weights(trace: Trace) -> float:
    """The sparsity that leaves as many weights as `trace` has, where the first and the last layer stay dense."""
    layers = [layer for layer in trace.layers if layer.has_parameters]
    sizes = [math.prod(layer.operation.weight_shape) for layer in layers]
    pruned = sum(sizes) - sum(layer.weight_nnz for layer in layers)
    return pruned / sum(sizes[1:-1])


def _label(row: str) -> str:
    return {"dense": "dense", "magnitude": "magnitude, same weights"}.get(row, f"uniform {row}")


def _row(label: str, table: dict[str, Any]) -> dict[str, Any]:
    machine = table["machines"][0]
    total, dense = machine["total"], machine["dense"]
    return {
        "label": label, "accuracy": table["accuracy"], "weight_sparsity": table["weight_sparsity"],
        "machine": machine["machine"], "cycles": total["cycles"], "energy_pj": total["energy_pj"],
        "speedup": machine["speedup"], "latency_s": total["latency_s"], "dense_cycles": dense["cycles"],
        "seconds": table["training"]["seconds"], "run": table["run"],
    }
