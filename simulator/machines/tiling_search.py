"""The tiling search: every legal tiling on a geometric ladder, best first by a lower bound, exact at the end.

A `Problem` is one layer on one array in integers; a tiling's cost is the time line of systolic_kernel.py
itself, run only while the candidate's bound (array time, channel time) is below the best cost so far, so
the result is that of an exhaustive search.  Ties go to fewer DRAM bytes, then to the first candidate.  A layer
of millions of tiles is searched in the order of the bounds until MOST_PLAYED visits have been played.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from .. import dram
from ..counts import FIRST_CAUSE, Count
from ..errors import InputError
from ..hardware import Machine
from ..lowering import Physical
from ..mapping import LOOP_ORDERS, Tiling
from ..trace import LayerTrace
from . import banks, cover_kernel
from . import systolic_kernel as kernel
from . import tiling_kernel as bounds
from .storage import Storage
from .systolic import Spec, axes, steps, touched

Ints = NDArray[np.int64]
AXES = "mkn"
MOST_PLAYED = 1 << 22  # visits of tiles by all candidates of a search; a ResNet's layer has some thousands
MOST_REQUESTS = 1 << 30  # of an array with a queue
MOST_VISITS = 1 << 25  # of one tiling: some tens of seconds
FLOWS = {"ws": kernel.WS, "os": kernel.OS, "is": kernel.IS}
DRAINS = {"in_place": kernel.IN_PLACE, "serial": kernel.SERIAL, "overlapped": kernel.OVERLAPPED}
TRAFFIC = [Count.INPUT_DRAM_READ_BYTES, Count.WEIGHT_DRAM_READ_BYTES, Count.PSUM_DRAM_READ_BYTES,
           Count.OUTPUT_DRAM_WRITE_BYTES, Count.PSUM_DRAM_WRITE_BYTES]


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer on one array: sizes, fields and widths as a parameter vector, and which weight blocks are empty."""

    gemm: Physical
    machine: Machine
    base: Ints
    blocks: NDArray[np.bool_]
    images: int
    out_h: int
    out_w: int
    vertical: tuple[int, ...]
    horizontal: tuple[int, ...]
    storage: Storage

    @classmethod
    def of(cls, gemm: Physical, layer: LayerTrace, machine: Machine) -> Problem:
        """The problem of running `gemm`, which is `layer` as `machine` sees it."""
        spec: Spec = machine.array
        memory = machine.memory
        vertical, horizontal = axes(gemm.operation)
        base = np.zeros(kernel.PARAMETERS, dtype=np.int64)
        flow, drain = FLOWS[spec.dataflow], DRAINS[spec.drain]
        registers = spec.input_register + spec.output_register + spec.multiplier_latency
        skew = (spec.cols - 1) * spec.activation_hop_registers
        if flow != kernel.OS:
            tail = skew + spec.rows * spec.psum_hop_registers + registers - 1
        elif drain == kernel.IN_PLACE:
            tail = skew + (spec.rows - 1) * spec.psum_hop_registers + registers + spec.accumulator_latency - 1
        else:
            tail = (skew + spec.rows * spec.psum_hop_registers + registers + spec.accumulator_latency - 1
                    + spec.rows - 1)
        bandwidth = memory.bandwidth()
        values = {
            kernel.ROWS: spec.rows, kernel.COLS: spec.cols, kernel.FLOW: flow, kernel.DRAIN: drain, kernel.TAIL: tail,
            kernel.ACT_HOP: spec.activation_hop_registers, kernel.PSUM_HOP: spec.psum_hop_registers,
            kernel.IN_REG: spec.input_register, kernel.OUT_REG: spec.output_register,
            kernel.BUFFERS: spec.weight_buffers, kernel.BIAS: spec.rows if spec.preload_bias else 0,
            kernel.IN_FLIGHT: spec.max_in_flight, kernel.PER_REQUEST: spec.rows_per_request or spec.rows,
            kernel.HALVES_W: 1 + memory.weight_double_buffered, kernel.HALVES_I: 1 + memory.input_double_buffered,
            kernel.HALVES_O: 1 + memory.output_double_buffered,
            kernel.BW_BYTES: bandwidth[0], kernel.BW_CYCLES: bandwidth[1], kernel.LATENCY: memory.dram_latency_cycles,
            kernel.BURST: memory.burst_bytes, kernel.WEIGHT_BITS: layer.weight_bits,
            kernel.INPUT_BITS: layer.input_bits, kernel.OUTPUT_BITS: layer.output_bits,
            kernel.PSUM_BITS: memory.psum_bits,
            kernel.META_BITS: (gemm.slots_of - 1).bit_length() if gemm.slots_kept < gemm.slots_of else 0,
            kernel.SKIPS: spec.skip_zero_blocks and gemm.mask is not None, kernel.GROUPS: gemm.groups,
            kernel.IDEAL: memory.memory == "ideal", kernel.K_ROWS: gemm.k_rows,
            kernel.WINDOW: gemm.operation.window, kernel.KEPT: gemm.slots_kept, kernel.OF: gemm.slots_of,
            kernel.K: gemm.k, kernel.N: gemm.n, kernel.COVER: gemm.cover is not None,
            kernel.INPUTS_STAY: memory.inputs_on_chip, kernel.OUTPUTS_STAY: memory.outputs_on_chip,
        }
        for index, value in values.items():
            base[index] = value
        storage = Storage(gemm, layer, machine)
        if not base[kernel.IDEAL] and storage.weight is not None:
            base[kernel.STORED] = kernel.DECODED_BEHIND if storage.decoded_behind else kernel.DECODED_AHEAD
        blocks = np.ones((1, 1, 1), dtype=np.bool_)
        if base[kernel.SKIPS] and gemm.mask is not None:
            blocks = _occupied_blocks(gemm.mask, spec.rows, spec.cols)
        return cls(gemm, machine, base, blocks, gemm.m // (vertical[0] * horizontal[0]),
                   vertical[0], horizontal[0], vertical, horizontal, storage)

    def bricks(self, tile_m: int) -> tuple[int, int, int]:
        """(images, output rows, output columns) of a brick of `tile_m` output pixels; InputError if it is none."""
        plane = self.out_h * self.out_w
        if tile_m >= self.gemm.m:
            return self.images, self.out_h, self.out_w
        if tile_m >= plane and tile_m % plane == 0:
            return tile_m // plane, self.out_h, self.out_w
        if self.out_w <= tile_m < plane and tile_m % self.out_w == 0:
            return 1, tile_m // self.out_w, self.out_w
        if 0 < tile_m < self.out_w:
            return 1, 1, tile_m
        raise InputError(
            f"tile_m = {tile_m}", where="tiling",
            expected=f"part of an output row (< {self.out_w}), whole rows, or whole images of {plane} pixels",
        )

    def parameters(self, tiling: Tiling) -> Ints:
        """The kernel's parameter vector for one tiling."""
        p = self.base.copy()
        p[kernel.TILE_K], p[kernel.TILE_N] = min(tiling.tile_k, self.gemm.k), min(tiling.tile_n, self.gemm.n)
        p[kernel.OUTER], p[kernel.MIDDLE] = AXES.index(tiling.order[0]), AXES.index(tiling.order[1])
        return p

    def tiles(self, tiling: Tiling, p: Ints | None = None) -> tuple[Ints, ...]:
        """The kernel's arrays for one tiling: DRAM, bricks along images, rows, columns, first writes, folds, inputs.

        p: `parameters(tiling)`, where they are at hand.
        """
        images, rows, columns = self.bricks(tiling.tile_m)
        batch = _batch(self.images, images)
        row_out, row_in = touched(*self.vertical, rows)
        col_out, col_in = touched(*self.horizontal, columns)
        p = self.parameters(tiling) if p is None else p
        stored = self._stored_weights(p)
        groups = self.gemm.groups if p[kernel.SKIPS] or p[kernel.COVER] else len(stored)
        tiles_k, tiles_n = -(-self.gemm.k // int(p[kernel.TILE_K])), -(-self.gemm.n // int(p[kernel.TILE_N]))
        folds = np.zeros((groups, tiles_k, tiles_n, kernel.FOLD_COLUMNS), dtype=np.int64)
        if cover := self.gemm.cover:
            cover_kernel.count_cover(p, *cover.parameters, folds)
        elif p[kernel.FLOW] == kernel.WS:
            kernel.count_folds(p, self.blocks, folds)
        folds[..., 6:] = stored
        device = dram.arguments(self.machine.memory)
        conflicts = banks.NONE
        if banks.banked(self.machine.memory):
            sizes = (batch[:, None, None] * row_out[:, None] * col_out).reshape(-1)
            conflicts = banks.tables(self, np.cumsum(sizes) - sizes)
        spans = self._input_spans(p)
        return *device, *conflicts, batch, row_out, row_in, col_out, col_in, self._first_writes, folds, spans

    def _stored_weights(self, p: Ints) -> Ints:
        """storage.weight_tiles of the tiling in `p`; int64[1, 1, 1, 1] of zero where the weights' format is native."""
        if not p[kernel.STORED]:
            return np.zeros((1, 1, 1, 1), dtype=np.int64)
        return self.storage.weight_tiles(int(p[kernel.TILE_K]), int(p[kernel.TILE_N]))

    def _input_spans(self, p: Ints) -> Ints:
        """storage.input_spans of the k tiles in `p`; int64[0, 0, 2] where the inputs' format is native."""
        if p[kernel.IDEAL] or self.storage.input is None:
            return np.zeros((0, 0, 2), dtype=np.int64)
        tiles = -(-self.gemm.k // int(p[kernel.TILE_K]))
        ranges = (kernel.channel_range(ki, p) for ki in range(tiles))
        return self.storage.input_spans([(int(first), int(last)) for first, last in ranges])

    def spans(self, k_sizes: list[int]) -> Ints:
        """int64[k sizes, 4]: bits of all k tiles, bits and words of the first, words of one channel; or int64[0, 4]."""
        found = np.zeros((len(k_sizes), 4), dtype=np.int64)
        p = self.base.copy()
        for at, size in enumerate(k_sizes):
            p[kernel.TILE_K] = size
            spans = self._input_spans(p)
            if not len(spans):
                return found[:0]
            all_bits = int(spans[..., 0].sum()) * (self.gemm.groups // len(spans))
            found[at] = all_bits, spans[0, 0, 0], spans[0, 0, 1], self.storage.positions
        return found

    @cached_property
    def _first_writes(self) -> Ints:
        """Output elements that some fold writes, as a vector of one."""
        gemm = self.gemm
        if not self.base[kernel.SKIPS]:
            return np.array([gemm.groups * gemm.m * gemm.n], dtype=np.int64)
        live = self.blocks.any(axis=1)
        cols = int(self.base[kernel.COLS])
        widths = np.minimum(cols, gemm.n - np.arange(live.shape[1]) * cols)
        return np.array([gemm.m * int((live * widths).sum())], dtype=np.int64)

    def operand_bytes(self, tiling: Tiling) -> tuple[int, int, int]:
        """Buffer bytes that (inputs, weights, outputs) need under a tiling, double buffering included."""
        p = self.parameters(tiling)
        brick = self.brick_row(tiling.tile_m)
        need = np.zeros(3, dtype=np.int64)
        weights = bounds.weight_tile(p)[0]
        if self.gemm.cover or p[kernel.STORED]:
            weights = self.stored([int(p[kernel.TILE_K])], [int(p[kernel.TILE_N])])[0, 0, 0]
        bounds.capacities(p, brick, bounds.channel_span(p)[0], weights, need)
        return int(need[0]), int(need[1]), int(need[2])

    def stored(self, k_sizes: list[int], n_sizes: list[int]) -> Ints:
        """int64[k sizes, n sizes, 4] for these tile sizes; int64[0, 0, 4] where all tiles of a size are alike.

        (bits of buffer for the largest weight tile, bits of the first as it comes, folds of all tiles, bits of all).
        """
        cover = self.gemm.cover
        compressed = bool(self.base[kernel.STORED])
        found = np.zeros((len(k_sizes), len(n_sizes), 4) if cover or compressed else (0, 0, 4), dtype=np.int64)
        if compressed:
            folds, width = int(_live_blocks(self)[0]), int(self.base[kernel.WEIGHT_BITS])
            for k_at, n_at in np.ndindex(found.shape[:2]):
                largest, first, total = self.storage.weight_bits(k_sizes[k_at], n_sizes[n_at])
                if not self.storage.decoded_behind:
                    largest = k_sizes[k_at] * n_sizes[n_at] * width
                found[k_at, n_at] = largest, first, folds, total
        if cover:
            sizes = np.array(k_sizes, dtype=np.int64), np.array(n_sizes, dtype=np.int64)
            cover_kernel.stored_bits(self.base, *cover.parameters, *sizes, found)
        return found

    def missing_bytes(self, tiling: Tiling) -> int:
        """Bytes by which a tiling misses the buffers; 0 = legal."""
        if self.base[kernel.IDEAL]:
            return 0
        return sum(max(0, need - there) for need, there in zip(*self._room(self.operand_bytes(tiling)), strict=True))

    def _room(self, need: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(needed, available) bytes: per buffer, or summed where all operands share one scratchpad."""
        memory = self.machine.memory
        if memory.shared_buffer_bytes:
            return (sum(need),), (memory.shared_buffer_bytes,)
        return need, (memory.input_buffer_bytes, memory.weight_buffer_bytes, memory.output_buffer_bytes)

    def check(self, tiling: Tiling) -> Tiling:
        """The tiling itself if it is well formed and fits; else InputError."""
        spec: Spec = self.machine.array
        if tiling.order not in LOOP_ORDERS:
            raise InputError(f"order {tiling.order!r}", where="tiling", expected=f"one of {', '.join(LOOP_ORDERS)}")
        held_k, held_n = steps(self.gemm, spec)
        for axis, size, whole, multiple in (("tile_k", tiling.tile_k, self.gemm.k, held_k),
                                            ("tile_n", tiling.tile_n, self.gemm.n, held_n)):
            if size < 1 or (size < whole and size % multiple):
                raise InputError(f"{axis} = {size}", where="tiling",
                                 expected=f"a multiple of {multiple} or the whole {whole}")
        self.bricks(tiling.tile_m)
        if missing := self.missing_bytes(tiling):
            raise InputError(f"tiling {tiling} misses the buffers by {missing} bytes", where="tiling",
                             fix="use smaller tiles or larger buffers")
        return tiling

    def brick_row(self, tile_m: int) -> Ints:
        """What the bounds need to know of cutting m into bricks of `tile_m` (columns: bounds.BRICK_*)."""
        images, rows, columns = self.bricks(tile_m)
        row_out, row_in = touched(*self.vertical, rows)
        col_out, col_in = touched(*self.horizontal, columns)
        batch, times = _batch_sizes(self.images, images)
        row: Ints = bounds.brick_row(self.base, batch, times, row_out, row_in, col_out, col_in)
        return row


ONE_IMAGE = np.ones(1, dtype=np.int64)


def _batch(whole: int, images: int) -> Ints:
    """Images of each brick where `whole` are cut into bricks of `images`."""
    if whole == 1:
        return ONE_IMAGE
    return np.minimum(images, whole - np.arange(0, whole, images)).astype(np.int64)


@lru_cache(maxsize=1024)
def _batch_sizes(whole: int, images: int) -> tuple[Ints, Ints]:
    """The two sizes of brick that occur among these, and how often."""
    sizes = np.array([images, whole % images], dtype=np.int64)
    return sizes, np.array([whole // images, 1 if whole % images else 0], dtype=np.int64)


def best(problem: Problem) -> Tiling:
    """The tiling of fewest cycles (ties: fewest DRAM bytes, then the first candidate); InputError if none fits."""
    gemm, spec = problem.gemm, problem.machine.array
    whole = Tiling(gemm.m, gemm.k, gemm.n)
    requests = (gemm.groups * -(-gemm.k // spec.rows) * -(-gemm.n // spec.cols)
                * -(-gemm.m // (spec.rows_per_request or spec.rows)))
    if spec.max_in_flight and requests > MOST_REQUESTS:
        raise InputError(f"{requests} requests in the array's queue to play", expected=f"at most {MOST_REQUESTS}",
                         fix="split the layer")
    if problem.base[kernel.IDEAL]:
        return whole
    m_sizes = _brick_ladder(problem)
    k_sizes = _ladder(gemm.k, gemm.cover.block if gemm.cover else spec.rows)
    n_sizes = _ladder(gemm.n, spec.cols)
    smallest = gemm.groups * -(-gemm.k // k_sizes[-1]) * -(-gemm.n // n_sizes[-1])
    if problem.base[kernel.STORED] and gemm.mask is not None and smallest > MOST_VISITS:
        raise InputError(f"{smallest} weight tiles to walk", expected=f"at most {MOST_VISITS}",
                         fix="split the layer, or take weight_format = 'native'")
    bricks = np.stack([problem.brick_row(size) for size in m_sizes])
    memory = problem.machine.memory
    room = np.array([memory.input_buffer_bytes, memory.weight_buffer_bytes, memory.output_buffer_bytes,
                     memory.shared_buffer_bytes], dtype=np.int64)
    live = _live_blocks(problem)
    found = np.empty((len(m_sizes) * len(k_sizes) * len(n_sizes) * len(LOOP_ORDERS), 6), dtype=np.int64)
    count, least = bounds.candidates(problem.base, bricks, np.array(k_sizes, dtype=np.int64),
                                     np.array(n_sizes, dtype=np.int64), room, live,
                                     problem.stored(k_sizes, n_sizes), problem.spans(k_sizes), found)
    if count == 0:
        raise InputError(f"its smallest tile misses the buffers by {least} bytes",
                         expected="buffers that hold one tile", fix="enlarge the buffers or shrink the array")
    found[:count, 0] -= _unfinished_cycles(problem.machine)
    order = np.lexsort((found[:count, 5], found[:count, 1], found[:count, 0]))
    visits_m, visits_k, visits_n = (
        [-(-axis // size) for size in sizes]
        for axis, sizes in ((gemm.m, m_sizes), (gemm.k, k_sizes), (gemm.n, n_sizes)))
    winner: tuple[int, int, int] | None = None
    chosen = whole
    played = 0
    for index in order:
        bound, _, m_at, k_at, n_at, rank = found[index].tolist()
        if winner is not None and bound > winner[0]:
            break
        visits = gemm.groups * visits_m[m_at] * visits_k[k_at] * visits_n[n_at]
        played += visits
        if winner is not None and played > MOST_PLAYED:
            break
        if visits > MOST_VISITS:
            raise InputError(f"{visits} visits of tiles to play", expected=f"at most {MOST_VISITS}",
                             fix="split the layer, enlarge the buffers, or take memory = 'ideal'")
        tiling = Tiling(m_sizes[m_at], k_sizes[k_at], n_sizes[n_at], LOOP_ORDERS[rank % len(LOOP_ORDERS)])
        counts = np.zeros(len(Count), dtype=np.int64)
        p = problem.parameters(tiling)
        kernel.timeline(p, *problem.tiles(tiling, p), counts)
        cycles = int(counts[FIRST_CAUSE:].sum())
        if winner is not None and cycles > winner[0]:
            continue
        cost = (cycles, int(counts[TRAFFIC].sum()), rank)
        if winner is None or cost < winner:
            winner, chosen = cost, tiling
    return chosen


def _unfinished_cycles(machine: Machine) -> int:
    """Cycles by which first load, second load and last store may end before the peak's pace that the bounds take.

    A transfer ends with its last burst's tBL; the pace is tCCD_S, longer only in devices that nobody ships.
    """
    if machine.memory.memory != "dram":
        return 0
    device = machine.memory.device
    clocks = 3 * (device.burst_clocks - device.tBL)
    return math.ceil(clocks / dram.clocks_per_cycle(device, machine.clock_hz))


def _ladder(whole: int, base: int) -> list[int]:
    """The whole axis, then halves of it on a grid of powers of two times the array's extent, largest first."""
    sizes = [whole]
    size = base
    while size < whole:
        sizes.insert(1, size)
        size *= 2
    return sizes


def _brick_ladder(problem: Problem) -> list[int]:
    """Legal tile_m, largest first: all, powers of two of images, of output rows, of output columns."""
    plane = problem.out_h * problem.out_w
    sizes = [problem.gemm.m]
    for count, unit in ((problem.images, plane), (problem.out_h, problem.out_w), (problem.out_w, 1)):
        powers = [2**power for power in range(count.bit_length()) if 2**power < count]
        sizes += [power * unit for power in reversed(powers)]
        sizes.append(unit)
    return sorted({size for size in sizes if size <= problem.gemm.m}, reverse=True)


def _occupied_blocks(mask: NDArray[np.bool_], rows: int, cols: int) -> NDArray[np.bool_]:
    """bool[groups, ceil(k/R), ceil(n/C)]: does the R x C block hold any weight?"""
    groups, k, n = mask.shape
    padded = np.pad(mask, ((0, 0), (0, -k % rows), (0, -n % cols)))
    return np.asarray(padded.reshape(groups, -(-k // rows), rows, -(-n // cols), cols).any(axis=(2, 4)))


def _live_blocks(problem: Problem) -> Ints:
    """(executed folds, bits of their weights, 1 if blocks are skipped) over all groups, whatever the tiling."""
    gemm, p = problem.gemm, problem.base
    rows, cols = int(p[kernel.ROWS]), int(p[kernel.COLS])
    width = int(p[kernel.WEIGHT_BITS] + p[kernel.META_BITS])
    if not p[kernel.SKIPS]:
        blocks = gemm.groups * -(-gemm.k // rows) * -(-gemm.n // cols)
        return np.array([blocks, gemm.groups * gemm.k * gemm.n * width, 0], dtype=np.int64)
    heights = np.minimum(rows, gemm.k - np.arange(problem.blocks.shape[1]) * rows)
    widths = np.minimum(cols, gemm.n - np.arange(problem.blocks.shape[2]) * cols)
    weights = int((problem.blocks * np.outer(heights, widths)).sum())
    return np.array([int(problem.blocks.sum()), weights * width, 1], dtype=np.int64)
