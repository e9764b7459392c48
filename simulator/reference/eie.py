"""EIE, one clock cycle at a time: a broadcast bus, a queue and an accumulator per PE, entries walked one by one.

Weights lie in the PEs as (zeros before it, value) pairs, with fillers in long runs.  Activations that only count as
zero (a density stands for a mask) are added without a cycle.  docs/machines/eie.md is the text.
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
from .passes import PassTraffic, play_passes, stand_in_zeros

Ints = NDArray[np.int64]
POINTER_BITS = 16


@dataclass
class Pe:
    """Columns of (zeros before it, value), a queue of activations, and the place in the column at its head."""

    columns: list[list[tuple[int, int]]]
    queue: deque[tuple[int, int]] = field(default_factory=deque)  # (k, activation); the head is being worked on
    at: int = 0  # next entry of the head's column
    row: int = -1  # local row of the last entry

    def drop_finished(self) -> None:
        """Heads without a further entry leave; their look-up ran ahead."""
        while self.queue and self.at == len(self.columns[self.queue[0][0]]):
            self.queue.popleft()
            self.at, self.row = 0, -1

    def cycle(self, sums: dict[int, int]) -> int | None:
        """One multiplication; the weight it used, None where there is nothing to do."""
        if not self.queue:
            return None
        k, activation = self.queue[0]
        zeros, value = self.columns[k][self.at]
        self.row += zeros + 1
        self.at += 1
        sums[self.row] = sums.get(self.row, 0) + value * activation
        return value


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a fully connected layer on real operands, and its output int64[m, n]."""
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = gemm.macs
    output = np.zeros((gemm.m, gemm.n), dtype=np.int64)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = gemm.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed"), output
    columns = [[_compress(weights[k, pe :: spec.pes], spec.index_bits) for k in range(gemm.k)]
               for pe in range(spec.pes)]
    entries = sum(len(column) for one in columns for column in one)
    known = layer.packed_input is not None or layer.input_density < 1.0
    live = inputs != 0 if layer.packed_input is not None else stand_in_zeros(inputs.shape, layer.input_density)
    metadata = entries * spec.index_bits + (gemm.k + 1) * spec.pes * POINTER_BITS
    passes = []
    for m in range(gemm.m):
        cycles = _vector(inputs[m], live[m], columns, output[m], counts, machine)
        output[m] += np.where(live[m], 0, inputs[m]) @ weights
        counts[Count.INPUT_SRAM_READS] += gemm.k
        counts[Count.OUTPUT_SRAM_WRITES] += gemm.n
        passes.append(PassTraffic(
            cycles=cycles, weights=entries, weight_bits=entries * layer.weight_bits, metadata_bits=metadata,
            inputs=gemm.k, input_bytes=-(-gemm.k * layer.input_bits // 8), bitmap_bits=0, outputs_per_row=gemm.n,
            same_input=False, same_weight=m > 0))
    slots = int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS])
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS]
    counts[Count.SKIPPED_MACS] = gemm.macs - slots
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if machine.memory.memory != "ideal":
        chosen = tiling
        counts += play_passes(passes, 1, gemm.k, tiling, machine.memory, layer.output_bits)
    sparse = layer.packed_weight is not None or known
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense"), output


def _compress(values: Ints, index_bits: int) -> list[tuple[int, int]]:
    """(zeros before it, value) of a column in a PE; a run too long for the index holds zeros of its own."""
    stored: list[tuple[int, int]] = []
    pending: list[tuple[int, int]] = []  # fillers that count only if a nonzero follows
    zeros = 0
    for value in map(int, values):
        if value:
            stored += [*pending, (zeros, value)]
            pending, zeros = [], 0
        elif index_bits and zeros == 2**index_bits - 1:
            pending.append((zeros, 0))
            zeros = 0
        else:
            zeros += 1
    return stored


def _vector(activations: Ints, live: NDArray[np.bool_], columns: list[list[list[tuple[int, int]]]], output: Ints,
            counts: Ints, machine: Machine) -> int:
    """Clock the PEs over one input vector; the cycles it took."""
    spec = machine.array
    pes = [Pe(column) for column in columns]
    sums: list[dict[int, int]] = [{} for _ in pes]
    waiting = deque((k, int(activations[k])) for k in range(len(live)) if live[k])
    cycles = useful = fillers = 0
    first = True
    while waiting or any(pe.queue for pe in pes):
        # What is broadcast at this edge can be worked on at the next.
        room = all(len(pe.queue) < spec.queue_depth for pe in pes)
        for pe, total in zip(pes, sums, strict=True):
            weight = pe.cycle(total)
            useful += weight is not None and weight != 0
            fillers += weight == 0
        if waiting and room:
            activation = waiting.popleft()
            for pe in pes:
                pe.queue.append(activation)
            counts[Count.INPUT_HOPS] += spec.pes
            counts[Count.METADATA_SRAM_READ_BITS] += spec.pes * 2 * POINTER_BITS
        for pe in pes:
            pe.drop_finished()
        cycles += 1
        counts[Count.FILL] += first
        first = False
    busy = -(-(useful + fillers) // spec.pes)
    full = -(-useful // spec.pes)
    counts[Count.COMPUTE] += full
    counts[Count.FRAGMENTATION] += busy - full
    counts[Count.IMBALANCE] += max(0, cycles - 1) - busy
    counts[Count.ISSUED_MACS] += useful
    counts[Count.GATED_MACS] += fillers
    counts[Count.PSUM_HOPS] += useful
    counts[Count.WEIGHT_SRAM_READS] += useful + fillers
    counts[Count.METADATA_SRAM_READ_BITS] += (useful + fillers) * spec.index_bits
    for number, total in enumerate(sums):
        for row, value in total.items():
            output[row * spec.pes + number] += value
    return cycles
