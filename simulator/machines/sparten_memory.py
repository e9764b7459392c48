"""SparTen's layers cut into tiles: bricks of output rows times runs of filter groups, and the search over them.

A tile is a step of ../steps.py; both operands move as a bitmask and their nonzeros, outputs uncompressed.  k is never
cut, so no partial sum leaves the chip.  docs/machines/sparten.md is the text; read sparten.py first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..counts import FIRST_CAUSE, Count
from ..errors import InputError
from ..hardware import Machine
from ..mapping import Tiling
from ..steps import Steps, missing_bytes, play
from ..trace import LayerTrace
from ..workload import Conv2d

if TYPE_CHECKING:
    from .sparten import Spec, Work

Ints = NDArray[np.int64]
MOST_ENTRIES = 2**22  # of the table of loads; a layer that needs more is cut in runs of whole images only
MOST_STEPS = 2**16  # no finer cut is tried unless nothing else fits
ORDERS = ("mnk", "nmk")
TRAFFIC = [Count.INPUT_DRAM_READ_BYTES, Count.WEIGHT_DRAM_READ_BYTES, Count.OUTPUT_DRAM_WRITE_BYTES]


@dataclass(frozen=True, eq=False)
class Lines:
    """The positions as `images` times `rows` output rows of `width` positions; a GEMM is m images of one position.

    values, bits: int64[G, images, input rows], nonzeros and bitmask bits of an input row, over the columns that are
    read; read: bool[rows, input rows], which input rows an output row reads.
    """

    images: int
    rows: int
    width: int
    values: Ints
    bits: Ints
    read: NDArray[np.bool_]

    def bricks(self, positions: int) -> tuple[int, int]:
        """(images, output rows of an image) of a brick of that many positions; InputError where it is none."""
        lines = positions // self.width
        if positions >= self.images * self.rows * self.width:
            return self.images, self.rows
        if positions >= 1 and positions % self.width == 0:
            if lines <= self.rows:
                return 1, lines
            if lines % self.rows == 0:
                return lines // self.rows, self.rows
        raise InputError(f"tile_m = {positions}", where="tiling",
                         expected=f"whole output rows of {self.width} positions, or whole images of {self.rows} rows")


def lines_of(layer: LayerTrace) -> Lines:
    """The output rows of a layer and what they read."""
    op, groups, mask = layer.operation, layer.operation.groups, layer.input_mask
    if not isinstance(op, Conv2d):
        bits = np.full((1, op.m, 1), op.k, dtype=np.int64)
        values = bits if mask is None else mask.sum(axis=1, dtype=np.int64).reshape(bits.shape)
        return Lines(op.m, 1, 1, values, bits, np.ones((1, 1), dtype=bool))
    rows = _touched(op.out_h, op.stride_h, op.kernel_h, op.dilation_h, op.padding_h, op.in_h)
    cols = _touched(op.out_w, op.stride_w, op.kernel_w, op.dilation_w, op.padding_w, op.in_w).any(axis=0)
    per = op.in_channels // groups
    bits = np.full((groups, op.batch, op.in_h), per * int(cols.sum()), dtype=np.int64)
    values = bits
    if mask is not None:
        by_row = mask[..., cols].sum(axis=3, dtype=np.int64).reshape(op.batch, groups, per, op.in_h)
        values = by_row.sum(axis=2).transpose(1, 0, 2)
    return Lines(op.batch, op.out_h, op.out_w, values, bits, rows)


def _touched(out: int, stride: int, kernel: int, dilation: int, padding: int, size: int) -> NDArray[np.bool_]:
    """bool[out, size]: which inputs along an axis each output reads."""
    at = (np.arange(out) * stride)[:, None] + np.arange(kernel) * dilation - padding
    read = np.zeros((out, size), dtype=bool)
    inside = (at >= 0) & (at < size)
    read[np.nonzero(inside)[0], at[inside]] = True
    return read


def ideal_cycles(work: Work, spec: Spec) -> int:
    """Cycles until the last cluster is done; the items (group, filter group, position) are dealt in turn."""
    total = work.total.reshape(-1)
    padded = np.zeros(-(-len(total) // spec.clusters) * spec.clusters, dtype=np.int64)
    padded[: len(total)] = total
    return int(padded.reshape(-1, spec.clusters).sum(axis=0).max())


def with_memory(work: Work, layer: LayerTrace, machine: Machine,
                given: Tiling | None) -> tuple[Tiling, int, Ints, Ints]:
    """(tiling, cycles of the array, visits[G, F], what the memory adds), the fastest of the legal tilings tried.

    Ties go to fewer DRAM bytes, then to the first tried.  Raises InputError where none fits.
    """
    cut = Cut(work, layer, machine)
    best: tuple[tuple[int, int], Tiling, Steps, Ints, Ints] | None = None
    least: tuple[int, Steps] | None = None
    for tiling in cut.candidates() if given is None else [given]:
        if best is not None and cut.number_of_steps(tiling) > MOST_STEPS:
            continue
        if best is not None and cut.cycles(tiling).sum() > best[0][0]:
            continue  # the array alone takes longer
        steps, visits, filled = cut.steps(tiling)
        moved, per = machine.memory.bandwidth()
        if best is not None and moved and steps.total_bytes * per > best[0][0] * moved:
            continue  # the channel alone takes longer
        missing = missing_bytes(steps, machine.memory)
        if missing:
            least = (missing, steps) if least is None or missing < least[0] else least
            continue
        added = play(steps, machine.memory)
        cost = (steps.total_cycles + int(added[FIRST_CAUSE:].sum()), int(added[TRAFFIC].sum()))
        if best is None or cost < best[0]:
            best = cost, tiling, steps, visits, added + filled
    if best is None:
        assert least is not None
        try:
            play(least[1], machine.memory)
        except InputError as error:
            raise InputError(str(error), where=f"layer {layer.name!r} on {machine.name}") from None
    assert best is not None
    _, tiling, steps, visits, added = best
    return tiling, steps.total_cycles, visits, added


class Cut:
    """A layer's costs per output row and filter group, from which those of any tile are summed."""

    def __init__(self, work: Work, layer: LayerTrace, machine: Machine) -> None:
        self.work, self.layer, self.spec = work, layer, machine.array
        self.lines = lines = lines_of(layer)
        groups, filter_groups, m = work.cycles.shape
        # An entry of the table is an output row, or a run of `unit` images where rows are too many.
        entries = work.cycles.size // lines.width * self.spec.clusters
        image = m // lines.images
        self.rows, self.unit = lines.rows, 1
        if entries > MOST_ENTRIES:
            self.rows, self.unit = 1, int(-(-entries // lines.rows // MOST_ENTRIES))
        width = lines.width if self.rows == lines.rows and self.unit == 1 else image * self.unit
        self.by_brick: dict[tuple[int, int], Ints] = {}  # the loads summed over the rows of a brick
        self.by_input: dict[tuple[int, int], tuple[Ints, Ints]] = {}
        # int64[G, F, entries, clusters]: cycles that a cluster has to do there; items are dealt in turn.
        item = np.arange(work.cycles.size)
        count = -(-m // width)
        at = ((item // m) * count + item % m // width) * self.spec.clusters + item % self.spec.clusters
        self.load = np.zeros((groups, filter_groups, count, self.spec.clusters), dtype=np.int64)
        np.add.at(self.load.reshape(-1), at, work.total.reshape(-1))

    def candidates(self) -> list[Tiling]:
        """Tilings to try, coarsest first; which they are depends on the layer alone."""
        gemm, image = self.layer.operation.gemm(), self.lines.rows * self.lines.width
        filter_groups, per = self.work.filters.shape[1], int(self.work.filters[0, 0])
        powers = [4**i for i in range(16)]
        bricks = {gemm.m, *(image * self.unit * power for power in powers if self.unit * power < self.lines.images)}
        bricks |= {self.lines.width * power for power in powers if power < self.rows}
        runs = {filter_groups, *(power for power in powers if power < filter_groups)}
        return [Tiling(brick, gemm.k, min(gemm.n, run * per), order)
                for run in sorted(runs, reverse=True) for brick in sorted(bricks, reverse=True) for order in ORDERS]

    def cycles(self, tiling: Tiling) -> Ints:
        """int64[G, runs, bricks]: cycles of the array for each tile, the barrier at its end included."""
        images, rows = self._brick(tiling)
        lines = self.lines
        first = np.arange(0, self.load.shape[1], self._run(tiling))
        step = rows if rows < lines.rows else self.rows
        if self.unit > 1:
            starts = np.arange(0, self.load.shape[2], -(-images // self.unit))
        else:
            starts = (np.arange(0, lines.images, images)[:, None] * self.rows
                      + np.arange(0, self.rows, step)).reshape(-1)
        key = (images, step)
        if key not in self.by_brick:
            self.by_brick[key] = np.add.reduceat(self.load, starts, axis=2)
        return np.asarray(np.add.reduceat(self.by_brick[key], first, axis=1).max(axis=3))

    def _brick(self, tiling: Tiling) -> tuple[int, int]:
        images, rows = self.lines.bricks(tiling.tile_m)
        if (rows < self.lines.rows and self.rows == 1) or (images < self.lines.images and images % self.unit):
            raise InputError(f"tiling {tiling}", where="tiling",
                             expected=f"multiples of {self.unit} whole images (rows of a GEMM): the layer is large")
        return images, rows

    def number_of_steps(self, tiling: Tiling) -> int:
        """Tiles of a tiling."""
        images, rows = self._brick(tiling)
        groups, filter_groups, _ = self.work.cycles.shape
        return int(groups * -(-filter_groups // self._run(tiling)) * -(-self.lines.images // images)
                   * -(-self.lines.rows // rows))

    def _run(self, tiling: Tiling) -> int:
        """Filter groups in a tile."""
        per, n = int(self.work.filters[0, 0]), self.layer.operation.gemm().n
        if tiling.tile_n < 1 or (tiling.tile_n < n and tiling.tile_n % per) or tiling.order not in ORDERS:
            raise InputError(f"tiling {tiling}", where="tiling",
                             expected=f"tile_n a multiple of {per}, order {' or '.join(ORDERS)}")
        return -(-tiling.tile_n // per)

    def steps(self, tiling: Tiling) -> tuple[Steps, Ints, Ints]:
        """(the steps of a tiling, visits of each filter group, int64[len(Count)] of buffer fills)."""
        layer, work, lines = self.layer, self.work, self.lines
        k = layer.operation.gemm().k
        groups, filter_groups, _ = work.cycles.shape
        cycles, (images, rows) = self.cycles(tiling), self._brick(tiling)
        first = np.arange(0, filter_groups, self._run(tiling))
        sizes = (np.minimum(images, lines.images - np.arange(0, lines.images, images))[:, None]
                 * np.minimum(rows, lines.rows - np.arange(0, lines.rows, rows))).reshape(-1)
        positions = sizes * lines.width
        weights, filters = (np.add.reduceat(part, first, axis=1) for part in (work.nonzeros, work.filters))
        values, bits = self._inputs(images, rows)
        shape = cycles.shape
        input_bytes = np.repeat(-(-(values * layer.input_bits + bits) // 8)[:, None], shape[1], axis=1)
        meta = filters * k
        weight_bytes = np.repeat(-(-(weights * layer.weight_bits + meta) // 8)[:, :, None], shape[2], axis=2)
        meta_bytes = np.repeat(-(-meta // 8)[:, :, None], shape[2], axis=2)
        outputs = -(-filters[:, :, None] * positions * layer.output_bits // 8)
        if tiling.order == "mnk":
            input_bytes[:, 1:] = 0
            if shape[1] == 1:
                weight_bytes[:, :, 1:] = meta_bytes[:, :, 1:] = 0
        else:
            weight_bytes[:, :, 1:] = meta_bytes[:, :, 1:] = 0
            if shape[2] == 1:
                input_bytes[:, 1:] = 0
        fills = np.zeros(len(Count), dtype=np.int64)
        times_i = (shape[1] if tiling.order == "nmk" and shape[2] > 1 else 1)
        times_w = (shape[2] if tiling.order == "mnk" and shape[1] > 1 else 1)
        fills[Count.INPUT_SRAM_WRITES] = values.sum() * times_i
        fills[Count.WEIGHT_SRAM_WRITES] = weights.sum() * times_w
        fills[Count.METADATA_SRAM_WRITE_BITS] = bits.sum() * times_i + meta.sum() * times_w
        fills[Count.OUTPUT_SRAM_READS] = (filters[:, :, None] * positions).sum()
        # A cluster takes a filter group into its units once per tile in which it has a position.
        visits = np.full((groups, filter_groups), np.minimum(positions, self.spec.clusters).sum(), dtype=np.int64)
        axes = (0, 2, 1) if tiling.order == "mnk" else (0, 1, 2)
        flat = [part.transpose(axes).reshape(-1) for part in (weight_bytes, input_bytes, outputs, cycles, meta_bytes)]
        return Steps(*flat), visits, fills

    def _inputs(self, images: int, rows: int) -> tuple[Ints, Ints]:
        """(nonzeros, bitmask bits), each int64[G, bricks], of the input rows that a brick reads."""
        if (images, rows) not in self.by_input:
            lines = self.lines
            read = np.logical_or.reduceat(lines.read, np.arange(0, lines.rows, rows), axis=0).astype(np.int64)
            first = np.arange(0, lines.images, images)
            values, bits = (np.add.reduceat(part @ read.T, first, axis=1).reshape(len(part), -1)
                            for part in (lines.values, lines.bits))
            self.by_input[images, rows] = values, bits
        return self.by_input[images, rows]
