"""The pattern engine: vector lanes over output channels that walk the kept kernels of their filters, entry by entry.

Removed kernels take no time, a kept one as many cycles as its pattern has entries; what is lost is lost at changes of
the pattern and in lanes that wait for the longest of their group.  Left out: banks of the input buffer, and zeros of
the activations (they gate at most).  docs/machines/pattern_engine.md is the text, ../kernel_order.py the reordering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..formats import fkw_metadata_bits, index_bits
from ..hardware import Machine
from ..kernel_order import KernelOrder, filter_kernel_order, runs_in_channel_order
from ..lowering import useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Gemm
from .limits import require_enumerable
from .passes import STALLS, PassTable, best_cut

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Spec:
    """The engine; every field is explained in docs/machines/pattern_engine.md."""

    lanes: int
    pixels: int = 1
    reorder: bool = True
    pattern_switch_cycles: int = 1
    pipeline_registers: int = 2
    gating: str = "none"

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers: one per lane and pixel of its vector."""
        return self.lanes * self.pixels

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "fkw" if self.reorder else "patterns by kernel", "input": "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        found = (*stored_without_zeros("weight"), skipped("weight"))
        return (*found, gated("input")) if self.gating == "zeros" else found

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ranges = {"lanes": (1, 2**16), "pixels": (1, 2**16), "pattern_switch_cycles": (0, 2**16),
                  "pipeline_registers": (0, 2**16)}
        found = [f"{name} = {getattr(self, name)}; expected an integer from {low} to {high}"
                 for name, (low, high) in ranges.items() if not low <= getattr(self, name) <= high]
        if self.gating not in ("none", "zeros"):
            found.append(f"gating = {self.gating!r}; expected one of none, zeros")
        return found


@dataclass(frozen=True, eq=False)
class Work:
    """A layer's filters in order of execution, F of them in G groups of `lanes`.

    entries, runs: int64[F], kept weights and runs of one pattern.  kernels: int64[F], kept kernels.
    slowest: int64[G], cycles of a group's longest filter on one vector of pixels.  used: bool[G, in_channels], inputs
    that a group reads.  metadata_bits: int64[F], what a filter's part of the stored weights needs beside the values.
    shared_bits: what the layer needs once, the pattern table.
    """

    entries: Ints
    runs: Ints
    kernels: Ints
    slowest: Ints
    used: Bools
    metadata_bits: Ints
    shared_bits: int


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; tile_n of the tiling is the number of filters whose weights are loaded at a time.

    Raises InputError where no cut fits the buffers, saying by how many bytes.
    """
    require_enumerable(layer)
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    chosen = Tiling(gemm.m, gemm.k, gemm.n * layer.operation.groups)
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, chosen, "removed")
    order = filter_kernel_order(filters_of(layer), spec.pattern_switch_cycles)
    work = divide(layer, order, spec)
    _count_time(counts, work, gemm.m, spec)
    _count_work(counts, work, layer, spec)
    if machine.memory.memory != "ideal":
        chosen, added, loads = _with_memory(work, layer, machine, tiling)
        counts += added
        _count_fills(counts, work, layer, chosen, loads, spec)
    return LayerCounts(counts, chosen, executed_as(order, layer))


def filters_of(layer: LayerTrace) -> Bools:
    """The weight mask as bool[out, in/groups, window]: a fully connected layer is kernels of one entry."""
    operation, mask = layer.operation, layer.weight_mask
    shape = (operation.gemm().n * operation.groups, operation.gemm().k // operation.window, operation.window)
    if mask is None:
        return np.ones(shape, dtype=bool)
    return (np.ascontiguousarray(mask.T) if isinstance(operation, Gemm) else mask).reshape(shape)


def executed_as(order: KernelOrder, layer: LayerTrace) -> str:
    """`pattern 4` where all kept kernels have 4 of more entries, `kernel` where they are whole, else `unstructured`."""
    kept = order.pattern >= 0
    if layer.packed_weight is None or (kept.all() and order.patterns.all()):
        return "dense"
    sizes = np.unique(order.patterns.sum(axis=1))
    if sizes[0] == order.patterns.shape[1]:
        return "kernel"
    return f"pattern {sizes[0]}" if len(sizes) == 1 else "unstructured"


def divide(layer: LayerTrace, order: KernelOrder, spec: Spec) -> Work:
    """Deal the filters to the lanes, in the reordered order or as they lie."""
    filters = order.filters if spec.reorder else np.arange(len(order.filters))
    runs = order.runs if spec.reorder else runs_in_channel_order(order.pattern)
    kept = order.pattern >= 0
    entries, runs, kernels = order.entries[filters], runs[filters], kept.sum(axis=1, dtype=np.int64)[filters]
    first = np.arange(0, len(filters), spec.lanes)
    slowest = np.maximum.reduceat(entries + spec.pattern_switch_cycles * runs, first)
    metadata, shared = _metadata(layer, order, kernels, spec)
    return Work(entries, runs, kernels, slowest, _used_inputs(layer, kept, filters, first, spec), metadata, shared)


def _used_inputs(layer: LayerTrace, kept: Bools, filters: Ints, first: Ints, spec: Spec) -> Bools:
    """bool[groups of lanes, in_channels]: inputs that any filter of a group of lanes reads."""
    groups, (out, per) = layer.operation.groups, kept.shape
    if groups == 1:
        return np.logical_or.reduceat(kept[filters], first, axis=0)
    used = np.zeros((len(first), groups * per), dtype=bool)
    place, channel = np.nonzero(kept[filters])
    used[place // spec.lanes, filters[place] * groups // out * per + channel] = True
    return used


def _metadata(layer: LayerTrace, order: KernelOrder, kernels: Ints, spec: Spec) -> tuple[Ints, int]:
    """(bits per filter int64[F], bits of the layer): FKW, or a pattern number at every kernel if nothing is sorted."""
    (filters, channels), (patterns, window) = order.pattern.shape, order.patterns.shape
    if layer.packed_weight is None:
        return np.zeros(filters, dtype=np.int64), 0
    table = patterns * window
    if spec.reorder:
        total = fkw_metadata_bits(channels, filters, window, patterns, 0)
        return kernels * index_bits(channels) + (total - table) // filters, table
    return kernels * (index_bits(channels) + index_bits(patterns)) + index_bits(channels + 1), table


def _count_time(counts: Ints, work: Work, m: int, spec: Spec) -> None:
    """Split the cycles by what multipliers did in them, as differences of sums rounded up: they add up exactly."""
    vectors = -(-m // spec.pixels)
    slots = int(work.entries.sum()) * m
    used = int(work.entries.sum()) * vectors * spec.pixels  # the last vector of pixels may not be full
    idle = (spec.lanes - len(work.entries) % spec.lanes) % spec.lanes
    used += idle * int(work.slowest[-1]) * vectors * spec.pixels
    switching = used + spec.pattern_switch_cycles * int(work.runs.sum()) * vectors * spec.pixels
    compute, fragmented, switched = (-(-part // spec.peak_macs_per_cycle) for part in (slots, used, switching))
    counts[Count.COMPUTE] = compute
    counts[Count.FRAGMENTATION] = fragmented - compute
    counts[Count.WEIGHT_SHIFT] = switched - fragmented
    counts[Count.IMBALANCE] = int(work.slowest.sum()) * vectors - switched
    counts[Count.DRAIN] = spec.pipeline_registers


def _count_work(counts: Ints, work: Work, layer: LayerTrace, spec: Spec) -> None:
    m, weights = layer.operation.gemm().m, int(work.entries.sum())
    slots, vectors = weights * m, -(-m // spec.pixels)
    useful = useful_macs(layer)
    gated = slots - useful if spec.gating == "zeros" else 0
    counts[Count.USEFUL_MACS] = useful
    counts[Count.ISSUED_MACS], counts[Count.GATED_MACS] = slots - gated, gated
    counts[Count.SKIPPED_MACS] = layer.operation.macs - slots
    counts[Count.INPUT_SRAM_READS] = counts[Count.INPUT_HOPS] = counts[Count.PSUM_HOPS] = slots
    counts[Count.WEIGHT_SRAM_READS] = counts[Count.WEIGHT_HOPS] = weights * vectors
    counts[Count.METADATA_SRAM_READ_BITS] = int(work.metadata_bits.sum()) * vectors + work.shared_bits
    counts[Count.OUTPUT_SRAM_WRITES] = m * int(np.count_nonzero(work.entries))


def _with_memory(work: Work, layer: LayerTrace, machine: Machine, tiling: Tiling | None
                 ) -> tuple[Tiling, Ints, tuple[PassTable, Ints]]:
    """(tiling, what the memory adds, (passes, first filter of each)): 1, 2, 4, ... or all groups of lanes in a pass."""
    where, spec = f"layer {layer.name!r} on {machine.name}", machine.array
    filters, groups = len(work.entries), len(work.slowest)
    sizes = sorted({groups, *(2**power for power in range(groups.bit_length()))}, reverse=True)
    if tiling is not None:
        sizes = [-(-tiling.tile_n // spec.lanes)]
    best: tuple[int, Tiling, Ints, tuple[PassTable, Ints]] | None = None
    refused: InputError | None = None
    for size in sizes:
        first = np.arange(0, groups, size)
        table = pass_table(work, first, layer, machine)
        try:
            chosen, added = best_cut(table, min(filters, size * spec.lanes), machine.memory, tiling, where)
        except InputError as error:
            refused = error  # the last one has the smallest passes
            continue
        stalls = int(added[list(STALLS)].sum())
        if best is None or stalls < best[0]:
            best = stalls, chosen, added, (table, first)
        if stalls == 0:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best[1:]


def pass_table(work: Work, first: Ints, layer: LayerTrace, machine: Machine) -> PassTable:
    """What the passes move that begin at the groups of lanes `first`; the pattern table comes with the first one."""
    gemm, spec = layer.operation.gemm(), machine.array
    at = first * spec.lanes
    metadata_bits = np.add.reduceat(work.metadata_bits, at)
    metadata_bits[0] += work.shared_bits
    metadata = -(-metadata_bits // 8)
    live = np.add.reduceat((work.entries > 0).astype(np.int64), at)
    used = np.logical_or.reduceat(work.used, first)
    plane = int(np.prod(layer.operation.input_shape)) // work.used.shape[1]
    same = np.zeros(len(first), dtype=bool)
    same[1:] = (used[1:] == used[:-1]).all(axis=1)
    vectors = -(-gemm.m // spec.pixels)
    cycles = np.add.reduceat(work.slowest, first) * vectors
    cycles[-1] += spec.pipeline_registers
    return PassTable(
        weight_bytes=-(-np.add.reduceat(work.entries, at) * layer.weight_bits // 8) + metadata,
        metadata_bytes=metadata,
        input_bytes=-(-used.sum(axis=1, dtype=np.int64) * plane * layer.input_bits // 8),
        output_bits=live * layer.output_bits, held_bits=live * machine.memory.psum_bits, cycles=cycles,
        same_input=same, same_weight=np.zeros(len(first), dtype=bool), rows=gemm.m, depth=gemm.k)


def _count_fills(counts: Ints, work: Work, layer: LayerTrace, chosen: Tiling, passes: tuple[PassTable, Ints],
                 spec: Spec) -> None:
    """Elements that loads write into the buffers and stores read from them."""
    table, first = passes
    chunks, slabs = table.parts(chosen)
    loads = chunks if slabs > 1 else 1
    counts[Count.WEIGHT_SRAM_WRITES] = int(work.entries.sum()) * loads
    counts[Count.METADATA_SRAM_WRITE_BITS] = (int(work.metadata_bits.sum()) + work.shared_bits) * loads
    plane = int(np.prod(layer.operation.input_shape)) // work.used.shape[1]
    words = np.logical_or.reduceat(work.used, first).sum(axis=1, dtype=np.int64) * plane
    again = table.same_input if chunks == slabs == 1 else np.zeros(len(first), dtype=bool)
    counts[Count.INPUT_SRAM_WRITES] = words[~again].sum()
    counts[Count.OUTPUT_SRAM_READS] = layer.operation.gemm().m * int(np.count_nonzero(work.entries))
