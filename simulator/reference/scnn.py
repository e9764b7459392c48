"""SCNN, stepped cycle by cycle on real operands: every product goes through the bank that holds its output.

Processing elements work through their blocks in lockstep and meet at a barrier after every input channel; partial sums
are scattered into each element's own accumulators and the halo is carried to its owner, word by word, so that the
output is the convolution's.  docs/machines/scnn.md is the text; the memory's twin is steps.py.
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
from ..workload import Conv2d, Gemm
from .scnn_memory import Group, memory_counts

Ints = NDArray[np.int64]
Activation = tuple[int, int, int]  # x, y in the padded plane, value
Weight = tuple[int, int, int, int]  # r, s, k, value; k counts the layer's output channels
Product = tuple[int, int, int, int]  # k, output row, output column, value


@dataclass(frozen=True)
class Watched:
    """One cycle of one element: the products added, (bank, image, product), and whether the lists are held up.

    held: the block has products left, so the next one cannot start in the next cycle.
    """

    added: tuple[tuple[int, int, Product], ...] = ()
    busy: bool = False
    held: bool = False


def run(
    layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints,
    watched: list[list[Watched]] | None = None,
) -> tuple[LayerCounts, Ints]:
    """(counts, output in the operation's own shape); `watched` collects every cycle of every element but the halo's."""
    chip = Chip(_plane(layer), machine, watched)
    shape = chip.shape
    values, filters = np.asarray(inputs, dtype=np.int64), np.asarray(weights, dtype=np.int64)
    live = values != 0 if layer.packed_input is not None else _spread(layer).reshape(values.shape)
    if isinstance(layer.operation, Gemm):
        values, live = values.T[None, :, :, None], live.T[None, :, :, None]
        filters = filters.T[:, :, None, None]
    groups = [chip.channel_group(values, live, filters, image, channels)
              for image in range(shape.batch) for channels in chip.channel_groups()]
    counts = chip.finish()
    counts[Count.DENSE_MACS] = layer.operation.macs
    counts[Count.SKIPPED_MACS] = layer.operation.macs - counts[Count.ISSUED_MACS]
    channels_per_step = shape.in_channels // shape.groups
    if machine.memory.memory != "ideal":
        channels_per_step = tiling.tile_k // shape.window
    counts += memory_counts(layer, machine, groups, channels_per_step, tiling.order == "mkn", live, filters != 0,
                            shape)
    # What only counts as zero (a density without a mask) is multiplied off the clock: the output is the layer's.
    output = chip.output + _untimed(shape, np.where(live, 0, values), filters)
    if isinstance(layer.operation, Gemm):
        output = output[0, :, :, 0].T
    pruned = layer.weight_nnz < filters.size
    return LayerCounts(counts, tiling, "unstructured" if pruned else "dense"), output


@dataclass
class Element:
    """One processing element: its blocks, the products that wait for a bank, its accumulators by (k, row, column)."""

    blocks: deque[list[Product]] = field(default_factory=deque)
    waiting: dict[int, list[Product]] = field(default_factory=dict)
    sums: dict[tuple[int, int, int], int] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """True until the last product is added."""
        return bool(self.blocks or self.waiting)


class Chip:
    """The grid, its counters and the output that it makes."""

    def __init__(self, shape: Conv2d, machine: Machine, watched: list[list[Watched]] | None = None) -> None:
        spec = machine.array
        self.shape, self.spec, self.watched = shape, spec, watched
        self.counts = np.zeros(len(Count), dtype=np.int64)
        self.slots = {"useful": 0, "fragmentation": 0, "conflict": 0, "imbalance": 0}
        self.clock = 0  # without the halo
        self.output = np.zeros((shape.batch, shape.out_channels, shape.out_h, shape.out_w), dtype=np.int64)
        padded_h, padded_w = shape.in_h + 2 * shape.padding_h, shape.in_w + 2 * shape.padding_w
        self.in_tile = (-(-padded_h // spec.pe_rows), -(-padded_w // spec.pe_cols))
        self.out_tile = (-(-shape.out_h // spec.pe_rows), -(-shape.out_w // spec.pe_cols))
        self.places = [(row, col) for row in range(spec.pe_rows) for col in range(spec.pe_cols)]

    def channel_groups(self) -> list[range]:
        """Output channels that the accumulators hold at a time; groups of the convolution are not mixed."""
        per_group = self.shape.out_channels // self.shape.groups
        held = self.spec.accumulator_entries // (self.out_tile[0] * self.out_tile[1])
        return [range(first, min(first + held, start + per_group))
                for start in range(0, self.shape.out_channels, per_group)
                for first in range(start, start + per_group, held)]

    def channel_group(self, values: Ints, live: NDArray[np.bool_], filters: Ints, image: int, ks: range) -> Group:
        """All input channels of one image for one group of output channels, then the halo."""
        shape = self.shape
        per_in = shape.in_channels // shape.groups
        first_channel = ks[0] // (shape.out_channels // shape.groups) * per_in
        elements = {place: Element() for place in self.places}
        cycles = []
        for channel in range(per_in):
            plane, kept = values[image, first_channel + channel], live[image, first_channel + channel]
            before = self.clock
            for place, element in elements.items():
                self._fill(element, self._activations(place, plane, kept), self._weights(filters[:, channel], ks))
            self._run_to_barrier(list(elements.values()), image)
            cycles.append(self.clock - before)
        halo = self._exchange_halo(elements, image, ks)
        return Group(image, ks, range(first_channel, first_channel + per_in), cycles, halo)

    def _activations(self, place: tuple[int, int], plane: Ints, kept: NDArray[np.bool_]) -> list[Activation]:
        """Nonzero activations of the element's tile of the padded plane, x outer, y inner."""
        shape, found = self.shape, []
        for x in range(place[0] * self.in_tile[0], (place[0] + 1) * self.in_tile[0]):
            for y in range(place[1] * self.in_tile[1], (place[1] + 1) * self.in_tile[1]):
                row, col = x - shape.padding_h, y - shape.padding_w
                if 0 <= row < shape.in_h and 0 <= col < shape.in_w and kept[row, col]:
                    found.append((x, y, int(plane[row, col])))
        return found

    def _weights(self, filters: Ints, ks: range) -> list[Weight]:
        """Nonzero weights of one input channel, (r, s, k) with k fastest; r and s reach `dilation` apart."""
        shape = self.shape
        return [(r * shape.dilation_h, s * shape.dilation_w, k, int(filters[k, r, s]))
                for r in range(shape.kernel_h) for s in range(shape.kernel_w) for k in ks if filters[k, r, s]]

    def _fill(self, element: Element, activations: list[Activation], weights: list[Weight]) -> None:
        """The element's blocks, phase by phase: only equal phases meet at a whole number of strides."""
        shape, spec = self.shape, self.spec
        for phase_x in range(shape.stride_h):
            for phase_y in range(shape.stride_w):
                mine = [a for a in activations if (a[0] % shape.stride_h, a[1] % shape.stride_w) == (phase_x, phase_y)]
                theirs = [w for w in weights if (w[0] % shape.stride_h, w[1] % shape.stride_w) == (phase_x, phase_y)]
                if theirs:
                    self._count_read(Count.INPUT_SRAM_READS, len(mine))
                for i in range(0, len(mine), spec.multipliers_i):
                    self._count_read(Count.WEIGHT_SRAM_READS, len(theirs))
                    for f in range(0, len(theirs), spec.multipliers_f):
                        block = [self._product(a, w) for a in mine[i : i + spec.multipliers_i]
                                 for w in theirs[f : f + spec.multipliers_f]]
                        element.blocks.append([product for product in block if self._inside(product)])

    def _product(self, activation: Activation, weight: Weight) -> Product:
        (x, y, value), (r, s, k, factor) = activation, weight
        return k, (x - r) // self.shape.stride_h, (y - s) // self.shape.stride_w, value * factor

    def _inside(self, product: Product) -> bool:
        return 0 <= product[1] < self.shape.out_h and 0 <= product[2] < self.shape.out_w

    def _count_read(self, what: Count, values: int) -> None:
        self.counts[what] += values
        self.counts[Count.METADATA_SRAM_READ_BITS] += values * self.spec.index_bits

    def _bank(self, k: int, x: int, y: int) -> int:
        top = (k >> 2 & 1) ^ (x >> 1 & 1) ^ (y >> 1 & 1)
        return (top << 4 | (x & 1) << 3 | (y & 1) << 2 | k & 3) % int(self.spec.accumulator_banks)

    def _run_to_barrier(self, elements: list[Element], image: int) -> None:
        while any(element.busy for element in elements):
            seen = [self._edge(element, image) for element in elements]
            if self.watched is not None:
                self.watched.append(seen)
            self.clock += 1

    def _edge(self, element: Element, image: int) -> Watched:
        """One cycle of one element: start a block if none is underway, then one product into every bank."""
        multipliers = self.spec.multipliers_f * self.spec.multipliers_i
        if not element.busy:
            self.slots["imbalance"] += multipliers
            return Watched()
        if element.waiting:
            self.slots["conflict"] += multipliers
        else:
            block = element.blocks.popleft()
            self.slots["useful"] += len(block)
            self.slots["fragmentation"] += multipliers - len(block)
            for product in block:
                element.waiting.setdefault(self._bank(*product[:3]), []).append(product)
        added = []
        for bank in list(element.waiting):
            added.append((bank, image, element.waiting[bank][0]))
            k, x, y, value = element.waiting[bank].pop(0)
            element.sums[k, x, y] = element.sums.get((k, x, y), 0) + value
            for what in (Count.ISSUED_MACS, Count.USEFUL_MACS, Count.OUTPUT_SRAM_READS, Count.OUTPUT_SRAM_WRITES,
                         Count.PSUM_HOPS):
                self.counts[what] += 1
            if not element.waiting[bank]:
                del element.waiting[bank]
        return Watched(tuple(added), busy=True, held=bool(element.waiting))

    def _exchange_halo(self, elements: dict[tuple[int, int], Element], image: int, ks: range) -> int:
        """Carry partial sums to the element that owns the output, then read the finished outputs; cycles taken."""
        owned = {place: set(self._owned(place)) for place in self.places}
        owner = {output: place for place, outputs in owned.items() for output in outputs}
        for place, element in elements.items():
            for x, y in self._reached(place) - owned[place]:
                target = elements[owner[x, y]]
                for k in ks:
                    target.sums[k, x, y] = target.sums.get((k, x, y), 0) + element.sums.pop((k, x, y), 0)
                    self.counts[Count.OUTPUT_SRAM_READS] += 2  # the sender's entry and the receiver's
                    self.counts[Count.OUTPUT_SRAM_WRITES] += 1
                    self.counts[Count.PSUM_HOPS] += 1
        for place, element in elements.items():
            for x, y in owned[place]:
                for k in ks:
                    self.output[image, k, x, y] = element.sums.get((k, x, y), 0)
                    self.counts[Count.OUTPUT_SRAM_READS] += 1
        return self._halo_cycles(len(ks))

    def _owned(self, place: tuple[int, int]) -> list[tuple[int, int]]:
        return [(x, y) for x in range(self.shape.out_h) for y in range(self.shape.out_w)
                if (x // self.out_tile[0], y // self.out_tile[1]) == place]

    def _reached(self, place: tuple[int, int]) -> set[tuple[int, int]]:
        """Outputs that some position of the element's tile contributes to, whatever is zero."""
        shape = self.shape
        axes = []
        for axis, (outs, stride, kernel, dilation, size) in enumerate((
            (shape.out_h, shape.stride_h, shape.kernel_h, shape.dilation_h, shape.in_h + 2 * shape.padding_h),
            (shape.out_w, shape.stride_w, shape.kernel_w, shape.dilation_w, shape.in_w + 2 * shape.padding_w),
        )):
            tile = range(place[axis] * self.in_tile[axis], min(size, (place[axis] + 1) * self.in_tile[axis]))
            axes.append([out for out in range(outs)
                         if any(out * stride + tap * dilation in tile for tap in range(kernel))])
        return {(x, y) for x in axes[0] for y in axes[1]}

    def _halo_cycles(self, channels: int) -> int:
        """Eight neighbours, a link to each that carries a word per cycle: the largest region decides."""
        shape = self.shape
        before = ((shape.kernel_h - 1) * shape.dilation_h - shape.padding_h,
                  (shape.kernel_w - 1) * shape.dilation_w - shape.padding_w)
        sides = [(max(0, before[axis]), self.in_tile[axis], (shape.padding_h, shape.padding_w)[axis])
                 for axis in (0, 1)]
        links = [sides[0][i] * sides[1][j] * channels for i in range(3) for j in range(3) if (i, j) != (1, 1)]
        cycles = 0
        while any(links):
            links = [max(0, words - 1) for words in links]
            cycles += 1
        self.counts[Count.HALO] += cycles
        return cycles

    def finish(self) -> Ints:
        """Slots become cycles: each cause is what it adds to the whole cycles of the ones before it."""
        per_cycle = self.spec.pe_rows * self.spec.pe_cols * self.spec.multipliers_f * self.spec.multipliers_i
        slots = used = 0
        for name, cause in (("useful", Count.COMPUTE), ("fragmentation", Count.FRAGMENTATION),
                            ("conflict", Count.BANK_CONFLICT), ("imbalance", Count.IMBALANCE)):
            slots += self.slots[name]
            whole = -(-slots // per_cycle)
            self.counts[cause] = whole - used
            used = whole
        assert used == self.clock, "every slot of every cycle has one cause"
        return self.counts


def _plane(layer: LayerTrace) -> Conv2d:
    """A GEMM is a 1 x 1 convolution on a plane of m rows and one column."""
    operation = layer.operation
    if isinstance(operation, Gemm):
        return Conv2d(in_channels=operation.k, out_channels=operation.n, in_h=operation.m, in_w=1, kernel_h=1,
                      kernel_w=1)
    return operation


def _spread(layer: LayerTrace) -> NDArray[np.bool_]:
    """Which inputs count as nonzero where only a density is known: smallest fractions of golden multiples."""
    size = int(np.prod(layer.operation.input_shape))
    keep = int(layer.input_density * size + 0.5)
    order = sorted(range(size), key=lambda index: index * 0x9E3779B97F4A7C15 % 2**64)
    mask = np.zeros(size, dtype=bool)
    mask[order[:keep]] = True
    return mask


def _untimed(shape: Conv2d, values: Ints, filters: Ints) -> Ints:
    """The convolution of a few values, one at a time."""
    output = np.zeros((shape.batch, shape.out_channels, shape.out_h, shape.out_w), dtype=np.int64)
    per_in, per_out = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    for image, channel, row, col in zip(*np.nonzero(values), strict=True):
        ks = slice(channel // per_in * per_out, (channel // per_in + 1) * per_out)
        for r in range(shape.kernel_h):
            for s in range(shape.kernel_w):
                x, skipped_x = divmod(row + shape.padding_h - r * shape.dilation_h, shape.stride_h)
                y, skipped_y = divmod(col + shape.padding_w - s * shape.dilation_w, shape.stride_w)
                if not skipped_x and not skipped_y and 0 <= x < shape.out_h and 0 <= y < shape.out_w:
                    output[image, ks, x, y] += values[image, channel, row, col] * filters[ks, channel % per_in, r, s]
    return output
