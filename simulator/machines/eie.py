"""EIE: a fully connected layer from compressed columns, every nonzero activation broadcast to all PEs.

A PE keeps the filters that are dealt to it and works off a queue of activations; a full queue holds the broadcast back.
Left out: the cycles of pointer look-up and of the search for nonzeros, which run ahead.  docs/machines/eie.md is the
text, ../reference/eie.py the twin, eie_kernel.py the event model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..trace import LayerTrace
from ..workload import Gemm, Operation
from .limits import require_enumerable
from .passes import PassTable, best_cut
from .spread import with_explicit_inputs

Ints = NDArray[np.int64]
POINTER_BITS = 16  # EIE (Han et al., ISCA 2016), section IV: 16-bit pointers to the columns of a PE


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/eie.md."""

    pes: int
    queue_depth: int = 8
    index_bits: int = 4

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers: one a PE."""
        return self.pes

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def longest_run(self) -> int:
        """Zeros that one entry can skip; -1 where indices are absolute."""
        return 2**self.index_bits - 1 if self.index_bits else -1

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "csc", "input": "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        reads = SparseAction("skip", "buffer", "weight", "input")
        return (*stored_without_zeros("weight"), reads, skipped("weight"), skipped("input"), gated("weight", "filler"))

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ranges = {"pes": (1, 2**14), "queue_depth": (1, 2**20), "index_bits": (0, 32)}
        return [f"{name} = {getattr(self, name)}; expected an integer from {low} to {high}"
                for name, (low, high) in ranges.items() if not low <= getattr(self, name) <= high]


def supports(operation: Operation) -> bool:
    """A GEMM: the machine has no convolution."""
    return isinstance(operation, Gemm)


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer, vector after vector.

    Raises InputError for a convolution, and where no cut of the columns fits the buffers, saying by how many bytes.
    """
    where = f"layer {layer.name!r} on {machine.name}"
    if not supports(layer.operation):
        raise InputError("a convolution", where=where, expected="a fully connected layer (GEMM)",
                         fix="choose a machine that runs convolutions, or simulate the fully connected layers alone")
    require_enumerable(layer)
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = gemm.macs
    weights = layer.weight_matrix()[0]
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = gemm.macs
        return LayerCounts(counts, chosen, "removed")
    explicit = with_explicit_inputs(layer)
    mask = explicit.input_mask
    live = np.ones((gemm.m, gemm.k), dtype=bool) if mask is None else np.ascontiguousarray(mask)
    entries, cycles = _array(weights, live, spec)
    _count(counts, weights, live, entries, cycles, spec)
    if machine.memory.memory != "ideal":
        table = _pass_table(entries, cycles, layer, machine)
        chosen, added = best_cut(table, gemm.n, machine.memory, tiling, where)
        counts += added
        loads = 1 if table.parts(chosen)[1] == 1 else gemm.m
        counts[Count.WEIGHT_SRAM_WRITES] = entries.sum() * loads
        counts[Count.METADATA_SRAM_WRITE_BITS] = _metadata_bits(entries, spec) * loads
        counts[Count.INPUT_SRAM_WRITES] = gemm.m * gemm.k
        counts[Count.OUTPUT_SRAM_READS] = gemm.m * gemm.n
    sparse = layer.packed_weight is not None or mask is not None
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense")


def _array(weights: NDArray[np.bool_], live: NDArray[np.bool_], spec: Spec) -> tuple[Ints, Ints]:
    """(entries int64[k, PEs that have filters], cycles int64[m])."""
    from . import eie_kernel as kernel

    entries = np.zeros((len(weights), min(spec.pes, weights.shape[1])), dtype=np.int64)
    kernel.count_entries(np.ascontiguousarray(weights), spec.longest_run, entries)
    cycles = np.zeros(len(live), dtype=np.int64)
    # A queue longer than the vector is never full.
    kernel.all_cycles(live, entries, min(spec.queue_depth, len(weights)), cycles)
    return entries, cycles


def _count(counts: Ints, weights: NDArray[np.bool_], live: NDArray[np.bool_], entries: Ints, cycles: Ints,
           spec: Spec) -> None:
    m, n = len(live), weights.shape[1]
    alive = live.astype(np.int64)
    useful = alive @ weights.sum(axis=1, dtype=np.int64)
    stored = alive @ entries.sum(axis=1)
    begun = cycles > 0
    compute, busy = -(-useful // spec.pes), -(-stored // spec.pes)
    counts[Count.FILL] = begun.sum()  # the first activation of a vector is on its way
    counts[Count.COMPUTE] = compute.sum()
    counts[Count.FRAGMENTATION] = (busy - compute).sum()
    counts[Count.IMBALANCE] = (cycles - begun - busy).sum()
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = counts[Count.PSUM_HOPS] = useful.sum()
    counts[Count.GATED_MACS] = (stored - useful).sum()
    counts[Count.SKIPPED_MACS] = counts[Count.DENSE_MACS] - stored.sum()
    counts[Count.INPUT_SRAM_READS] = live.size
    counts[Count.INPUT_HOPS] = alive.sum() * spec.pes
    counts[Count.WEIGHT_SRAM_READS] = stored.sum()
    counts[Count.METADATA_SRAM_READ_BITS] = stored.sum() * spec.index_bits + alive.sum() * spec.pes * 2 * POINTER_BITS
    counts[Count.OUTPUT_SRAM_WRITES] = m * n


def _metadata_bits(entries: Ints, spec: Spec) -> int:
    """Indices of all entries, and the pointers of every PE."""
    return int(entries.sum()) * spec.index_bits + (len(entries) + 1) * spec.pes * POINTER_BITS


def _pass_table(entries: Ints, cycles: Ints, layer: LayerTrace, machine: Machine) -> PassTable:
    """A pass is an input vector; the weights stay for all of them where they fit at once."""
    gemm, number = layer.operation.gemm(), len(cycles)
    metadata = -(-_metadata_bits(entries, machine.array) // 8)

    def every(value: int) -> Ints:
        return np.full(number, value, dtype=np.int64)

    return PassTable(
        weight_bytes=every(-(-int(entries.sum()) * layer.weight_bits // 8) + metadata), metadata_bytes=every(metadata),
        input_bytes=every(-(-gemm.k * layer.input_bits // 8)), output_bits=every(gemm.n * layer.output_bits),
        held_bits=every(gemm.n * machine.memory.psum_bits), cycles=cycles, same_input=np.zeros(number, dtype=bool),
        same_weight=np.arange(number) > 0, rows=1, depth=gemm.k)
