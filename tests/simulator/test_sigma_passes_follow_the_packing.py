"""SIGMA: how nonzeros become passes, what a pass takes, and the corners where there is little or nothing to pack.

Expected figures are written out from docs/machines/sigma.md; the masks are small enough to draw.
"""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate


def sigma(**fields):
    narrow = {"multipliers": 4, "load_bandwidth": 4, "stream_bandwidth": 4, "pipeline_registers": 0, "memory": "ideal"}
    return load_machine("sigma", {**narrow, **fields})


def run(machine, weights, inputs):
    """A GEMM from masks drawn as text: a row of weights per n, a row of inputs per streamed vector."""
    kept = np.array([[mark == "x" for mark in row] for row in weights]).T
    streamed = np.array([[mark == "x" for mark in row] for row in inputs])
    operation = Gemm(len(inputs), *kept.shape)
    return simulate(Trace([LayerTrace("gemm", operation, kept, streamed)]), machine)


@pytest.mark.parametrize("n", [2, 4, 16, 128])
@pytest.mark.parametrize("t", [1, 7, 100])
def test_one_flex_dpe_loaded_in_one_cycle_takes_t_plus_log2_n_plus_5(n, t):
    # Measured on public RTL: N multipliers, T streamed vectors, one neuron that fills the unit.
    machine = load_machine("sigma", {"multipliers": n, "load_bandwidth": n, "stream_bandwidth": n, "memory": "ideal"})
    report = simulate(Trace([LayerTrace("gemm", Gemm(t, n, 1))]), machine)
    assert report.cycles == t + (n.bit_length() - 1) + 5
    assert report.cycles_by_cause == {"fill": 1, "compute": t, "drain": n.bit_length() - 1 + 4}


def test_split_rows_fill_every_pass_but_the_last():
    # 3 + 3 + 3 useful weights in 4 multipliers: |aaab|bbcc|c   |
    report = run(sigma(), ["xxx", "xxx", "xxx"], ["xxx"] * 8)
    causes = {"fill": 1, "weight_shift": 2, "compute": 8 + 8 + 2, "fragmentation": 6, "drain": 6}
    # Each pass: 1 to load, 8 vectors of at most 3 different k, 2 levels of the tree; the last holds 1 of 4.
    assert report.cycles_by_cause == causes


def test_whole_rows_wait_for_the_next_pass():
    # |aaa |bbb |ccc |: a quarter of each pass is empty.
    report = run(sigma(row_packing="whole"), ["xxx", "xxx", "xxx"], ["xxx"] * 8)
    assert report.cycles_by_cause == {"fill": 1, "weight_shift": 2, "compute": 18, "fragmentation": 6, "drain": 6}
    # Rows of 3 and 1 share a pass; the next 3 do not fit behind the second 3.
    shared = run(sigma(row_packing="whole"), ["xxx", "x..", "xxx", "xx."], ["xxx"] * 8)
    assert shared.cycles_by_cause["weight_shift"] == 2


def test_a_row_longer_than_the_unit_is_split_even_where_rows_stay_whole():
    report = run(sigma(row_packing="whole"), ["xxxxxxxxx", "xxx......"], ["x" * 9])
    # |aaaa|aaaa|abbb|
    assert report.cycles_by_cause == {"fill": 1, "weight_shift": 2, "compute": 3, "drain": 6}


def test_a_narrow_stream_needs_more_cycles_for_more_different_k():
    # The same four weights: all of one k, or of four.
    column, row = ["x...", "x...", "x...", "x..."], ["xxxx"]
    assert run(sigma(stream_bandwidth=1), column, ["xxxx"] * 5).cycles_by_cause["compute"] == 5
    assert run(sigma(stream_bandwidth=1), row, ["xxxx"] * 5).cycles_by_cause["compute"] == 20
    assert run(sigma(stream_bandwidth=3), row, ["xxxx"] * 5).cycles_by_cause["compute"] == 10


def test_two_sides_drop_weights_whose_k_never_streams():
    weights, inputs = ["xxxxxxxx"], ["x.x.x.x.", "x......."]
    both, one = run(sigma(), weights, inputs), run(sigma(two_sided=False), weights, inputs)
    assert both.cycles == 1 + 2 + 2
    assert one.cycles == 2 * (1 + 2 + 2)
    # Five nonzeros meet weights in eight slots; the one-sided machine multiplies all sixteen.
    assert [both.to_dict()["total"][name] for name in ("issued_macs", "gated_macs", "skipped_macs")] == [5, 3, 8]
    assert [one.to_dict()["total"][name] for name in ("issued_macs", "gated_macs", "skipped_macs")] == [16, 0, 0]


def test_a_load_network_narrower_than_the_unit_takes_several_cycles():
    assert run(sigma(load_bandwidth=3), ["xx"], ["xx"]).cycles_by_cause["fill"] == 2


def test_layers_with_nothing_to_multiply_take_no_time():
    for weights, inputs in ((["..", ".."], ["xx"]), (["xx", "xx"], [".."])):
        report = run(sigma(), weights, inputs)
        assert report.cycles == 0
        assert report.to_dict()["total"]["skipped_macs"] == 4
    # A one-sided machine does not look at the stream.
    assert run(sigma(two_sided=False), ["xx"], [".."]).cycles > 0


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_corner_shapes_run_in_a_unit_larger_than_the_layer(operation):
    report = simulate(Trace([LayerTrace("corner", operation)]), sigma(multipliers=64, stream_bandwidth=64))
    gemm = operation.gemm()
    assert report.cycles == 16 + gemm.m + 6
    assert report.to_dict()["total"]["useful_macs"] == operation.macs


def test_groups_have_streams_and_so_passes_of_their_own():
    report = simulate(Trace([LayerTrace("depthwise", Conv2d(4, 4, 3, 3, 1, 1, groups=4))]), sigma())
    assert report.cycles == 4 * (1 + 9 + 2)


def test_compressed_operands_cost_their_compressed_bytes():
    machine = load_machine("sigma", {"dram_burst_bytes": 1})
    weights, inputs = np.zeros((64, 8), bool), np.zeros((16, 64), bool)
    weights[::4], inputs[:, ::2] = True, True
    layer = LayerTrace("gemm", Gemm(16, 64, 8), weights, inputs)
    total = simulate(Trace([layer]), machine).to_dict()["total"]
    # 128 weights and a bitmap of 512 bits; 16 channels are read, of which all 16 entries are nonzero: 256 and 256 bits.
    assert total["dram_read_bytes"] == (128 + 64) + (256 + 32)
    assert total["metadata_bytes"] == 64
    assert total["dram_write_bytes"] == 16 * 8


def test_an_input_larger_than_its_buffer_is_streamed_anew_in_every_pass():
    layer = LayerTrace("gemm", Gemm(64, 16, 32))
    fields = {"multipliers": 64, "memory": "channel", "dram_burst_bytes": 1, "two_sided": False, "stream_bandwidth": 64}
    roomy, tight = (simulate(Trace([layer]), sigma(**fields, input_buffer_bytes=size)) for size in (1024, 512))
    assert roomy.to_dict()["total"]["dram_read_bytes"] == 512 + 1024
    assert tight.to_dict()["total"]["dram_read_bytes"] == 512 + 8 * 1024


def test_buffers_too_small_for_one_vector_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'gemm' .*misses the buffers by \d+ bytes"):
        simulate(Trace([LayerTrace("gemm", Gemm(4, 400, 4))]), sigma(memory="channel", input_buffer_bytes=16))


def test_layers_too_large_to_look_at_every_weight_are_refused():
    with pytest.raises(InputError, match="a weight of 4294967296 entries; expected at most 268435456"):
        simulate(Trace([LayerTrace("huge", Gemm(1, 65536, 65536))]), sigma())


def test_wrong_fields_are_named():
    with pytest.raises(InputError, match="row_packing = 'halved'; expected whole or split"):
        sigma(row_packing="halved")
    with pytest.raises(InputError, match="multipliers = 0"):
        sigma(multipliers=0)


def test_more_passes_than_can_be_kept_are_refused():
    with pytest.raises(InputError, match=r"layer 'huge': up to \d+ passes; expected at most"):
        simulate(Trace([LayerTrace("huge", Gemm(1, 4096, 1024))]), sigma(multipliers=1))
