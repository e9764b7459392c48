"""SparTen: clusters of units that join two bitmasks chunk by chunk, with a broadcast barrier after each chunk.

Both operands are sparse and only matching nonzeros take a cycle; what is lost is lost at barriers, in units without a
filter and in the network that routes sums.  Left out: outputs stored compressed, cuts along k.  Read
docs/machines/sparten.md for the text, sparten_kernel.py for the inner join, sparten_memory.py for the cut into tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..lowering import useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Conv2d

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
MOST_WEIGHTS, MOST_ITEMS = 2**28, 2**24  # what is listed one by one, within a gigabyte
BALANCING = ("none", "gb_s", "gb_h")


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/sparten.md."""

    clusters: int
    units_per_cluster: int
    chunk: int = 128
    balancing: str = "gb_h"
    routing_bandwidth: int = 4

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers: one per unit."""
        return self.clusters * self.units_per_cluster

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Zeros of the inputs are neither stored nor moved."""
        return True

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "bitmask", "input": "bitmask"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        return (*stored_without_zeros("weight"), *stored_without_zeros("input"), skipped("weight"), skipped("input"))

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        for name in ("clusters", "units_per_cluster", "chunk", "routing_bandwidth"):
            if not 1 <= getattr(self, name) <= 2**16:
                found.append(f"{name} = {getattr(self, name)}; expected an integer from 1 to {2**16}")
        if self.balancing not in BALANCING:
            found.append(f"balancing = {self.balancing!r}; expected one of {', '.join(BALANCING)}")
        return found


@dataclass(frozen=True, eq=False)
class Work:
    """A layer as filter groups on positions; G groups of the operation, F filter groups in each, m positions.

    cycles, routing: int64[G, F, m], cycles of the units and further ones of routing; empty: chunks without a match.
    filters, units, nonzeros: int64[G, F], filters in a filter group, units that have one, their nonzero weights.
    inputs: int64[G, m], nonzero inputs that a position reads.  slots: multiplications in all.
    """

    cycles: Ints
    routing: Ints
    empty: Ints
    filters: Ints
    units: Ints
    nonzeros: Ints
    inputs: Ints
    slots: int

    @property
    def total(self) -> Ints:
        """int64[G, F, m]: cycles that a cluster spends on a filter group at a position."""
        return self.cycles + self.routing


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; the tiling is searched where the memory is not ideal and none is given.

    Raises InputError where no tiling (or not the given one) fits the buffers, saying by how many bytes.
    """
    from . import sparten_memory as memory

    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed")
    work = measure(layer, spec)
    if machine.memory.memory == "ideal":
        chosen, cycles, visits = Tiling(gemm.m, gemm.k, gemm.n), memory.ideal_cycles(work, spec), None
    else:
        chosen, cycles, visits, added = memory.with_memory(work, layer, machine, tiling)
        counts += added
    _count_time(counts, work, spec, cycles)
    _count_work(counts, work, layer, spec, visits)
    return LayerCounts(counts, chosen, "unstructured")


def measure(layer: LayerTrace, spec: Spec) -> Work:
    """Cycles of every filter group at every position."""
    from . import sparten_kernel as kernel

    gemm, groups = layer.operation.gemm(), layer.operation.groups
    _require_listable(layer, spec)
    kept = _filters(layer)
    known = layer.packed_input is not None
    parts: list[tuple[Ints, ...]] = []
    for g in range(groups):
        # Without an input mask all positions are alike: one of them is joined.
        inputs = pack(lowered_mask(layer, g) if known else np.ones((1, gemm.k), dtype=bool), spec.chunk)
        weights = pack(kept[g], spec.chunk)
        in_chunk = np.bitwise_count(weights).sum(axis=2, dtype=np.int64)
        filters = filter_slots(in_chunk, spec)
        used = filters[:, 0] >= 0
        members = used.sum(axis=(1, 2))
        routing = -(-members // spec.routing_bandwidth) if spec.balancing == "gb_h" else np.zeros_like(members)
        found = np.zeros((len(filters), len(inputs), 4), dtype=np.int64)
        kernel.join(inputs, _for_units(weights, filters), routing.astype(np.int64), found)
        parts.append((
            *np.broadcast_to(found, (len(filters), gemm.m, 4)).transpose(2, 0, 1),
            members,
            used.any(axis=2).sum(axis=1),
            np.where(used, in_chunk.sum(axis=1)[filters[:, 0]], 0).sum(axis=(1, 2)),
            np.broadcast_to(np.bitwise_count(inputs).sum(axis=(1, 2), dtype=np.int64), (gemm.m,)),
        ))
    # One group, the usual case, needs no copy.
    cycles, further, empty, products, filled, units, nonzeros, read = (
        column[0][None] if groups == 1 else np.stack(column) for column in zip(*parts, strict=True))
    return Work(cycles, further, empty, filled, units, nonzeros, read, int(products.sum()))


def _filters(layer: LayerTrace) -> Bools:
    """bool[groups, n, k]: the nonzero weights, filter by filter."""
    gemm, mask = layer.operation.gemm(), layer.weight_mask
    if mask is None:
        return np.ones((layer.operation.groups, gemm.n, gemm.k), dtype=bool)
    if isinstance(layer.operation, Conv2d):
        return mask.reshape(layer.operation.groups, gemm.n, gemm.k)
    return np.ascontiguousarray(mask.T)[None]


def _require_listable(layer: LayerTrace, spec: Spec) -> None:
    """Every weight, and every position of every filter group, is looked at: their number is bounded here."""
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    per = spec.units_per_cluster * (1 if spec.balancing == "none" else 2)
    items = gemm.m * -(-gemm.n // per) * groups
    for what, count, most in (("weights", gemm.k * gemm.n * groups, MOST_WEIGHTS),
                              ("filter groups times positions", items, MOST_ITEMS)):
        if count > most:
            raise InputError(f"{count} {what}", where=f"layer {layer.name!r}", expected=f"at most {most}",
                             fix="split the layer")


def lowered_mask(layer: LayerTrace, group: int) -> Bools:
    """bool[m, k]: nonzero inputs of one group as the GEMM sees them; padding is zero."""
    mask, op = layer.input_mask, layer.operation
    assert mask is not None
    if not isinstance(op, Conv2d):
        return mask
    per = op.in_channels // op.groups
    own = mask[:, group * per : (group + 1) * per]
    padded = np.pad(own, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    image, channel, row, col = padded.strides
    shape = (op.batch, op.out_h, op.out_w, per, op.kernel_h, op.kernel_w)
    steps = (image, row * op.stride_h, col * op.stride_w, channel, row * op.dilation_h, col * op.dilation_w)
    windows = np.lib.stride_tricks.as_strided(padded, shape, steps, writeable=False)
    return windows.reshape(op.gemm().m, op.gemm().k)


def pack(mask: Bools, chunk: int) -> Words:
    """uint64[rows, chunks, words] of bool[rows, k]; every chunk starts a word."""
    rows, k = mask.shape
    chunks, words = -(-k // chunk), -(-chunk // 64)
    if chunk % 64 == 0:
        packed = np.packbits(mask, axis=1)
        bytes_ = np.zeros((rows, chunks * words * 8), dtype=np.uint8)
        bytes_[:, : packed.shape[1]] = packed
        return bytes_.view(np.uint64).reshape(rows, chunks, words)
    padded = np.zeros((rows, chunks * chunk), dtype=bool)
    padded[:, :k] = mask
    whole = np.zeros((rows, chunks, words * 64), dtype=bool)
    whole[:, :, :chunk] = padded.reshape(rows, chunks, chunk)
    return np.packbits(whole, axis=2).view(np.uint64).reshape(rows, chunks, words)


def filter_slots(in_chunk: Ints, spec: Spec) -> Ints:
    """int64[filter groups, chunks, units, filters per unit]: which filter a unit works on, -1 = none.

    in_chunk: int64[n, chunks], nonzeros of a filter in a chunk.  The members of a filter group are the same in every
    chunk; gb_h exchanges them between units.
    """
    (n, chunks), units = in_chunk.shape, spec.units_per_cluster
    per_unit = 1 if spec.balancing == "none" else 2
    places = -(-n // (per_unit * units)) * units
    slots = np.full((places, per_unit), -1, dtype=np.int64)
    if spec.balancing == "none":
        slots[:n, 0] = np.arange(n)
    else:
        _pair(slots, np.argsort(-in_chunk.sum(axis=1), kind="stable"))
    whole = np.repeat(slots.reshape(-1, 1, units, per_unit), chunks, axis=1)
    if spec.balancing == "gb_h":
        for group in whole:
            members = np.sort(group[0][group[0] >= 0])
            ranks = members[np.argsort(-in_chunk[members].T, axis=1, kind="stable")]
            for c in range(chunks):
                _pair(group[c], ranks[c])
    return whole


def _pair(slots: Ints, order: Ints) -> None:
    """Fill slots[i] with the i-th and the last but i-th of `order`; the middle one stays alone."""
    half = len(order) // 2
    slots[: len(order) - half, 0] = order[: len(order) - half]
    slots[:half, 1] = order[::-1][:half]


def _for_units(packed: Words, filters: Ints) -> Words:
    """uint64[filter groups, chunks, filters per unit, words, units], as the kernel reads them."""
    none = np.zeros((1, *packed.shape[1:]), dtype=np.uint64)
    chosen = np.concatenate([packed, none])[filters, np.arange(packed.shape[1])[:, None, None]]
    return np.ascontiguousarray(chosen.transpose(0, 1, 3, 4, 2))


def _count_time(counts: Ints, work: Work, spec: Spec, cycles: int) -> None:
    """Split the array's cycles by what the units did in them: unit-cycles over the number of units, whole cycles."""
    peak = spec.peak_macs_per_cycle
    idle = spec.units_per_cluster - work.units
    unfilled = (int((work.cycles.sum(axis=2) * idle).sum()) + int((work.empty.sum(axis=2) * work.units).sum()))
    counts[Count.COMPUTE] = -(-work.slots // peak)
    counts[Count.FRAGMENTATION] = unfilled // peak
    counts[Count.DRAIN] = int(work.routing.sum()) * spec.units_per_cluster // peak
    counts[Count.IMBALANCE] = cycles - sum(int(counts[item]) for item in
                                           (Count.COMPUTE, Count.FRAGMENTATION, Count.DRAIN))


def _count_work(counts: Ints, work: Work, layer: LayerTrace, spec: Spec, visits: Ints | None) -> None:
    """Work and traffic on chip; visits: int64[G, F], how often a cluster takes a filter group into its units."""
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    useful = work.slots if layer.packed_input is not None else useful_macs(layer)
    if visits is None:
        visits = np.full(work.filters.shape, min(spec.clusters, gemm.m), dtype=np.int64)
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = useful
    counts[Count.GATED_MACS] = work.slots - useful
    counts[Count.SKIPPED_MACS] = layer.operation.macs - work.slots
    counts[Count.WEIGHT_HOPS] = counts[Count.PSUM_HOPS] = work.slots
    broadcast = work.inputs.sum(axis=1)
    counts[Count.INPUT_SRAM_READS] = int(broadcast.sum()) * work.filters.shape[1]
    counts[Count.INPUT_HOPS] = (broadcast * work.units.sum(axis=1)).sum()
    counts[Count.WEIGHT_SRAM_READS] = (visits * work.nonzeros).sum()
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * gemm.n * groups
    counts[Count.METADATA_SRAM_READ_BITS] = gemm.k * (
        gemm.m * work.filters.size + int((visits * work.filters).sum()))
