"""Eyeriss v2, one clock cycle at a time: every PE walks its list of nonzero activations and their nonzero weights.

A PE does at most `simd` multiplications of one activation per cycle; all PEs start a pass together.  Activations that
only count as zero (a density stands for a mask) are added without a cycle.  docs/machines/eyeriss_v2.md is the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace
from ..workload import Gemm
from .lowered import GroupOperands, group_operands, operation_output
from .passes import PassTraffic, play_passes, stand_in_zeros

Ints = NDArray[np.int64]
Product = tuple[int, int, int]  # pixel, filter, value


@dataclass
class Pe:
    """A processing element: activations that wait, and the weights of the one in hand that are still to come."""

    waiting: list[tuple[int, int, list[tuple[int, int]]]]  # (pixel, activation, [(filter, weight)])
    left: list[tuple[int, int]] = field(default_factory=list)
    pixel: int = 0
    activation: int = 0

    def cycle(self, simd: int, sums: Ints) -> list[Product]:
        """One cycle; the multiplications that it did (none: nothing is left)."""
        if not self.left:
            if not self.waiting:
                return []
            self.pixel, self.activation, self.left = self.waiting.pop(0)
        now, self.left = self.left[:simd], self.left[simd:]
        done = [(self.pixel, n, self.activation * weight) for n, weight in now]
        for pixel, n, product in done:
            sums[pixel, n] += product
        return done


def run(
    layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints,
    watched: list[list[list[Product]]] | None = None,
) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape.

    `watched` collects, for each cycle, what each PE multiplied; PEs by block of the pass, then column, then row.
    """
    op, gemm, spec = layer.operation, layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = op.macs
    groups = group_operands(layer, inputs, weights)
    counted = _counts_as_nonzero(layer, inputs)
    live = [one.live for one in groups]
    if counted is not None:
        stand_in = LayerTrace("stand-in", op, None, counted)
        live = [one.live for one in group_operands(stand_in, counted.astype(np.int64), weights)]
    outputs = [np.zeros((gemm.m, gemm.n), dtype=np.int64) for _ in groups]
    rows_per_group = max(1, spec.cluster_rows // op.groups)
    size = min(spec.psum_entries, -(-gemm.n // rows_per_group))
    blocks = [(g, range(a, min(gemm.n, a + size))) for g in range(op.groups) for a in range(0, gemm.n, size)]
    if not weights.any():
        counts[Count.SKIPPED_MACS] = op.macs
        return (LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed"), operation_output(layer, outputs))
    passes: list[PassTraffic] = []
    before: list[int] = []
    for start in range(0, len(blocks), spec.cluster_rows):
        mine = blocks[start : start + spec.cluster_rows]
        cycles = _pass(mine, groups, live, outputs, machine, counts, watched)
        used = sorted({g for g, _ in mine})
        traffic = _traffic(mine, used, groups, layer, size, inputs, counted)
        traffic.cycles, traffic.same_input = cycles, used == before
        counts[Count.METADATA_SRAM_READ_BITS] += traffic.metadata_bits + traffic.bitmap_bits
        counts[Count.WEIGHT_SRAM_READS] += traffic.weights
        counts[Count.INPUT_SRAM_READS] += sum(int(live[g].sum()) for g in used)
        passes.append(traffic)
        before = used
    for group, one in enumerate(groups):
        # What only counts as zero has a value all the same.
        outputs[group] += np.where(live[group], 0, one.inputs) @ one.weights
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS]
    counts[Count.SKIPPED_MACS] = op.macs - counts[Count.ISSUED_MACS]
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if machine.memory.memory != "ideal":
        chosen = tiling
        counts += play_passes(passes, gemm.m, gemm.k, tiling, machine.memory, layer.output_bits)
    known = layer.packed_input is not None or counted is not None
    sparse = layer.packed_weight is not None or known
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense"), operation_output(layer, outputs)


def _counts_as_nonzero(layer: LayerTrace, inputs: Ints) -> NDArray[np.bool_] | None:
    if layer.packed_input is not None or layer.input_density == 1.0:
        return None
    return stand_in_zeros(inputs.shape, layer.input_density)


def _pass(blocks: list[tuple[int, range]], groups: list[GroupOperands], live: list[NDArray[np.bool_]],
          outputs: list[Ints], machine: Machine, counts: Ints, watched: list[list[list[Product]]] | None) -> int:
    """Clock all PEs until the last is done; the cycles it took."""
    spec = machine.array
    columns = spec.cluster_cols * spec.pe_cols
    pes: list[tuple[int, Pe]] = []
    for group, filters in blocks:
        pixels, depth = live[group].shape
        counts[Count.INPUT_HOPS] += int(live[group].sum())
        counts[Count.OUTPUT_SRAM_WRITES] += pixels * len(filters)
        kept = {k: [(n, int(groups[group].weights[k, n])) for n in filters if groups[group].weights[k, n]]
                for k in range(depth)}
        counts[Count.WEIGHT_HOPS] += sum(map(len, kept.values())) * min(columns, pixels)
        for column in range(columns):
            for row in range(spec.pe_rows):
                waiting = [(m, int(groups[group].inputs[m, k]), kept[k]) for k in range(row, depth, spec.pe_rows)
                           for m in range(column, pixels, columns) if live[group][m, k] and kept[k]]
                pes.append((group, Pe(waiting)))
    cycles = products = busy = 0
    while True:
        done = [pe.cycle(spec.simd, outputs[group]) for group, pe in pes]
        if not any(done):
            break
        cycles += 1
        products += sum(map(len, done))
        busy += sum(1 for multiplied in done if multiplied)
        if watched is not None:
            watched.append(done)
    full = -(-products // spec.peak_macs_per_cycle)
    working = -(-busy // (spec.cluster_rows * columns * spec.pe_rows))
    counts[Count.COMPUTE] += full
    counts[Count.FRAGMENTATION] += working - full
    counts[Count.IMBALANCE] += cycles - working
    counts[Count.ISSUED_MACS] += products
    counts[Count.PSUM_HOPS] += products
    return cycles


def _traffic(blocks: list[tuple[int, range]], used: list[int], groups: list[GroupOperands], layer: LayerTrace,
             size: int, inputs: Ints, counted: NDArray[np.bool_] | None) -> PassTraffic:
    """What a pass brings: compressed columns of its blocks, nonzeros and bitmap of its groups' inputs."""
    weights = metadata = 0
    for group, filters in blocks:
        part = groups[group].weights[:, filters.start : filters.stop]
        kept = int(np.count_nonzero(part))
        weights += kept
        if layer.packed_weight is not None:
            metadata += kept * (size - 1).bit_length() + len(part) * size.bit_length()
    elements = volume = bitmap = 0
    for group in used:
        nonzero = (inputs != 0) if counted is None else counted
        if not isinstance(layer.operation, Gemm):
            per = layer.operation.in_channels // layer.operation.groups
            nonzero = nonzero[:, group * per : (group + 1) * per]
        words = nonzero.size if counted is not None or layer.packed_input is not None else 0
        elements += int(nonzero.sum())
        bitmap += words
        volume += -(-(int(nonzero.sum()) * layer.input_bits + words) // 8)
    return PassTraffic(cycles=0, weights=weights, weight_bits=weights * layer.weight_bits, metadata_bits=metadata,
                       inputs=elements, input_bytes=volume, bitmap_bits=bitmap,
                       outputs_per_row=sum(len(filters) for _, filters in blocks), same_input=False)
