"""The machine models: one file each, named in one literal table.

A model module has `Spec` (a frozen dataclass of the array's fields with `problems()`), `run(layer,
machine) -> LayerCounts` (the fast engine) and, in ../reference under the same file name, its slow twin.
Joining the table enrols a model in every contract test.
"""

from __future__ import annotations

import importlib
from types import ModuleType

MACHINES = {
    # model: module, imported on first use so that `import simulator` compiles nothing
    "systolic": "simulator.machines.systolic",
    "scnn": "simulator.machines.scnn",
    "sigma": "simulator.machines.sigma",
    "sparten": "simulator.machines.sparten",
    "eyeriss_v2": "simulator.machines.eyeriss_v2",
    "eie": "simulator.machines.eie",
    "s2ta": "simulator.machines.s2ta",
    "highlight": "simulator.machines.highlight",
    "pattern_engine": "simulator.machines.pattern_engine",
    "multi_array": "simulator.machines.multi_array",
    "dual_side_tensor_core": "simulator.machines.dual_side_tensor_core",
    "tensordash": "simulator.machines.tensordash",
}


def model(name: str) -> ModuleType:
    """The module of a model in the table, or of a `package.module` path."""
    return importlib.import_module(MACHINES[name])


def reference(name: str) -> ModuleType:
    """The slow, cycle-stepped twin of a model."""
    return importlib.import_module(MACHINES[name].replace(".machines.", ".reference."))
