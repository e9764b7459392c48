"""S2TA: cycles by hand from the bounds of weights and activations, what does not conform, and corners.

One tensor PE of one datapath unless a test says otherwise, so that cycles are those of one output.
"""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.engine import simulate_layer

ONE = {"rows": 1, "cols": 1, "datapath_rows": 1, "datapath_cols": 1, "memory": "ideal"}


def masks(*rows):
    """bool[rows, entries] from texts, "1" where a value is not zero."""
    return np.array([[letter == "1" for letter in row] for row in rows])


def report(operation, weights=None, inputs=None, density=None, **fields):
    layer = LayerTrace("layer", operation, weights, inputs, input_density=density)
    return simulate_layer(layer, load_machine("s2ta", {**ONE, **fields}))


def bounded(rng, shape, kept, block=8):
    """bool[shape], exactly `kept` of every `block` entries of the last axis."""
    scores = rng.random((*shape[:-1], shape[-1] // block, block))
    return (scores.argsort(axis=-1).argsort(axis=-1) < kept).reshape(shape)


def test_an_output_takes_a_cycle_per_activation_of_the_bound_in_every_block():
    # inputs 1010 0010 | 0000 1110, weights 0110 0110 | 1000 0111: the bound is 3, so block 0 takes cycles 0 to 2
    # (k = 0, 2, 6; weights meet k = 2 and 6) and block 1 cycles 3 to 5 (k = 12, 13, 14; weights meet 13 and 14).
    found = report(Gemm(1, 16, 1), masks("0110011010000111").T, masks("1010001000001110"))
    assert found.cycles_by_cause == {"compute": 6}
    assert found.executed_as == "4:8, inputs 3:8"
    counts = found.total.counts
    assert (counts[Count.ISSUED_MACS], counts[Count.GATED_MACS], counts[Count.SKIPPED_MACS]) == (4, 2, 10)


def test_the_fullest_block_of_the_layer_sets_the_bound_and_the_others_are_idle():
    # Four blocks with 3, 1, 0 and 2 nonzeros stream 3 each: 12 cycles, 6 of them without a nonzero.
    found = report(Gemm(2, 16, 1), masks("1111000011110000").T, masks("1110000000010000", "0000000010000001"))
    assert found.cycles_by_cause == {"compute": 6, "imbalance": 6}


@pytest.mark.parametrize(("most", "bound"), [(1, 1), (2, 4), (4, 4), (5, 8), (8, 8)])
def test_the_bound_is_the_smallest_one_of_the_array_that_covers(most, bound):
    inputs = np.arange(8)[None] < most
    found = report(Gemm(1, 8, 1), masks("10000000").T, inputs, activation_bounds=["1:8", "4:8"])
    assert found.cycles == bound
    assert found.executed_as == ("4:8" if bound == 8 else f"4:8, inputs {bound}:8")


def test_padding_is_zero_and_lowers_the_bound():
    # A 3x3 kernel on one pixel: eight of nine taps read padding, so blocks of k hold at most one nonzero.
    convolution = Conv2d(1, 1, 1, 1, 3, 3, padding_h=1, padding_w=1)
    weights = np.zeros((1, 1, 3, 3), bool)
    weights[0, 0, 1] = True
    assert report(convolution, weights, np.ones((1, 1, 1, 1), bool)).cycles == 2


def test_weights_beyond_the_bound_run_in_shorter_blocks_as_fast_as_dense():
    inputs = np.ones((1, 16), bool)
    five = masks("1111100010000000").T
    assert report(Gemm(1, 16, 1), five, inputs).cycles == 16
    # Blocks of four hold any weights; their inputs have a bound of their own: 1 of 4, not 2 of 8.
    found = report(Gemm(1, 16, 1), five, masks("1000100000010000"))
    assert (found.executed_as, found.cycles) == ("dense, inputs 1:4", 4)
    assert report(Gemm(1, 16, 1), None, masks("1000100000010000")).cycles == 4


def test_weights_that_only_just_miss_run_in_the_longest_block_that_fits():
    # 3 of 8 is too many for weight_bound 2:8; every four have at most 2.
    found = report(Gemm(1, 8, 1), masks("11001000").T, masks("10001000"), weight_bound="2:8")
    assert (found.executed_as, found.cycles) == ("2:4, inputs 1:4", 2)


def test_fewer_weights_than_the_bound_save_energy_and_no_time():
    rng = np.random.default_rng(0)
    inputs = bounded(rng, (4, 64), 3)
    four, two = (report(Gemm(4, 64, 4), bounded(rng, (4, 64), kept).T, inputs) for kept in (4, 2))
    assert four.cycles == two.cycles == 16 * 8 * 3
    assert four.total.energy_pj_by_component["mac"] > two.total.energy_pj_by_component["mac"]


def test_every_output_tile_pays_the_skew_of_the_array():
    # 5 x 3 tensor PEs of 2 x 4: tiles of 10 x 12, so 3 x 2 of them, each 6 + 2 cycles before the last PE begins.
    found = report(Gemm(30, 16, 24), rows=5, cols=3, datapath_rows=2, datapath_cols=4)
    assert found.cycles_by_cause == {"compute": 6 * 16, "drain": 6 * 6}


def test_tiles_at_the_edge_leave_datapaths_idle():
    found = report(Gemm(3, 8, 1), datapath_rows=2, datapath_cols=2)
    # Two tiles of 8 cycles; 3 outputs of 4 datapaths each need ceil(24 / 4) = 6.
    assert found.cycles_by_cause == {"compute": 6, "fragmentation": 10}


def test_weights_in_parallel_take_a_block_a_cycle_and_dense_half_of_it():
    rng = np.random.default_rng(1)
    fields = {"time_unrolled": False}
    sparse = report(Gemm(2, 64, 2), bounded(rng, (2, 64), 4).T, bounded(rng, (2, 64), 1), **fields)
    dense = report(Gemm(2, 64, 2), None, None, **fields)
    assert sparse.cycles_by_cause == {"compute": 4 * 8}
    assert dense.cycles_by_cause == {"compute": 4 * 16}
    # Three weights of a block leave the fourth multiplier idle.
    three = report(Gemm(2, 64, 2), bounded(rng, (2, 64), 3).T, None, **fields)
    assert three.cycles_by_cause == {"compute": 24, "imbalance": 8}


def test_a_density_alone_promises_no_bound():
    found = report(Gemm(4, 16, 4), density=0.25)
    assert found.cycles == 16 * 16
    counts = found.total.counts
    assert (counts[Count.ISSUED_MACS], counts[Count.GATED_MACS]) == (64, 192)


def test_blocks_run_along_k_or_along_the_channels():
    weights = np.zeros((2, 8, 3, 3), bool)
    weights[:, :4] = True  # 4 of 8 channels at every position; along k, whole windows
    convolution = Conv2d(8, 2, 5, 5, 3, 3)
    assert report(convolution, weights, blocks_along="channel").executed_as == "4:8"
    assert report(convolution, weights, blocks_along="k").executed_as == "dense"
    weights = np.arange(72).reshape(1, 8, 3, 3) % 2 == 0
    assert report(Conv2d(8, 1, 5, 5, 3, 3), weights, blocks_along="k").executed_as == "4:8"


def test_a_few_channels_leave_a_block_along_them_short():
    # Three channels at nine positions are nine blocks of three entries, bounded by 3 of 8 as they stand.  Along k the
    # weights are too many for blocks of eight, and 27 entries are seven blocks of four, the last of three.
    inputs = np.ones((1, 3, 3, 3), bool)
    convolution = Conv2d(3, 1, 3, 3, 3, 3)
    by_channel = report(convolution, None, inputs, blocks_along="channel", activation_bounds=["3:8"])
    assert by_channel.cycles == 9 * 3
    assert report(convolution, None, inputs, activation_bounds=["3:8"]).cycles == 7 * 4


def test_bounded_blocks_cost_their_values_and_a_bit_per_place():
    rng = np.random.default_rng(2)
    layer = LayerTrace("gemm", Gemm(16, 64, 8), bounded(rng, (8, 64), 4).T, bounded(rng, (16, 64), 2))
    machine = load_machine("s2ta", {"dram_burst_bytes": 1})
    total = simulate(Trace([layer]), machine).to_dict()["total"]
    assert total["metadata_bytes"] == 8 * 64 // 8
    assert total["dram_read_bytes"] == 8 * 32 + 8 * 8 + 16 * 16 + 16 * 8
    assert total["dram_write_bytes"] == 16 * 8


def test_the_preset_gains_as_the_bound_shrinks():
    rng = np.random.default_rng(3)
    operation = Gemm(512, 1024, 64)
    cycles = {}
    for kept in (1, 2, 4, 8):
        layer = LayerTrace("gemm", operation, bounded(rng, (64, 1024), 4).T, bounded(rng, (512, 1024), kept))
        cycles[kept] = simulate_layer(layer, load_machine("s2ta", {"memory": "ideal"})).cycles
    # 8 x 2 tiles of 64 x 32 outputs, 128 blocks, 14 cycles of skew
    assert cycles == {kept: 16 * (128 * kept + 14) for kept in (1, 2, 4, 8)}


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_an_array_larger_than_the_layer_is_one_tile(operation):
    found = simulate_layer(LayerTrace("corner", operation), load_machine("s2ta", {"memory": "ideal"}))
    total = found.total
    assert total.counts[Count.ISSUED_MACS] == operation.macs
    k = operation.gemm().k
    # A single weight of a block fits the bound of 4; nine do not, and their blocks of four are streamed whole.
    assert found.cycles == (8 if k == 1 else 12) + 14


def test_nothing_to_multiply():
    none = report(Gemm(3, 8, 3), np.zeros((8, 3), bool), np.ones((3, 8), bool))
    assert (none.cycles, none.executed_as) == (0, "removed")
    # A block of zeros still takes the smallest bound, and all of it is idle.
    assert report(Gemm(3, 8, 3), masks("10000000").T.repeat(3, axis=1), np.zeros((3, 8), bool)).cycles_by_cause == {
        "imbalance": 9}


def test_wrong_bounds_are_refused_with_all_their_mistakes():
    with pytest.raises(InputError, match="activation_bounds holds '3:4'"):
        load_machine("s2ta", {"activation_bounds": ["3:4"]})
    with pytest.raises(InputError, match="weight_bound = '9:8'"):
        load_machine("s2ta", {"weight_bound": "9:8"})
    with pytest.raises(InputError, match="blocks_along"):
        load_machine("s2ta", {"blocks_along": "n", "rows": 0})


def test_buffers_too_small_for_any_cut_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'layer' on .*misses the buffers by \d+ bytes"):
        report(Gemm(4, 40, 40), memory="channel", input_buffer_bytes=1)
