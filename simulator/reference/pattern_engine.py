"""The pattern engine, one clock cycle at a time: every lane reads its filter from the stored stream and walks it.

A lane is a small program counter over runs, kernels and entries; its vector of multipliers looks up one input per pixel
and adds behind a pipeline.  Loads and stores are passes.py's.  docs/machines/pattern_engine.md is the text.
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
from ..workload import Gemm
from .lowered import GroupOperands, group_operands, operation_output
from .passes import PassTraffic, play_passes

Ints = NDArray[np.int64]
Pattern = tuple[int, ...]  # the kept entries of a kernel, by their place in the window
Product = tuple[int, int, int, int]  # group, pixel, filter in the group, value
Pipeline = deque[list[Product]]


@dataclass
class Filter:
    """A filter as it is stored: runs of (pattern, [(channel, values of the kept entries)])."""

    number: int  # among all output channels
    runs: list[tuple[Pattern, list[tuple[int, list[int]]]]]

    @property
    def weights(self) -> int:
        """Stored values."""
        return sum(len(pattern) * len(kernels) for pattern, kernels in self.runs)

    @property
    def kernels(self) -> int:
        """Stored kernels."""
        return sum(len(kernels) for _, kernels in self.runs)


@dataclass
class Lane:
    """What is left to do for one filter and one vector of pixels: pattern registers to load, or entries."""

    work: deque[tuple[int, int] | None] = field(default_factory=deque)  # (row of k, weight); None = switching

    @classmethod
    def load(cls, one: Filter, window: int, switch_cycles: int) -> Lane:
        """A lane at the start of a filter."""
        lane = cls()
        for pattern, kernels in one.runs:
            lane.work.extend([None] * switch_cycles)
            for channel, values in kernels:
                rows = (channel * window + place for place in pattern)
                lane.work.extend(zip(rows, values, strict=True))
        return lane


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape."""
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    groups = group_operands(layer, inputs, weights)
    outputs = [np.zeros((gemm.m, gemm.n), dtype=np.int64) for _ in groups]
    whole = Tiling(gemm.m, gemm.k, gemm.n * op.groups)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, whole, "removed"), operation_output(layer, outputs)
    window = 1 if isinstance(op, Gemm) else op.kernel_h * op.kernel_w
    stored = [_store(weights_of, window, spec.reorder, group * gemm.n + n)
              for group, one in enumerate(groups) for n, weights_of in enumerate(one.weights.T)]
    if spec.reorder:
        stored.sort(key=lambda one: (-(one.weights + spec.pattern_switch_cycles * len(one.runs)), one.number))
    patterns = {pattern for one in stored for pattern, _ in one.runs}
    bits = [_metadata_bits(one, layer, window, len(patterns), len(stored), spec.reorder) for one in stored]
    table = 0 if layer.packed_weight is None else len(patterns) * window
    cycles = []
    pipeline: Pipeline = deque([[]] * spec.pipeline_registers)
    for start in range(0, len(stored), spec.lanes):
        cycles.append(_group_of_lanes(stored[start : start + spec.lanes], groups, outputs, window, machine, counts,
                                      pipeline))
    while any(pipeline):
        _accumulate(pipeline.popleft(), outputs, counts)
        counts[Count.DRAIN] += 1
    for metadata in bits:  # with the weights, for every vector
        counts[Count.METADATA_SRAM_READ_BITS] += metadata * -(-gemm.m // spec.pixels)
    counts[Count.METADATA_SRAM_READ_BITS] += table
    _split(counts, stored, cycles, gemm.m, machine)
    slots = int(counts[Count.PSUM_HOPS])
    useful = int(counts[Count.USEFUL_MACS])
    if layer.packed_input is None and layer.input_density < 1.0:  # only the share of zeros is known
        useful = int(layer.input_density * slots + 0.5)
        counts[Count.USEFUL_MACS] = useful
    counts[Count.ISSUED_MACS] = useful if spec.gating == "zeros" else slots
    counts[Count.GATED_MACS] = slots - counts[Count.ISSUED_MACS]
    counts[Count.SKIPPED_MACS] = op.macs - slots
    chosen = whole
    if machine.memory.memory != "ideal":
        chosen = tiling
        passes = _passes(stored, cycles, bits, table, layer, machine, tiling)
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    return LayerCounts(counts, chosen, _executed_as(patterns, stored, layer, window)), operation_output(layer, outputs)


def _store(column: Ints, window: int, reorder: bool, number: int) -> Filter:
    """A filter's kernels, int64[k], as runs: all of a pattern together, or as the channels come."""
    kernels: list[tuple[Pattern, int, list[int]]] = []
    for channel in range(len(column) // window):
        entries = [int(value) for value in column[channel * window : (channel + 1) * window]]
        pattern = tuple(place for place, value in enumerate(entries) if value)
        if pattern:
            kernels.append((pattern, channel, [entries[place] for place in pattern]))
    if reorder:
        kernels.sort(key=lambda kernel: kernel[0])  # a stable sort: channels stay in order
    one = Filter(number, [])
    for pattern, channel, values in kernels:
        if not one.runs or one.runs[-1][0] != pattern:
            one.runs.append((pattern, []))
        one.runs[-1][1].append((channel, values))
    return one


def _metadata_bits(one: Filter, layer: LayerTrace, window: int, patterns: int, filters: int, reorder: bool) -> int:
    """Bits that a filter's part of the stream has beside its values."""
    if layer.packed_weight is None:
        return 0
    channels = layer.operation.gemm().k // window
    of_kernel, of_run = _bits(channels), _bits(channels + 1)
    if reorder:  # its place among the filters, and for each pattern how many kernels
        return _bits(filters) + patterns * of_run + one.kernels * of_kernel
    return of_run + one.kernels * (of_kernel + _bits(patterns))


def _bits(places: int) -> int:
    return (places - 1).bit_length() if places > 1 else 0


def _group_of_lanes(filters: list[Filter], groups: list[GroupOperands], outputs: list[Ints], window: int,
                    machine: Machine, counts: Ints, pipeline: Pipeline) -> int:
    """Clock a group over all vectors of pixels, a barrier after each; the cycles until the last lane has issued."""
    spec, (m, n) = machine.array, outputs[0].shape
    cycles = 0
    for first in range(0, m, spec.pixels):
        pixels = range(first, min(m, first + spec.pixels))
        lanes = [Lane.load(one, window, spec.pattern_switch_cycles) for one in filters]
        while any(lane.work for lane in lanes):
            products: list[Product] = []
            for one, lane in zip(filters, lanes, strict=True):
                step = lane.work.popleft() if lane.work else None
                if step is None:
                    continue
                row, weight = step
                operands = groups[one.number // n]
                counts[Count.WEIGHT_SRAM_READS] += 1
                counts[Count.WEIGHT_HOPS] += 1
                for pixel in pixels:
                    counts[Count.INPUT_SRAM_READS] += 1
                    counts[Count.INPUT_HOPS] += 1
                    counts[Count.USEFUL_MACS] += operands.live[pixel, row]
                    products.append((one.number // n, pixel, one.number % n, weight * int(operands.inputs[pixel, row])))
            pipeline.append(products)
            _accumulate(pipeline.popleft(), outputs, counts)
            cycles += 1
        counts[Count.OUTPUT_SRAM_WRITES] += len(pixels) * sum(1 for one in filters if one.runs)
    return cycles


def _accumulate(products: list[Product], outputs: list[Ints], counts: Ints) -> None:
    for group, pixel, n, value in products:
        outputs[group][pixel, n] += value
        counts[Count.PSUM_HOPS] += 1


def _split(counts: Ints, stored: list[Filter], cycles: list[int], m: int, machine: Machine) -> None:
    """The causes, from the state of every multiplier in every cycle: at work, without a pixel or filter, switching."""
    spec = machine.array
    vectors = [min(spec.pixels, m - first) for first in range(0, m, spec.pixels)]
    working = empty = switching = 0
    for index in range(0, len(stored), spec.lanes):
        mine = stored[index : index + spec.lanes]
        per_vector = cycles[index // spec.lanes] // len(vectors)
        for pixels in vectors:
            for one in mine:
                working += one.weights * pixels
                empty += one.weights * (spec.pixels - pixels)
                switching += len(one.runs) * spec.pattern_switch_cycles * spec.pixels
            empty += (spec.lanes - len(mine)) * per_vector * spec.pixels
    multipliers = spec.lanes * spec.pixels
    compute, with_empty = -(-working // multipliers), -(-(working + empty) // multipliers)
    with_switching = -(-(working + empty + switching) // multipliers)
    counts[Count.COMPUTE] = compute
    counts[Count.FRAGMENTATION] = with_empty - compute
    counts[Count.WEIGHT_SHIFT] = with_switching - with_empty
    counts[Count.IMBALANCE] = sum(cycles) - with_switching


def _passes(stored: list[Filter], cycles: list[int], bits: list[int], table: int, layer: LayerTrace, machine: Machine,
            tiling: Tiling) -> list[PassTraffic]:
    """Filters `tile_n` at a time: their weights, and the planes of all inputs that one of them reads."""
    op, lanes, passes = layer.operation, machine.array.lanes, []
    per_group, filters = op.gemm().n, len(stored)
    window = 1 if isinstance(op, Gemm) else op.kernel_h * op.kernel_w
    per_in = op.gemm().k // window
    plane = op.m if isinstance(op, Gemm) else op.batch * op.in_h * op.in_w
    size = -(-tiling.tile_n // lanes) * lanes
    before: set[int] = set()
    for start in range(0, filters, size):
        mine = stored[start : start + size]
        used = {one.number // per_group * per_in + channel for one in mine for _, kernels in one.runs
                for channel, _ in kernels}
        metadata = sum(bits[start : start + size]) + (table if start == 0 else 0)
        values = sum(one.weights for one in mine)
        passes.append(PassTraffic(
            cycles=sum(cycles[start // lanes : -(-(start + size) // lanes)]), weights=values,
            weight_bits=values * layer.weight_bits, metadata_bits=metadata, inputs=len(used) * plane,
            input_bytes=-(-len(used) * plane * layer.input_bits // 8), bitmap_bits=0,
            outputs_per_row=sum(1 for one in mine if one.runs), same_input=start > 0 and used == before))
        before = used
    passes[-1].cycles += machine.array.pipeline_registers
    return passes


def _executed_as(patterns: set[Pattern], stored: list[Filter], layer: LayerTrace, window: int) -> str:
    sizes = {len(pattern) for pattern in patterns}
    channels = layer.operation.gemm().k // window
    if layer.packed_weight is None or (sizes == {window} and all(one.kernels == channels for one in stored)):
        return "dense"
    if sizes == {window}:
        return "kernel"
    return f"pattern {sizes.pop()}" if len(sizes) == 1 else "unstructured"
