"""Several arrays: who gets what, and that time is the slowest array plus what crosses the link."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from scipy.sparse import bmat, csr_array
from scipy.sparse.csgraph import connected_components

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.area import breakdown
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.machines import multi_array, systolic
from simulator.machines.multi_array_division import components, connections, pack
from simulator.reference import multi_array as twin
from simulator.testing import layers, machines, operands, product

ARRAY = {"rows": 2, "cols": 2, "memory": "ideal"}
LINK = {"link_bytes_per_cycle": 4.0, "link_latency_cycles": 10}


def several(**fields):
    return load_machine("multi_array", {**ARRAY, **LINK, "arrays": 2, **fields})


def alone(**fields):
    return load_machine("systolic_ws", {**ARRAY, **fields})


def blocks(*shapes, rows=4, permute=False):
    """A GEMM whose mask has full blocks (inputs, outputs), features permuted if asked."""
    k, n = (sum(shape[axis] for shape in shapes) for axis in (0, 1))
    mask = np.zeros((k, n), bool)
    at = [0, 0]
    for inputs, outputs in shapes:
        mask[at[0] : at[0] + inputs, at[1] : at[1] + outputs] = True
        at = [at[0] + inputs, at[1] + outputs]
    if permute:
        rng = np.random.default_rng(1)
        mask = mask[rng.permutation(k)][:, rng.permutation(n)]
    return LayerTrace("fc", Gemm(rows, k, n), mask)


def report(layer, machine):
    return simulate(Trace([layer]), machine).layers[0]


@st.composite
def partitioned(draw):
    """Drawn layers, their masks cut along a random partition of their features."""
    layer = draw(layers())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    operation, gemm = layer.operation, layer.operation.gemm()
    n, k = gemm.n * operation.groups, gemm.k // operation.window
    parts = draw(st.integers(2, 4))
    same = rng.integers(0, parts, n)[:, None] == rng.integers(0, parts, k)[None]
    same &= rng.random((n, k)) < 0.9
    mask = same.T if isinstance(operation, Gemm) else np.broadcast_to(same[:, :, None, None], operation.weight_shape)
    return layer.replace(weight_mask=np.ascontiguousarray(mask), structure=None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(layer=partitioned(), machine=machines("multi_array"), seed=st.integers(0, 2**16))
def test_engine_equals_reference_on_partitioned_layers(layer, machine, seed):
    try:
        fast = multi_array.run(layer, machine)
    except InputError:
        reject()  # no tile fits the drawn buffers
    inputs, weights = operands(layer, np.random.default_rng(seed))
    slow, output = twin.run(layer, machine, fast.tiling, inputs, weights)
    np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
    found = [(item.name, a, b) for item, a, b in zip(Count, fast.counts, slow.counts, strict=True) if a != b]
    assert not found, f"{layer} {machine}"
    assert fast.executed_as == slow.executed_as


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.02, 0.1, 0.3)))
def test_components_are_scipys(seed, density):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 30), rng.integers(1, 30))) < density
    layer = LayerTrace("fc", Gemm(1, *mask.shape), mask)
    parts = components(layer, connections(layer))
    _, labels = connected_components(bmat([[None, csr_array(mask)], [csr_array(mask.T), None]]), directed=False) \
        if mask.any() else (0, np.arange(sum(mask.shape)))
    inputs, outputs = labels[: len(mask)], labels[len(mask) :]
    expected = {label: (np.flatnonzero(inputs == label).tolist(), np.flatnonzero(outputs == label).tolist())
                for label in set(labels.tolist())}
    expected = sorted((pair for pair in expected.values() if pair[0] and pair[1]), key=lambda pair: pair[1][0])
    assert [(part.inputs.tolist(), part.outputs.tolist()) for part in parts] == expected


def test_the_longest_component_goes_first_to_the_least_loaded_array():
    # 7 to array 0, 5 to 1, 4 to 1 (7 against 5), 3 to 0 (7 against 9), 2 to 1 (10 against 9)
    assert pack([2, 3, 7, 5, 4], 2) == (1, 0, 0, 1, 1)
    assert pack([4, 4, 4], 3) == (0, 1, 2)
    assert pack([], 2) == ()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers(), machines("multi_array"))
def test_one_array_is_the_systolic_array(layer, machine):
    machine = machine.replace(arrays=1)
    fields = {key: value for key, value in machine.to_dict().items()
              if key not in ("arrays", "division", "link_bytes_per_cycle", "link_latency_cycles", "link_broadcast",
                             "shared_dram")}
    single = load_machine("systolic_ws", {**fields, "model": "systolic"})
    try:
        expected = systolic.run(layer, single)
    except InputError:
        reject()
    found = multi_array.run(layer, machine)
    assert found.counts.tolist() == expected.counts.tolist()
    assert (found.tiling, found.executed_as) == (expected.tiling, expected.executed_as)


def test_blocks_run_side_by_side_behind_an_exchange():
    # A 2x2 fold with 4 rows takes 2R + C + T - 2 = 8 cycles; 16 bytes in and 16 bytes out take 10 + 4 each.
    for permute in (False, True):
        found = report(blocks((2, 2), (2, 2), permute=permute), several())
        assert found.cycles == 8 + 2 * 14
        assert found.cycles_by_cause["exchange"] == 28
        assert "imbalance" not in found.cycles_by_cause
        assert found.executed_as == "2 components"


def test_the_slowest_array_is_waited_for():
    # 6x4 and 2x2: 6 folds and 1 fold of 4 vectors on arrays of their own
    long, short = (report(LayerTrace("fc", Gemm(4, *shape)), alone()).cycles for shape in ((6, 4), (2, 2)))
    found = report(blocks((2, 2), (6, 4)), several(division="components"))
    assert found.cycles - found.cycles_by_cause["exchange"] == long > short
    assert found.cycles_by_cause["imbalance"] == pytest.approx((long - short) / 2, abs=3)
    assert found.cycles_by_cause["compute"] == (6 * 4 + 4) // 2


def test_components_of_an_array_run_apart_or_together_whichever_is_faster():
    pairs = [(2, 2)] * 4
    apart = report(blocks(*pairs), several(division="components")).tiling
    # as one 4x4 GEMM: 4 folds back to back; apart: 2 folds, each with its own fill and drain
    one, four = (report(LayerTrace("fc", Gemm(4, size, size)), alone()).cycles for size in (2, 4))
    assert [len(tilings) for tilings in apart.tilings] == ([2, 2] if 2 * one < four else [1, 1])
    wide = report(blocks(*[(8, 8)] * 4), several(division="components"))
    assert [len(tilings) for tilings in wide.tiling.tilings] == [2, 2]
    eight = report(LayerTrace("fc", Gemm(4, 8, 8)), alone()).cycles
    assert wide.cycles - wide.cycles_by_cause["exchange"] == 2 * eight


def test_a_layer_in_one_piece_is_split_over_outputs_or_rows():
    few_rows, many_rows = LayerTrace("fc", Gemm(1, 8, 32)), LayerTrace("fc", Gemm(256, 2, 2))
    assert report(few_rows, several()).executed_as == "split n"
    assert report(many_rows, several()).executed_as == "split m"
    half = report(LayerTrace("fc", Gemm(1, 8, 16)), alone()).cycles
    # 8 bytes in, broadcast; 32 out
    assert report(few_rows, several()).cycles == half + 10 + 2 + 10 + 8
    assert report(few_rows, several(link_broadcast=False)).cycles == half + 10 + 4 + 10 + 8


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_fastest_division(seed):
    rng = np.random.default_rng(seed)
    layer = LayerTrace("fc", Gemm(int(rng.integers(1, 40)), 12, 10), rng.random((12, 10)) < 0.15)
    each = {kind: report(layer, several(division=kind)).cycles for kind in ("components", "n", "m")}
    chosen = report(layer, several())
    assert chosen.cycles == min(each.values())
    assert chosen.tiling.division == min(each, key=each.get)


def test_a_batch_of_images_is_split_and_one_image_is_not():
    conv = {"in_channels": 2, "out_channels": 2, "in_h": 6, "in_w": 6, "kernel_h": 3, "kernel_w": 3}
    four = report(LayerTrace("conv", Conv2d(**conv, batch=4)), several(division="m"))
    two = report(LayerTrace("conv", Conv2d(**conv, batch=2)), alone())
    assert four.cycles - four.cycles_by_cause["exchange"] == two.cycles
    single = report(LayerTrace("conv", Conv2d(**conv)), several(division="m"))
    whole = report(LayerTrace("conv", Conv2d(**conv)), alone())
    assert single.cycles - single.cycles_by_cause["exchange"] == whole.cycles


def test_groups_of_a_convolution_are_components():
    grouped = LayerTrace("conv", Conv2d(8, 8, 4, 4, 3, 3, groups=4))
    half = LayerTrace("conv", Conv2d(4, 4, 4, 4, 3, 3, groups=2))
    found = report(grouped, several())
    assert found.executed_as == "4 components"
    assert found.cycles - found.cycles_by_cause["exchange"] == report(half, alone()).cycles


def test_features_without_a_weight_are_neither_run_nor_exchanged():
    layer = blocks((2, 2), (2, 2))
    padded = np.zeros((7, 9), bool)
    padded[np.ix_([0, 2, 4, 6], [1, 2, 5, 8])] = layer.weight_mask
    assert report(LayerTrace("fc", Gemm(4, 7, 9), padded), several()).cycles == report(layer, several()).cycles


def test_an_empty_mask_takes_no_time():
    assert report(LayerTrace("fc", Gemm(4, 3, 3), np.zeros((3, 3), bool)), several()).cycles == 0


def test_more_arrays_than_work_stay_idle():
    found = report(blocks((2, 2), (2, 2)), several(arrays=8, division="components"))
    assert found.cycles == 8 + 28
    assert found.cycles_by_cause["imbalance"] > 0
    # one row and one output: nothing to divide
    assert report(LayerTrace("fc", Gemm(1, 4, 1)), several(arrays=8)).cycles > 0


def test_a_shared_memory_is_divided_among_busy_arrays():
    memory = {"memory": "channel", "dram_bytes_per_cycle": 6.0, "dram_latency_cycles": 7, "dram_burst_bytes": 1}
    # Three blocks on three arrays: each sees 2 bytes per cycle.
    layer = blocks((4, 4), (4, 4), (4, 4))
    shared = report(layer, several(arrays=3, division="components", shared_dram=True, **memory))
    own = report(layer, several(arrays=3, division="components", **memory))
    assert own.cycles < shared.cycles
    each = report(LayerTrace("fc", Gemm(4, 4, 4)), alone(**{**memory, "dram_bytes_per_cycle": 2.0}))
    assert shared.cycles - shared.cycles_by_cause["exchange"] == each.cycles
    # One busy array has all of it, to the cycle.
    single = LayerTrace("fc", Gemm(4, 4, 4), np.ones((4, 4), bool))
    assert report(single, several(arrays=3, division="components", shared_dram=True, **memory)).cycles == report(
        single, several(arrays=3, division="components", **memory)).cycles


def test_traffic_of_blocks_is_that_of_the_blocks():
    memory = {"memory": "channel", "dram_burst_bytes": 1}
    found = report(blocks((8, 8), (8, 8)), several(**memory)).total.to_dict()
    assert found["dram_read_bytes"] == 2 * (8 * 8 + 4 * 8)
    assert found["dram_write_bytes"] == 4 * 16
    assert report(blocks((8, 8), (8, 8)), several(**memory)).total.counts[Count.LINK_BYTES] == 4 * 16 + 4 * 16


def test_buffers_are_one_arrays_and_area_is_all_of_them():
    one, four = (breakdown(load_machine("multi_array", {"arrays": number})) for number in (1, 4))
    assert one is not None
    assert four == pytest.approx({part: 4 * area for part, area in one.items()})


def test_the_link_is_said_to_be_unpriced():
    notes = simulate(Trace([blocks((2, 2), (2, 2))]), several()).notes
    assert any("link" in note for note in notes)
    assert not any("link" in note for note in simulate(Trace([blocks((2, 2))]), several(arrays=1)).notes)


def test_too_small_buffers_and_wrong_fields_are_refused():
    with pytest.raises(InputError, match=r"layer 'fc' on multi_array: .*misses the buffers by \d+ bytes"):
        report(blocks((2, 2), (2, 2)), several(memory="channel", weight_buffer_bytes=1))
    for field, value in (("arrays", 0), ("division", "k"), ("link_bytes_per_cycle", 0), ("link_latency_cycles", -1),
                         ("convention", "scalesim"), ("rows", 0)):
        with pytest.raises(InputError, match=field):
            several(**{field: value})
    with pytest.raises(InputError, match="without a division"):
        multi_array.run(blocks((2, 2), (2, 2)), several(), report(blocks((2, 2)), alone()).tiling)


def test_attention_in_groups_runs_on_several_arrays():
    heads = LayerTrace("qk", Gemm(4, 4, 4, groups=2), weight_source="activation")
    found = simulate_layer(heads, several())
    half = report(LayerTrace("fc", Gemm(4, 4, 4)), alone())
    assert found.cycles - found.cycles_by_cause["exchange"] == half.cycles
    # both operands are activations: 2 heads of 16 + 16 bytes in, 2 of 16 out
    assert found.total.counts[Count.LINK_BYTES] == 2 * 48
