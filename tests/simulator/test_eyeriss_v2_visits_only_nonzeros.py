"""Eyeriss v2: the published cycles of one PE to the digit, and what several PEs, lanes and passes lose.

tests/golden/eyeriss_v2/mobilenet_pe.json has, with its source, per-channel counts of nonzeros and the cycles that a PE
with one multiplier took; any masks with these counts take the same time, so the test lays them out plainly.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "eyeriss_v2" / "mobilenet_pe.json").read_text())["layers"]


def eyeriss(**fields):
    one = {"cluster_rows": 1, "cluster_cols": 1, "pe_rows": 1, "pe_cols": 1, "simd": 1, "memory": "ideal"}
    return load_machine("eyeriss_v2", {**one, **fields})


def causes(operation, weights, inputs, **fields):
    return simulate(Trace([LayerTrace("layer", operation, weights, inputs)]), eyeriss(**fields)).cycles_by_cause


def masks(layer):
    """The first entries of each channel are the nonzero ones."""
    side = int(layer["pixels"] ** 0.5)
    assert side * side == layer["pixels"]
    weights = np.arange(layer["out_channels"])[:, None] < layer["nonzero_weights_per_channel"]
    inputs = np.arange(layer["pixels"]) < np.array(layer["nonzero_activations_per_channel"])[:, None]
    operation = Conv2d(layer["in_channels"], layer["out_channels"], side, side, 1, 1)
    return operation, weights[:, :, None, None], inputs.reshape(1, -1, side, side)


@pytest.mark.parametrize("layer", GOLDEN, ids=lambda layer: layer["layer"])
def test_one_pe_takes_the_published_cycles(layer):
    assert causes(*masks(layer)) == {"compute": layer["cycles"]}


@pytest.mark.parametrize("layer", GOLDEN, ids=lambda layer: layer["layer"])
def test_the_order_of_the_nonzeros_does_not_matter_to_one_pe(layer):
    operation, weights, inputs = masks(layer)
    rng = np.random.default_rng(1)
    assert causes(operation, rng.permuted(weights, axis=0), rng.permuted(inputs.reshape(*inputs.shape[:2], -1), axis=2)
                  .reshape(inputs.shape)) == {"compute": layer["cycles"]}


def test_an_odd_column_leaves_a_lane_empty():
    weights = np.zeros((1, 8), bool)
    weights[0, :5] = True
    # 4 activations, each 3 cycles for 5 weights on 2 lanes: 20 products would fit 10 cycles.
    assert causes(Gemm(4, 1, 8), weights, np.ones((4, 1), bool), simd=2) == {"compute": 10, "fragmentation": 2}


def test_psum_entries_cut_a_column_and_each_part_is_rounded_up():
    weights = np.ones((1, 6), bool)
    inputs = np.ones((4, 1), bool)
    assert sum(causes(Gemm(4, 1, 6), weights, inputs, simd=2, psum_entries=6).values()) == 12
    assert sum(causes(Gemm(4, 1, 6), weights, inputs, simd=2, psum_entries=3).values()) == 16


def test_pes_wait_for_the_slowest_at_the_end_of_a_pass():
    # Rows of PEs share k: row 0 has k = 0 with 6 nonzero activations, row 1 has k = 1 with 2.
    inputs = np.zeros((6, 2), bool)
    inputs[:, 0], inputs[:2, 1] = True, True
    assert causes(Gemm(6, 2, 1), np.ones((2, 1), bool), inputs, pe_rows=2) == {"compute": 4, "imbalance": 2}


def test_cluster_rows_wait_for_each_other_in_every_pass():
    # Four filters of 3, 1, 1 and 3 weights, two at a time, one activation per k: max(3, 1) + max(1, 3).
    weights = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=bool).T
    found = causes(Gemm(1, 3, 4), weights, np.ones((1, 3), bool), cluster_rows=2, psum_entries=1)
    assert found == {"compute": 4, "imbalance": 2}


def test_pixels_are_dealt_to_the_columns_of_pes():
    inputs = np.array([[1], [0], [1], [0]], dtype=bool)
    # Even pixels are all in column 0.
    assert causes(Gemm(4, 1, 1), np.ones((1, 1), bool), inputs, pe_cols=2) == {"compute": 1, "imbalance": 1}
    assert causes(Gemm(4, 1, 1), np.ones((1, 1), bool), inputs, cluster_cols=4) == {"compute": 1}


def test_groups_fill_the_cluster_rows_side_by_side():
    depthwise = LayerTrace("depthwise", Conv2d(8, 8, 4, 4, 3, 3, padding_h=1, padding_w=1, groups=8))
    one, eight = (simulate(Trace([depthwise]), eyeriss(cluster_rows=rows)).cycles for rows in (1, 8))
    assert one == 8 * eight == 8 * 9 * 16


def test_layers_with_nothing_to_multiply_take_no_array_time():
    full, none = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    assert causes(Gemm(3, 3, 3), none, full) == {}
    assert causes(Gemm(3, 3, 3), full, none) == {}


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_an_array_larger_than_the_layer_is_mostly_idle(operation):
    machine = load_machine("eyeriss_v2", {"memory": "ideal"})
    report = simulate(Trace([LayerTrace("corner", operation)]), machine)
    total = report.to_dict()["total"]
    assert total["useful_macs"] == total["issued_macs"] == operation.macs
    gemm = operation.gemm()
    # Eight cluster rows take one filter each, which is one cycle; pixels are dealt to 8 columns, k to 3 rows.
    assert gemm.n <= 8
    assert report.cycles == -(-gemm.k // 3) * -(-gemm.m // 8)


def test_a_density_stands_for_as_many_zeros_spread_evenly():
    layer = LayerTrace("layer", Gemm(16, 16, 4), input_density=0.25)
    report = simulate(Trace([layer]), eyeriss())
    assert report.cycles == report.to_dict()["total"]["useful_macs"] == 64 * 4


def test_compressed_operands_cost_their_compressed_bytes():
    weights, inputs = np.zeros((64, 8), bool), np.zeros((16, 64), bool)
    weights[::4], inputs[:, ::2] = True, True
    machine = eyeriss(memory="channel", dram_burst_bytes=1, psum_entries=8, dram_bytes_per_cycle=float("inf"),
                      dram_latency_cycles=0)
    total = simulate(Trace([LayerTrace("gemm", Gemm(16, 64, 8), weights, inputs)]), machine).to_dict()["total"]
    # 128 weights with 3 bits of index, 64 counts of 4 bits; 512 nonzero inputs and a bit for each of 1024.
    assert total["metadata_bytes"] == (128 * 3 + 64 * 4) // 8
    assert total["dram_read_bytes"] == 128 + 80 + 512 + 128
    assert total["dram_write_bytes"] == 16 * 8


def test_large_layers_fit_small_buffers_in_slabs_and_chunks():
    layer = LayerTrace("conv", Conv2d(64, 64, 28, 28, 3, 3, padding_h=1, padding_w=1))
    ideal, roomy, tight = (simulate(Trace([layer]), eyeriss(**fields)) for fields in (
        {}, {"memory": "channel"}, {"memory": "channel", "shared_buffer_bytes": 16384}))
    assert ideal.cycles <= roomy.cycles <= tight.cycles
    assert roomy.to_dict()["total"]["dram_read_bytes"] <= tight.to_dict()["total"]["dram_read_bytes"]


def test_buffers_too_small_for_any_cut_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'gemm' on .*misses the buffers by \d+ bytes"):
        simulate(Trace([LayerTrace("gemm", Gemm(4, 40, 40))]), eyeriss(memory="channel", shared_buffer_bytes=16))
