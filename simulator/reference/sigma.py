"""SIGMA, one clock cycle at a time: integers in multipliers, a reduction tree as a shift register of partial results.

Every edge loads, streams or shifts; what is counted is what moved at that edge.  Left out, as in the model: conflicts
inside the two networks.  docs/machines/sigma.md is the text, ../machines/sigma.py the fast engine.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..steps import Steps
from ..trace import LayerTrace
from ..workload import Gemm
from .lowered import GroupOperands, group_operands, operation_output
from .steps import play

Ints = NDArray[np.int64]


@dataclass
class Pass:
    """The contents of the multipliers: (n, k) of each, in order, and what storage gave for them."""

    group: int
    slots: list[tuple[int, int]] = field(default_factory=list)
    continued: bool = False  # its first row began in the pass before
    stored: int = 0
    bitmap_rows: int = 0
    finished: int = 0
    stream_edges: int = 0

    @property
    def rows(self) -> list[int]:
        """The rows n in it, in order, each once."""
        return list(dict.fromkeys(n for n, _ in self.slots))


class Array:
    """Multipliers, the delay to the result, and the output sums of the group in hand."""

    def __init__(self, layer: LayerTrace, machine: Machine, group: int, operands: GroupOperands, counts: Ints) -> None:
        self.layer, self.spec, self.counts, self.operands = layer, machine.array, counts, operands
        levels = 0
        while 2**levels < self.spec.multipliers:
            levels += 1
        self.pipe: deque[list[tuple[int, int, int]]] = deque([[] for _ in range(levels + self.spec.pipeline_registers)])
        self.output = np.zeros((operands.inputs.shape[0], operands.weights.shape[1]), dtype=np.int64)
        self.started: set[tuple[int, int]] = set()
        self.group = group

    def execute(self, one: Pass, first_of_layer: bool) -> None:
        """Load, stream every vector, and wait until the last result is visible."""
        waiting = list(one.slots)
        held: list[tuple[int, int, int]] = []  # (n, k, weight) in the multipliers
        visited = 0
        while visited < self.spec.multipliers:  # the network passes empty multipliers too
            for _ in range(min(self.spec.load_bandwidth, self.spec.multipliers - visited)):
                visited += 1
                if waiting:
                    n, k = waiting.pop(0)
                    held.append((n, k, int(self.operands.weights[k, n])))
                    self.counts[Count.WEIGHT_SRAM_READS] += 1
                    self.counts[Count.WEIGHT_HOPS] += 1
            self.counts[Count.FILL if first_of_layer else Count.WEIGHT_SHIFT] += 1
            self._shift([])
        idle = 0
        for m in range(self.operands.inputs.shape[0]):
            wanted = sorted({k for _, k, _ in held})
            while wanted:
                arriving, wanted = wanted[: self.spec.stream_bandwidth], wanted[self.spec.stream_bandwidth :]
                self._read(m, arriving)
                one.stream_edges += 1
                idle += self.spec.multipliers - len(held)
                self._shift(self._multiply(m, held) if not wanted else [])
        lost = idle // self.spec.multipliers
        self.counts[Count.COMPUTE] += one.stream_edges - lost
        self.counts[Count.FRAGMENTATION] += lost
        while any(self.pipe):
            self.counts[Count.DRAIN] += 1
            self._shift([])

    def _read(self, m: int, wanted: list[int]) -> None:
        """Entries of vector m leave the input buffer; a two-sided machine has only nonzeros there."""
        if not self.spec.two_sided:
            self.counts[Count.INPUT_SRAM_READS] += len(wanted)
        elif self.layer.packed_input is not None:
            self.counts[Count.INPUT_SRAM_READS] += int(self.operands.live[m, wanted].sum())
        elif m == 0:  # with only a density the share of each k is known over all vectors
            share = math.floor(self.layer.input_density * self.operands.inputs.shape[0] + 0.5)
            self.counts[Count.INPUT_SRAM_READS] += share * len(wanted)

    def _multiply(self, m: int, held: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Products of one vector, added up by row: (m, n, sum)."""
        sums: dict[int, int] = {}
        for n, k, weight in held:
            self.counts[Count.INPUT_HOPS] += 1
            live = bool(self.operands.live[m, k])
            self.counts[Count.USEFUL_MACS] += live
            works = live or not self.spec.two_sided
            self.counts[Count.ISSUED_MACS if works else Count.GATED_MACS] += 1
            self.counts[Count.PSUM_HOPS] += 1 + (n in sums)  # the product, and the sum that takes it in
            sums[n] = sums.get(n, 0) + weight * int(self.operands.inputs[m, k])
        return [(m, n, total) for n, total in sums.items()]

    def _shift(self, entering: list[tuple[int, int, int]]) -> None:
        """One edge of the tree and its registers."""
        self.pipe.append(entering)
        for m, n, total in self.pipe.popleft():
            self.output[m, n] += total
            self.counts[Count.OUTPUT_SRAM_WRITES] += 1
            self.counts[Count.OUTPUT_SRAM_READS] += (m, n) in self.started
            self.started.add((m, n))


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape."""
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    groups = group_operands(layer, inputs, weights)
    passes: list[Pass] = []
    early = Pass(0)  # what rows without useful weights bring before there is a pass
    for number, operands in enumerate(groups):
        _pack(number, operands, layer, machine, passes, early)
    if passes:
        for name in ("stored", "bitmap_rows", "finished"):
            setattr(passes[0], name, getattr(passes[0], name) + getattr(early, name))
    arrays = [Array(layer, machine, number, operands, counts) for number, operands in enumerate(groups)]
    for index, one in enumerate(passes):
        arrays[one.group].execute(one, index == 0)
    output = operation_output(layer, [array.output for array in arrays])
    counts[Count.DENSE_MACS] = layer.operation.macs
    if not passes:
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed"), output
    if layer.packed_input is None:
        _expected_work(counts, layer, groups, spec.two_sided)
    done = sum(int(counts[item]) for item in (Count.ISSUED_MACS, Count.GATED_MACS))
    counts[Count.SKIPPED_MACS] = layer.operation.macs - done
    _metadata_reads(counts, layer, groups, spec.two_sided)
    known = layer.packed_input is not None or layer.input_density < 1.0
    sparse = layer.packed_weight is not None or (spec.two_sided and known)
    rows = gemm.m
    if machine.memory.memory != "ideal":
        rows = tiling.tile_m
        counts += _memory(counts, passes, layer, machine, rows, groups, inputs)
    return LayerCounts(counts, Tiling(rows, gemm.k, gemm.n), "unstructured" if sparse else "dense"), output


def _pack(number: int, operands: GroupOperands, layer: LayerTrace, machine: Machine, passes: list[Pass],
          early: Pass) -> None:
    """Append the passes of one group."""
    spec = machine.array
    k_size, n_size = operands.weights.shape
    occurs = [bool(operands.live[:, k].any()) or not spec.two_sided for k in range(k_size)]
    opened = False
    for n in range(n_size):
        kept = [k for k in range(k_size) if operands.weights[k, n] != 0]
        useful = [k for k in kept if occurs[k]]
        room = spec.multipliers - len(passes[-1].slots) if opened else 0
        if useful and (room == 0 or (spec.row_packing == "whole" and len(useful) > room)):
            passes.append(Pass(number))
            opened = True
        (passes[-1] if passes else early).bitmap_rows += 1
        for k in kept:
            if occurs[k]:
                if len(passes[-1].slots) == spec.multipliers:
                    passes.append(Pass(number, continued=True))
                passes[-1].slots.append((n, k))
            (passes[-1] if passes else early).stored += 1
        (passes[-1] if passes else early).finished += 1


def _expected_work(counts: Ints, layer: LayerTrace, groups: list[GroupOperands], two_sided: bool) -> None:
    """Only a density is known: that share of the products is useful."""
    slots = int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS])
    products = sum(len(one.inputs) * int((one.weights != 0).sum()) for one in groups)
    counts[Count.USEFUL_MACS] = math.floor(layer.input_density * products + 0.5)
    if two_sided:
        counts[Count.ISSUED_MACS] = counts[Count.USEFUL_MACS]
        counts[Count.GATED_MACS] = slots - counts[Count.USEFUL_MACS]


def _metadata_reads(counts: Ints, layer: LayerTrace, groups: list[GroupOperands], two_sided: bool) -> None:
    if layer.packed_weight is not None:
        counts[Count.METADATA_SRAM_READ_BITS] += sum(one.weights.size for one in groups)
    if two_sided and (layer.packed_input is not None or layer.input_density < 1.0):
        counts[Count.METADATA_SRAM_READ_BITS] += sum(_words(layer, groups, number)[0] for number in range(len(groups)))


def _words(layer: LayerTrace, groups: list[GroupOperands], group: int, inputs: Ints | None = None) -> tuple[int, int]:
    """(words, nonzero ones) of the input channels that the group's weights read."""
    op, weights = layer.operation, groups[group].weights
    read = [c for c in range(len(weights) // op.window) if weights[c * op.window : (c + 1) * op.window].any()]
    if isinstance(op, Gemm):
        per_channel = op.m
        planes = [inputs[:, c] for c in read] if inputs is not None else []
    else:
        per_channel = op.batch * op.in_h * op.in_w
        first = group * (op.in_channels // op.groups)
        planes = [inputs[:, first + c] for c in read] if inputs is not None else []
    if layer.packed_input is None:
        return len(read) * per_channel, len(read) * math.floor(layer.input_density * per_channel + 0.5)
    return len(read) * per_channel, sum(int(np.count_nonzero(plane)) for plane in planes)


def _memory(counts: Ints, passes: list[Pass], layer: LayerTrace, machine: Machine, rows: int,
            groups: list[GroupOperands], inputs: Ints) -> Ints:
    """Play the passes through the memory; fills of the buffers go to `counts`."""
    memory, spec, m = machine.memory, machine.array, layer.operation.gemm().m
    chunks = [range(start, min(start + rows, m)) for start in range(0, m, rows)]
    compressed = spec.two_sided and (layer.packed_input is not None or layer.input_density < 1.0)
    table: list[tuple[int, ...]] = []
    fill = -(-spec.multipliers * layer.weight_bits // 8)
    for index, one in enumerate(passes):
        k = groups[one.group].weights.shape[0]
        bitmap = one.bitmap_rows * k if layer.packed_weight is not None else 0
        meta = -(-bitmap // 8)
        weight = -(-one.stored * layer.weight_bits // 8) + meta
        while weight > fill:
            table.append((fill, 0, 0, 0, 0, 0))
            weight -= fill
        words, nonzeros = _words(layer, groups, one.group, inputs)
        stays = len(chunks) == 1 and index > 0 and passes[index - 1].group == one.group
        total = -(-(nonzeros * layer.input_bits + words if compressed else words * layer.input_bits) // 8)
        counts[Count.WEIGHT_SRAM_WRITES] += one.stored
        counts[Count.METADATA_SRAM_WRITE_BITS] += bitmap
        if not stays:
            counts[Count.INPUT_SRAM_WRITES] += nonzeros if compressed else words
            counts[Count.METADATA_SRAM_WRITE_BITS] += words if compressed else 0
        goes_on = index + 1 < len(passes) and passes[index + 1].continued
        for chunk in chunks:
            size = len(chunk)
            sums = -(-size * memory.psum_bits // 8)
            bring = 0 if stays else total * chunk.stop // m - total * chunk.start // m
            leave = -(-one.finished * size * layer.output_bits // 8)
            held = max(leave, -(-len(one.rows) * size * memory.psum_bits // 8))
            if len(chunks) > 1:
                bring += sums if one.continued else 0
                leave += sums if goes_on else 0
            cycles = one.stream_edges // m * size
            cycles += -(-spec.multipliers // spec.load_bandwidth) if chunk.start == 0 else 0
            cycles += (spec.multipliers - 1).bit_length() + spec.pipeline_registers if chunk.stop == m else 0
            first = chunk.start == 0
            table.append((weight * first, bring, leave, cycles, meta * first, max(held, leave)))
            counts[Count.OUTPUT_SRAM_READS] += one.finished * size
    return play(Steps(*(np.array(column, dtype=np.int64) for column in zip(*table, strict=True))), memory)
