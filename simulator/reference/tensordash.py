"""TensorDash, one clock cycle at a time: every lane of every element looks for an effectual pair in its window.

A scheduler is a window of slots, True where a pair is effectual; lanes choose level after level, and a slot that is
chosen by two lanes of a level is an error of the model.  Activations that only count as zero (a density stands for a
mask) are added without a cycle.  docs/machines/tensordash.md is the text.
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
from .lowered import GroupOperands, operation_output
from .passes import PassTraffic, play_passes
from .runs import operands_of_groups, raw_inputs, runs

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Slot = tuple[int, int]  # (row of the window, lane)
PRIORITY = ((0, 0), (1, 0), (2, 0), (1, -1), (1, 1), (2, -2), (2, 2), (1, -3))  # (rows ahead, lanes aside)


@dataclass
class Scheduler:
    """One element's, or a row of elements', stream of effectual slots (bool[steps, lanes]) and its place in it.

    held: at the last cycle this stream could have moved further than its tile did.
    """

    slots: Bools
    depth: int
    at: int = 0
    held: bool = False

    def choose(self) -> list[Slot | None]:
        """What each lane takes in this cycle (row counted from the start of the stream), and remove it."""
        lanes = self.slots.shape[1]
        chosen: list[Slot | None] = [None] * lanes
        for level in search_levels(lanes):
            wanted = {lane: self._first(lane) for lane in level}
            slots = [slot for slot in wanted.values() if slot is not None]
            assert len(set(slots)) == len(slots), f"lanes {level} collide"
            for lane, slot in wanted.items():
                chosen[lane] = slot
                if slot is not None:
                    self.slots[slot] = False
        return chosen

    def _first(self, lane: int) -> Slot | None:
        steps, lanes = self.slots.shape
        for ahead, aside in PRIORITY:
            slot = (self.at + ahead, (lane + aside) % lanes)
            if ahead < self.depth and slot[0] < steps and self.slots[slot]:
                return slot
        return None

    def emptied(self) -> int:
        """Leading rows of the window that hold nothing; rows beyond the end hold nothing."""
        count = 0
        while count < self.depth and not self.slots[self.at + count : self.at + count + 1].any():
            count += 1
        return count


def search_levels(lanes: int) -> list[list[int]]:
    """Lanes in the order in which they choose, those of a level at once: every fifth, the last well before the wrap."""
    levels: list[list[int]] = []
    left = list(range(lanes))
    while left:
        level = [left[0]]
        while level[-1] + 5 < min(lanes, lanes - 5 + level[0]):
            level.append(level[-1] + 5)
        left = [lane for lane in left if lane not in level]
        levels.append(level)
    return levels


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape."""
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    groups, live, raw = operands_of_groups(layer, inputs, weights)
    outputs = [np.zeros((gemm.m, gemm.n), dtype=np.int64) for _ in groups]
    whole = Tiling(gemm.m, gemm.k, gemm.n)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, whole, "removed"), operation_output(layer, outputs)
    ideal = machine.memory.memory == "ideal"
    known = layer.packed_input is not None or layer.input_density < 1.0
    filter_block, pixel_block = (spec.rows, spec.cols) if spec.sparse_side == "weight" else (spec.cols, spec.rows)
    bits = {"inputs": spec.storage == "bitmask" and known,
            "weights": spec.storage == "bitmask" and layer.packed_weight is not None}
    passes: list[PassTraffic] = []
    before: list[int] = []
    cycles = lost = item = 0
    for blocks in runs(op.groups, gemm.n, filter_block, gemm.n * op.groups if ideal else tiling.tile_n):
        busy = [0] * spec.tiles
        for group, filters in blocks:
            for first in range(0, gemm.m, pixel_block):
                pixels = range(first, min(gemm.m, first + pixel_block))
                times, idle = _item(groups[group], live[group], pixels, filters, outputs[group], machine, counts)
                busy[item % spec.tiles] += times
                lost += idle
                item += 1
                _count_reads(groups[group], live[group], pixels, filters, bits, counts)
        used = sorted({group for group, _ in blocks})
        traffic = _traffic(blocks, used, groups, layer, raw, bits)
        traffic.cycles, traffic.same_input = max(busy), used == before
        cycles += max(busy)
        passes.append(traffic)
        before = used
    peak = spec.peak_macs_per_cycle
    counts[Count.COMPUTE] = -(-int(counts[Count.ISSUED_MACS]) // peak)
    counts[Count.FRAGMENTATION] = lost // peak
    counts[Count.IMBALANCE] = cycles - counts[Count.COMPUTE] - counts[Count.FRAGMENTATION]
    counts[Count.SKIPPED_MACS] = op.macs - counts[Count.ISSUED_MACS]
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * gemm.n * op.groups
    if spec.sparse_side != "weight":
        for group, one in enumerate(groups):
            # What only counts as zero has a value all the same.
            outputs[group] += np.where(live[group], 0, one.inputs) @ one.weights
    if not ideal:
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    sides = {"input": known, "weight": layer.packed_weight is not None}
    sparse = any(sides[side] for side in sides if spec.sparse_side in (side, "both"))
    found = LayerCounts(counts, whole if ideal else tiling, "unstructured" if sparse else "dense")
    return found, operation_output(layer, outputs)


def _item(one: GroupOperands, live: Bools, pixels: range, filters: range, output: Ints, machine: Machine,
          counts: Ints) -> tuple[int, int]:
    """(cycles of a block of outputs on one tile, lane-cycles that it lost to empty lanes and empty elements)."""
    spec = machine.array
    side, lanes, deep = spec.sparse_side, spec.lanes, spec.staging_depth
    sharing: list[tuple[Scheduler, list[tuple[int, int]]]] = []  # a stream, and the outputs of elements that share it
    if side == "input":
        sharing = [(_stream(live[p], lanes, deep), [(p, f) for f in filters]) for p in pixels]
    elif side == "weight":
        sharing = [(_stream(one.weights[:, f] != 0, lanes, deep), [(p, f) for p in pixels]) for f in filters]
    else:
        sharing = [(_stream(live[p] & (one.weights[:, f] != 0), lanes, deep), [(p, f)])
                   for p in pixels for f in filters]
    steps = -(-live.shape[1] // lanes)
    at = cycles = lost = 0
    while at < steps:
        idle = spec.rows * spec.cols * lanes
        for stream, elements in sharing:
            for slot in stream.choose():
                for p, f in elements:
                    if slot is not None:
                        k = slot[0] * lanes + slot[1]
                        output[p, f] += one.inputs[p, k] * one.weights[k, f]
                        counts[Count.ISSUED_MACS] += 1
                        counts[Count.USEFUL_MACS] += bool(live[p, k] and one.weights[k, f])
                    idle -= slot is not None or stream.held
            counts[Count.PSUM_HOPS] += len(elements)
        lost += idle
        # All elements of a tile move on together: as far as the one that has emptied the fewest rows.
        step = min(stream.emptied() for stream, _ in sharing)
        for stream, _ in sharing:
            stream.held = stream.emptied() > step
        at += step
        for stream, _ in sharing:
            stream.at = at
        cycles += 1
    return cycles, lost


def _stream(effectual: Bools, lanes: int, depth: int) -> Scheduler:
    """A vector of k as rows of lanes; places beyond its end hold nothing."""
    slots = np.zeros(-(-len(effectual) // lanes) * lanes, dtype=bool)
    slots[: len(effectual)] = effectual
    return Scheduler(slots.reshape(-1, lanes), depth)


def _count_reads(one: GroupOperands, live: Bools, pixels: range, filters: range, bits: dict[str, bool],
                 counts: Ints) -> None:
    """Both operands of an item go into the staging registers, zeros among them; compressed ones are read compressed."""
    depth = live.shape[1]
    counts[Count.INPUT_HOPS] += len(pixels) * depth
    counts[Count.WEIGHT_HOPS] += len(filters) * depth
    for p in pixels:
        counts[Count.INPUT_SRAM_READS] += int(live[p].sum()) if bits["inputs"] else depth
        counts[Count.METADATA_SRAM_READ_BITS] += depth if bits["inputs"] else 0
    for f in filters:
        counts[Count.WEIGHT_SRAM_READS] += np.count_nonzero(one.weights[:, f]) if bits["weights"] else depth
        counts[Count.METADATA_SRAM_READ_BITS] += depth if bits["weights"] else 0


def _traffic(blocks: list[tuple[int, range]], used: list[int], groups: list[GroupOperands], layer: LayerTrace,
             raw: Bools, bits: dict[str, bool]) -> PassTraffic:
    """What a run brings: its filters, and the raw inputs of its groups."""
    weights = metadata = 0
    for group, filters in blocks:
        part = groups[group].weights[:, filters.start : filters.stop]
        weights += int(np.count_nonzero(part)) if bits["weights"] else part.size
        metadata += part.size if bits["weights"] else 0
    elements, volume, bitmap = raw_inputs(layer, raw, used, bits["inputs"])
    return PassTraffic(cycles=0, weights=weights, weight_bits=weights * layer.weight_bits, metadata_bits=metadata,
                       inputs=elements, input_bytes=volume, bitmap_bits=bitmap,
                       outputs_per_row=sum(len(filters) for _, filters in blocks), same_input=False)
