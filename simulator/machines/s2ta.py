"""S2TA: a systolic array of tensor PEs for density-bound blocks, of weights and of activations.

A block of k has at most n nonzero weights and, layer by layer, a bound of nonzero activations, which enter one per
cycle; time is known from the bounds alone.  Left out: pruning of activations on the fly, the read-out of results.
docs/machines/s2ta.md is the text, ../reference/s2ta.py the twin, blocks.py the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..lowering import nonzero_inputs_per_row, useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..trace import LayerTrace
from .blocks import (
    AXES,
    in_blocks,
    most_activations,
    most_stored,
    most_weights,
    parse_bound,
    run_shape,
    weight_runs,
)
from .limits import require_enumerable
from .passes import PassTable, best_cut

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/s2ta.md."""

    rows: int
    cols: int
    datapath_rows: int
    datapath_cols: int
    weight_bound: str = "4:8"
    activation_bounds: tuple[str, ...] = ()
    time_unrolled: bool = True
    blocks_along: str = "k"

    @property
    def block(self) -> int:
        """Entries of k in a block."""
        return self._bound[1]

    @property
    def weights_per_block(self) -> int:
        """Weights of a block that a datapath holds."""
        return self._bound[0]

    @property
    def bounds(self) -> tuple[int, ...]:
        """Nonzero activations per block that the array can be set to; all of a block is always among them."""
        found = (parse_bound(text) for text in self.activation_bounds)
        return tuple(sorted({self.block, *(bound[0] for bound in found if bound)}))

    @property
    def multipliers(self) -> int:
        """Multipliers of a datapath: one where activations come one by one, else one per weight of a block."""
        return 1 if self.time_unrolled else self.weights_per_block

    @property
    def tile_m(self) -> int:
        """Output rows of the array."""
        return self.rows * self.datapath_rows

    @property
    def tile_n(self) -> int:
        """Output columns of the array."""
        return self.cols * self.datapath_cols

    @property
    def skew(self) -> int:
        """Cycles from the first operands of the first tensor PE to those of the last."""
        return self.rows + self.cols - 2

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers of the array."""
        return self.tile_m * self.tile_n * self.multipliers

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Zero activations beyond the bound are neither stored nor moved."""
        return self.time_unrolled

    @property
    def _bound(self) -> tuple[int, int]:
        return parse_bound(self.weight_bound) or (1, 1)

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": self.weight_bound, "input": "bound" if self.time_unrolled else "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        found = (*stored_without_zeros("weight", "bound"), gated("weight"), gated("input"))
        if not self.time_unrolled:
            return *found, skipped("weight", "bound")
        return *found, *stored_without_zeros("input", "bound"), skipped("input", "bound")

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = [f"{name} = {getattr(self, name)}; expected an integer from 1 to {2**12}"
                 for name in ("rows", "cols", "datapath_rows", "datapath_cols")
                 if not 1 <= getattr(self, name) <= 2**12]
        if parse_bound(self.weight_bound) is None:
            return [*found, f"weight_bound = {self.weight_bound!r}; expected \"n:m\", such as \"4:8\", m up to 64"]
        for text in self.activation_bounds:
            bound = parse_bound(text)
            if bound is None or bound[1] != self.block:
                found.append(f"activation_bounds holds {text!r}; expected bounds such as \"3:{self.block}\", of the "
                             "block that weight_bound names")
        if self.blocks_along not in AXES:
            found.append(f"blocks_along = {self.blocks_along!r}; expected one of {', '.join(AXES)}")
        return found


@dataclass(frozen=True)
class Plan:
    """How a layer's blocks run.  size: entries of a block; weights: that a datapath holds of it; activations: that
    stream by; compressed: zero weights are left out of the store.  blocks: of one group's k.  weight_slots,
    activation_slots: what a filter and a row of inputs have in them."""

    size: int
    weights: int
    activations: int
    compressed: bool
    blocks: int
    weight_slots: int
    activation_slots: int

    def cycles(self, spec: Spec) -> int:
        """Cycles in which the blocks of an output tile stream, skew not included."""
        return self.blocks * (self.activations if spec.time_unrolled else 1)

    def name(self) -> str:
        """What was exploited, as a text."""
        weights = f"{self.weights}:{self.size}" if self.compressed else "dense"
        return weights if self.activations == self.size else f"{weights}, inputs {self.activations}:{self.size}"


@dataclass(frozen=True)
class Stored:
    """A group's inputs in memory: elements, and bits that say which entries of the blocks they are."""

    elements: int
    bitmap_bits: int


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; raises InputError where no cut fits the buffers, saying by how many bytes."""
    require_enumerable(layer)
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = op.macs
        return LayerCounts(counts, chosen, "removed")
    plan = plan_of(layer, spec)
    _count_time(counts, plan, layer, spec)
    _count_work(counts, plan, layer, spec)
    if machine.memory.memory != "ideal":
        stored = stored_inputs(layer, spec)
        table = _pass_table(plan, stored, layer, machine)
        chosen, added = best_cut(table, gemm.n, machine.memory, tiling, f"layer {layer.name!r} on {machine.name}")
        counts += added
        _count_fills(counts, plan, stored, layer, table, chosen)
    return LayerCounts(counts, chosen, plan.name())


def plan_of(layer: LayerTrace, spec: Spec) -> Plan:
    """The longest blocks that the weights fit, and the smallest bound that the activations keep in them."""
    masked = layer.packed_weight is not None
    weights = weight_runs(layer, spec.blocks_along) if masked else None
    runs, length = run_shape(layer.operation, spec.blocks_along)
    held = spec.weights_per_block
    sizes = [size for size in range(spec.block, 0, -1) if spec.block % size == 0]
    size = next(size for size in sizes if most_weights(weights, length, size) <= held)
    bound = size
    if spec.time_unrolled and layer.packed_input is not None:
        bound = covering(spec, most_activations(layer, size, spec.blocks_along), size)
    held = min(held, size)
    return Plan(size=size, weights=held, activations=bound, compressed=masked and held < size,
                blocks=runs * -(-length // size), weight_slots=runs * in_blocks(length, held, size),
                activation_slots=runs * in_blocks(length, bound, size))


def covering(spec: Spec, most: int, size: int) -> int:
    """The smallest bound of the array that holds `most` nonzero activations in a block of `size`."""
    return min(size, *(bound for bound in spec.bounds if bound >= most))


def stored_inputs(layer: LayerTrace, spec: Spec) -> Stored:
    """A group's raw inputs, in blocks of channels at the smallest bound that covers them, if that leaves any out."""
    op = layer.operation
    channels = op.gemm().k // op.window
    words = int(np.prod(op.input_shape)) // op.groups
    if spec.time_unrolled and layer.packed_input is not None:
        size = min(spec.block, channels)
        bound = covering(spec, most_stored(layer, spec.block), spec.block)
        if bound < size:
            return Stored(words // channels * in_blocks(channels, bound, spec.block), words)
    return Stored(words, 0)


def _count_time(counts: Ints, plan: Plan, layer: LayerTrace, spec: Spec) -> None:
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    tiles = groups * -(-gemm.m // spec.tile_m) * -(-gemm.n // spec.tile_n)
    stream = tiles * plan.cycles(spec)
    # Cycles of datapaths that have an output, and those of them in which an operand below the bound is missing.
    given = groups * gemm.m * gemm.n * plan.cycles(spec) * spec.multipliers
    if not spec.time_unrolled:
        busy = gemm.m * layer.weight_nnz
    elif layer.packed_input is not None:
        busy = gemm.n * int(nonzero_inputs_per_row(layer).sum())
    else:
        busy = gemm.n * groups * gemm.m * gemm.k
    counts[Count.FRAGMENTATION] = stream - -(-given // spec.peak_macs_per_cycle)
    counts[Count.IMBALANCE] = (given - busy) // spec.peak_macs_per_cycle
    counts[Count.COMPUTE] = stream - counts[Count.FRAGMENTATION] - counts[Count.IMBALANCE]
    counts[Count.DRAIN] = tiles * spec.skew


def _count_work(counts: Ints, plan: Plan, layer: LayerTrace, spec: Spec) -> None:
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    inputs, filters = groups * gemm.m, groups * gemm.n
    row_tiles, col_tiles = -(-gemm.m // spec.tile_m), -(-gemm.n // spec.tile_n)
    used_rows, used_cols = -(-gemm.m // spec.datapath_rows), -(-gemm.n // spec.datapath_cols)
    streamed = plan.activation_slots
    slots = inputs * gemm.n * (streamed if spec.time_unrolled else plan.weight_slots)
    useful = useful_macs(layer)
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = counts[Count.PSUM_HOPS] = useful
    counts[Count.GATED_MACS] = slots - useful
    counts[Count.SKIPPED_MACS] = layer.operation.macs - slots
    counts[Count.INPUT_SRAM_READS] = inputs * streamed * col_tiles
    counts[Count.INPUT_HOPS] = inputs * streamed * used_cols
    counts[Count.WEIGHT_SRAM_READS] = filters * plan.weight_slots * row_tiles
    counts[Count.WEIGHT_HOPS] = filters * plan.weight_slots * used_rows
    counts[Count.OUTPUT_SRAM_WRITES] = inputs * gemm.n
    if plan.compressed:
        counts[Count.METADATA_SRAM_READ_BITS] += filters * gemm.k * row_tiles
    if plan.activations < plan.size:
        counts[Count.METADATA_SRAM_READ_BITS] += inputs * gemm.k * col_tiles


def _pass_table(plan: Plan, stored: Stored, layer: LayerTrace, machine: Machine) -> PassTable:
    """A pass is a column of output tiles of a group: its filters, all inputs of the group."""
    spec: Spec = machine.array
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    starts = np.arange(0, gemm.n, spec.tile_n)
    filters = np.tile(np.minimum(spec.tile_n, gemm.n - starts), groups).astype(np.int64)
    metadata = -(-filters * gemm.k // 8) if plan.compressed else np.zeros_like(filters)
    tile_cycles = -(-gemm.m // spec.tile_m) * (plan.cycles(spec) + spec.skew)
    return PassTable(
        weight_bytes=-(-filters * plan.weight_slots * layer.weight_bits // 8) + metadata, metadata_bytes=metadata,
        input_bytes=np.full_like(filters, -(-(stored.elements * layer.input_bits + stored.bitmap_bits) // 8)),
        output_bits=filters * layer.output_bits, held_bits=filters * machine.memory.psum_bits,
        cycles=np.full_like(filters, tile_cycles), same_input=np.arange(len(filters)) % len(starts) > 0,
        same_weight=np.zeros(len(filters), dtype=bool), rows=gemm.m, depth=gemm.k)


def _count_fills(counts: Ints, plan: Plan, stored: Stored, layer: LayerTrace, table: PassTable,
                 chosen: Tiling) -> None:
    """Elements that loads write into the buffers and stores read from them."""
    gemm, filters = layer.operation.gemm(), layer.operation.groups * layer.operation.gemm().n
    chunks, slabs = table.parts(chosen)
    weight_loads = chunks if slabs > 1 else 1
    input_loads = int((~table.same_input).sum()) if chunks == slabs == 1 else len(table.cycles)
    counts[Count.WEIGHT_SRAM_WRITES] = filters * plan.weight_slots * weight_loads
    counts[Count.INPUT_SRAM_WRITES] = stored.elements * input_loads
    counts[Count.METADATA_SRAM_WRITE_BITS] = (
        (filters * gemm.k * weight_loads if plan.compressed else 0) + stored.bitmap_bits * input_loads)
    counts[Count.OUTPUT_SRAM_READS] += filters * gemm.m
