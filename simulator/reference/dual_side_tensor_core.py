"""The dual-side tensor core, one clock cycle at a time: a vector step per unit, and one product into each bank.

A unit multiplies the k steps of its tiles one after the other into one half of a collector, while the banks take the
products of the step before from the other half; halves change when both are done.  Activations that only count as
zero (a density stands for a mask) are added without a cycle.  docs/machines/dual_side_tensor_core.md is the text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
Output = tuple[int, int, int]  # group, output row, filter
Product = tuple[tuple[int, int], Output, int]  # bank, output, value
Step = list[Product]  # what the multipliers make in one cycle


@dataclass
class Unit:
    """One core: k steps to come (vector steps each), the one that is multiplied, and the banks' queues."""

    waiting: deque[deque[Step]] = field(default_factory=deque)
    current: deque[Step] = field(default_factory=deque)
    gathered: Step = field(default_factory=list)
    banks: dict[tuple[int, int], deque[Product]] = field(default_factory=dict)

    def cycle(self, outputs: dict[int, Ints], idle: dict[str, int]) -> bool:
        """One clock; False where nothing is left to do."""
        if not self.current and not self.gathered and not any(self.banks.values()):
            if not self.waiting:
                return False
            self.current = self.waiting.popleft()
        if self.current:
            products = self.current.popleft()
            idle["steps"] += 1
            idle["products"] += len(products)
            self.gathered += products
        else:
            idle["conflict" if self.gathered else "drain"] += 1
        for queue in self.banks.values():
            if queue:
                _, (group, row, filter_), value = queue.popleft()
                outputs[group][row, filter_] += value
        if not self.current and not any(self.banks.values()):
            self.banks = {}
            for product in self.gathered:
                self.banks.setdefault(product[0], deque()).append(product)
            self.gathered = []
            self.current = self.waiting.popleft() if self.waiting else deque()
        return True


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape."""
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    groups, live, raw = operands_of_groups(layer, inputs, weights)
    outputs = {group: np.zeros((gemm.m, gemm.n), dtype=np.int64) for group in range(op.groups)}
    whole = Tiling(gemm.m, gemm.k, gemm.n)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, whole, "removed"), operation_output(layer, list(outputs.values()))
    ideal = machine.memory.memory == "ideal"
    known = layer.packed_input is not None or layer.input_density < 1.0
    marked = {"inputs": known, "weights": layer.packed_weight is not None}
    passes: list[PassTraffic] = []
    before: list[int] = []
    idle = {"steps": 0, "products": 0, "conflict": 0, "drain": 0}
    cycles = item = 0
    for blocks in runs(op.groups, gemm.n, spec.tile_n, gemm.n * op.groups if ideal else tiling.tile_n):
        units = [Unit() for _ in range(spec.units)]
        for group, filters in blocks:
            for first in range(0, gemm.m, spec.tile_m):
                pixels = range(first, min(gemm.m, first + spec.tile_m))
                units[item % spec.units].waiting += _k_steps(groups[group], live[group], group, pixels, filters,
                                                             machine, counts)
                _count_reads(groups[group], live[group], pixels, filters, machine, marked, counts)
                item += 1
        taken = 0
        while any([unit.cycle(outputs, idle) for unit in units]):
            taken += 1
        used = sorted({group for group, _ in blocks})
        traffic = _traffic(blocks, used, groups, layer, machine, raw, marked)
        traffic.cycles, traffic.same_input = taken, used == before
        cycles += taken
        passes.append(traffic)
        before = used
    _count_causes(counts, idle, cycles, machine)
    counts[Count.SKIPPED_MACS] = op.macs - counts[Count.ISSUED_MACS]
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * gemm.n * op.groups
    for group, one in enumerate(groups):
        # What only counts as zero has a value all the same.
        outputs[group] += np.where(live[group], 0, one.inputs) @ one.weights
    if not ideal:
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    found = LayerCounts(counts, whole if ideal else tiling, "unstructured" if any(marked.values()) else "dense")
    return found, operation_output(layer, list(outputs.values()))


def _k_steps(one: GroupOperands, live: Bools, group: int, pixels: range, filters: range, machine: Machine,
             counts: Ints) -> list[deque[Step]]:
    """The k steps of a tile that have products, each as vector steps: condensed columns times condensed rows."""
    spec = machine.array
    depth = live.shape[1]
    found = []
    for start in range(0, depth, spec.tile_k):
        steps: deque[Step] = deque()
        for k in range(start, min(depth, start + spec.tile_k)):
            column = [p for p in pixels if live[p, k]]
            row = [f for f in filters if one.weights[k, f]]
            for a in range(0, len(column), spec.vector_m):
                for b in range(0, len(row), spec.vector_n):
                    ps, fs = column[a : a + spec.vector_m], row[b : b + spec.vector_n]
                    counts[Count.INPUT_HOPS] += len(ps)
                    counts[Count.WEIGHT_HOPS] += len(fs)
                    steps.append([
                        (((p - pixels.start) % spec.bank_rows, (f - filters.start) % spec.bank_cols), (group, p, f),
                         int(one.inputs[p, k] * one.weights[k, f])) for p in ps for f in fs])
        if steps:
            found.append(steps)
    return found


def _count_reads(one: GroupOperands, live: Bools, pixels: range, filters: range, machine: Machine,
                 marked: dict[str, bool], counts: Ints) -> None:
    """A tile reads the nonzeros of both operands and, where zeros are known, their bitmaps."""
    a = np.array([[bool(live[p, k]) for k in range(live.shape[1])] for p in pixels])
    b = np.array([[bool(one.weights[k, f]) for k in range(live.shape[1])] for f in filters])
    counts[Count.INPUT_SRAM_READS] += int(a.sum())
    counts[Count.WEIGHT_SRAM_READS] += int(b.sum())
    if marked["inputs"]:
        counts[Count.METADATA_SRAM_READ_BITS] += _two_levels(a, machine)
    if marked["weights"]:
        counts[Count.METADATA_SRAM_READ_BITS] += _two_levels(b, machine)


def _two_levels(tile: Bools, machine: Machine) -> int:
    """Bits of the bitmaps of a tile, bool[outputs, k]."""
    bits = 0
    for start in range(0, tile.shape[1], machine.array.tile_k):
        part = tile[:, start : start + machine.array.tile_k]
        bits += 1 + (part.size if part.any() else 0)
    return bits


def _count_causes(counts: Ints, idle: dict[str, int], cycles: int, machine: Machine) -> None:
    """Cycles of all units by what they did, over the units; what remains they waited for the slowest."""
    spec = machine.array
    products = idle["products"]
    counts[Count.ISSUED_MACS] = counts[Count.USEFUL_MACS] = counts[Count.PSUM_HOPS] = products
    counts[Count.COMPUTE] = -(-products // spec.peak_macs_per_cycle)
    empty = idle["steps"] * spec.vector_m * spec.vector_n - products
    counts[Count.FRAGMENTATION] = empty // spec.peak_macs_per_cycle
    counts[Count.BANK_CONFLICT] = idle["conflict"] // spec.units
    counts[Count.DRAIN] = idle["drain"] // spec.units
    counts[Count.IMBALANCE] = cycles - sum(int(counts[item]) for item in (
        Count.COMPUTE, Count.FRAGMENTATION, Count.BANK_CONFLICT, Count.DRAIN))


def _traffic(blocks: list[tuple[int, range]], used: list[int], groups: list[GroupOperands], layer: LayerTrace,
             machine: Machine, raw: Bools, marked: dict[str, bool]) -> PassTraffic:
    """What a run brings: its filters with bitmaps of two levels, the raw inputs of its groups with one of one level."""
    weights = metadata = 0
    for group, filters in blocks:
        part = groups[group].weights[:, filters.start : filters.stop] != 0
        weights += int(part.sum())
        metadata += _two_levels(part.T, machine) if marked["weights"] else 0
    elements, volume, bitmap = raw_inputs(layer, raw, used, marked["inputs"])
    return PassTraffic(cycles=0, weights=weights, weight_bits=weights * layer.weight_bits, metadata_bits=metadata,
                       inputs=elements, input_bytes=volume, bitmap_bits=bitmap,
                       outputs_per_row=sum(len(filters) for _, filters in blocks), same_input=False)
