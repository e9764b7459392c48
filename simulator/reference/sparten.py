"""SparTen, one clock cycle at a time: every unit multiplies one matching pair of real integers per cycle, or waits.

A cluster broadcasts a chunk and goes on when its last unit is done and the sums are routed; what a unit does in each
cycle is counted as it happens.  docs/machines/sparten.md is the text, ../machines/sparten.py the fast engine.
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
from ..steps import Steps
from ..trace import LayerTrace
from ..workload import Conv2d
from .lowered import GroupOperands, group_operands, operation_output
from .steps import play

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Watched:
    """One cycle of a cluster: (filter, k, value) that each unit multiplied or None, and what follows it.

    waits: per unit, whether it idles while another unit multiplies.  item_done: after this cycle its sums are whole.
    """

    group: int
    filter_group: int
    position: int
    chunk: int
    products: tuple[tuple[int, int, int] | None, ...]
    waits: tuple[bool, ...]
    item_done: bool


@dataclass(frozen=True)
class Item:
    """A filter group at a position: what a cluster takes on at once."""

    group: int
    filter_group: int
    position: int


@dataclass
class Spent:
    """Unit-cycles by what they were spent on."""

    busy: int = 0
    unfilled: int = 0
    routing: int = 0


@dataclass
class Group:
    """One group of the operation: its operands, and per filter group and chunk the filters of each unit."""

    operands: GroupOperands
    units: list[list[list[list[int]]]]  # [filter group][chunk][unit] -> filters
    output: Ints

    def members(self, filter_group: int) -> list[int]:
        """The filters of a filter group."""
        return [n for unit in self.units[filter_group][0] for n in unit]


@dataclass
class Cluster:
    """Units behind one broadcast."""

    machine: Machine
    groups: list[Group]
    counts: Ints
    spent: Spent
    items: deque[Item] = field(default_factory=deque)
    chunk: int = 0
    queues: list[list[tuple[int, int]]] | None = None  # of the chunk in the units: (filter, k) still to do
    waits: int = 0  # cycles that the sums of the chunk still need in the network
    matched: bool = False
    held: tuple[int, int] | None = None  # filter group whose weights are in the units
    watched: list[Watched] | None = None

    def edge(self) -> None:
        """One cycle."""
        if not self.items:
            return
        item = self.items[0]
        group = self.groups[item.group]
        first = self.queues is None
        if self.queues is None:
            self.queues = self._broadcast(item, group)
        joining = first or any(self.queues)
        products: list[tuple[int, int, int] | None] = [None] * len(self.queues)
        waits = [False] * len(self.queues)
        for unit, queue in enumerate(self.queues):
            if queue:
                n, k = queue.pop(0)
                products[unit] = n, k, self._multiply(group, item.position, k, n)
            elif not joining:
                self.spent.routing += 1
            elif not group.units[item.filter_group][0][unit] or not self.matched:
                self.spent.unfilled += 1
            else:
                waits[unit] = True
        self.waits -= 1
        chunk, chunk_done = self.chunk, not any(self.queues) and self.waits <= 0
        if chunk_done:
            self._next_chunk(item, group)
        if self.watched is not None:
            self.watched.append(Watched(item.group, item.filter_group, item.position, chunk, tuple(products),
                                        tuple(waits), chunk_done and self.chunk == 0))

    def _broadcast(self, item: Item, group: Group) -> list[list[tuple[int, int]]]:
        spec = self.machine.array
        if self.held != (item.group, item.filter_group):
            self.held = (item.group, item.filter_group)
            for n in group.members(item.filter_group):
                self.counts[Count.WEIGHT_SRAM_READS] += np.count_nonzero(group.operands.weights[:, n])
                self.counts[Count.METADATA_SRAM_READ_BITS] += group.operands.weights.shape[0]
        span = range(self.chunk * spec.chunk, min((self.chunk + 1) * spec.chunk, group.operands.weights.shape[0]))
        live = [k for k in span if group.operands.live[item.position, k]]
        self.counts[Count.INPUT_SRAM_READS] += len(live)
        self.counts[Count.METADATA_SRAM_READ_BITS] += len(span)
        queues = []
        for unit, filters in enumerate(group.units[item.filter_group][self.chunk]):
            if group.units[item.filter_group][0][unit]:
                self.counts[Count.INPUT_HOPS] += len(live)
            queues.append([(n, k) for n in filters for k in live if group.operands.weights[k, n] != 0])
        self.matched = any(queues)
        self.waits = 0
        if spec.balancing == "gb_h":
            self.waits = -(-len(group.members(item.filter_group)) // spec.routing_bandwidth)
        return queues

    def _multiply(self, group: Group, position: int, k: int, n: int) -> int:
        product = int(group.operands.inputs[position, k] * group.operands.weights[k, n])
        group.output[position, n] += product
        self.spent.busy += 1
        for count in (Count.WEIGHT_HOPS, Count.PSUM_HOPS):
            self.counts[count] += 1
        return product

    def _next_chunk(self, item: Item, group: Group) -> None:
        self.queues = None
        self.chunk += 1
        if self.chunk == len(group.units[0]):
            self.chunk = 0
            self.items.popleft()
            self.counts[Count.OUTPUT_SRAM_WRITES] += len(group.members(item.filter_group))


def run(
    layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints,
    watched: list[list[Watched]] | None = None,
) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, and its output in the operation's shape.

    `watched` becomes one list per cluster of its cycles with work.
    """
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    groups = [Group(one, _units(one.weights, machine), np.zeros((gemm.m, gemm.n), dtype=np.int64))
              for one in group_operands(layer, inputs, weights)]
    if not weights.any():
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return (LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed"),
                operation_output(layer, [group.output for group in groups]))
    spent = Spent()
    clusters = [Cluster(machine, groups, counts, spent) for _ in range(spec.clusters)]
    if watched is not None:
        for cluster in clusters:
            cluster.watched = []
            watched.append(cluster.watched)
    if machine.memory.memory == "ideal":
        whole = [Item(g, f, p) for g in range(len(groups)) for f in range(len(groups[0].units)) for p in range(gemm.m)]
        cycles, chosen = _compute(whole, clusters, len(groups[0].units), gemm.m), Tiling(gemm.m, gemm.k, gemm.n)
    else:
        cycles, chosen = _through_memory(layer, machine, tiling, groups, clusters, counts), tiling
    slots = spec.clusters * spec.units_per_cluster
    counts[Count.COMPUTE] = -(-spent.busy // slots)
    counts[Count.FRAGMENTATION] = spent.unfilled // slots
    counts[Count.DRAIN] = spent.routing // slots
    counts[Count.IMBALANCE] = cycles - counts[[Count.COMPUTE, Count.FRAGMENTATION, Count.DRAIN]].sum()
    useful = spent.busy
    if layer.packed_input is None:
        # Only a share is known: it tells how many products matter, not which.
        useful = int(np.floor(layer.input_density * spent.busy + 0.5)) if layer.input_density < 1 else spent.busy
    counts[Count.USEFUL_MACS] = counts[Count.ISSUED_MACS] = useful
    counts[Count.GATED_MACS] = spent.busy - useful
    counts[Count.SKIPPED_MACS] = layer.operation.macs - spent.busy
    return LayerCounts(counts, chosen, "unstructured"), operation_output(layer, [group.output for group in groups])


def _compute(items: list[Item], clusters: list[Cluster], filter_groups: int, m: int) -> int:
    """Cycles until every cluster has done its share of `items`."""
    for item in items:
        number = (item.group * filter_groups + item.filter_group) * m + item.position
        clusters[number % len(clusters)].items.append(item)
    for cluster in clusters:
        cluster.held = None
    cycles = 0
    while any(cluster.items for cluster in clusters):
        for cluster in clusters:
            cluster.edge()
        cycles += 1
    return cycles


def _units(weights: Ints, machine: Machine) -> list[list[list[list[int]]]]:
    """[filter group][chunk][unit] -> the filters that the unit works on."""
    spec, (k, n) = machine.array, weights.shape
    kept = weights != 0
    chunks = [range(a, min(k, a + spec.chunk)) for a in range(0, k, spec.chunk)]
    per_unit = [[i] for i in range(n)] if spec.balancing == "none" else _pairs(list(range(n)), kept)
    found = []
    for first in range(0, len(per_unit), spec.units_per_cluster):
        own = per_unit[first : first + spec.units_per_cluster]
        rows = []
        for span in chunks:
            pairs = own
            if spec.balancing == "gb_h":
                pairs = _pairs(sorted(i for unit in own for i in unit), kept[span.start : span.stop])
            rows.append(pairs + [[] for _ in range(spec.units_per_cluster - len(pairs))])
        found.append(rows)
    return found


def _pairs(filters: list[int], kept: NDArray[np.bool_]) -> list[list[int]]:
    """Densest with sparsest, second with second last, ...; of equals the lower number counts as the denser."""
    line = sorted(filters, key=lambda n: (-int(kept[:, n].sum()), n))
    pairs = []
    while line:
        pairs.append([line.pop(0)] + ([line.pop()] if line else []))
    return pairs


def _through_memory(layer: LayerTrace, machine: Machine, tiling: Tiling, groups: list[Group],
                    clusters: list[Cluster], counts: Ints) -> int:
    """Run tile after tile; adds what the memory does and returns the cycles of the array."""
    gemm, n_groups = layer.operation.gemm(), len(groups[0].units)
    per = len(groups[0].members(0))
    run = -(-tiling.tile_n // per)
    runs = [range(a, min(a + run, n_groups)) for a in range(0, n_groups, run)]
    bricks = _bricks(layer, tiling.tile_m)
    if tiling.order == "mnk":
        tiles = [(g, fs, ps) for g in range(len(groups)) for ps in bricks for fs in runs]
    else:
        tiles = [(g, fs, ps) for g in range(len(groups)) for fs in runs for ps in bricks]
    columns: list[list[int]] = []
    before: tuple[object, object] = (None, None)
    for g, fs, ps in tiles:
        filters = [n for f in fs for n in groups[g].members(f)]
        weight = inputs = metadata = 0
        if before[0] != (g, fs):
            nonzeros = int(np.count_nonzero(groups[g].operands.weights[:, filters]))
            metadata = gemm.k * len(filters)
            weight = nonzeros * layer.weight_bits + metadata
            counts[Count.WEIGHT_SRAM_WRITES] += nonzeros
            counts[Count.METADATA_SRAM_WRITE_BITS] += metadata
        if before[1] != (g, ps):
            box = _input_box(layer, g, ps)
            counts[Count.INPUT_SRAM_WRITES] += box.sum()
            counts[Count.METADATA_SRAM_WRITE_BITS] += box.size
            inputs = int(box.sum()) * layer.input_bits + box.size
        before = (g, fs), (g, ps)
        outputs = len(ps) * len(filters)
        counts[Count.OUTPUT_SRAM_READS] += outputs
        cycles = _compute([Item(g, f, p) for f in fs for p in ps], clusters, n_groups, gemm.m)
        columns.append([-(-weight // 8), -(-inputs // 8), -(-outputs * layer.output_bits // 8), cycles,
                        -(-metadata // 8)])
    steps = Steps(*(np.array(column, dtype=np.int64) for column in zip(*columns, strict=True)))
    counts += play(steps, machine.memory)
    return steps.total_cycles


def _bricks(layer: LayerTrace, tile_m: int) -> list[range]:
    """Runs of positions: whole output rows of one image, or whole images."""
    op, m = layer.operation, layer.operation.gemm().m
    image = op.out_h * op.out_w if isinstance(op, Conv2d) else 1
    if tile_m >= image:
        return [range(a, min(a + tile_m, m)) for a in range(0, m, tile_m)]
    return [range(first + a, first + min(a + tile_m, image))
            for first in range(0, m, image) for a in range(0, image, tile_m)]


def _input_box(layer: LayerTrace, group: int, positions: range) -> NDArray[np.bool_]:
    """Which words of the input box that a brick reads are stored: every input row it reads, in every column in use."""
    op, mask = layer.operation, layer.input_mask
    stored = np.ones(op.input_shape, dtype=bool) if mask is None else mask
    if not isinstance(op, Conv2d):
        return stored[positions.start : positions.stop]
    per = op.in_channels // op.groups
    images = sorted({p // (op.out_h * op.out_w) for p in positions})
    ys = {p // op.out_w % op.out_h for p in positions}
    rows = {y * op.stride_h + r * op.dilation_h - op.padding_h for y in ys for r in range(op.kernel_h)}
    cols = {x * op.stride_w + s * op.dilation_w - op.padding_w for x in range(op.out_w) for s in range(op.kernel_w)}
    return stored[np.ix_(images, range(group * per, (group + 1) * per), sorted(y for y in rows if 0 <= y < op.in_h),
                         sorted(x for x in cols if 0 <= x < op.in_w))]
