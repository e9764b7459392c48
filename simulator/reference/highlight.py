"""HighLight, one clock cycle at a time: every output takes `lanes` stored weights and looks up the input of each.

A stored weight carries its place in its block and its block's place in the group; the row of k is decoded from them.
What fills a short block or group is stored as zeros.  docs/machines/highlight.md is the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace
from ..workload import Gemm
from .lowered import GroupOperands, group_operands, operation_output
from .passes import PassTraffic, play_passes

Ints = NDArray[np.int64]
Rank = tuple[int, int]  # (kept, of)


@dataclass(frozen=True)
class Slot:
    """A stored weight: group of blocks, block in the group, entry in the block; place None = an empty slot."""

    run: int
    group: int
    block: int
    place: int | None
    value: int


@dataclass(frozen=True)
class Filter:
    """What is stored of a filter: slots, and the blocks that were kept."""

    slots: list[Slot]
    blocks: int


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape."""
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    groups = group_operands(layer, inputs, weights)
    outputs = [np.zeros((gemm.m, gemm.n), dtype=np.int64) for _ in groups]
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, chosen, "removed"), operation_output(layer, outputs)
    runs = [list(range(gemm.k))]
    if spec.blocks_along == "channel":
        runs = [list(range(position, gemm.k, op.window)) for position in range(op.window)]
    rank0, rank1 = _pair(layer, groups, runs, machine)
    passes: list[PassTraffic] = []
    cycles = products = slots = reads = 0
    expected = layer.packed_input is None and layer.input_density < 1.0
    compressed = spec.compressed_inputs and (layer.packed_input is not None or expected)
    for g, one in enumerate(groups):
        stored = [_store(one.weights[:, n], runs, rank0, rank1) for n in range(gemm.n)]
        raw, bitmap = _raw_inputs(layer, inputs, g, compressed)
        for first in range(0, gemm.n, spec.cols):
            columns = range(first, min(gemm.n, first + spec.cols))
            elements = sum(len(stored[n].slots) for n in columns)
            bits = sum(_metadata_bits(stored[n], rank0, rank1) for n in columns)
            begun = cycles
            for top in range(0, gemm.m, spec.rows):
                rows = range(top, min(gemm.m, top + spec.rows))
                # All inputs of the tile's rows are fetched; the lanes pick from them.
                reads += sum(bool(one.live[m, k]) or not compressed for m in rows for k in range(gemm.k))
                counts[Count.METADATA_SRAM_READ_BITS] += bits + (len(rows) * gemm.k if compressed else 0)
                counts[Count.WEIGHT_SRAM_READS] += elements
                counts[Count.OUTPUT_SRAM_WRITES] += len(rows) * len(columns)
                at = 0
                while any(at < len(stored[n].slots) for n in columns):
                    cycles += 1
                    for m in rows:
                        for n in columns:
                            now = stored[n].slots[at : at + spec.lanes]
                            slots += len(now)
                            for slot in now:
                                k = _row(slot, runs, rank0, rank1)
                                if k is not None:
                                    outputs[g][m, n] += one.inputs[m, k] * slot.value
                                    products += bool(one.live[m, k]) and slot.value != 0
                    at += spec.lanes
            passes.append(PassTraffic(
                cycles=cycles - begun, weights=elements, weight_bits=elements * layer.weight_bits, metadata_bits=bits,
                inputs=raw, input_bytes=-(-(raw * layer.input_bits + bitmap) // 8), bitmap_bits=bitmap,
                outputs_per_row=len(columns), same_input=first > 0))
    if expected:
        # Nobody knows which inputs are zero: the expected share of the products, and of each reading of the inputs.
        products = int(np.floor(layer.input_density * products + 0.5))
        if compressed:
            times = -(-gemm.n // spec.cols)
            reads = int(np.floor(layer.input_density * (reads // times) + 0.5)) * times
    counts[Count.INPUT_SRAM_READS] = reads
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = products
    counts[Count.INPUT_HOPS] = counts[Count.PSUM_HOPS] = products
    counts[Count.GATED_MACS], counts[Count.SKIPPED_MACS] = slots - products, op.macs - slots
    counts[Count.WEIGHT_HOPS] = slots
    counts[Count.COMPUTE] = -(-slots // spec.peak_macs_per_cycle)
    counts[Count.FRAGMENTATION] = cycles - counts[Count.COMPUTE]
    if machine.memory.memory != "ideal":
        chosen = tiling
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    return LayerCounts(counts, chosen, _name(rank0, rank1)), operation_output(layer, outputs)


def _row(slot: Slot, runs: list[list[int]], rank0: Rank, rank1: Rank) -> int | None:
    """The row of k that a slot's coordinates name."""
    if slot.place is None:
        return None
    return runs[slot.run][(slot.group * rank1[1] + slot.block) * rank0[1] + slot.place]


def _store(column: Ints, runs: list[list[int]], rank0: Rank, rank1: Rank) -> Filter:
    """Blocks with a weight first, empty ones to fill the group; in a block weights first, zeros to fill it."""
    (keep0, size0), (keep1, size1) = rank0, rank1
    slots: list[Slot] = []
    kept_blocks = 0
    for number, rows in enumerate(runs):
        blocks = [rows[first : first + size0] for first in range(0, len(rows), size0)]
        for group, first in enumerate(range(0, len(blocks), size1)):
            mine = list(enumerate(blocks[first : first + size1]))
            # Whole blocks fill a group before a short one does, so that every filter stores as much.
            order = sorted(mine, key=lambda item: (not column[item[1]].any(), item[0]))
            here: list[Slot] = []
            for place, block in sorted(order[:keep1]):
                kept_blocks += 1
                inside = sorted(range(len(block)), key=lambda entry: (column[block[entry]] == 0, entry))
                here += [Slot(number, group, place, entry, int(column[block[entry]])) for entry in inside[:keep0]]
            # A group that keeps its short block in place of a whole one pads it.
            full = keep0 * keep1 if len(mine) > keep1 else len(here)
            here += [Slot(number, group, 0, None, 0)] * (full - len(here))
            slots += here
    return Filter(slots, kept_blocks)


def _metadata_bits(one: Filter, rank0: Rank, rank1: Rank) -> int:
    inner = len(one.slots) * (rank0[1] - 1).bit_length() if rank0[0] < rank0[1] else 0
    return inner + (one.blocks * (rank1[1] - 1).bit_length() if rank1[0] < rank1[1] else 0)


def _pair(layer: LayerTrace, groups: list[GroupOperands], runs: list[list[int]], machine: Machine) -> tuple[Rank, Rank]:
    """The smallest supported pair that covers every filter, by trying them all."""
    if layer.packed_weight is None:
        return (1, 1), (1, 1)
    spec = machine.array
    ranks = [[(int(text.split(":")[0]), int(text.split(":")[1])) for text in texts] or [(1, 1)]
             for texts in (spec.rank0, spec.rank1)]
    best: tuple[tuple[int, ...], tuple[Rank, Rank]] | None = None
    for rank0, rank1 in [((1, 1), (1, 1)), *((inner, outer) for inner in ranks[0] for outer in ranks[1])]:
        if not all(_fits(one.weights, rows, rank0, rank1) for one in groups for rows in runs):
            continue
        stored = len(_store(groups[0].weights[:, 0], runs, rank0, rank1).slots)
        key = (stored, rank0[1] * rank1[1], rank0[1], rank0[0], rank1[0])
        if best is None or key < best[0]:
            best = key, (rank0, rank1)
    assert best is not None  # dense covers everything
    return best[1]


def _fits(weights: Ints, rows: list[int], rank0: Rank, rank1: Rank) -> bool:
    counts = np.array([np.count_nonzero(weights[rows[first : first + rank0[1]]], axis=0)
                       for first in range(0, len(rows), rank0[1])])
    used = [(counts[first : first + rank1[1]] > 0).sum(axis=0).max() for first in range(0, len(counts), rank1[1])]
    return int(counts.max()) <= rank0[0] and max(used) <= rank1[0]


def _name(rank0: Rank, rank1: Rank) -> str:
    parts = []
    if rank1[0] < rank1[1]:
        parts.append(f"{rank1[0]}:{rank1[1]}" + (f" of {rank0[1]}x1" if rank0[1] > 1 else ""))
    if rank0[0] < rank0[1]:
        parts.append(f"{rank0[0]}:{rank0[1]}")
    return " + ".join(parts) or "dense"


def _raw_inputs(layer: LayerTrace, inputs: Ints, group: int, compressed: bool) -> tuple[int, int]:
    """(words of a group's raw inputs in memory, bits of their bitmap)."""
    op = layer.operation
    own = inputs
    if not isinstance(op, Gemm):
        per = op.in_channels // op.groups
        own = inputs[:, group * per : (group + 1) * per]
    if not compressed:
        return own.size, 0
    if layer.packed_input is None:
        return int(np.floor(layer.input_density * own.size + 0.5)), own.size
    return int(np.count_nonzero(own)), own.size
