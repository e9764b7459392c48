"""A tensor core that multiplies condensed columns with condensed rows: outer products of two bitmap-encoded operands.

Zeros of both sides are left out in whole vectors, and products go to accumulator banks wherever their outputs lie.
Left out: register files, warps and instruction issue, the encoding of outputs, the write-back of a tile.
docs/machines/dual_side_tensor_core.md is the text, ../reference/dual_side_tensor_core.py the twin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..lowering import useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, skipped, stored_without_zeros
from ..trace import LayerTrace
from .filter_runs import Stored, fastest_runs, raw_input_words
from .limits import require_enumerable
from .lowered_rows import blocks_of_rows
from .spread import with_explicit_inputs

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MOST_ITEMS = 1 << 24  # output tiles, each with its own facts


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/dual_side_tensor_core.md."""

    units: int
    tile_m: int = 32
    tile_n: int = 32
    tile_k: int = 16
    vector_m: int = 8
    vector_n: int = 16
    bank_rows: int = 8
    bank_cols: int = 16

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers: an outer product of two full vectors in each unit."""
        return self.units * self.vector_m * self.vector_n

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Zero inputs are neither stored nor moved."""
        return True

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "bitmask", "input": "bitmask"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        return (*stored_without_zeros("weight"), *stored_without_zeros("input"), skipped("weight"), skipped("input"))

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        most = {"units": 2**14, "tile_k": 2**16}
        names = ("units", "tile_m", "tile_n", "tile_k", "vector_m", "vector_n", "bank_rows", "bank_cols")
        return [f"{name} = {getattr(self, name)}; expected an integer from 1 to {most.get(name, 1024)}"
                for name in names if not 1 <= getattr(self, name) <= most.get(name, 1024)]


@dataclass(frozen=True, eq=False)
class Work:
    """A layer as tiles of outputs, by group.

    facts: int64[groups, tile columns, tile rows that differ, ITEM] (dual_side_tensor_core_kernel.py); index: int64[tile
    rows], which of them a tile row is.  live, kept: int64[groups, 2, k], of inputs and weights the nonzeros of each k
    over all tiles, and the vectors that they fill.  live_bits, kept_bits: int64[groups], int64[groups, tile columns],
    bits of the bitmaps of both levels.
    """

    facts: Ints
    index: Ints
    live: Ints
    kept: Ints
    live_bits: Ints
    kept_bits: Ints


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; raises InputError where no cut fits the buffers, saying by how many bytes."""
    require_enumerable(layer)
    gemm, spec, groups = layer.operation.gemm(), machine.array, layer.operation.groups
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, chosen, "removed")
    items = -(-gemm.m // spec.tile_m) * -(-gemm.n // spec.tile_n) * groups
    if items > MOST_ITEMS:
        raise InputError(f"{items} tiles of outputs", where=f"layer {layer.name!r}", expected=f"at most {MOST_ITEMS}",
                         fix="split the layer")
    explicit = with_explicit_inputs(layer)
    weights = layer.weight_matrix()
    work = measure(explicit, weights, spec)

    def facts_of(starts: Ints) -> Ints:
        from . import dual_side_tensor_core_kernel as kernel

        found = np.zeros((len(starts), 3), dtype=np.int64)
        columns = work.facts.shape[1]
        ends = np.append(starts, groups * columns).astype(np.int64)
        kernel.run_cycles(work.facts, work.index, ends, columns, spec.units, found)
        return found

    starts = np.zeros(1, dtype=np.int64)
    if machine.memory.memory != "ideal":
        stored = _stored(explicit, weights, work, spec)
        chosen, starts, added = fastest_runs(explicit, machine, tiling, stored, lambda runs: facts_of(runs)[:, 0])
        counts += added
    _count(counts, explicit, weights, work, spec, facts_of(starts))
    sparse = layer.packed_weight is not None or explicit.packed_input is not None
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense")


def measure(layer: LayerTrace, weights: Bools, spec: Spec) -> Work:
    """Every tile of outputs on its own; weights: bool[groups, k, n]."""
    from . import dual_side_tensor_core_kernel as kernel

    gemm, groups = layer.operation.gemm(), len(weights)
    rows, columns = -(-gemm.m // spec.tile_m), -(-gemm.n // spec.tile_n)
    known = layer.packed_input is not None
    index = np.arange(rows) if known else (np.arange(rows) >= gemm.m // spec.tile_m).astype(np.int64)
    facts = np.zeros((groups, columns, int(index.max()) + 1, kernel.ITEM), dtype=np.int64)
    live, kept = np.zeros((groups, 2, gemm.k), dtype=np.int64), np.zeros((groups, 2, gemm.k), dtype=np.int64)
    live_bits, kept_bits = np.zeros(groups, dtype=np.int64), np.zeros((groups, columns), dtype=np.int64)
    for group, mask in enumerate(weights):
        tiles = np.pad(mask.T, ((0, -gemm.n % spec.tile_n), (0, 0))).reshape(columns, spec.tile_n, gemm.k)
        b = _by_bank(tiles, spec.bank_cols)
        kept[group] = b.sum(axis=(0, 2)), kernel.vectors(b, spec.vector_n).sum(axis=0)
        kept_bits[group] = bitmap_bits(tiles, _heights(gemm.n, spec.tile_n), spec.tile_k)
        for number, block in blocks_of_rows(layer, group, spec.tile_m):
            a = _by_bank(block, spec.bank_rows)
            found = np.zeros((len(a), columns, kernel.ITEM), dtype=np.int64)
            kernel.items(a, b, spec.tile_k, spec.vector_m, spec.vector_n, found)
            facts[group, :, index[number][: len(a)]] = found
            times = len(number) // len(a)  # where no mask is known one block stands for all full ones
            live[group] += times * np.stack([a.sum(axis=(0, 2)), kernel.vectors(a, spec.vector_m).sum(axis=0)])
            heights = _heights(gemm.m, spec.tile_m)[number][: len(a)]
            live_bits[group] += times * int(bitmap_bits(block, heights, spec.tile_k).sum())
    return Work(facts, index.astype(np.int64), live, kept, live_bits, kept_bits)


def _heights(count: int, tile: int) -> Ints:
    return np.minimum(tile, count - np.arange(0, count, tile))


def _by_bank(tiles: Bools, banks: int) -> NDArray[np.int32]:
    """int32[tiles, k, banks] of bool[tiles, outputs, k]: nonzeros of a k whose place is `bank` modulo the banks."""
    number, outputs, k = tiles.shape
    padded = np.pad(tiles, ((0, 0), (0, -outputs % banks), (0, 0)))
    counts = padded.reshape(number, -1, banks, k).sum(axis=1, dtype=np.int32)
    return np.ascontiguousarray(counts.transpose(0, 2, 1))


def bitmap_bits(tiles: Bools, heights: Ints, tile_k: int) -> Ints:
    """int64[tiles]: a bit for each k step of a tile, and for one that holds anything a bit for every value.

    tiles: bool[tiles, outputs, k]; heights: int64[tiles], the outputs that exist.
    """
    k = tiles.shape[2]
    starts = np.arange(0, k, tile_k)
    widths = np.minimum(tile_k, k - starts)
    occupied = np.logical_or.reduceat(tiles.any(axis=1), starts, axis=1)
    return np.asarray(len(starts) + heights * (occupied * widths).sum(axis=1))


def _count(counts: Ints, layer: LayerTrace, weights: Bools, work: Work, spec: Spec, runs: Ints) -> None:
    """Add work, on-chip traffic and the causes: unit-cycles over the number of units, whole cycles."""
    from . import dual_side_tensor_core_kernel as kernel

    gemm, groups = layer.operation.gemm(), layer.operation.groups
    rows, columns = len(work.index), work.facts.shape[1]
    per_row = work.facts.sum(axis=(0, 1))
    steps, waits = per_row[work.index].sum(axis=0)[[kernel.STEPS, kernel.WAITS]].tolist()
    products = useful_macs(layer, weights)
    per_step = spec.vector_m * spec.vector_n
    counts[Count.COMPUTE] = -(-products // spec.peak_macs_per_cycle)
    counts[Count.FRAGMENTATION] = (steps * per_step - products) // spec.peak_macs_per_cycle
    counts[Count.BANK_CONFLICT] = (waits + int(runs[:, 1].sum())) // spec.units
    counts[Count.DRAIN] = int(runs[:, 2].sum()) // spec.units
    counts[Count.IMBALANCE] = int(runs[:, 0].sum()) - sum(int(counts[item]) for item in (
        Count.COMPUTE, Count.FRAGMENTATION, Count.BANK_CONFLICT, Count.DRAIN))
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = counts[Count.PSUM_HOPS] = products
    counts[Count.SKIPPED_MACS] = layer.operation.macs - products
    counts[Count.INPUT_HOPS] = (work.live[:, 0] * work.kept[:, 1]).sum()
    counts[Count.WEIGHT_HOPS] = (work.live[:, 1] * work.kept[:, 0]).sum()
    counts[Count.INPUT_SRAM_READS] = int(work.live[:, 0].sum()) * columns
    counts[Count.WEIGHT_SRAM_READS] = int(work.kept[:, 0].sum()) * rows
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * gemm.n * groups
    if layer.packed_input is not None:
        counts[Count.METADATA_SRAM_READ_BITS] += int(work.live_bits.sum()) * columns
    if layer.packed_weight is not None:
        counts[Count.METADATA_SRAM_READ_BITS] += int(work.kept_bits.sum()) * rows


def _stored(layer: LayerTrace, weights: Bools, work: Work, spec: Spec) -> Stored:
    """What lies in memory: nonzeros of both operands and their bitmaps; inputs as the raw tensor, a bit per word."""
    starts = np.arange(0, weights.shape[2], spec.tile_n)
    values = np.add.reduceat(weights.sum(axis=1, dtype=np.int64), starts, axis=1)
    words, nonzeros = raw_input_words(layer)
    return Stored(spec.tile_n, values, work.kept_bits * (layer.packed_weight is not None), nonzeros,
                  words * (layer.packed_input is not None))
