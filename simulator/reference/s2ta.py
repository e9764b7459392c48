"""S2TA, one clock cycle at a time: activations move right and blocks of weights down through a grid of tensor PEs.

Every tensor PE has a register for each; what meets there is matched by position and accumulated in place.  The order of
nonzeros and of the zeros that fill a block is plain here.  docs/machines/s2ta.md is the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace
from ..workload import Gemm, Operation
from .lowered import GroupOperands, group_operands, operation_output
from .passes import PassTraffic, play_passes

Ints = NDArray[np.int64]
Word = tuple[int, int, bool]  # (row of k, value, counts as nonzero)
Words = list[Word]
Beat = tuple[int, list[Words]]  # (cycle of the stream, words of each row or column of the tensor PE)


@dataclass
class Setting:
    """How the layer is cut: blocks of k, words that a store keeps of a block, whether it leaves any out."""

    size: int
    blocks: list[list[int]]
    weights: int
    activations: int
    compressed: bool


@dataclass
class TensorPe:
    """Two operand registers and a grid of accumulators (row of m, column of n) -> sum."""

    rows: list[int]
    columns: list[int]
    inputs: Beat | None = None
    weights: Beat | None = None
    sums: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass
class Tally:
    """Datapath-cycles of real outputs, those with both kinds of operand, products and slots, over the layer."""

    cycles: int = 0
    skew: int = 0
    given: int = 0
    busy: int = 0
    slots: int = 0
    products: int = 0


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
    setting = _setting(layer, groups, machine)
    tally, passes = Tally(), []
    stored = _stored_inputs(layer, inputs, machine)
    for g, one in enumerate(groups):
        for first in range(0, gemm.n, spec.cols * spec.datapath_cols):
            columns = list(range(first, min(gemm.n, first + spec.cols * spec.datapath_cols)))
            filters = {n: [_stored(block, one.weights[:, n], one.weights[:, n] != 0, setting.weights)
                           for block in setting.blocks] for n in columns}
            before = tally.cycles + tally.skew
            for top in range(0, gemm.m, spec.rows * spec.datapath_rows):
                rows = list(range(top, min(gemm.m, top + spec.rows * spec.datapath_rows)))
                _tile(rows, filters, one, outputs[g], setting, machine, tally, counts)
                elements = sum(len(words) for blocks in filters.values() for words in blocks)
                counts[Count.WEIGHT_SRAM_READS] += elements
                if setting.compressed:
                    counts[Count.METADATA_SRAM_READ_BITS] += gemm.k * len(columns)
                if setting.activations < setting.size:
                    counts[Count.METADATA_SRAM_READ_BITS] += gemm.k * len(rows)
            passes.append(PassTraffic(
                cycles=tally.cycles + tally.skew - before, weights=elements, weight_bits=elements * layer.weight_bits,
                metadata_bits=gemm.k * len(columns) if setting.compressed else 0, inputs=stored[g][0],
                input_bytes=-(-(stored[g][0] * layer.input_bits + stored[g][1]) // 8), bitmap_bits=stored[g][1],
                outputs_per_row=len(columns), same_input=first > 0))
    _causes(counts, tally, layer, machine)
    if machine.memory.memory != "ideal":
        chosen = tiling
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    name = f"{setting.weights}:{setting.size}" if setting.compressed else "dense"
    if setting.activations < setting.size:
        name += f", inputs {setting.activations}:{setting.size}"
    return LayerCounts(counts, chosen, name), operation_output(layer, outputs)


def _blocks(operation: Operation, size: int, along: str) -> list[list[int]]:
    """Rows of k, block after block."""
    gemm = operation.gemm()
    runs = [list(range(gemm.k))]
    if along == "channel":
        runs = [list(range(position, gemm.k, operation.window)) for position in range(operation.window)]
    return [one[first : first + size] for one in runs for first in range(0, len(one), size)]


def _setting(layer: LayerTrace, groups: list[GroupOperands], machine: Machine) -> Setting:
    spec = machine.array
    kept, block = map(int, spec.weight_bound.split(":"))
    size = block
    while True:
        blocks = _blocks(layer.operation, size, spec.blocks_along)
        if max(int(np.count_nonzero(one.weights[rows], axis=0).max()) for one in groups for rows in blocks) <= kept:
            break
        size -= 1
        while block % size:
            size -= 1
    bound = size
    if spec.time_unrolled and layer.packed_input is not None:
        most = max(int(one.live[:, rows].sum(axis=1).max()) for one in groups for rows in blocks)
        bound = _bound(most, size, machine)
    compressed = layer.packed_weight is not None and kept < size
    return Setting(size, blocks, min(kept, size), bound, compressed)


def _bound(most: int, size: int, machine: Machine) -> int:
    """The first bound, counting up, that the array has and that holds `most`."""
    known = {int(text.split(":")[0]) for text in machine.array.activation_bounds}
    bound = max(1, most)
    while bound < size and bound not in known:
        bound += 1
    return bound


def _stored(block: list[int], values: Ints, live: NDArray[np.bool_], keep: int) -> Words:
    """The words of a block that are kept: all that count as nonzero, then zeros up to `keep`."""
    words = [(row, int(values[row]), True) for row in block if live[row]]
    words += [(row, int(values[row]), False) for row in block if not live[row]]
    return words[:keep] if keep < len(block) else words


def _tile(rows: list[int], filters: dict[int, list[Words]], one: GroupOperands, output: Ints, setting: Setting,
          machine: Machine, tally: Tally, counts: Ints) -> None:
    """Clock the grid until the last operands have left it, and take the sums out."""
    spec, columns = machine.array, list(filters)
    grid = [[TensorPe(_part(rows, i, spec.datapath_rows), _part(columns, j, spec.datapath_cols))
             for j in range(spec.cols)] for i in range(spec.rows)]
    kept = setting.activations if spec.time_unrolled else setting.size
    streams = {m: [_stored(block, one.inputs[m], one.live[m], kept) for block in setting.blocks] for m in rows}
    beats = setting.activations if spec.time_unrolled else 1
    edges = len(setting.blocks) * beats
    time = 0
    while True:
        # From the last tensor PE to the first, so that each takes what its neighbour held before this edge.
        for i in reversed(range(spec.rows)):
            for j in reversed(range(spec.cols)):
                pe = grid[i][j]
                if j:
                    pe.inputs = grid[i][j - 1].inputs
                else:
                    at = time - i
                    pe.inputs = (at, [_beat(streams[m], at, beats, spec.time_unrolled)
                                      for m in pe.rows]) if 0 <= at < edges else None
                    counts[Count.INPUT_SRAM_READS] += _words(pe.inputs)
                if i:
                    pe.weights = grid[i - 1][j].weights
                else:
                    at = time - j
                    pe.weights = (at, [filters[n][at // beats] for n in pe.columns]) if 0 <= at < edges else None
        active = [pe for line in grid for pe in line if pe.inputs is not None and pe.weights is not None]
        if not active:
            break
        time += 1
        for pe in active:
            assert pe.weights is not None
            # A block of weights stays in its register while its activations stream by.
            if pe.rows and pe.weights[0] % beats == 0:
                counts[Count.WEIGHT_HOPS] += _words(pe.weights)
            if pe.columns:
                counts[Count.INPUT_HOPS] += _words(pe.inputs)
            _work(pe, spec.multipliers, spec.time_unrolled, tally)
    tally.cycles += edges
    tally.skew += time - edges
    for line in grid:
        for pe in line:
            for (m, n), total in pe.sums.items():
                output[m, n] += total
    counts[Count.OUTPUT_SRAM_WRITES] += len(rows) * len(columns)


def _words(beat: Beat | None) -> int:
    return sum(map(len, beat[1])) if beat is not None else 0


def _part(items: list[int], index: int, size: int) -> list[int]:
    return items[index * size : (index + 1) * size]


def _beat(blocks: list[Words], beat: int, beats: int, one_by_one: bool) -> Words:
    """The words of a row that enter in a cycle: one of its block, or the whole block."""
    words = blocks[beat // beats]
    if not one_by_one:
        return words
    return words[beat % beats : beat % beats + 1]


def _work(pe: TensorPe, multipliers: int, one_by_one: bool, tally: Tally) -> None:
    """A cycle of every datapath that has an output: match by row of k, multiply, accumulate."""
    assert pe.inputs is not None and pe.weights is not None
    for m, activations in zip(pe.rows, pe.inputs[1], strict=True):
        for n, weights in zip(pe.columns, pe.weights[1], strict=True):
            held = {row: (value, kept) for row, value, kept in weights}
            # Each of the words that set the pace has a multiplier's slot in this cycle.
            pace = activations if one_by_one else weights
            assert len(pace) <= multipliers
            tally.given += multipliers
            tally.slots += len(pace)
            tally.busy += sum(live for _, _, live in pace)
            for row, value, live in activations:
                weight, kept = held.get(row, (0, False))
                pe.sums[m, n] = pe.sums.get((m, n), 0) + value * weight
                tally.products += live and kept


def _causes(counts: Ints, tally: Tally, layer: LayerTrace, machine: Machine) -> None:
    peak = machine.array.peak_macs_per_cycle
    share = layer.input_density if layer.packed_input is None else 1.0
    useful = int(np.floor(share * tally.products + 0.5)) if share < 1.0 else tally.products
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = counts[Count.PSUM_HOPS] = useful
    counts[Count.GATED_MACS] = tally.slots - useful
    counts[Count.SKIPPED_MACS] = layer.operation.macs - tally.slots
    with_outputs = -(-tally.given // peak)
    counts[Count.FRAGMENTATION] = tally.cycles - with_outputs
    counts[Count.IMBALANCE] = (tally.given - tally.busy) // peak
    counts[Count.COMPUTE] = with_outputs - counts[Count.IMBALANCE]
    counts[Count.DRAIN] = tally.skew


def _stored_inputs(layer: LayerTrace, inputs: Ints, machine: Machine) -> list[tuple[int, int]]:
    """Per group (words kept, bits of bitmaps) of the raw inputs in blocks of channels."""
    op, spec = layer.operation, machine.array
    pixels = inputs if isinstance(op, Gemm) else inputs.transpose(0, 2, 3, 1).reshape(-1, op.in_channels)
    channels = op.gemm().k // op.window
    _, block = map(int, spec.weight_bound.split(":"))
    parts = [pixels[:, g * channels : (g + 1) * channels] for g in range(op.groups)]
    whole = [(part.size, 0) for part in parts]
    if layer.packed_input is None or not spec.time_unrolled:
        return whole
    cuts = range(0, channels, block)
    most = max(int(np.count_nonzero(part[:, a : a + block], axis=1).max()) for part in parts for a in cuts)
    bound = _bound(most, block, machine)
    if bound >= min(block, channels):
        return whole
    return [(sum(min(bound, len(pixel[a : a + block])) for pixel in part for a in cuts), part.size) for part in parts]
