"""The dual-side tensor core: vectors that outer products fill, banks that the scatter hits, units that wait.

In the drawings a digit is a vector step of that k step, `=` a cycle in which the banks of the step before still take
products and the multipliers wait, `-` a cycle in which the last products are scattered.
"""

import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import simulator.machines
from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.machines import dual_side_tensor_core as dstc
from simulator.machines import dual_side_tensor_core_kernel, reference
from simulator.testing import layers, machines, operands, product


def core(**fields):
    return load_machine("dual_side_tensor_core", {"units": 1, "memory": "ideal", **fields})


def causes(inputs, weights, **fields):
    """inputs: [m, k], weights: [k, n] of 0 and 1."""
    inputs, weights = np.array(inputs, dtype=bool), np.array(weights, dtype=bool)
    operation = Gemm(*inputs.shape, weights.shape[1])
    return simulate(Trace([LayerTrace("gemm", operation, weights, inputs)]), core(**fields)).cycles_by_cause


def column(*places):
    """One k: nonzeros at these places of a tile of 32."""
    return np.isin(np.arange(32), places)


def by_name(counts):
    return {item.name: int(counts[item]) for item in Count}


OWN_BANK = {"bank_rows": 32, "bank_cols": 32}


def test_a_dense_tile_takes_every_vector_and_one_last_scatter():
    # 11.. 22.. 33.. 44.. ----   four k steps of 16 k of 8 vector steps, and every bank takes 128 products of each
    assert causes(np.ones((32, 64)), np.ones((64, 32))) == {"compute": 4 * 128, "drain": 128}


@pytest.mark.parametrize("a", [1, 7, 8, 9, 16, 17, 32])
@pytest.mark.parametrize("b", [1, 15, 16, 17, 32])
def test_both_axes_are_rounded_up_to_vectors(a, b):
    found = causes([[True]] * a + [[False]] * (32 - a), [[True] * b + [False] * (32 - b)], **OWN_BANK)
    assert sum(found.values()) - found["drain"] == -(-a // 8) * -(-b // 16)
    assert found["compute"] == -(-a * b // 128)
    assert found["drain"] == 1


def test_where_the_nonzeros_lie_does_not_matter_to_the_vectors():
    rng = np.random.default_rng(0)
    for _ in range(5):
        inputs, weights = rng.permutation(np.arange(32) < 9)[:, None], rng.permutation(np.arange(32) < 17)[None]
        assert sum(causes(inputs, weights, **OWN_BANK).values()) == 4 + 1


def test_a_k_without_a_product_is_skipped():
    inputs, weights = np.ones((32, 8), bool), np.ones((8, 32), bool)
    inputs[:, ::2], weights[1::4] = False, False
    # k = 3 and 7 are left: 8 vector steps each.
    assert sum(causes(inputs, weights, **OWN_BANK).values()) == 2 * 8 + 2


def test_a_k_step_without_a_product_takes_no_cycle():
    inputs, weights = np.zeros((32, 64), bool), np.ones((64, 32), bool)
    inputs[:, :16] = inputs[:, 48:] = True
    assert causes(inputs, weights) == {"compute": 2 * 128, "drain": 128}


def test_products_for_one_bank_queue_and_hold_the_next_k_step_back():
    # Rows 0, 8, 16, 24 and columns 0 and 16 share a bank: one vector step, eight products in it.
    # k step 1  1
    # k step 2   2=======          one step; the banks need eight cycles for the products of step 1
    # scatter            --------
    inputs = np.stack([column(0, 8, 16, 24)] * 2, axis=1)
    weights = np.stack([column(0, 16)] * 2)
    assert causes(inputs, weights, tile_k=1) == {"compute": 1, "fragmentation": 1, "bank_conflict": 7, "drain": 8}
    # The same number of products in banks of their own.
    inputs, weights = np.stack([column(0, 1, 2, 3)] * 2, axis=1), np.stack([column(0, 1)] * 2)
    assert causes(inputs, weights, tile_k=1) == {"compute": 1, "fragmentation": 1, "drain": 1}


def test_a_k_step_gathers_products_so_that_conflicts_of_one_k_even_out():
    # Each k alone hits one bank eight times; eight of them hit eight different ones.
    inputs = np.stack([column(*range(k, 32, 8)) for k in range(8)] * 2, axis=1)
    weights = np.stack([column(0, 16)] * 16)
    assert sum(causes(inputs, weights, tile_k=8).values()) == 8 + 8 + 8
    assert sum(causes(inputs, weights, tile_k=1).values()) == 1 + 15 * 8 + 8


def test_the_collector_runs_on_from_tile_to_tile():
    # Two tiles of one k step each on one unit: the scatter of the first hides behind the second.
    assert causes(np.ones((64, 16)), np.ones((16, 32))) == {"compute": 2 * 128, "drain": 128}


def test_units_take_tiles_in_turn_and_wait_at_the_end():
    assert causes(np.ones((64, 16)), np.ones((16, 32)), units=2) == {"compute": 128, "drain": 128}
    # Three tiles on two units: one unit is idle for a tile's 128 cycles, half of the array.
    assert causes(np.ones((96, 16)), np.ones((16, 32)), units=2) == {"compute": 192, "drain": 128, "imbalance": 64}


def test_zeros_of_both_sides_are_skipped_together():
    rng = np.random.default_rng(1)
    dense = sum(causes(np.ones((64, 256)), np.ones((256, 64))).values())
    sparse = [sum(causes(rng.random((64, 256)) < a, rng.random((256, 64)) < b).values())
              for a, b in ((0.2, 1.0), (1.0, 0.2), (0.2, 0.2))]
    assert sparse[2] < min(sparse[:2]) < dense
    total = simulate(Trace([LayerTrace("gemm", Gemm(4, 4, 4), np.eye(4, dtype=bool), np.eye(4, dtype=bool))]), core())
    assert total.to_dict()["total"]["issued_macs"] == total.to_dict()["total"]["useful_macs"] == 4


def test_bitmaps_of_two_levels_cost_bits_for_occupied_parts_only():
    weights, inputs = np.zeros((64, 32), bool), np.ones((32, 64), bool)
    weights[0, 0] = weights[17, 3] = True
    machine = core(memory="channel", dram_burst_bytes=1)
    layer = LayerTrace("gemm", Gemm(32, 64, 32), weights, inputs)
    total = simulate(Trace([layer]), machine).to_dict()["total"]
    # Four k steps, of which two hold a weight: 4 + 2 * 16 * 32 bits; the raw inputs have a bit each.
    assert total["metadata_bytes"] == -(-(4 + 2 * 512) // 8)
    assert total["dram_read_bytes"] == 2 + total["metadata_bytes"] + 32 * 64 + 32 * 64 // 8
    dense = simulate(Trace([LayerTrace("gemm", Gemm(32, 64, 32))]), machine).to_dict()["total"]
    assert (dense["metadata_bytes"], dense["dram_read_bytes"]) == (0, 64 * 32 + 32 * 64)


def test_engine_equals_twin_on_whole_warp_tiles():
    rng = np.random.default_rng(2)
    for fields in ({}, {"units": 3, "tile_k": 4}, {"bank_rows": 4, "bank_cols": 8, "units": 2}, {"vector_m": 5}):
        shape = Gemm(70, 40, 45)
        layer = LayerTrace("gemm", shape, rng.random((40, 45)) < 0.3, rng.random((70, 40)) < 0.4)
        machine = core(**fields)
        fast = dstc.run(layer, machine)
        inputs, weights = operands(layer, rng)
        slow, output = reference("dual_side_tensor_core").run(layer, machine, fast.tiling, inputs, weights)
        assert by_name(fast.counts) == by_name(slow.counts)
        np.testing.assert_array_equal(output, product(shape, inputs, weights))


def test_empty_masks_and_zero_activations_take_no_array_time():
    full, none = np.ones((33, 33), bool), np.zeros((33, 33), bool)
    assert causes(full, none) == causes(none, full) == {}


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_an_array_larger_than_the_layer_multiplies_one_vector_per_k(operation):
    report = simulate(Trace([LayerTrace("corner", operation)]), load_machine("dual_side_tensor_core", {
        "memory": "ideal"}))
    gemm = operation.gemm()
    # One unit: k vector steps, and k products in the bank of each output; seven units wait.
    assert report.cycles == 2 * gemm.k
    assert report.to_dict()["total"]["useful_macs"] == operation.macs


def test_a_dense_layer_needs_no_mask():
    shape = Conv2d(16, 64, 28, 28, 3, 3, padding_h=1, padding_w=1)
    none = simulate(Trace([LayerTrace("conv", shape)]), core(units=4))
    # 25 tile rows, the last of 16 pixels, by two tile columns on four units: unit 0 has 12 tiles of 9 k steps of 128
    # cycles, in between a half one of 64, whose first step waits for a full scatter, and a last scatter.
    assert none.cycles == 12 * 9 * 128 + 9 * 64 + 64 + 128


def test_buffers_too_small_for_any_cut_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'gemm' on .*misses the buffers by \d+ bytes"):
        simulate(Trace([LayerTrace("gemm", Gemm(4, 40, 40))]), core(memory="channel", shared_buffer_bytes=16))
    with pytest.raises(InputError, match=r"vector_m = 0; expected an integer from 1 to 1024"):
        core(vector_m=0)


MUTATIONS = [
    ("only one axis is rounded to vectors", "units_b = vectors(b, vector_n)", "units_b = b.sum(axis=2)"),
    ("vectors round down", "(counts[i, k].sum() + size - 1) // size", "counts[i, k].sum() // size"),
    ("banks are emptied after every k", "if vector_steps:", "if vector_steps:\n                        load[:] = 0"),
    ("banks keep the products of the step before", "            load[:] = 0\n", "            pass\n"),
    ("the scatter is hidden for free", "between += max(here, last)", "between += here"),
    ("multiplication and scatter follow one another", "between += max(here, last)", "between += here + last"),
    ("no waits", "waits += max(0, last - here)", "waits += 0"),
    ("the last scatter is free", "(busy + scatter).max()", "busy.max()"),
    ("the collector is emptied between tiles", "max(item[FIRST], scatter[unit]) + item", "item[FIRST] + scatter[unit] + item"),  # noqa: E501
    ("an empty tile empties the collector", "if item[FIRST]:", "if True:"),
    ("tiles are dealt anew for every column", "unit = column * len(index) % units", "unit = 0"),
    ("banks are one row", "times = a[i, k, r]", "times = a[i, k, 0]"),
]


def plain(*change):
    """dual_side_tensor_core_kernel.py as plain Python, with one text replaced."""
    source = Path(dual_side_tensor_core_kernel.__file__).read_text(encoding="utf-8")
    if change:
        assert change[0] in source, f"the source no longer holds {change[0]!r}: mend the list of mutations"
        source = source.replace(*change)
    source = source.replace("from ..jit import kernel\n", "kernel = lambda function: function\n")
    module = types.ModuleType("simulator.machines.dual_side_tensor_core_kernel")
    module.__package__ = "simulator.machines"
    exec(compile(source, "mutated", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def drawn():
    """(layer, machine, the twin's counts) of drawn layers, the same at every run."""
    cases = []

    @settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(layers(), machines("dual_side_tensor_core"))
    def draw(layer, machine):
        machine = machine.replace(memory="ideal")
        assume(layer.weight_nnz)
        fast = dstc.run(layer, machine)
        twin, _ = reference("dual_side_tensor_core").run(layer, machine, fast.tiling,
                                                         *operands(layer, np.random.default_rng(0)))
        cases.append((layer, machine, twin.counts))

    draw()
    return cases


def differs(module, drawn, monkeypatch):
    monkeypatch.setattr(simulator.machines, "dual_side_tensor_core_kernel", module)
    return any(not np.array_equal(dstc.run(layer, machine).counts, twin) for layer, machine, twin in drawn)


def test_the_unchanged_kernel_agrees(drawn, monkeypatch):
    assert len(drawn) > 60
    assert not differs(plain(), drawn, monkeypatch)


@pytest.mark.parametrize(("what", "text", "becomes"), MUTATIONS, ids=[entry[0] for entry in MUTATIONS])
def test_a_wrong_line_is_noticed(what, text, becomes, drawn, monkeypatch):
    assert differs(plain(text, becomes), drawn, monkeypatch), what
