"""SparTen: the cost of chunks by hand, what balancing gains, corner cases, and mutations that must be seen."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import simulator.machines
from simulator import Conv2d, Gemm, InputError, LayerTrace, load_machine
from simulator.counts import CAUSES, Count
from simulator.engine import simulate_layer
from simulator.machines import reference, sparten, sparten_kernel, sparten_memory
from simulator.mapping import Tiling
from simulator.testing import layers, machines, operands

SMALL = {"clusters": 1, "units_per_cluster": 2, "chunk": 4, "balancing": "none", "memory": "ideal"}


def masks(*rows):
    """bool[k, n] from a text per filter, "1" where a value is not zero."""
    return np.array([[letter == "1" for letter in row] for row in rows]).T


def cycles(layer, **fields):
    return simulate_layer(layer, load_machine("sparten", {**SMALL, **fields}))


def test_a_chunk_takes_as_long_as_its_slowest_unit():
    # inputs 1101 1000 | filter 0: 1111 0111, filter 1: 0101 1000
    # chunk 0: matches 3 and 2 -> 3 cycles; chunk 1: 0 and 1 -> 1 cycle
    layer = LayerTrace("l", Gemm(1, 8, 2), masks("11110111", "01011000"), masks("11011000").T)
    report = cycles(layer)
    assert report.cycles == 4
    # 6 products on 2 units are 3 cycles; 2 unit-cycles waited at the broadcast
    assert report.cycles_by_cause == {"compute": 3, "imbalance": 1}
    assert report.total.counts[Count.USEFUL_MACS] == report.total.counts[Count.ISSUED_MACS] == 6


def test_a_chunk_without_a_match_takes_one_cycle():
    layer = LayerTrace("l", Gemm(1, 8, 2), masks("00001111", "00001111"), masks("11111111").T)
    assert cycles(layer).cycles_by_cause == {"compute": 4, "fragmentation": 1}


def test_pairing_dense_with_sparse_filters_levels_the_units():
    # nonzeros 4, 4, 1, 1 on two units: without balancing (4,4) then (1,1); paired, each unit has 4 + 1
    layer = LayerTrace("l", Gemm(1, 4, 4), masks("1111", "1000", "1111", "0100"))
    assert cycles(layer).cycles == 4 + 4
    assert cycles(layer, balancing="gb_s").cycles == 5
    assert cycles(layer, balancing="gb_s").cycles_by_cause == {"compute": 5}


def test_pairing_per_chunk_sees_what_the_whole_filter_hides():
    # all filters have 4 nonzeros: gb_s pairs 0 with 3 and 1 with 2, which both have their work in the same chunk
    layer = LayerTrace("l", Gemm(1, 8, 4), masks("11110000", "00001111", "00001111", "11110000"))
    assert cycles(layer, balancing="gb_s").cycles == 16
    assert cycles(layer, balancing="gb_h", routing_bandwidth=4).cycles == 8


def test_routing_of_sums_shows_where_chunks_are_short():
    layer = LayerTrace("l", Gemm(1, 8, 4), masks("10001000", "10001000", "10001000", "10001000"))
    fast, slow = (cycles(layer, balancing="gb_h", routing_bandwidth=width) for width in (2, 1))
    assert fast.cycles_by_cause == {"compute": 4}
    assert slow.cycles_by_cause == {"compute": 4, "drain": 4}


def test_items_are_dealt_to_the_clusters_in_turn():
    # three positions of 1, 4 and 2 matches on two clusters: 1 + 2 and 4
    layer = LayerTrace("l", Gemm(3, 4, 1), masks("1111"), np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]) > 0)
    assert cycles(layer, clusters=2, units_per_cluster=1).cycles == 4
    assert cycles(layer, clusters=1, units_per_cluster=1).cycles == 7


def test_units_without_a_filter_are_fragmentation():
    layer = LayerTrace("l", Gemm(4, 4, 1), masks("1111"))
    assert cycles(layer, units_per_cluster=4).cycles_by_cause == {"compute": 4, "fragmentation": 12}


@pytest.mark.parametrize("balancing", sparten.BALANCING)
@pytest.mark.parametrize("m", [1, 5, 64])
def test_dense_layers_take_k_cycles_per_item(balancing, m):
    # full units: each filter of a unit takes k cycles at each position, whatever the chunk
    per_unit = 1 if balancing == "none" else 2
    layer = LayerTrace("l", Gemm(m, 300, 16 * per_unit))
    fields = {"clusters": 4, "units_per_cluster": 16, "chunk": 128, "balancing": balancing, "routing_bandwidth": 64}
    assert cycles(layer, **fields).cycles == -(-m // 4) * 300 * per_unit


@pytest.mark.parametrize("operation", [
    Gemm(1, 1, 1), Gemm(1, 300, 5), Gemm(7, 1, 3), Conv2d(3, 5, 4, 4, 1, 1), Conv2d(4, 4, 5, 5, 3, 3, groups=4),
    Conv2d(2, 3, 5, 4, 3, 2, batch=2, stride_h=2, padding_w=1, dilation_h=2)], ids=str)
@pytest.mark.parametrize("memory", ["ideal", "channel"])
def test_corner_layers_run_on_the_preset_and_all_zero_inputs_cost_a_cycle_per_chunk(operation, memory):
    machine = load_machine("sparten", {"memory": memory, "routing_bandwidth": 64})
    zeros = np.zeros(operation.input_shape, dtype=bool)
    dark = simulate_layer(LayerTrace("dark", operation, None, zeros), machine)
    gemm = operation.gemm()
    items = operation.groups * gemm.m * -(-gemm.n // 64)
    array = sum(dark.total.counts[cause] for cause in CAUSES if cause not in
                (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_OUTPUT))
    assert dark.total.counts[Count.ISSUED_MACS] == dark.total.counts[Count.COMPUTE] == 0
    if memory == "ideal":
        assert array == -(-gemm.k // 128) * -(-items // 32)
    empty = LayerTrace("empty", operation, np.zeros(operation.weight_shape, dtype=bool))
    assert simulate_layer(empty, machine).cycles == 0


def test_only_a_density_gates_and_does_not_skip():
    known = cycles(LayerTrace("l", Gemm(2, 8, 2), input_density=0.25))
    assert known.cycles == cycles(LayerTrace("l", Gemm(2, 8, 2))).cycles
    assert known.total.counts[Count.ISSUED_MACS] == 8
    assert known.total.counts[Count.GATED_MACS] == 24


def test_compressed_operands_cost_their_bitmask_and_their_nonzeros():
    weights, inputs = np.arange(32).reshape(16, 2) % 4 == 0, np.arange(64).reshape(4, 16) % 2 == 0
    layer = LayerTrace("l", Gemm(4, 16, 2), weights, inputs)
    machine = load_machine("sparten", {**SMALL, "memory": "channel", "dram_burst_bytes": 1})
    counts = sparten.run(layer, machine, Tiling(4, 16, 2)).counts
    assert counts[Count.WEIGHT_DRAM_READ_BYTES] == 8 + 32 // 8
    assert counts[Count.INPUT_DRAM_READ_BYTES] == 32 + 64 // 8
    assert counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 8
    assert counts[Count.METADATA_BYTES] == 4


def test_what_cannot_run_says_why():
    layer = LayerTrace("l", Gemm(4, 4000, 8))
    with pytest.raises(InputError, match="misses the buffers by 8404 bytes"):
        cycles(layer, memory="channel", weight_buffer_bytes=9596, chunk=128, units_per_cluster=2)
    for bad in (Tiling(0, 4000, 8), Tiling(4, 4000, 3), Tiling(4, 4000, 8, "kmn")):
        with pytest.raises(InputError, match="tiling"):
            sparten.run(layer, load_machine("sparten", {**SMALL, "memory": "channel"}), bad)
    with pytest.raises(InputError, match="split the layer"):
        cycles(LayerTrace("l", Gemm(2**28, 2, 8)))
    with pytest.raises(InputError, match="balancing"):
        load_machine("sparten", {"balancing": "gbs"})


@pytest.mark.parametrize(("operation", "legal", "fine"), [
    (Gemm(13, 9, 5), 6, 2),  # 13 rows, 3 filter groups and 3 clusters: runs of 3 rows keep the table within 40
    (Conv2d(3, 7, 5, 4, 3, 2, batch=5, stride_h=2, padding_w=1), 20, 5),  # pairs of images
], ids=["gemm", "conv"])
def test_a_layer_too_large_for_the_table_is_cut_in_runs_of_images(operation, legal, fine, monkeypatch):
    rng = np.random.default_rng(2)
    weights, inputs = (rng.random(shape) < 0.5 for shape in (operation.weight_shape, operation.input_shape))
    layer, gemm = LayerTrace("l", operation, weights, inputs), operation.gemm()
    machine = load_machine("sparten", {**SMALL, "memory": "channel", "clusters": 3, "dram_latency_cycles": 3})
    monkeypatch.setattr(sparten_memory, "MOST_ENTRIES", 40)
    monkeypatch.setattr(sparten_memory, "MOST_STEPS", 4)
    for tiling in (Tiling(legal, gemm.k, 2), None):
        found = sparten.run(layer, machine, tiling)
        twin, _ = reference("sparten").run(layer, machine, found.tiling, *operands(layer, rng))
        np.testing.assert_array_equal(found.counts, twin.counts)
    with pytest.raises(InputError, match="the layer is large"):
        sparten.run(layer, machine, Tiling(fine, gemm.k, gemm.n))


MUTATIONS = [
    ("kernel", "no barrier", "most = max(most, matches[u])", "most += matches[u]"),
    ("kernel", "an empty chunk is free", "most = 1", "most = 0"),
    ("kernel", "an empty chunk is not seen", "empty += 1", "empty += 0"),
    ("kernel", "a bit is lost in the count", "popcount(word", "popcount(word & FOURS"),
    ("kernel", "one filter per unit", "for h in range(halves):", "for h in range(1):"),
    ("kernel", "routing is free", "excess += max(0, routing[f] - most)", "excess += 0"),
    ("kernel", "routing is not hidden", "excess += max(0, routing[f] - most)", "excess += routing[f]"),
    ("memory", "inputs stay over bricks", "if shape[2] == 1:\n", "if True:\n"),
    ("memory", "weights stay over bricks", "if shape[1] == 1:\n", "if True:\n"),
    ("memory", "the input's bitmask is free", "values * layer.input_bits + bits", "values * layer.input_bits"),
    ("memory", "the weights' bitmask is free", "weights * layer.weight_bits + meta)", "weights * layer.weight_bits)"),
    ("memory", "no barrier between tiles", "axis=1).max(axis=3)", "axis=1)[..., 0]"),
    ("memory", "weights enter the units once", "np.minimum(positions, self.spec.clusters).sum()", "self.spec.clusters"),
    ("memory", "clusters share nothing out", "sum(axis=0).max())", "sum())"),
]


def mutated(which, *change):
    """A source file of the model as plain Python, with one text replaced."""
    source = Path({"kernel": sparten_kernel, "memory": sparten_memory}[which].__file__).read_text(encoding="utf-8")
    if change:
        assert change[0] in source, f"the source no longer holds {change[0]!r}: mend the list of mutations"
        source = source.replace(*change)
    source = source.replace("from ..jit import kernel\n", "kernel = lambda function: function\n")
    module = types.ModuleType(f"simulator.machines.sparten_{which}")
    module.__package__ = "simulator.machines"
    kept = sys.modules[module.__name__]
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(source, "mutated", "exec"), module.__dict__)
    finally:
        sys.modules[module.__name__] = kept
    return module


@pytest.fixture(scope="module")
def drawn():
    """(layer, machine, tiling, the twin's counts) of many drawn layers, the same at every run."""
    cases = []

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(layers(), machines("sparten"), st.sampled_from((1, 1, 2, 3, 40)), st.sampled_from((1, 1, 2)),
           st.sampled_from(sparten_memory.ORDERS))
    def draw(layer, machine, lines, runs, order):
        gemm, tiling = layer.operation.gemm(), None
        if machine.memory.memory == "channel":
            roomy = dict.fromkeys(("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes"), 10**6)
            machine = machine.replace(**roomy, shared_buffer_bytes=0)
            width = layer.operation.out_w if isinstance(layer.operation, Conv2d) else 1
            per = machine.array.units_per_cluster * (1 if machine.array.balancing == "none" else 2)
            tiling = Tiling(min(lines * width, gemm.m), gemm.k, min(runs * per, gemm.n), order)
        try:
            found = sparten.run(layer, machine, tiling)
        except InputError:
            assume(False)
        twin, _ = reference("sparten").run(layer, machine, found.tiling, *operands(layer, np.random.default_rng(0)))
        cases.append((layer, machine, tiling, twin.counts))

    draw()
    return cases


def differs(which, module, drawn, monkeypatch):
    monkeypatch.setattr(simulator.machines, f"sparten_{which}", module)
    monkeypatch.setitem(sys.modules, f"simulator.machines.sparten_{which}", module)
    with np.errstate(over="ignore"):  # as plain Python, the population count warns where it wraps
        return any(not np.array_equal(sparten.run(layer, machine, tiling).counts, twin)
                   for layer, machine, tiling, twin in drawn)


def test_the_unchanged_model_agrees_on_given_tilings(drawn, monkeypatch):
    assert len(drawn) > 100
    assert sum(machine.memory.memory == "channel" for _, machine, _, _ in drawn) > 50
    for which in ("kernel", "memory"):
        assert not differs(which, mutated(which), drawn, monkeypatch)


@pytest.mark.parametrize(("which", "what", "text", "becomes"), MUTATIONS, ids=[row[1] for row in MUTATIONS])
def test_a_wrong_line_turns_this_red(which, what, text, becomes, drawn, monkeypatch):
    assert differs(which, mutated(which, text, becomes), drawn, monkeypatch), what
