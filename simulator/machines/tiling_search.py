"""The tiling search: every legal tiling on a geometric ladder, best first by a lower bound, exact at the end.

A `Problem` is one layer on one array in integers; a tiling's cost is the time line of systolic_kernel.py
itself, run only while the candidate's bound (array time, channel time) is below the best cost so far, so
the result is that of an exhaustive search.  Ties go to fewer DRAM bytes, then to the first candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..counts import FIRST_CAUSE, Count
from ..errors import InputError
from ..hardware import Machine
from ..lowering import Physical
from ..mapping import LOOP_ORDERS, Tiling
from ..trace import LayerTrace
from . import systolic_kernel as kernel

if TYPE_CHECKING:
    from .systolic import Spec

Ints = NDArray[np.int64]
AXES = "mkn"
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

    @classmethod
    def of(cls, gemm: Physical, layer: LayerTrace, machine: Machine) -> Problem:
        """The problem of running `gemm`, which is `layer` as `machine` sees it."""
        from .systolic import axes

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
            kernel.BURST: memory.dram_burst_bytes, kernel.WEIGHT_BITS: layer.weight_bits,
            kernel.INPUT_BITS: layer.input_bits, kernel.OUTPUT_BITS: layer.output_bits,
            kernel.PSUM_BITS: memory.psum_bits,
            kernel.META_BITS: (gemm.slots_of - 1).bit_length() if gemm.slots_kept < gemm.slots_of else 0,
            kernel.SKIPS: spec.skip_zero_blocks and gemm.mask is not None, kernel.GROUPS: gemm.groups,
            kernel.IDEAL: memory.memory == "ideal", kernel.K_ROWS: gemm.k_rows,
            kernel.WINDOW: gemm.operation.window, kernel.KEPT: gemm.slots_kept, kernel.OF: gemm.slots_of,
            kernel.K: gemm.k, kernel.N: gemm.n,
        }
        for index, value in values.items():
            base[index] = value
        blocks = np.ones((1, 1, 1), dtype=np.bool_)
        if base[kernel.SKIPS]:
            blocks = _occupied_blocks(gemm.mask, spec.rows, spec.cols)
        return cls(gemm, machine, base, blocks, gemm.m // (vertical[0] * horizontal[0]),
                   vertical[0], horizontal[0], vertical, horizontal)

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
        raise InputError(f"tile_m = {tile_m}", where="tiling",
                         expected=f"part of an output row (< {self.out_w}), whole rows, or whole images of {plane} pixels")

    def parameters(self, tiling: Tiling) -> Ints:
        """The kernel's parameter vector for one tiling."""
        p = self.base.copy()
        p[kernel.TILE_K], p[kernel.TILE_N] = min(tiling.tile_k, self.gemm.k), min(tiling.tile_n, self.gemm.n)
        p[kernel.OUTER], p[kernel.MIDDLE] = AXES.index(tiling.order[0]), AXES.index(tiling.order[1])
        return p

    def tiles(self, tiling: Tiling) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
        """The kernel's tile arrays for one tiling: brick sizes along images, rows and columns, first writes, folds."""
        from .systolic import touched

        images, rows, columns = self.bricks(tiling.tile_m)
        starts = np.arange(0, self.images, images)
        batch = np.minimum(images, self.images - starts).astype(np.int64)
        row_out, row_in = touched(*self.vertical, rows)
        col_out, col_in = touched(*self.horizontal, columns)
        p = self.parameters(tiling)
        groups = self.gemm.groups if p[kernel.SKIPS] else 1
        folds = np.zeros((groups, -(-self.gemm.k // int(p[kernel.TILE_K])), -(-self.gemm.n // int(p[kernel.TILE_N])), 5),
                         dtype=np.int64)
        if p[kernel.FLOW] == kernel.WS:
            kernel.count_folds(p, self.blocks, folds)
        return batch, row_out, row_in, col_out, col_in, self._first_writes(), folds

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
        from .systolic import touched

        p, gemm = self.parameters(tiling), self.gemm
        images, rows, columns = self.bricks(tiling.tile_m)
        tile_k, tile_n = int(p[kernel.TILE_K]), int(p[kernel.TILE_N])
        row_out, row_in = touched(*self.vertical, rows)
        col_out, col_in = touched(*self.horizontal, columns)
        tiles_m = -(-self.images // images) * len(row_out) * len(col_out)
        tiles_k, tiles_n = -(-gemm.k // tile_k), -(-gemm.n // tile_n)
        channels = max(kernel.channels_touched.py_func(ki, p) if hasattr(kernel.channels_touched, "py_func")
                       else kernel.channels_touched(ki, p) for ki in (range(tiles_k) if tiles_k < 64 else range(64)))
        meta = int(p[kernel.META_BITS]) * tile_k * tile_n
        if p[kernel.SKIPS]:
            meta = -(-tile_k // int(p[kernel.ROWS])) * -(-tile_n // int(p[kernel.COLS]))
        inputs = images * int(row_in.max()) * int(col_in.max()) * int(channels) * int(p[kernel.INPUT_BITS])
        weights = tile_k * tile_n * int(p[kernel.WEIGHT_BITS]) + meta
        outputs = images * int(row_out.max()) * int(col_out.max()) * tile_n * int(p[kernel.PSUM_BITS])
        halves = (
            int(p[kernel.HALVES_I]) if tiles_m * tiles_k * gemm.groups > 1 else 1,
            int(p[kernel.HALVES_W]) if tiles_k * tiles_n * gemm.groups > 1 else 1,
            int(p[kernel.HALVES_O]) if tiles_m * tiles_n * gemm.groups > 1 else 1,
        )
        return (-(-inputs // 8) * halves[0], -(-weights // 8) * halves[1], -(-outputs // 8) * halves[2])
