"""Cycle-level simulation of systolic and sparse accelerators on real masks.

Start with engine.py: `simulate(trace, machine) -> Report`.  This package knows nothing of torch; numba,
scipy and file formats are imported when a simulation or a file first needs them.
"""

from .engine import simulate
from .errors import InputError
from .hardware import Machine, load_machine, preset_names
from .report import Cost, Report
from .structure import Structure
from .trace import LayerTrace, Trace
from .workload import Conv2d, Gemm

__all__ = [
    "Conv2d",
    "Cost",
    "Gemm",
    "InputError",
    "LayerTrace",
    "Machine",
    "Report",
    "Structure",
    "Trace",
    "load_machine",
    "preset_names",
    "simulate",
]
