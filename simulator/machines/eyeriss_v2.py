"""Eyeriss v2: clusters of PEs that visit only nonzero activations and, for each, only nonzero weights.

A PE takes a nonzero activation and multiplies it with the nonzero weights of its column, `simd` a cycle; PEs wait for
the slowest at the end of a pass.  Left out: fill and drain of the networks and the latency of a PE's pipeline.
docs/machines/eyeriss_v2.md is the text, ../reference/eyeriss_v2.py the twin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Gemm
from .limits import require_enumerable
from .passes import PassTable, best_cut
from .spread import with_explicit_inputs

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/eyeriss_v2.md."""

    cluster_rows: int
    cluster_cols: int
    pe_rows: int
    pe_cols: int
    simd: int = 2
    psum_entries: int = 32

    @property
    def pes(self) -> int:
        """Processing elements of all clusters."""
        return self.cluster_rows * self.cluster_cols * self.pe_rows * self.pe_cols

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers."""
        return self.pes * self.simd

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Zero activations are neither stored nor moved."""
        return True

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "csc", "input": "bitmask"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        return (*stored_without_zeros("weight"), *stored_without_zeros("input"), skipped("weight"), skipped("input"))

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        names = ("cluster_rows", "cluster_cols", "pe_rows", "pe_cols", "simd", "psum_entries")
        return [f"{name} = {getattr(self, name)}; expected an integer from 1 to {2**12}" for name in names
                if not 1 <= getattr(self, name) <= 2**12]


@dataclass(frozen=True, eq=False)
class Work:
    """Blocks of filters and what the PEs have to do for each.

    kept: int64[blocks, k], nonzero weights of each k in a block.  live: int64[groups, k, classes], nonzero
    activations of each k among the output pixels of a PE column.  group, filters: int64[blocks].
    """

    kept: Ints
    live: Ints
    group: Ints
    filters: Ints


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; raises InputError where no cut fits the buffers, saying by how many bytes."""
    require_enumerable(layer)
    gemm, spec = layer.operation.gemm(), machine.array
    explicit = with_explicit_inputs(layer)
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    work = divide(explicit, spec)
    if not work.kept.any():
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed")
    cycles = _count_time(counts, work, spec)
    _count_work(counts, work, explicit, spec)
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if machine.memory.memory != "ideal":
        table = pass_table(work, cycles, explicit, machine)
        where = f"layer {layer.name!r} on {machine.name}"
        chosen, added = best_cut(table, gemm.n, machine.memory, tiling, where)
        counts += added
        _count_fills(counts, work, table, explicit, spec, chosen)
    sparse = layer.packed_weight is not None or explicit.packed_input is not None
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense")


def live_by_class(layer: LayerTrace, classes: int) -> Ints:
    """int64[groups, k, classes]: nonzero activations of each k over the pixels p with p mod classes = class."""
    op, gemm, mask = layer.operation, layer.operation.gemm(), layer.input_mask
    if mask is None:
        sizes = np.bincount(np.arange(gemm.m) % classes, minlength=classes)
        return np.broadcast_to(sizes, (op.groups, gemm.k, classes)).astype(np.int64)

    def by_class(pixels: NDArray[np.bool_]) -> Ints:
        """bool[channels, m] summed over the pixels of each class."""
        padded = np.pad(pixels, ((0, 0), (0, -gemm.m % classes)))
        return np.asarray(padded.reshape(len(pixels), -1, classes).sum(axis=1, dtype=np.int64))

    if isinstance(op, Gemm):
        return by_class(mask.T)[None]
    image = np.pad(mask, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    image = np.ascontiguousarray(image.transpose(1, 0, 2, 3))
    live = np.empty((op.in_channels, op.kernel_h, op.kernel_w, classes), dtype=np.int64)
    for r in range(op.kernel_h):
        for s in range(op.kernel_w):
            y, x = r * op.dilation_h, s * op.dilation_w
            seen = image[:, :, y : y + (op.out_h - 1) * op.stride_h + 1 : op.stride_h,
                         x : x + (op.out_w - 1) * op.stride_w + 1 : op.stride_w]
            live[:, r, s] = by_class(seen.reshape(op.in_channels, gemm.m))
    return live.reshape(op.groups, gemm.k, classes)


def filters_per_block(layer: LayerTrace, spec: Spec) -> int:
    """Filters that a cluster row takes at a time: spread over the rows, and no more than the psum entries of a PE."""
    rows_per_group = max(1, spec.cluster_rows // layer.operation.groups)
    return min(spec.psum_entries, -(-layer.operation.gemm().n // rows_per_group))


def divide(layer: LayerTrace, spec: Spec) -> Work:
    """Cut the filters of every group into blocks and the pixels into classes."""
    block, n = filters_per_block(layer, spec), layer.operation.gemm().n
    starts = np.arange(0, n, block)
    weights = layer.weight_matrix()
    kept = np.add.reduceat(weights, starts, axis=2, dtype=np.int64).transpose(0, 2, 1)
    groups = len(weights)
    return Work(np.ascontiguousarray(kept.reshape(groups * len(starts), -1)),
                live_by_class(layer, min(spec.cluster_cols * spec.pe_cols, layer.operation.gemm().m)),
                np.repeat(np.arange(groups), len(starts)),
                np.tile(np.diff(np.append(starts, n)), groups))


def _count_time(counts: Ints, work: Work, spec: Spec) -> Ints:
    """Add the causes; int64[passes], the cycles of each pass: its slowest PE."""
    blocks = len(work.kept)
    vectors = -(-work.kept // spec.simd)
    rows = min(spec.pe_rows, work.kept.shape[1])
    times = np.empty((blocks, rows, work.live.shape[2]), dtype=np.int64)
    products = np.empty(blocks, dtype=np.int64)
    for group in range(len(work.live)):
        mine = np.flatnonzero(work.group == group)
        products[mine] = work.kept[mine] @ work.live[group].sum(axis=1)
        for row in range(rows):
            times[mine, row] = vectors[mine][:, row::spec.pe_rows] @ work.live[group][row::spec.pe_rows]
    first = np.arange(0, blocks, spec.cluster_rows)
    slowest = np.maximum.reduceat(times.max(axis=(1, 2)), first)
    # Of a pass: its products on full lanes of all PEs, then what lanes left empty add, then the wait for the slowest.
    compute = -(-np.add.reduceat(products, first) // spec.peak_macs_per_cycle)
    busy = -(-np.add.reduceat(times.sum(axis=(1, 2)), first) // spec.pes)
    counts[Count.COMPUTE] = compute.sum()
    counts[Count.FRAGMENTATION] = (busy - compute).sum()
    counts[Count.IMBALANCE] = (slowest - busy).sum()
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = products.sum()
    return slowest


def _count_work(counts: Ints, work: Work, layer: LayerTrace, spec: Spec) -> None:
    m = layer.operation.gemm().m
    products, weights = int(counts[Count.ISSUED_MACS]), int(work.kept.sum())
    counts[Count.SKIPPED_MACS] = layer.operation.macs - products
    entries = work.live.sum(axis=(1, 2))  # of the lowered input of a group
    visits = _visits(work, spec)
    counts[Count.INPUT_SRAM_READS] = (entries * visits).sum()
    counts[Count.INPUT_HOPS] = entries[work.group].sum()
    counts[Count.WEIGHT_SRAM_READS] = weights
    counts[Count.WEIGHT_HOPS] = weights * min(m, work.live.shape[2])
    counts[Count.PSUM_HOPS] = products
    counts[Count.OUTPUT_SRAM_WRITES] = m * int(work.filters.sum())
    metadata = int(_weight_metadata_bits(work, layer, spec).sum())
    bitmap = _input_words(layer)[0] if layer.packed_input is not None else np.zeros(1, dtype=np.int64)
    counts[Count.METADATA_SRAM_READ_BITS] = metadata + (bitmap * visits).sum()


def _count_fills(counts: Ints, work: Work, table: PassTable, layer: LayerTrace, spec: Spec, chosen: Tiling) -> None:
    """Elements that loads write into the buffers and stores read from them."""
    chunks, slabs = table.parts(chosen)
    words, nonzeros = _input_words(layer)
    loads = chunks if slabs > 1 else 1
    counts[Count.WEIGHT_SRAM_WRITES] = int(work.kept.sum()) * loads
    counts[Count.METADATA_SRAM_WRITE_BITS] = int(_weight_metadata_bits(work, layer, spec).sum()) * loads
    for index, groups in enumerate(_groups_of_passes(work, spec)):
        if not (chunks == slabs == 1 and table.same_input[index]):
            counts[Count.INPUT_SRAM_WRITES] += nonzeros[groups].sum()
            counts[Count.METADATA_SRAM_WRITE_BITS] += words[groups].sum() if layer.packed_input is not None else 0
    counts[Count.OUTPUT_SRAM_READS] += layer.operation.gemm().m * int(work.filters.sum())


def _groups_of_passes(work: Work, spec: Spec) -> list[Ints]:
    """For each pass the groups whose filters it has, in order."""
    return [np.unique(work.group[start : start + spec.cluster_rows])
            for start in range(0, len(work.group), spec.cluster_rows)]


def _visits(work: Work, spec: Spec) -> Ints:
    """int64[groups]: passes that need the inputs of each group."""
    return np.bincount(np.concatenate(_groups_of_passes(work, spec)), minlength=len(work.live))


def _weight_metadata_bits(work: Work, layer: LayerTrace, spec: Spec) -> Ints:
    """int64[blocks]: compressed columns, an index per weight and a count per k; none for a layer without a mask."""
    if layer.packed_weight is None:
        return np.zeros(len(work.kept), dtype=np.int64)
    block = filters_per_block(layer, spec)
    bits: Ints = work.kept.sum(axis=1) * (block - 1).bit_length() + work.kept.shape[1] * block.bit_length()
    return bits


def _input_words(layer: LayerTrace) -> tuple[Ints, Ints]:
    """Per group, int64[groups]: (words of the raw input, nonzero ones)."""
    groups = layer.operation.groups
    shape = layer.operation.input_shape
    words = np.full(groups, int(np.prod(shape)) // groups, dtype=np.int64)
    mask = layer.input_mask
    if mask is None:
        return words, words
    channels = mask.sum(axis=0 if isinstance(layer.operation, Gemm) else (0, 2, 3), dtype=np.int64)
    return words, channels.reshape(groups, -1).sum(axis=1)


def pass_table(work: Work, cycles: Ints, layer: LayerTrace, machine: Machine) -> PassTable:
    """What each pass moves: compressed weights of its blocks, compressed inputs of their groups, whole outputs."""
    spec: Spec = machine.array
    first = np.arange(0, len(work.kept), spec.cluster_rows)
    metadata = -(-np.add.reduceat(_weight_metadata_bits(work, layer, spec), first) // 8)
    values = np.add.reduceat(work.kept.sum(axis=1), first)
    words, nonzeros = _input_words(layer)
    bits = nonzeros * layer.input_bits + (words if layer.packed_input is not None else 0)
    group_bytes = -(-bits // 8)
    per_pass = _groups_of_passes(work, spec)
    same = [index > 0 and np.array_equal(groups, per_pass[index - 1]) for index, groups in enumerate(per_pass)]
    filters = np.add.reduceat(work.filters, first)
    gemm = layer.operation.gemm()
    return PassTable(
        weight_bytes=-(-values * layer.weight_bits // 8) + metadata, metadata_bytes=metadata,
        input_bytes=np.array([int(group_bytes[groups].sum()) for groups in per_pass], dtype=np.int64),
        output_bits=filters * layer.output_bits, held_bits=filters * machine.memory.psum_bits, cycles=cycles,
        same_input=np.array(same), same_weight=np.zeros(len(first), dtype=bool), rows=gemm.m, depth=gemm.k)
