"""Systolic arrays: dense (weight, output or input stationary), n:m and zero-block skipping, one model.

Cycles, traffic and work follow docs/model.md section 1; the slow twin is ../reference/systolic.py.  Left
out: bank conflicts inside a buffer, DRAM pages, overlap between layers.  The time line itself is in
systolic_kernel.py; the search over tilings in tiling_search.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine, Memory
from ..lowering import Physical, lower
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Conv2d
from . import banks
from .cover import COVERS, covered


@dataclass(frozen=True)
class Spec:
    """The array and its timing; every field is explained in docs/model.md, sections 1.1 to 1.3."""

    rows: int
    cols: int
    dataflow: str = "ws"
    activation_hop_registers: int = 1
    psum_hop_registers: int = 1
    multiplier_latency: int = 0
    accumulator_latency: int = 1
    input_register: int = 0
    output_register: int = 0
    weight_buffers: int = 2
    drain: str = "overlapped"
    preload_bias: bool = False
    max_in_flight: int = 0
    rows_per_request: int = 0
    nm: tuple[str, ...] = ()
    nm_cover: str = "layer"
    skip_zero_blocks: bool = False
    compact_channels: bool = True
    gating: str = "none"
    convention: str = "pytorch"

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers of the array."""
        return self.rows * self.cols

    @property
    def cycle_offset(self) -> int:
        """SCALE-Sim reports the index of the last cycle, one less than the number of cycles."""
        return -1 if self.convention == "scalesim" else 0

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored where the memory declares no format."""
        return {"weight": "n:m" if self.nm else "zero blocks left out" if self.skip_zero_blocks else "dense",
                "input": "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        found: list[SparseAction] = []
        if self.compact_channels:
            found += [*stored_without_zeros("weight", "channel, filter"), skipped("weight", "channel, filter")]
        unit = f"n:m per {self.nm_cover}" if self.nm else f"block {self.rows}x{self.cols}"
        if self.nm or self.skip_zero_blocks:
            found += [*stored_without_zeros("weight", unit), skipped("weight", unit)]
        return (*found, gated("weight"), gated("input")) if self.gating == "zeros" else tuple(found)

    @property
    def decodes(self) -> tuple[str, ...]:
        """Operands that may have any format off chip: what lies in the array is then decoded."""
        return ("input",) if self.nm or self.skip_zero_blocks else ("weight", "input")

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        least = {"rows": 1, "cols": 1, "activation_hop_registers": 1, "psum_hop_registers": 1, "multiplier_latency": 0,
                 "accumulator_latency": 1, "max_in_flight": 0, "rows_per_request": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) <= 2**20:
                found.append(f"{name} = {getattr(self, name)}; expected an integer from {low} to {2**20}")
        choices: dict[str, tuple[object, ...]] = {
            "dataflow": ("ws", "os", "is"), "drain": ("in_place", "serial", "overlapped"), "weight_buffers": (1, 2),
            "input_register": (0, 1), "output_register": (0, 1), "gating": ("none", "zeros"),
            "convention": ("pytorch", "scalesim"), "nm_cover": COVERS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                found.append(f"{name} = {getattr(self, name)!r}; expected one of {', '.join(map(str, allowed))}")
        for text in self.nm:
            match = re.fullmatch(r"(\d+):(\d+)", text)
            if not match or not 1 <= int(match[1]) <= int(match[2]):
                found.append(f"nm holds {text!r}; expected patterns such as \"2:4\"")
        if self.nm and self.dataflow == "is":
            found.append("nm needs dataflow ws or os: in is the weights stream and nothing is compacted")
        if self.nm_cover != "layer" and self.nm_cover in COVERS:
            if not self.nm or self.dataflow != "ws" or self.convention != "pytorch":
                found.append(f"nm_cover = {self.nm_cover!r} needs nm patterns, dataflow ws and convention pytorch")
            if len({text.partition(":")[2] for text in self.nm}) > 1:
                found.append(f"nm_cover = {self.nm_cover!r} needs patterns of one m, such as 1:4 and 2:4")
        if self.skip_zero_blocks and (self.dataflow != "ws" or self.nm):
            found.append("skip_zero_blocks needs dataflow ws and no nm patterns")
        if self.max_in_flight and (self.dataflow == "os" or self.max_in_flight < 2):
            found.append("max_in_flight needs dataflow ws or is, and at least 2 (the preload and one request)")
        return found


    def bank_problems(self, memory: Memory) -> list[str]:
        """What of a memory's banks this array does not have, a sentence each."""
        return banks.problems(self, memory)


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; the best legal tiling is searched unless one is given (ideal memory needs none).

    Raises InputError where no tiling (or not the given one) fits the buffers, saying by how many bytes.
    """
    from . import systolic_kernel as kernel
    from . import tiling_search

    spec: Spec = machine.array
    gemm = physical_gemm(layer, machine)
    if gemm.removed:
        counts = np.zeros(len(Count), dtype=np.int64)
        counts[Count.DENSE_MACS] = counts[Count.SKIPPED_MACS] = gemm.dense_macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed")
    problem = tiling_search.Problem.of(gemm, layer, machine)
    try:
        ideal = machine.memory.memory == "ideal"
        chosen = problem.check(tiling) if tiling is not None and not ideal else tiling_search.best(problem)
    except InputError as error:
        raise InputError(str(error), where=f"layer {layer.name!r} on {machine.name}") from None
    counts = np.zeros(len(Count), dtype=np.int64)
    tiles = problem.tiles(chosen)
    kernel.timeline(problem.parameters(chosen), *tiles, counts)
    _count_work(counts, gemm, spec)
    return LayerCounts(counts, chosen, _executed_as(gemm, tiles[-2], spec), problem.storage.names)


def physical_gemm(layer: LayerTrace, machine: Machine) -> Physical:
    """The layer as this machine's array runs it (docs/model.md section 1.1)."""
    spec: Spec = machine.array
    whole = spec.nm_cover == "layer"
    return covered(lower(layer, compact_channels=spec.compact_channels, nm=spec.nm if whole else ()), spec)


def steps(gemm: Physical, spec: Spec) -> tuple[int, int]:
    """(rows of k, columns of n) of which a tile's sizes are multiples, unless it has the whole axis."""
    if gemm.cover is not None:
        return gemm.cover.block, spec.cols
    return 1 if spec.dataflow == "os" else spec.rows, 1 if spec.dataflow == "is" else spec.cols


def legal(layer: LayerTrace, machine: Machine, tiling: Tiling) -> int:
    """Bytes by which the tiling misses the buffers (0 = it fits); InputError for a tiling of the wrong shape."""
    from . import tiling_search

    return tiling_search.Problem.of(physical_gemm(layer, machine), layer, machine).missing_bytes(tiling)


def _count_work(counts: np.ndarray, gemm: Physical, spec: Spec) -> None:
    """Split the executed slots, which the kernel left in ISSUED_MACS, into issued, gated and skipped."""
    slots = int(counts[Count.ISSUED_MACS])
    gated = slots - gemm.useful_macs if spec.gating == "zeros" else 0
    counts[Count.USEFUL_MACS] = gemm.useful_macs
    counts[Count.DENSE_MACS] = gemm.dense_macs
    counts[Count.ISSUED_MACS] = slots - gated
    counts[Count.GATED_MACS] = gated
    counts[Count.SKIPPED_MACS] = gemm.dense_macs - slots


def _executed_as(gemm: Physical, folds: np.ndarray, spec: Spec) -> str:
    if gemm.cover is not None:
        return gemm.cover.name
    if gemm.slots_kept < gemm.slots_of:
        return f"{gemm.slots_kept}:{gemm.slots_of}"
    if spec.skip_zero_blocks and gemm.mask is not None and int(folds[..., 0].sum()) < folds_of_dense(gemm, spec):
        return f"block {spec.rows}x{spec.cols}"
    return "dense"


def folds_of_dense(gemm: Physical, spec: Spec) -> int:
    """Weight blocks of R x C over all groups."""
    return gemm.groups * -(-gemm.k // spec.rows) * -(-gemm.n // spec.cols)


@lru_cache(maxsize=4096)
def touched(
    out: int, stride: int, kernel: int, dilation: int, padding: int, size: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis cut into runs of `step` outputs: (outputs per run, distinct input positions per run)."""
    starts = np.arange(0, out, step)
    outs = np.minimum(step, out - starts).astype(np.int64)
    positions = (np.arange(out) * stride)[:, None] + np.arange(kernel) * dilation - padding
    # One number per (run, position), so that one `unique` counts all runs.
    keys = (np.arange(out) // step)[:, None] * size + positions
    distinct = np.unique(keys[(positions >= 0) & (positions < size)])
    return outs, np.bincount(distinct // size, minlength=len(starts)).astype(np.int64)


def axes(operation: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(out, stride, kernel, dilation, padding, size) along the rows and along the columns of the image."""
    if isinstance(operation, Conv2d):
        op = operation
        return ((op.out_h, op.stride_h, op.kernel_h, op.dilation_h, op.padding_h, op.in_h),
                (op.out_w, op.stride_w, op.kernel_w, op.dilation_w, op.padding_w, op.in_w))
    return (1, 1, 1, 1, 0, 1), (1, 1, 1, 1, 0, 1)
