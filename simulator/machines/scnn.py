"""SCNN: a grid of elements, each with F x I multipliers that form Cartesian products of nonzero weights and inputs.

Cycles, losses and traffic follow docs/machines/scnn.md; the slow twin is ../reference/scnn.py.  Left out: the
multipliers' pipeline, queues in front of the banks, the unit that compresses outputs.  Blocks are counted in
scnn_kernel.py; what a memory adds comes from ../steps.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, skipped, stored_without_zeros
from ..steps import Steps, check_fits, missing_bytes, play
from ..trace import LayerTrace
from ..workload import Conv2d, Gemm
from .spread import spread

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spec:
    """The grid and its elements; every field is explained in docs/machines/scnn.md."""

    pe_rows: int = 8
    pe_cols: int = 8
    multipliers_f: int = 4
    multipliers_i: int = 4
    accumulator_entries: int = 1024
    accumulator_banks: int = 32
    index_bits: int = 4

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers of the whole grid."""
        return self.pe_rows * self.pe_cols * self.multipliers_f * self.multipliers_i

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Zeros of the input are neither stored nor moved."""
        return True

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "run length", "input": "run length"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        return (*stored_without_zeros("weight"), *stored_without_zeros("input"), skipped("weight"), skipped("input"))

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        most = {"pe_rows": 2**10, "pe_cols": 2**10, "multipliers_f": 255, "multipliers_i": 255, "index_bits": 64}
        for item in fields(self):
            high, low = most.get(item.name, 2**30), 0 if item.name == "index_bits" else 1
            if not low <= getattr(self, item.name) <= high:
                found.append(f"{item.name} = {getattr(self, item.name)}; expected an integer from {low} to {high}")
        if self.multipliers_f * self.multipliers_i > 255:
            # A bank's count of one block is kept in eight bits.
            found.append(f"multipliers_f = {self.multipliers_f}, times multipliers_i is "
                         f"{self.multipliers_f * self.multipliers_i}; expected at most 255 multipliers in an element")
        return found


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; with memory = "channel" the fastest legal split of the input channels unless one is given.

    Raises InputError where the accumulators hold not one output channel of a tile, or where no step fits the buffers.
    """
    plan = _Plan.of(layer, machine)
    inputs, weights = _input_mask(layer, plan.shape), _weight_mask(layer, plan.shape)
    cycles, counts = _array_counts(plan, machine.array, inputs, weights, layer.operation.macs)
    executed_as = "unstructured" if layer.weight_nnz < weights.size else "dense"
    if machine.memory.memory == "ideal":
        gemm = layer.operation.gemm()
        return LayerCounts(counts, tiling or Tiling(gemm.m, gemm.k, gemm.n), executed_as)
    traffic = _Traffic.of(layer, machine.array, plan, inputs, weights, cycles)
    try:
        chosen, added = traffic.fastest(machine) if tiling is None else traffic.played(machine, _checked(tiling, plan))
    except InputError as error:
        raise InputError(str(error), where=f"layer {layer.name!r} on {machine.name}") from None
    return LayerCounts(counts + added, chosen, executed_as)


@dataclass(frozen=True)
class _Plan:
    """The layer as a plane, its tiles, and how many output channels the accumulators hold at a time."""

    shape: Conv2d
    in_tile: tuple[int, int]
    out_tile: tuple[int, int]
    held: int

    @classmethod
    def of(cls, layer: LayerTrace, machine: Machine) -> _Plan:
        spec: Spec = machine.array
        shape = layer.operation
        if isinstance(shape, Gemm):
            # m pixels of a plane one column wide: a tall plane uses the grid's rows, and m = 1 a single element.
            shape = Conv2d(in_channels=shape.k, out_channels=shape.n, in_h=shape.m, in_w=1, kernel_h=1, kernel_w=1)
        in_tile = (-(-(shape.in_h + 2 * shape.padding_h) // spec.pe_rows),
                   -(-(shape.in_w + 2 * shape.padding_w) // spec.pe_cols))
        out_tile = (-(-shape.out_h // spec.pe_rows), -(-shape.out_w // spec.pe_cols))
        outputs = out_tile[0] * out_tile[1]
        if outputs > spec.accumulator_entries:
            raise InputError(
                f"an element's {out_tile[0]} x {out_tile[1]} outputs miss its accumulators by "
                f"{outputs - spec.accumulator_entries} entries", where=f"layer {layer.name!r} on {machine.name}",
                expected=f"at most accumulator_entries = {spec.accumulator_entries}",
                fix="enlarge the accumulators or the grid of elements, or cut the layer's plane",
            )
        per_group = shape.out_channels // shape.groups
        return cls(shape, in_tile, out_tile, min(per_group, spec.accumulator_entries // outputs))

    @property
    def channels(self) -> int:
        """Input channels of a group of the convolution."""
        return self.shape.in_channels // self.shape.groups

    def tiling(self, channels: int, resident: bool) -> Tiling:
        """One image and one channel group, with `channels` input channels at a time; are its inputs loaded once?"""
        order = "mkn" if resident else "mnk"
        return Tiling(self.shape.out_h * self.shape.out_w, channels * self.shape.window, self.held, order)

    @property
    def group_sizes(self) -> Ints:
        """Output channels of each channel group, conv groups outermost."""
        per_group = self.shape.out_channels // self.shape.groups
        sizes = np.minimum(self.held, per_group - np.arange(0, per_group, self.held))
        return np.tile(sizes.astype(np.int64), self.shape.groups)

    def largest_border_region(self) -> int:
        """Outputs of one channel in the largest of the eight border regions (docs: 3)."""
        shape = self.shape
        sides = [(max(0, (kernel - 1) * dilation - padding), tile, padding) for kernel, dilation, padding, tile in (
            (shape.kernel_h, shape.dilation_h, shape.padding_h, self.in_tile[0]),
            (shape.kernel_w, shape.dilation_w, shape.padding_w, self.in_tile[1]))]
        return max(sides[0][i] * sides[1][j] for i in range(3) for j in range(3) if (i, j) != (1, 1))


def _array_counts(plan: _Plan, spec: Spec, inputs: NDArray[np.uint8], weights: NDArray[np.uint8],
                  dense_macs: int) -> tuple[Ints, Ints]:
    """(cycles up to every barrier, the halo in the last: int64[batch, channel groups, channels]; counts)."""
    from . import scnn_kernel as kernel

    shape, sizes = plan.shape, plan.group_sizes
    rows = _axis(shape.in_h, shape.padding_h, shape.stride_h, shape.kernel_h, shape.dilation_h, shape.out_h,
                 plan.in_tile[0])
    cols = _axis(shape.in_w, shape.padding_w, shape.stride_w, shape.kernel_w, shape.dilation_w, shape.out_w,
                 plan.in_tile[1])
    by_channel = np.ascontiguousarray(
        weights.reshape(shape.groups, -1, weights.shape[1], shape.window).transpose(0, 2, 3, 1))
    cycles = np.zeros((shape.batch, len(sizes), weights.shape[1]), dtype=np.int64)
    totals = np.zeros(kernel.TOTALS, dtype=np.int64)
    tap_phases = (rows.tap_phases[:, None] * shape.stride_w + cols.tap_phases[None]).reshape(-1)
    kernel.cartesian_products(
        inputs, by_channel, rows.positions, cols.positions, tap_phases, _banks(rows, cols, spec),
        (shape.stride_h, shape.stride_w), (spec.pe_rows, spec.pe_cols), (spec.multipliers_f, spec.multipliers_i),
        plan.held, cycles, totals)
    counts = np.zeros(len(Count), dtype=np.int64)
    blocks, busy, products, input_reads, weight_reads = (int(total) for total in totals)
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = products
    counts[Count.DENSE_MACS], counts[Count.SKIPPED_MACS] = dense_macs, dense_macs - products
    elements = spec.pe_rows * spec.pe_cols
    # Where the causes end, in whole cycles: products alone, whole blocks, blocks with their conflicts, barriers.
    ends = [-(-products // spec.peak_macs_per_cycle), -(-blocks // elements), -(-busy // elements), int(cycles.sum())]
    for cause, begin, end in zip((Count.COMPUTE, Count.FRAGMENTATION, Count.BANK_CONFLICT, Count.IMBALANCE),
                                 [0, *ends], ends, strict=False):
        counts[cause] = end - begin
    halo = plan.largest_border_region() * sizes
    counts[Count.HALO] = shape.batch * int(halo.sum())
    cycles[:, :, -1] += halo
    moved = shape.batch * shape.out_channels * _words_exchanged(plan, spec)
    finished = shape.batch * shape.out_channels * shape.out_h * shape.out_w
    counts[Count.INPUT_SRAM_READS], counts[Count.WEIGHT_SRAM_READS] = input_reads, weight_reads
    counts[Count.METADATA_SRAM_READ_BITS] = (input_reads + weight_reads) * spec.index_bits
    counts[Count.OUTPUT_SRAM_READS] = products + 2 * moved + finished
    counts[Count.OUTPUT_SRAM_WRITES] = counts[Count.PSUM_HOPS] = products + moved
    return cycles, counts


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of the plane: int64[size, 3] element, phase and variant of every position; what a variant reaches."""

    positions: Ints
    reached: Ints  # int64[variants, taps]: the output coordinate modulo 4, -1 = none or outside the plane
    tap_phases: Ints  # int64[taps]


def _axis(size: int, padding: int, stride: int, kernel: int, dilation: int, outs: int, tile: int) -> _Axis:
    """With x = position + padding = q*stride + phase, a tap at p*stride + phase reaches output q - p.

    It is inside for q - outs < p <= q.  A variant is what decides banks and borders: q modulo 4, the first and the
    last p inside.  Phases are left to the lists: a tap never meets an activation of another phase.
    """
    x = np.arange(size, dtype=np.int64) + padding
    q = x // stride
    distances, tap_phases = np.divmod(np.arange(kernel, dtype=np.int64) * dilation, stride)
    first, last = np.clip(q - outs + 1, 0, distances[-1] + 1), np.minimum(q, distances[-1])
    variants, which = np.unique(np.stack([q % 4, first, last], axis=1), axis=0, return_inverse=True)
    low_bits, first, last = (variants[:, column, None] for column in range(3))
    inside = (first <= distances) & (distances <= last)
    return _Axis(np.stack([x // tile, x % stride, which.reshape(-1)], axis=1),
                 np.where(inside, (low_bits - distances) % 4, -1), tap_phases)


def _banks(rows: _Axis, cols: _Axis, spec: Spec) -> NDArray[np.uint8]:
    """uint8[row variants * column variants, taps * 8]: bank by variant, tap and k modulo 8 (docs: 2), or OUTSIDE."""
    from .scnn_kernel import OUTSIDE

    x, y = rows.reached[:, None, :, None, None], cols.reached[None, :, None, :, None]
    k = np.arange(8)
    top = (k >> 2) ^ (x >> 1 & 1) ^ (y >> 1 & 1)
    bank = (top * 16 + (x & 1) * 8 + (y & 1) * 4 + (k & 3)) % spec.accumulator_banks
    table = np.where((x >= 0) & (y >= 0), bank, OUTSIDE).astype(np.uint8)
    return np.ascontiguousarray(table.reshape(len(rows.reached) * len(cols.reached), -1))


def _words_exchanged(plan: _Plan, spec: Spec) -> int:
    """Partial sums of one output channel and image that leave the element where they were made."""
    shape = plan.shape
    reached, kept = [], []
    for outs, stride, kernel, dilation, size, grid, in_tile, out_tile in (
        (shape.out_h, shape.stride_h, shape.kernel_h, shape.dilation_h, shape.in_h + 2 * shape.padding_h, spec.pe_rows,
         plan.in_tile[0], plan.out_tile[0]),
        (shape.out_w, shape.stride_w, shape.kernel_w, shape.dilation_w, shape.in_w + 2 * shape.padding_w, spec.pe_cols,
         plan.in_tile[1], plan.out_tile[1]),
    ):
        out, tap = np.arange(outs)[:, None], np.arange(kernel)[None]
        touches = np.zeros((grid, outs), dtype=bool)
        element = (out * stride + tap * dilation) // in_tile
        touches[element, np.broadcast_to(out, element.shape)] = True
        assert size > (outs - 1) * stride + (kernel - 1) * dilation  # every tap lies in the padded plane
        reached.append(int(touches.sum()))
        kept.append(int(touches[np.arange(outs) // out_tile, np.arange(outs)].sum()))
    return reached[0] * reached[1] - kept[0] * kept[1]


def _input_mask(layer: LayerTrace, shape: Conv2d) -> NDArray[np.uint8]:
    """uint8[batch, in_channels, h, w]: 1 where an activation is listed; a density alone is spread evenly (docs: 4)."""
    mask = layer.input_mask
    if mask is None:
        mask = spread(layer.operation.input_shape, layer.input_density)
    if isinstance(layer.operation, Gemm):
        mask = mask.T
    return np.ascontiguousarray(mask.reshape(shape.input_shape)).view(np.uint8)


def _weight_mask(layer: LayerTrace, shape: Conv2d) -> NDArray[np.uint8]:
    """uint8[out_channels, in_channels of a group, kernel_h, kernel_w]."""
    mask = layer.weight_mask
    if mask is None:
        return np.ones(shape.weight_shape, dtype=np.uint8)
    if isinstance(layer.operation, Gemm):
        mask = mask.T
    return np.ascontiguousarray(mask.reshape(shape.weight_shape)).view(np.uint8)


def _checked(tiling: Tiling, plan: _Plan) -> Tiling:
    """The tiling; InputError for one of another shape."""
    channels = tiling.tile_k // plan.shape.window
    like = plan.tiling(min(max(1, channels), plan.channels), tiling.order == "mkn")
    if tiling != like:
        raise InputError(f"tiling {tiling}", expected=f"one such as {like}, whole input channels along k",
                         fix="leave the tiling out: the fastest one is found")
    return tiling


@dataclass(frozen=True, eq=False)
class _Traffic:
    """Values to load per channel, and cycles, from which the steps of any split of the input channels follow."""

    plan: _Plan
    bits: tuple[int, int, int, int]  # of a weight, an input, an output, an index
    weights: Ints  # int64[channel groups, channels]
    inputs: Ints  # int64[batch, groups, channels]
    cycles: Ints  # int64[batch, channel groups, channels]

    @classmethod
    def of(cls, layer: LayerTrace, spec: Spec, plan: _Plan, inputs: NDArray[np.uint8], weights: NDArray[np.uint8],
           cycles: Ints) -> _Traffic:
        shape = plan.shape
        starts = np.cumsum(plan.group_sizes) - plan.group_sizes
        per_filter = weights.sum(axis=(2, 3), dtype=np.int64)
        per_channel = inputs.sum(axis=(2, 3), dtype=np.int64).reshape(shape.batch, shape.groups, -1)
        return cls(plan, (layer.weight_bits, layer.input_bits, layer.output_bits, spec.index_bits),
                   np.add.reduceat(per_filter, starts, axis=0), per_channel, cycles)

    def steps(self, tiling: Tiling) -> tuple[Steps, Ints]:
        """The layer's steps, and what is filled into the buffers (a counts vector).

        Steps run over (image, channel group, input channels); an operand is loaded where it differs from the last.
        """
        shape, sizes = self.plan.shape, self.plan.group_sizes
        batch, parts, per_in = self.cycles.shape
        weight_bits, input_bits, output_bits, index_bits = self.bits
        firsts = np.arange(0, per_in, tiling.tile_k // shape.window)
        weights = np.broadcast_to(np.add.reduceat(self.weights, firsts, axis=1), (batch, parts, len(firsts))).copy()
        if parts * len(firsts) == 1:
            weights[1:] = 0
        per_group = parts // shape.groups
        if tiling.order == "mkn" or len(firsts) == 1:
            inputs = np.zeros_like(weights)
            inputs[:, ::per_group, 0] = self.inputs.sum(axis=2)
        else:
            inputs = np.add.reduceat(self.inputs, firsts, axis=2).repeat(per_group, axis=1)
        outputs = np.zeros((batch, parts, len(firsts)), dtype=np.int64)
        outputs[:, :, -1] = -(-sizes * (shape.out_h * shape.out_w * output_bits) // 8)
        steps = Steps(_bytes(weights * (weight_bits + index_bits)), _bytes(inputs * (input_bits + index_bits)),
                      outputs.reshape(-1), np.add.reduceat(self.cycles, firsts, axis=2).reshape(-1),
                      _bytes(weights * index_bits))
        filled = np.zeros(len(Count), dtype=np.int64)
        filled[Count.WEIGHT_SRAM_WRITES], filled[Count.INPUT_SRAM_WRITES] = weights.sum(), inputs.sum()
        filled[Count.METADATA_SRAM_WRITE_BITS] = (weights.sum() + inputs.sum()) * index_bits
        return steps, filled

    def played(self, machine: Machine, tiling: Tiling) -> tuple[Tiling, Ints]:
        """(tiling, what the memory adds); InputError where a step does not fit, saying by how many bytes."""
        steps, filled = self.steps(tiling)
        check_fits(steps, machine.memory)
        return tiling, filled + play(steps, machine.memory)

    def fastest(self, machine: Machine) -> tuple[Tiling, Ints]:
        """The tiling with the fewest stalls, of halves of halves of the channels with inputs kept or loaded again.

        Ties go to kept inputs and to more channels.  InputError where none fits, about the smallest.
        """
        per_in = self.plan.channels
        splits = sorted({-(-per_in >> halvings) for halvings in range(per_in.bit_length() + 1)} - {0}, reverse=True)
        tried = [self.plan.tiling(split, resident) for resident in (True, False) for split in splits]
        legal = [tiling for tiling in tried if not missing_bytes(self.steps(tiling)[0], machine.memory)]
        if not legal:
            return self.played(machine, tried[-1])
        stalls = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_OUTPUT)
        played = [self.played(machine, tiling) for tiling in legal]
        return min(played, key=lambda pair: int(pair[1][list(stalls)].sum()))


def _bytes(bits: Ints) -> Ints:
    return (-(-bits // 8)).reshape(-1)
