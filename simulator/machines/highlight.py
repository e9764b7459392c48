"""HighLight: hierarchical structured sparsity of weights, n of m in blocks of n of m, and gating of zero activations.

The layer runs at the smallest pair of supported patterns that covers its mask, so that time is known from the pair
and nothing waits.  Left out: fill of the pipeline, the unit that aligns the fetched activations.
docs/machines/highlight.md is the text, ../reference/highlight.py the twin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..formats import index_bits
from ..hardware import Machine
from ..lowering import nonzero_inputs_per_row, useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Conv2d
from .blocks import AXES, in_blocks, most_weights, parse_bound, run_shape, weight_runs
from .limits import require_enumerable
from .passes import PassTable, best_cut

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/highlight.md."""

    rows: int
    cols: int
    lanes: int
    rank0: tuple[str, ...] = ()
    rank1: tuple[str, ...] = ()
    blocks_along: str = "k"
    compressed_inputs: bool = False

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers."""
        return self.rows * self.cols * self.lanes

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "hierarchical n:m", "input": "bitmask" if self.compressed_inputs else "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        unit = "hierarchical n:m"
        found = (*stored_without_zeros("weight", unit), skipped("weight", unit), gated("weight"), gated("input"))
        return (*found, *stored_without_zeros("input")) if self.compressed_inputs else found

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = [f"{name} = {getattr(self, name)}; expected an integer from 1 to {2**16}"
                 for name in ("rows", "cols", "lanes") if not 1 <= getattr(self, name) <= 2**16]
        for name in ("rank0", "rank1"):
            found += [f"{name} holds {text!r}; expected patterns such as \"2:4\", m up to 64"
                      for text in getattr(self, name) if parse_bound(text) is None]
        if self.blocks_along not in AXES:
            found.append(f"blocks_along = {self.blocks_along!r}; expected one of {', '.join(AXES)}")
        return found


@dataclass(frozen=True)
class Pattern:
    """keep0 of every size0 entries, in keep1 of every size1 blocks of size0 entries; 1, 1, 1, 1 is dense."""

    keep0: int = 1
    size0: int = 1
    keep1: int = 1
    size1: int = 1

    def slots(self, length: int) -> int:
        """Values kept of a run of `length` entries."""
        span = self.size0 * self.size1
        rest = length % span
        whole, short = divmod(rest, self.size0)
        last = whole * self.keep0 + min(short, self.keep0)
        return length // span * self.keep0 * self.keep1 + min(last, self.keep0 * self.keep1)

    def blocks(self, length: int) -> int:
        """Blocks of size0 kept of a run of `length` entries."""
        return in_blocks(-(-length // self.size0), self.keep1, self.size1)

    def metadata_bits(self, length: int) -> int:
        """A coordinate per kept value and one per kept block; none at a rank that keeps everything."""
        inner = self.slots(length) * index_bits(self.size0) if self.keep0 < self.size0 else 0
        return inner + (self.blocks(length) * index_bits(self.size1) if self.keep1 < self.size1 else 0)

    def name(self) -> str:
        """The structure as a text."""
        inner = f"{self.keep0}:{self.size0}" if self.keep0 < self.size0 else ""
        if self.keep1 == self.size1:
            return inner or "dense"
        outer = f"{self.keep1}:{self.size1}" + (f" of {self.size0}x1" if self.size0 > 1 else "")
        return f"{outer} + {inner}" if inner else outer


@dataclass(frozen=True)
class Work:
    """A layer's sizes under a pattern: runs of `length` entries, slots and metadata bits of a filter."""

    pattern: Pattern
    slots: int
    metadata_bits: int


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; raises InputError where no cut fits the buffers, saying by how many bytes."""
    require_enumerable(layer)
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, chosen, "removed")
    work = measure(layer, spec)
    row_tiles, col_tiles = -(-gemm.m // spec.rows), -(-gemm.n // spec.cols)
    steps = -(-work.slots // spec.lanes)
    cycles = op.groups * row_tiles * col_tiles * steps
    slots = op.groups * gemm.m * gemm.n * work.slots
    counts[Count.COMPUTE] = -(-slots // spec.peak_macs_per_cycle)
    counts[Count.FRAGMENTATION] = cycles - counts[Count.COMPUTE]
    _count_work(counts, work, layer, spec)
    if machine.memory.memory != "ideal":
        table = _pass_table(work, row_tiles * steps, layer, machine)
        chosen, added = best_cut(table, gemm.n, machine.memory, tiling, f"layer {layer.name!r} on {machine.name}")
        counts += added
        _count_fills(counts, work, layer, spec, table, chosen)
    return LayerCounts(counts, chosen, work.pattern.name())


def measure(layer: LayerTrace, spec: Spec) -> Work:
    """The layer under the smallest pattern that covers its mask."""
    runs, length = run_shape(layer.operation, spec.blocks_along)
    mask = weight_runs(layer, spec.blocks_along) if layer.packed_weight is not None else None
    pattern = Pattern() if mask is None else _covering(mask, spec)
    return Work(pattern, runs * pattern.slots(length), runs * pattern.metadata_bits(length))


def _covering(mask: Bools, spec: Spec) -> Pattern:
    """Of the machine's pairs that the mask bool[runs, entries, n] fits, the one with the fewest slots; ties: the
    shortest span, then the shortest block.  Dense is always among them."""
    length = mask.shape[1]
    found = [Pattern()]
    rank0, rank1 = ([pair for text in texts if (pair := parse_bound(text))] or [(1, 1)]
                    for texts in (spec.rank0, spec.rank1))
    for size0 in {size for _, size in rank0}:
        most = most_weights(mask, length, size0)
        inner = [keep for keep, size in rank0 if size == size0 and keep >= most]
        if not inner:
            continue
        blocks = np.logical_or.reduceat(mask, np.arange(0, length, size0), axis=1)
        found += [Pattern(min(inner), size0, keep, size) for keep, size in rank1
                  if most_weights(blocks, blocks.shape[1], size) <= keep]
    return min(found, key=lambda one: (one.slots(length), one.size0 * one.size1, one.size0, one.keep0, one.keep1))


def _count_work(counts: Ints, work: Work, layer: LayerTrace, spec: Spec) -> None:
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    row_tiles, col_tiles = -(-gemm.m // spec.rows), -(-gemm.n // spec.cols)
    slots, useful = groups * gemm.m * gemm.n * work.slots, useful_macs(layer)
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = useful
    counts[Count.INPUT_HOPS] = counts[Count.PSUM_HOPS] = useful
    counts[Count.GATED_MACS] = slots - useful
    counts[Count.SKIPPED_MACS] = layer.operation.macs - slots
    counts[Count.WEIGHT_HOPS] = slots
    entries = groups * gemm.m * gemm.k
    counts[Count.INPUT_SRAM_READS] = col_tiles * entries
    if _inputs_compressed(layer, spec):
        live = (int(nonzero_inputs_per_row(layer).sum()) if layer.packed_input is not None
                else math.floor(layer.input_density * entries + 0.5))
        counts[Count.INPUT_SRAM_READS] = col_tiles * live
        counts[Count.METADATA_SRAM_READ_BITS] = col_tiles * entries
    counts[Count.WEIGHT_SRAM_READS] = groups * gemm.n * row_tiles * work.slots
    counts[Count.METADATA_SRAM_READ_BITS] += groups * gemm.n * row_tiles * work.metadata_bits
    counts[Count.OUTPUT_SRAM_WRITES] = groups * gemm.m * gemm.n


def _inputs_compressed(layer: LayerTrace, spec: Spec) -> bool:
    return spec.compressed_inputs and (layer.packed_input is not None or layer.input_density < 1.0)


def _stored_inputs(layer: LayerTrace, spec: Spec) -> tuple[Ints, int]:
    """(words of each group's raw inputs in memory, int64[groups]; bits of a group's bitmap)."""
    op = layer.operation
    words = int(np.prod(op.input_shape)) // op.groups
    if not _inputs_compressed(layer, spec):
        return np.full(op.groups, words, dtype=np.int64), 0
    mask = layer.input_mask
    if mask is None:
        return np.full(op.groups, math.floor(layer.input_density * words + 0.5), dtype=np.int64), words
    if isinstance(op, Conv2d):
        return mask.sum(axis=(0, 2, 3), dtype=np.int64).reshape(op.groups, -1).sum(axis=1), words
    return np.array([mask.sum()], dtype=np.int64), words


def _pass_table(work: Work, cycles: int, layer: LayerTrace, machine: Machine) -> PassTable:
    """A pass is a column of output tiles of a group: its filters, all inputs of the group."""
    spec: Spec = machine.array
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    starts = np.arange(0, gemm.n, spec.cols)
    filters = np.tile(np.minimum(spec.cols, gemm.n - starts), groups).astype(np.int64)
    metadata = -(-filters * work.metadata_bits // 8)
    words, bitmap = _stored_inputs(layer, spec)
    return PassTable(
        weight_bytes=-(-filters * work.slots * layer.weight_bits // 8) + metadata, metadata_bytes=metadata,
        input_bytes=np.repeat(-(-(words * layer.input_bits + bitmap) // 8), len(starts)),
        output_bits=filters * layer.output_bits, held_bits=filters * machine.memory.psum_bits,
        cycles=np.full_like(filters, cycles), same_input=np.arange(len(filters)) % len(starts) > 0,
        same_weight=np.zeros(len(filters), dtype=bool), rows=gemm.m, depth=gemm.k)


def _count_fills(counts: Ints, work: Work, layer: LayerTrace, spec: Spec, table: PassTable, chosen: Tiling) -> None:
    """Elements that loads write into the buffers and stores read from them."""
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    chunks, slabs = table.parts(chosen)
    weight_loads = chunks if slabs > 1 else 1
    input_loads = 1 if chunks == slabs == 1 else len(table.cycles) // groups
    words, bitmap = _stored_inputs(layer, spec)
    counts[Count.WEIGHT_SRAM_WRITES] = groups * gemm.n * work.slots * weight_loads
    counts[Count.INPUT_SRAM_WRITES] = words.sum() * input_loads
    counts[Count.METADATA_SRAM_WRITE_BITS] = (
        groups * gemm.n * work.metadata_bits * weight_loads + groups * bitmap * input_loads)
    counts[Count.OUTPUT_SRAM_READS] += groups * gemm.m * gemm.n
