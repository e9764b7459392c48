"""Banked buffers of the systolic array: what the time line needs to know of a tiling's bank conflicts.

A vector that streams takes as many edges as its busiest bank; the tables here hold how many more than one.  Loads of
the stationary operand, the drain of outputs and the DMA's ports are left out.  Read docs/model.md section 1.9.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hardware import Memory
from ..workload import Gemm

if TYPE_CHECKING:
    from .systolic import Spec
    from .tiling_search import Problem

Ints = NDArray[np.int64]
MOST_ENTRIES = 1 << 26  # 512 MiB
STREAMS = {"ws": ("input", "output"), "os": ("input", "weight"), "is": ("weight", "output")}
NONE = (np.zeros(1, dtype=np.int64), np.zeros((1, 1, 1), dtype=np.int64), np.zeros((1, 1, 1), dtype=np.int64),
        np.zeros(1, dtype=np.int64))
"""`tables` where no buffer has banks."""


def banked(memory: Memory) -> bool:
    """True where a buffer has banks that can conflict."""
    return memory.memory != "ideal" and bool(memory.input_banks or memory.weight_banks or memory.output_banks)


def problems(spec: Spec, memory: Memory) -> list[str]:
    """What of the banks this array does not have, a sentence each."""
    if not banked(memory):
        return []
    found = [f"{operand}_banks is for an operand that streams; with dataflow {spec.dataflow} those are "
             f"{' and '.join(STREAMS.get(spec.dataflow, ()))}"
             for operand in ("input", "weight", "output")
             if getattr(memory, f"{operand}_banks") and operand not in STREAMS.get(spec.dataflow, ())]
    if spec.nm_cover != "layer" or spec.skip_zero_blocks or spec.max_in_flight:
        found.append("input_banks, weight_banks and output_banks need nm_cover = \"layer\", no skip_zero_blocks and no "
                     "max_in_flight")
    return found


def geometry(problem: Problem) -> Ints:
    """The layer's geometry as bank_kernel has it."""
    memory, gemm, spec = problem.machine.memory, problem.gemm, problem.machine.array
    out_h, stride_h, kernel_h, dilation_h, padding_h, in_h = problem.vertical
    out_w, stride_w, kernel_w, dilation_w, padding_w, in_w = problem.horizontal
    channels = gemm.k_rows // (kernel_h * kernel_w)
    return np.array([
        problem.images, out_h, out_w, stride_h, stride_w, kernel_h, kernel_w, dilation_h, dilation_w, padding_h,
        padding_w, in_h, in_w, channels, channels if isinstance(gemm.operation, Gemm) else in_w, memory.input_banks,
        memory.weight_banks, memory.output_banks, memory.bank_ports, memory.bank_interleave == "row", spec.rows,
        spec.cols, gemm.k, gemm.n, gemm.k_rows, gemm.slots_kept, gemm.slots_of], dtype=np.int64)


def tables(problem: Problem, bricks: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """(geometry, waits, anew, first) of a banked memory, for bricks of m that start at these pixels.

    first: int64[bricks], the first pixel (ws) or fold of m (os) of each brick; waits, anew: as in bank_kernel.  Raises
    InputError for a layer whose tables would not fit in memory.
    """
    nothing = NONE[1]
    spec, g = problem.machine.array, geometry(problem)
    if spec.dataflow == "ws":
        return g, _weight_stationary(problem), nothing, bricks
    if spec.dataflow == "is":
        return g, nothing, nothing, bricks
    return g, *_output_stationary(problem, tuple(bricks.tolist()))


@lru_cache(maxsize=2)
def _weight_stationary(problem: Problem) -> Ints:
    """bank_kernel's waits; the same for every tiling."""
    from . import bank_kernel as kernel

    waits = _table(-(-problem.gemm.k // problem.machine.array.rows), problem.gemm.m)
    kernel.weight_stationary(geometry(problem), waits)
    return waits


@lru_cache(maxsize=4)
def _output_stationary(problem: Problem, begins: tuple[int, ...]) -> tuple[Ints, Ints, Ints]:
    """bank_kernel's waits and anew, and the first fold of each brick."""
    from . import bank_kernel as kernel

    spec, gemm, bricks = problem.machine.array, problem.gemm, np.array(begins, dtype=np.int64)
    sizes = np.diff(np.append(bricks, gemm.m))
    starts = np.concatenate([np.arange(at, at + size, spec.rows) for at, size in zip(bricks, sizes, strict=True)])
    ends = np.minimum(starts + spec.rows, np.repeat(bricks + sizes, -(-sizes // spec.rows)))
    waits = _table(len(starts), gemm.k)
    anew = np.zeros_like(waits)
    kernel.output_stationary(geometry(problem), starts.astype(np.int64), ends.astype(np.int64), waits, anew)
    first = np.append(0, np.cumsum(-(-sizes // spec.rows))[:-1]).astype(np.int64)
    return waits, anew, first


def _table(folds: int, positions: int) -> Ints:
    if 2 * folds * (positions + 1) > MOST_ENTRIES:
        raise InputError(f"bank conflicts of {folds} folds of {positions} vectors", where="memory",
                         expected=f"at most {MOST_ENTRIES} in all", fix="set the banks to 0 for this layer")
    return np.zeros((2, folds, positions + 1), dtype=np.int64)
