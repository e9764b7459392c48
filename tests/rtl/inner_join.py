"""The inner-join cluster as memories of the RTL, from docs/machines/sparten.md, and what the twin says it does.

Unit = its place in the cluster; the first slots are the units' products, then come the sums with which items end.
Pairs of filters on one unit (`gb_s`) are made here as the text says, not by the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import Gemm, LayerTrace
from simulator.counts import Count
from simulator.hardware import Machine, Memory
from simulator.machines.sparten import Spec
from simulator.mapping import Tiling
from simulator.reference import sparten as reference

from .sparse import Ints, Trace, Write, blank, operand, random_mask

# Constants of inner_join_cluster.sv.
CHUNKS = ITEMS = 16


@dataclass(frozen=True)
class Cluster:
    """One cluster; balancing is none (a filter per unit) or gb_s (a densest with a sparsest)."""

    units: int
    chunk: int
    balancing: str = "none"

    def __str__(self) -> str:
        return f"join-{self.units}units-chunk{self.chunk}-{self.balancing}"

    top = "inner_join_cluster"

    @property
    def filters(self) -> int:
        """Filters of a unit, at most."""
        return 1 if self.balancing == "none" else 2

    @property
    def slots(self) -> int:
        """Products and sums."""
        return self.units * (1 + self.filters)

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the top module."""
        return {"UNITS": self.units, "CHUNK": self.chunk, "FILTERS": self.filters}

    @property
    def machine(self) -> Machine:
        """The simulator's description, array alone."""
        spec = Spec(1, self.units, self.chunk, self.balancing)
        assert not spec.problems()
        return Machine(str(self), "sparten", spec, Memory(memory="ideal"))


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


def draw(cluster: Cluster, rng: np.random.Generator) -> Case:
    """1 to 6 items of 1 to 2 whole or ragged chunks or up to 5; not all weights are zero."""
    groups = int(rng.integers(1, 4))
    m = int(rng.integers(1, 6 // groups + 1))
    most = min(CHUNKS // m, CHUNKS // groups, 2 if cluster.chunk > 32 else 5)
    k = int(rng.integers(1, most * cluster.chunk + 1))
    per_group = cluster.units * cluster.filters
    n = int(rng.integers((groups - 1) * per_group + 1, groups * per_group + 1))
    inputs, weights = operand(rng, random_mask(rng, (m, k))), operand(rng, random_mask(rng, (k, n)))
    if not weights.any():
        weights[rng.integers(0, k), rng.integers(0, n)] = -128
    return Case(inputs, weights)


def assignment(cluster: Cluster, weights: Ints) -> list[list[list[int]]]:
    """[filter group][unit] -> its filters."""
    n = weights.shape[1]
    units = [[f] for f in range(n)]
    if cluster.balancing == "gb_s":
        order = sorted(range(n), key=lambda f: (-np.count_nonzero(weights[:, f]), f))
        units = [[order[i], order[n - 1 - i]] if i < n - 1 - i else [order[i]] for i in range(-(-n // 2))]
    groups = [units[first : first + cluster.units] for first in range(0, len(units), cluster.units)]
    return [group + [[]] * (cluster.units - len(group)) for group in groups]


def _mask_bytes(live: NDArray[np.bool_], chunk: int) -> list[int]:
    """The bitmask in whole chunks, 8 bits at a time, lowest first."""
    padded = np.zeros(-(-len(live) // chunk) * chunk, dtype=bool)
    padded[: len(live)] = live
    return [int(byte) for byte in np.packbits(padded, bitorder="little")]


def memories(cluster: Cluster, case: Case) -> list[Write]:
    """What is written into the cluster before the run."""
    (m, k), groups = case.inputs.shape, assignment(cluster, case.weights)
    writes = [(0, 0, 0, -(-k // cluster.chunk)), (0, 0, 1, m), (0, 0, 2, len(groups))]

    def store(memory: int, unit: int, first: int, words: list[int]) -> None:
        writes.extend((memory, unit, first + address, word) for address, word in enumerate(words))

    store(1, 0, 0, [byte for row in case.inputs for byte in _mask_bytes(row != 0, cluster.chunk)])
    store(2, 0, 0, [int(value) & 0xFF for row in case.inputs for value in row[row != 0]])
    none = np.zeros(k, dtype=np.int64)
    for unit in range(cluster.units):
        for place in range(cluster.filters):
            mine = [group[unit][place] if place < len(group[unit]) else None for group in groups]
            columns = [none if f is None else case.weights[:, f] for f in mine]
            masks = [_mask_bytes(column != 0, cluster.chunk) for column in columns]
            store(3, unit, place << 16, [byte for mask in masks for byte in mask])
            store(4, unit, place << 16, [int(value) & 0xFF for column in columns for value in column[column != 0]])
            store(5, unit, place << 16, [int(f is not None) for f in mine])
    return writes


def places(cluster: Cluster) -> list[tuple[int, int]]:
    """Every sum of every unit."""
    return [(unit, place) for unit in range(cluster.units) for place in range(ITEMS * cluster.filters)]


def twin_trace(
    cluster: Cluster, case: Case, run: Callable[..., tuple[object, Ints]] = reference.run
) -> tuple[Trace, Ints]:
    """The twin's cycles as the RTL's are recorded, and its output; `run` may be a mutated twin."""
    watched: list[list[reference.Watched]] = []
    (m, k), n = case.inputs.shape, case.weights.shape[1]
    _, output = run(case.layer, cluster.machine, Tiling(m, k, n), case.inputs, case.weights, watched)
    groups, per_unit = assignment(cluster, case.weights), ITEMS * cluster.filters
    trace = blank(len(watched[0]), cluster.slots, cluster.units, cluster.units * per_unit)
    for cycle, seen in enumerate(watched[0]):
        for unit, filters in enumerate(groups[seen.filter_group]):
            trace.stall[cycle, unit] = seen.waits[unit]
            product = seen.products[unit]
            if product is not None:
                f, of_k, value = product
                trace.busy[cycle, unit] = trace.valid[cycle, unit] = 1
                trace.place[cycle, unit] = filters.index(f) * cluster.chunk + of_k - seen.chunk * cluster.chunk
                trace.value[cycle, unit] = value
            for place, f in enumerate(filters if seen.item_done else []):
                at = cycle, cluster.units + unit * cluster.filters + place
                item = (seen.filter_group * m + seen.position) * cluster.filters + place
                trace.valid[at], trace.place[at], trace.value[at] = 1, item, output[seen.position, f]
                trace.sums[unit * per_unit + item] = output[seen.position, f]
    return trace, output


def output_of(cluster: Cluster, case: Case, trace: Trace) -> Ints:
    """The output [m, n] that the sums are."""
    m, n = case.inputs.shape[0], case.weights.shape[1]
    output = np.zeros((m, n), dtype=np.int64)
    sums = trace.sums.reshape(cluster.units, ITEMS, cluster.filters)
    for number, group in enumerate(assignment(cluster, case.weights)):
        for unit, filters in enumerate(group):
            for place, f in enumerate(filters):
                output[:, f] = sums[unit, number * m : (number + 1) * m, place]
    return output


def causes(cluster: Cluster, trace: Trace) -> dict[Count, int]:
    """Where the cycles went, from what the units did: one that neither multiplies nor waits had nothing to do."""
    busy, slots = int(trace.busy.sum()), cluster.units * trace.cycles
    compute, unfilled = -(-busy // cluster.units), (slots - busy - int(trace.stall.sum())) // cluster.units
    return {Count.COMPUTE: compute, Count.FRAGMENTATION: unfilled,
            Count.IMBALANCE: trace.cycles - compute - unfilled, Count.ISSUED_MACS: busy}


# Chunks of 8, 16, 32 and 128; one unit, several; one filter per unit, pairs.
CLUSTERS = [
    Cluster(4, 8),
    Cluster(3, 16, "gb_s"),
    Cluster(1, 32),
    Cluster(2, 128),
    Cluster(2, 8, "gb_s"),
]
