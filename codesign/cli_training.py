"""`espalier simulate --training`: one training iteration of a trace on a machine, as a table or as JSON.

It reads options and prints; the cost itself is simulator/training.py.  Read docs/training.md for what the phases are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cli_common import causes, counted, energy, print_json, print_table, ratio


def print_training(trace: Any, machine: Any, options: Mapping[str, Any], as_json: bool) -> None:
    """Simulate an iteration of `trace`, and of the same trace dense, and print both.

    options: fields of simulator.training_state.Updates, and those of training_iteration; None where not given.
    """
    from simulator.training import PHASES, training_iteration
    from simulator.training_state import Updates

    given = {name: value for name, value in options.items() if value is not None}
    kept = {name: given.pop(name) for name in ("optimiser", "storage", "mask_interval", "mask_score") if name in given}
    report = training_iteration(trace, machine, Updates(**kept), **given)
    # Dense weights and dense error maps: what the same step costs without any pruning.
    plain = type(trace)([layer.dense().replace(error_mask=None, error_density=None) for layer in trace.layers],
                        trace.edges)
    dense = training_iteration(plain, machine, Updates(**(kept | {"storage": "dense", "mask_interval": 0})), **given)
    table = report.to_dict() | {
        "dense": {"phases": {phase: total.to_dict() for phase, total in dense.phases.items()},
                  "iteration": dense.to_dict()["iteration"]},
        "speedup": dense.cycles / report.cycles if report.cycles else None,
        "energy_ratio": dense.energy_j / report.energy_j if report.energy_j else None,
    }
    if as_json:
        print_json({"schema": 1, "training": [table]})
        return
    rows = []
    for phase in PHASES:
        total, other = report.phases.get(phase), dense.phases.get(phase)
        if total is None:
            continue
        rows.append([
            phase.replace("_", " ") + (f" (1 in {report.updates.mask_interval})" if phase == "mask_update" else ""),
            counted(total.cycles),
            "-" if other is None else ratio(other.cycles / total.cycles if total.cycles else None),
            energy(total.energy_pj),
            "-" if other is None else ratio(other.energy_pj / total.energy_pj if total.energy_pj else None),
            f"{100 * total.utilisation:.1f}%",
            causes(total.cycles_by_cause),
        ])
    rows.append(["iteration", counted(report.cycles), ratio(table["speedup"]), energy(report.energy_j * 1e12),
                 ratio(table["energy_ratio"]), "-", f"{report.seconds:.3g} s"])
    print_table(
        f"a training iteration of {report.instances} instances on {machine.name}, {report.updates.optimiser}",
        ("phase", "cycles", "over dense", "energy", "energy gain", "utilisation", "where the cycles went"),
        rows,
        last_is_total=True,
    )
