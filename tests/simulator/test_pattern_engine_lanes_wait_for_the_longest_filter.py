"""The pattern engine drawn lane by lane: a digit is a cycle with an entry of that channel, `s` a pattern switch.

Two lanes of one pixel unless said otherwise; patterns are written as the entries kept in a 1x4 kernel.
"""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate


def engine(**fields):
    fields = {"lanes": 2, "pixels": 1, "pattern_switch_cycles": 1, "pipeline_registers": 0, "memory": "ideal", **fields}
    return load_machine("pattern_engine", fields)


def layer(rows, width=4, **more):
    """A convolution of 1x4 kernels; rows[filter][channel] is a pattern such as "1100", "" for a removed kernel."""
    mask = np.array([[[[bit == "1" for bit in text.ljust(4, "0")]] for text in row] for row in rows])
    return LayerTrace("conv", Conv2d(mask.shape[1], mask.shape[0], 1, width, 1, 4), mask, **more)


def causes(rows, width=4, **fields):
    return simulate(Trace([layer(rows, width)]), engine(**fields)).cycles_by_cause


def test_a_removed_kernel_takes_no_time_and_a_kept_one_its_entries():
    # lane 0  s001122   three kernels of two entries, one pattern
    # lane 1  s0022..   channel 1 is removed
    assert causes([["1100", "1100", "1100"], ["1100", "", "1100"]]) == {
        "compute": 5, "weight_shift": 1, "imbalance": 1}
    # 7 entries and 2 switches in 10 lane-cycles
    assert causes([["1110"], ["1111"]]) == {"compute": 4, "weight_shift": 1}


def test_lanes_wait_only_at_the_end_of_their_filters():
    # lane 0  s0000s1   long kernels first
    # lane 1  s0s1111   ... and last: no wait between channels
    assert causes([["1111", "1000"], ["1000", "1111"]]) == {"compute": 5, "weight_shift": 2}


def test_kernels_of_a_pattern_run_together_after_reordering():
    # channel order  s00s11s22s33     12 cycles
    # by pattern     s0022s1133       10 cycles
    alternating = [["1100", "0011", "1100", "0011"]] * 2
    assert causes(alternating) == {"compute": 8, "weight_shift": 2}
    assert causes(alternating, reorder=False) == {"compute": 8, "weight_shift": 4}
    assert causes(alternating, reorder=False, pattern_switch_cycles=0) == {"compute": 8}


def test_filters_of_like_length_share_the_lanes_after_reordering():
    # filters as they lie        longest first
    # lane 0  s0011 | s0011      s0011 | s0
    # lane 1  s0... | s0...      s0011 | s0
    uneven = [["1100", "1100"], ["1000", ""], ["1100", "1100"], ["1000", ""]]
    assert sum(causes(uneven, reorder=False).values()) == 10
    assert causes(uneven) == {"compute": 5, "weight_shift": 2}
    assert causes(uneven, reorder=False)["imbalance"] == 3


def test_every_vector_of_pixels_walks_all_filters_again():
    # width 10 gives 7 pixels: 7 vectors of 1, 2 vectors of 4 (the last has 3)
    assert sum(causes([["1100"]] * 2, width=10).values()) == 7 * 3
    assert causes([["1100"]] * 2, width=10, pixels=4) == {"compute": 4, "weight_shift": 2}
    assert causes([["1100"]] * 2, width=9, pixels=4) == {"compute": 3, "fragmentation": 1, "weight_shift": 2}


def test_lanes_without_a_filter_are_fragmentation():
    assert causes([["1100"]] * 3, lanes=2, pattern_switch_cycles=0) == {"compute": 3, "fragmentation": 1}
    assert causes([["1100"]], lanes=16, pattern_switch_cycles=0) == {"compute": 1, "fragmentation": 1}


def test_the_pipeline_drains_once():
    assert causes([["1100"]] * 4, pipeline_registers=5)["drain"] == 5


def test_a_mask_without_weights_takes_no_time():
    assert causes([["", ""], ["", ""]], pipeline_registers=5) == {}


def test_an_empty_filter_is_neither_run_nor_written():
    report = simulate(Trace([layer([["1100"], [""], ["1100"]])]), engine(memory="channel", dram_burst_bytes=1))
    assert sum(simulate(Trace([layer([["1100"], [""], ["1100"]])]), engine()).cycles_by_cause.values()) == 3
    assert report.to_dict()["total"]["dram_write_bytes"] == 2


def test_fully_connected_layers_run_their_weights_one_by_one():
    weights = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)  # [k, n]
    report = simulate(Trace([LayerTrace("fc", Gemm(3, 4, 2), weights)]), engine(pattern_switch_cycles=0))
    assert report.cycles == 3 * 3
    assert report.layers[0].executed_as == "kernel"


def test_depthwise_filters_share_the_lanes():
    mask = np.ones((4, 1, 3, 3), bool)
    conv = LayerTrace("dw", Conv2d(4, 4, 3, 3, 3, 3, groups=4), mask)
    assert simulate(Trace([conv]), engine(lanes=4)).cycles == 9 + 1
    assert simulate(Trace([conv]), engine(lanes=1)).cycles == 4 * (9 + 1)


@pytest.mark.parametrize(("rows", "name"), [
    ([["1100", "0110"]], "pattern 2"), ([["1100", "1000"]], "unstructured"), ([["1111", ""]], "kernel"),
    ([["1111", "1111"]], "dense"), ([["", ""]], "removed"),
])
def test_what_was_exploited_is_named(rows, name):
    assert simulate(Trace([layer(rows)]), engine()).layers[0].executed_as == name


def test_zero_activations_gate_but_keep_their_cycle():
    zeros = {"input_mask": np.array([[[[True, False, True, False, True]]]])}
    conv = Trace([layer([["1100"]], 5, **zeros)])
    plain, gated = (simulate(conv, engine(gating=gating)) for gating in ("none", "zeros"))
    assert plain.cycles == gated.cycles == 2 * 3
    # pixel 0 reads inputs 0 and 1, pixel 1 reads 1 and 2: two of four products have a live input
    assert [report.to_dict()["total"][key] for report in (plain, gated) for key in ("issued_macs", "gated_macs")] == [
        4, 0, 2, 2]
    assert gated.energy_pj < plain.energy_pj


def test_the_metadata_by_hand():
    # 4 filters, 3 channels, two patterns: order 4x2 bits, table 2x4, runs 4x2x2, channels of 6 kernels 6x2 = 44 bits
    rows = [["1100", "0011", ""], ["1100", "", "1100"], ["0011", "", ""], ["1100", "", ""]]
    fields = {"memory": "channel", "dram_burst_bytes": 1, "lanes": 4}
    assert simulate(Trace([layer(rows)]), engine(**fields)).to_dict()["total"]["metadata_bytes"] == 6
    # as they lie: channel and pattern of 6 kernels 6x(2+1), kernels of 4 filters 4x2, the table 8 = 34 bits
    assert simulate(Trace([layer(rows)]), engine(reorder=False, **fields)).to_dict()["total"]["metadata_bytes"] == 5
    assert simulate(Trace([layer(rows).dense()]), engine(**fields)).to_dict()["total"]["metadata_bytes"] == 0


def test_weights_are_loaded_once_where_a_pass_may_hold_them_all():
    rng = np.random.default_rng(0)
    wide = LayerTrace("conv", Conv2d(32, 32, 12, 12, 3, 3, padding_h=1, padding_w=1), rng.random((32, 32, 3, 3)) < 0.4)
    fields = {"memory": "channel", "lanes": 4, "input_buffer_bytes": 2048, "dram_burst_bytes": 1,
              "dram_bytes_per_cycle": 4.0}
    total = simulate(Trace([wide]), engine(**fields)).to_dict()["total"]
    # The input does not fit its buffer: with a pass for every 4 filters it would be read 8 times.
    assert total["dram_read_bytes"] < 2 * (wide.weight_nnz + total["metadata_bytes"] + 32 * 144)


def test_buffers_too_small_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'conv' on pattern_engine: .*misses the buffers by \d+ bytes"):
        simulate(Trace([layer([["1100"]] * 8)]), engine(memory="channel", output_buffer_bytes=1, lanes=8))


def test_mistakes_in_the_fields_are_named():
    with pytest.raises(InputError, match="lanes = 0"):
        load_machine("pattern_engine", {"lanes": 0})
    with pytest.raises(InputError, match="gating = 'skip'"):
        load_machine("pattern_engine", {"gating": "skip"})
