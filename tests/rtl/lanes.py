"""The zero-skipping lanes as memories of the RTL, from docs/machines/eyeriss_v2.md, and what the twin says they do.

Lane = block of a pass, then column of PEs, then row, as in the twin.  A case is a GEMM of 1 to 6 passes, which are
the RTL's tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator import Gemm, LayerTrace
from simulator.counts import Count
from simulator.hardware import Machine, Memory
from simulator.machines.eyeriss_v2 import Spec
from simulator.mapping import Tiling
from simulator.reference import eyeriss_v2 as reference

from .sparse import Ints, Trace, Write, blank, operand, random_mask

# Defaults of zero_skipping_lane.sv.
TILES, COLUMNS, PIXELS, FILTERS = 6, 8, 4, 8


@dataclass(frozen=True)
class Lanes:
    """An array of lanes, its clusters of one row and one column."""

    cluster_rows: int
    pe_cols: int
    pe_rows: int
    simd: int
    psum_entries: int

    def __str__(self) -> str:
        return f"lanes-{self.cluster_rows}x{self.pe_cols}x{self.pe_rows}-simd{self.simd}-psum{self.psum_entries}"

    top = "zero_skipping_lanes"

    @property
    def units(self) -> int:
        """Lanes."""
        return self.cluster_rows * self.pe_cols * self.pe_rows

    @property
    def slots(self) -> int:
        """Multipliers."""
        return self.units * self.simd

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the top module."""
        return {"UNITS": self.units, "SIMD": self.simd}

    @property
    def machine(self) -> Machine:
        """The simulator's description, array alone."""
        spec = Spec(self.cluster_rows, 1, self.pe_rows, self.pe_cols, self.simd, self.psum_entries)
        assert not spec.problems()
        return Machine(str(self), "eyeriss_v2", spec, Memory(memory="ideal"))


@dataclass(frozen=True, eq=False)
class Case:
    """inputs: [m, k], weights: [k, n]; zeros of both are known."""

    inputs: Ints
    weights: Ints

    @property
    def layer(self) -> LayerTrace:
        """The case as the simulator takes it."""
        (m, k), n = self.inputs.shape, self.weights.shape[1]
        return LayerTrace("case", Gemm(m, k, n), self.weights != 0, self.inputs != 0)

    @property
    def product(self) -> Ints:
        """The output that it must have."""
        return self.inputs @ self.weights


def draw(lanes: Lanes, rng: np.random.Generator) -> Case:
    """Any GEMM that the RTL's memories hold; not all weights are zero, since such a layer is left out."""
    m = int(rng.integers(1, PIXELS * lanes.pe_cols + 1))
    k = int(rng.integers(1, COLUMNS * lanes.pe_rows + 1))
    n = int(rng.integers(1, TILES * lanes.cluster_rows * lanes.psum_entries + 1))
    inputs, weights = operand(rng, random_mask(rng, (m, k))), operand(rng, random_mask(rng, (k, n)))
    if not weights.any():
        weights[rng.integers(0, k), rng.integers(0, n)] = -128
    return Case(inputs, weights)


def block_size(lanes: Lanes, n: int) -> int:
    """Filters of a block."""
    return min(lanes.psum_entries, -(-n // lanes.cluster_rows))


def memories(lanes: Lanes, case: Case) -> list[Write]:
    """What is written into the lanes before the run."""
    size, n = block_size(lanes, case.weights.shape[1]), case.weights.shape[1]
    writes = []
    for unit in range(lanes.units):
        block, rest = divmod(unit, lanes.pe_cols * lanes.pe_rows)
        column, row = divmod(rest, lanes.pe_rows)
        activations = case.inputs[column :: lanes.pe_cols, row :: lanes.pe_rows].T  # [columns, pixels]
        live, values, starts, entries = [], [], [0], []
        for tile in range(TILES):
            first = (tile * lanes.cluster_rows + block) * size
            mine = case.weights[row :: lanes.pe_rows, first : min(first + size, n)]
            for c in range(COLUMNS):
                pixels = activations[c] if c < len(activations) and first < n else []
                live += [int(p < len(pixels) and pixels[p] != 0) for p in range(PIXELS)]
                values += [int(value) & 0xFF for value in pixels if value]
                column_of_weights = mine[c] if c < len(mine) else []
                entries += [f << 8 | int(w) & 0xFF for f, w in enumerate(column_of_weights) if w]
                starts.append(len(entries))
        for memory, words in ((1, live), (2, values), (3, starts), (4, entries)):
            writes += [(memory, unit, address, word) for address, word in enumerate(words)]
    return writes


def places(lanes: Lanes) -> list[tuple[int, int]]:
    """Every accumulator of every lane."""
    return [(unit, place) for unit in range(lanes.units) for place in range(TILES * PIXELS * FILTERS)]


def twin_trace(
    lanes: Lanes, case: Case, run: Callable[..., tuple[object, Ints]] = reference.run
) -> tuple[Trace, Ints]:
    """The twin's cycles as the RTL's are recorded, and its output; `run` may be a mutated twin."""
    watched: list[list[list[tuple[int, int, int]]]] = []
    (m, k), n = case.inputs.shape, case.weights.shape[1]
    _, output = run(case.layer, lanes.machine, Tiling(m, k, n), case.inputs, case.weights, watched)
    size, area = block_size(lanes, n), TILES * PIXELS * FILTERS
    trace = blank(len(watched), lanes.slots, lanes.units, lanes.units * area)
    for cycle, units in enumerate(watched):
        for unit in range(lanes.units):
            products = units[unit] if unit < len(units) else []
            trace.busy[cycle, unit], trace.stall[cycle, unit] = bool(products), not products
            for slot, (pixel, n_of, value) in enumerate(products):
                block, column = divmod(unit // lanes.pe_rows, lanes.pe_cols)
                tile = (n_of // size - block) // lanes.cluster_rows
                place = (tile * PIXELS + pixel // lanes.pe_cols) * FILTERS + n_of % size
                assert pixel % lanes.pe_cols == column
                at = cycle, unit * lanes.simd + slot
                trace.valid[at], trace.place[at], trace.value[at] = 1, place, value
                trace.sums[unit * area + place] += value
    return trace, output


def output_of(lanes: Lanes, case: Case, trace: Trace) -> Ints:
    """The output [m, n] that the accumulators add up to: sums of the PE rows of a column."""
    (m, _), n = case.inputs.shape, case.weights.shape[1]
    size, output = block_size(lanes, n), np.zeros((m, n), dtype=np.int64)
    sums = trace.sums.reshape(lanes.cluster_rows, lanes.pe_cols, lanes.pe_rows, TILES, PIXELS, FILTERS).sum(axis=2)
    for pixel, filter_ in np.ndindex(m, n):
        tile, block = divmod(filter_ // size, lanes.cluster_rows)
        output[pixel, filter_] = sums[block, pixel % lanes.pe_cols, tile, pixel // lanes.pe_cols, filter_ % size]
    return output


def causes(lanes: Lanes, trace: Trace) -> dict[Count, int]:
    """Where the cycles went, from what the lanes did, pass by pass."""
    found = dict.fromkeys((Count.COMPUTE, Count.FRAGMENTATION, Count.IMBALANCE), 0)
    tile = trace.place.max(axis=1, initial=0) // (PIXELS * FILTERS)
    for one in range(TILES):
        mine = tile == one
        full = -(-int(trace.valid[mine].sum()) // lanes.slots)
        working = -(-int(trace.busy[mine].sum()) // lanes.units)
        found[Count.COMPUTE] += full
        found[Count.FRAGMENTATION] += working - full
        found[Count.IMBALANCE] += int(mine.sum()) - working
    return {**found, Count.ISSUED_MACS: int(trace.valid.sum())}


# SIMD 1, 2 and 3; one lane; lanes that share pixels, channels and filters.
LANES = [
    Lanes(1, 1, 1, simd=1, psum_entries=8),
    Lanes(1, 1, 1, simd=3, psum_entries=7),
    Lanes(2, 2, 2, simd=2, psum_entries=5),
    Lanes(1, 1, 3, simd=1, psum_entries=3),
]
