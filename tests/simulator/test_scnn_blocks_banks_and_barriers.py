"""SCNN's blocks, banks, barrier and halo on masks small enough to count by hand (docs/machines/scnn.md)."""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.mapping import Tiling


def causes(operation, weights=None, inputs=None, **fields):
    """Cycles by cause of one layer; weights and inputs: indices that are nonzero, None = all."""
    def mask(shape, kept):
        if kept is None:
            return np.ones(shape, dtype=bool)
        array = np.zeros(shape, dtype=bool)
        for index in kept:
            array[index] = True
        return array

    layer = LayerTrace("drawn", operation, mask(operation.weight_shape, weights), mask(operation.input_shape, inputs))
    return simulate(Trace([layer]), load_machine("scnn", {"memory": "ideal", **fields})).cycles_by_cause


ONE = {"pe_rows": 1, "pe_cols": 1}  # one element, so that nobody waits


def test_one_block_of_four_by_four_takes_one_cycle():
    # Outputs (x, y) = 4 pixels of a 2 x 2 plane, k = 0..3: banks 8*x0 + 4*y0 + k, all different.
    assert causes(Conv2d(1, 4, 2, 2, 1, 1), **ONE) == {"compute": 1}


def test_outputs_eight_channels_apart_share_a_bank():
    # k = 0 and 8 agree in k2 k1 k0: the two products of the only block wait for each other.
    assert causes(Conv2d(1, 16, 1, 1, 1, 1), [(0, 0), (8, 0)], **ONE) == {"compute": 1, "bank_conflict": 1}
    # k = 0 and 4 differ in k2 and lie in banks 0 and 16 ...
    assert causes(Conv2d(1, 16, 1, 1, 1, 1), [(0, 0), (4, 0)], **ONE) == {"compute": 1}
    # ... which are one bank of sixteen.
    assert causes(Conv2d(1, 16, 1, 1, 1, 1), [(0, 0), (4, 0)], **ONE, accumulator_banks=16) == {
        "compute": 1, "bank_conflict": 1}


def test_bits_one_of_both_coordinates_and_bit_two_of_k_cancel():
    # (k, x, y) = (4, 0, 0) and (0, 2, 0) lie in bank 16; (0, 2, 2) lies in bank 0 again.
    plane = Conv2d(1, 8, 3, 3, 1, 1)
    assert causes(plane, [(0, 0)], [(0, 0, 2, 0), (0, 0, 0, 2)], **ONE) == {"compute": 1, "bank_conflict": 1}
    assert causes(plane, [(0, 0)], [(0, 0, 0, 0), (0, 0, 2, 2)], **ONE) == {"compute": 1, "bank_conflict": 1}
    assert causes(plane, [(0, 0)], [(0, 0, 0, 0), (0, 0, 2, 0)], **ONE) == {"compute": 1}


def test_a_block_that_is_not_full_takes_a_whole_cycle():
    # 1 activation x 5 weights: blocks of 4 and 1 products; 5 products would fit one cycle of 16 multipliers.
    assert causes(Conv2d(1, 5, 1, 1, 1, 1), **ONE) == {"compute": 1, "fragmentation": 1}


def test_products_outside_the_plane_take_slots():
    # 3 x 3 kernel without padding on 3 x 3: each activation meets one weight whose output is the only one.
    # 9 activations in 3 vectors, 9 weights in 3: 9 blocks for 9 products; one block has up to 4 of them in one bank.
    found = causes(Conv2d(1, 1, 3, 3, 3, 3), **ONE)
    # Activations 0..3 meet weights 0..3 (4 products of output 0), 4..7 meet 4..7, 8 meets 8; 6 blocks are empty.
    # The halo of an unpadded kernel is 2 wide along a tile 3 long.
    assert found == {"compute": 1, "fragmentation": 8, "bank_conflict": 6, "halo": 6}


def test_elements_wait_for_the_slowest_at_every_channel():
    # 1 x 2 elements, 1 x 16 plane.  Channel 0: 8 activations left (2 blocks), none right; channel 1 the other way.
    plane = Conv2d(2, 1, 1, 16, 1, 1)
    left, right = [(0, 0, 0, y) for y in range(8)], [(0, 1, 0, y) for y in range(8, 16)]
    grid = {"pe_rows": 1, "pe_cols": 2}
    found = causes(plane, None, left + right, **grid)
    assert sum(found.values()) == 4 + found.pop("bank_conflict", 0)
    # Were both in the same channel, the elements would work side by side.
    together = causes(plane, None, left + [(0, 0, 0, y) for y in range(8, 16)], **grid)
    assert together.get("imbalance", 0) == 0 and found["imbalance"] >= 2


def test_only_equal_phases_meet_at_stride_two():
    # Kernel 2 x 1, stride 2 on 4 x 1: row 0 of the kernel meets rows 0 and 2 of the plane, row 1 rows 1 and 3.
    layer = Conv2d(1, 1, 4, 1, 2, 1, stride_h=2, stride_w=1)
    # Two phases, one block each with 2 products; a halo of (2 - 1) rows x 1 column.
    assert causes(layer, **ONE) == {"compute": 1, "fragmentation": 1, "halo": 1}
    # Only even rows are nonzero: the other phase has no block.
    assert causes(layer, None, [(0, 0, 0, 0), (0, 0, 2, 0)], **ONE) == {"compute": 1, "halo": 1}


def test_halo_is_the_largest_border_region_of_every_channel():
    # Padded 18 x 18 on 8 x 8: tiles 3 x 3.  Pad 1: regions 1 x 1, 1 x 3, 3 x 1; largest 3, times 40 output channels.
    assert causes(Conv2d(1, 40, 16, 16, 3, 3, padding_h=1, padding_w=1), [], None) == {"halo": 120}
    # 5 x 5 with pad 1: the far side is 4 - 1 = 3 wide; padded 18 x 18 again, largest 3 x 3.
    assert causes(Conv2d(1, 40, 16, 16, 5, 5, padding_h=1, padding_w=1), [], None) == {"halo": 360}
    assert causes(Conv2d(1, 40, 16, 16, 1, 1), [], None) == {}


@pytest.mark.parametrize("channels", [1, 5, 64])
def test_a_seven_by_seven_plane_gives_each_element_one_activation(channels):
    # 49 of 64 elements have one activation; 64 weights in 16 blocks of 1 x 4 products for each input channel.
    layer = LayerTrace("7x7", Conv2d(channels, 64, 7, 7, 1, 1))
    report = simulate(Trace([layer]), load_machine("scnn?memory=ideal"))
    assert report.cycles == 16 * channels
    assert report.total.utilisation == pytest.approx(49 * 4 / (64 * 16))


def test_a_dense_plane_without_borders_has_no_conflicts():
    # 4 activations of a 2 x 2 tile x 4 channels: the bank formula was made for this.
    found = causes(Conv2d(8, 64, 16, 16, 1, 1))
    assert found == {"compute": 8 * 16}


@pytest.mark.parametrize("operation", [Conv2d(3, 8, 9, 9, 3, 3, padding_h=1), Gemm(5, 7, 9), Gemm(1, 1, 1)])
def test_nothing_is_multiplied_without_weights_or_without_activations(operation):
    for weights, inputs in (([], None), (None, [])):
        assert set(causes(operation, weights, inputs)) <= {"halo"}


def test_a_gemm_is_a_plane_one_column_wide():
    rng = np.random.default_rng(0)
    weight, inputs = rng.random((12, 20)) < 0.5, rng.random((30, 12)) < 0.5
    gemm = LayerTrace("gemm", Gemm(30, 12, 20), weight, inputs)
    conv = LayerTrace("conv", Conv2d(12, 20, 30, 1, 1, 1), weight.T[:, :, None, None], inputs.T[None, :, :, None])
    machine = load_machine("scnn")
    pair = [simulate(Trace([layer]), machine).total.counts.tolist() for layer in (gemm, conv)]
    assert pair[0] == pair[1]


def test_a_density_without_a_mask_lists_that_share():
    layer = LayerTrace("share", Conv2d(4, 8, 16, 16, 1, 1), input_density=0.25)
    total = simulate(Trace([layer]), load_machine("scnn?memory=ideal")).total
    assert total.to_dict()["useful_macs"] == 4 * 16 * 16 // 4 * 8


def test_accumulators_too_small_for_one_channel_are_refused_with_the_number_missing():
    layer = LayerTrace("large", Conv2d(1, 1, 512, 512, 3, 3, padding_h=1, padding_w=1))
    with pytest.raises(InputError, match="64 x 64 outputs miss its accumulators by 3072 entries"):
        simulate(Trace([layer]), load_machine("scnn"))


def test_buffers_too_small_say_by_how_many_bytes():
    layer = LayerTrace("large", Conv2d(4, 16, 16, 16, 3, 3))
    with pytest.raises(InputError, match=r"misses the buffers by \d+ bytes"):
        simulate(Trace([layer]), load_machine("scnn", {"weight_buffer_bytes": 16}))


def test_a_tiling_of_another_shape_is_refused():
    from simulator.machines import scnn

    with pytest.raises(InputError, match="whole input channels"):
        scnn.run(LayerTrace("l", Conv2d(4, 16, 16, 16, 3, 3)), load_machine("scnn"), Tiling(3, 10, 2))


@pytest.mark.parametrize("query", ["pe_rows=0", "multipliers_f=16&multipliers_i=16", "accumulator_banks=0",
                                   "index_bits=-1"])
def test_impossible_machines_are_refused(query):
    with pytest.raises(InputError, match="expected"):
        load_machine(f"scnn?{query}")
