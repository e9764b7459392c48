"""One behaviour of the memory system per test, on layers small enough to draw the time line.

Unless said otherwise: 2x2 weight-stationary array, one byte per word, a channel of 1 byte per cycle without latency,
bursts of 1 byte.
"""

import numpy as np
import pytest

from simulator import Gemm, InputError, LayerTrace, load_machine
from simulator.counts import Count
from simulator.machines import systolic
from simulator.mapping import Tiling

FIELDS = {"rows": 2, "cols": 2, "input_buffer_bytes": 4096, "weight_buffer_bytes": 4096, "output_buffer_bytes": 4096,
          "dram_bytes_per_cycle": 1, "dram_latency_cycles": 0, "dram_burst_bytes": 1}

WHOLE = Tiling(10**6, 10**6, 10**6)


def run(operation, tiling=None, **fields):
    machine = load_machine("systolic_ws", {**FIELDS, **fields})
    counts = systolic.run(LayerTrace("layer", operation), machine, tiling).counts
    return {item.name.lower(): int(counts[item]) for item in Count}, int(counts[Count.COMPUTE:].sum())


def test_cold_fill_is_charged():
    # weight 4 B: 0..4, input 8 B: 4..12; weights shift 4..6, the stream waits for the input until 12.
    # stream 12..16, tail (2-1) + 2 - 1 = 2 -> 18; outputs 8 B: 18..26.
    counts, cycles = run(Gemm(4, 2, 2), WHOLE)
    assert counts["cold_fill"] == 12 - 2
    assert counts["stall_output"] == 8
    assert cycles == 26


def test_latency_is_paid_once_by_the_first_operands():
    without, with_latency = run(Gemm(4, 2, 2), WHOLE)[1], run(Gemm(4, 2, 2), WHOLE, dram_latency_cycles=50)[1]
    assert with_latency - without == 50


def test_a_second_weight_buffer_half_hides_the_weight_load():
    # Two tiles along n, each 4 weights; streams of 40 rows leave time for the next weights in the other half.
    tiling = Tiling(40, 2, 2, "mnk")
    double, _ = run(Gemm(40, 2, 4), tiling)
    single, _ = run(Gemm(40, 2, 4), tiling, weight_double_buffered=False)
    assert double["stall_weight"] == 0
    assert single["stall_weight"] == 4 + 2 - 0  # load after the stream, then shift: 4 bytes and R edges
    assert double["weight_dram_read_bytes"] == single["weight_dram_read_bytes"] == 8


def test_an_input_tile_that_stays_is_loaded_once():
    assert run(Gemm(8, 2, 8), Tiling(8, 2, 2, "mnk"))[0]["input_dram_read_bytes"] == 16
    # With the loop over n outermost and two tiles of m inside it, every visit loads the inputs again.
    assert run(Gemm(8, 2, 8), Tiling(4, 2, 2, "nmk"))[0]["input_dram_read_bytes"] == 16 * 4


def test_partial_sums_that_leave_come_back():
    # k outermost, two output tiles: each is written as partial sums (4 B), read back, written as outputs (1 B).
    counts, _ = run(Gemm(4, 4, 4), Tiling(4, 2, 2, "knm"))
    assert counts["psum_dram_write_bytes"] == counts["psum_dram_read_bytes"] == 4 * 4 * 4
    assert counts["output_dram_write_bytes"] == 16


def test_partial_sums_that_stay_are_read_back_on_chip():
    counts, _ = run(Gemm(4, 6, 2))
    assert counts["psum_dram_write_bytes"] == 0
    # three folds write 8 sums each; two of them add to what is there; the store reads the outputs once more.
    assert counts["output_sram_writes"] == 24
    assert counts["output_sram_reads"] == 16 + 8


def test_bursts_round_every_transfer_up():
    counts, _ = run(Gemm(3, 1, 1), dram_burst_bytes=64)
    assert counts["input_dram_read_bytes"] == counts["weight_dram_read_bytes"] == 64
    assert counts["output_dram_write_bytes"] == 64


def test_infinite_bandwidth_without_latency_never_stalls():
    counts, cycles = run(Gemm(9, 7, 5), dram_bytes_per_cycle=float("inf"))
    assert cycles == counts["compute"] + counts["fill"] + counts["drain"] + counts["weight_shift"]


def test_a_fractional_bandwidth_is_exact():
    # 8 bytes at 0.8 bytes per cycle take 10 cycles, not 9 or 11 by rounding of binary fractions.
    one, slow = run(Gemm(4, 2, 2), WHOLE)[0], run(Gemm(4, 2, 2), WHOLE, dram_bytes_per_cycle=0.8)[0]
    assert one["stall_output"] == 8
    assert slow["stall_output"] == 10


def test_one_scratchpad_can_hold_what_private_buffers_cannot():
    gemm = Gemm(8, 2, 2)
    tight = {"input_buffer_bytes": 8, "weight_buffer_bytes": 4, "output_buffer_bytes": 64}
    whole = Tiling(8, 2, 2)
    with pytest.raises(InputError, match="misses the buffers by 8 bytes"):
        run(gemm, whole, **tight)
    run(gemm, whole, **tight, shared_buffer_bytes=16 + 4 + 64)
    with pytest.raises(InputError, match="misses the buffers by 1 bytes"):
        run(gemm, whole, **tight, shared_buffer_bytes=16 + 4 + 63)


def test_buffers_too_small_for_any_tile_say_by_how_much():
    with pytest.raises(InputError, match=r"'layer' on systolic_ws: its smallest tile misses the buffers by \d+ bytes"):
        run(Gemm(8, 8, 8), weight_buffer_bytes=3)


def test_a_convolution_loads_each_input_once_where_it_fits():
    from simulator import Conv2d

    op = Conv2d(3, 4, 6, 6, 3, 3, padding_h=1, padding_w=1)
    counts, _ = run(op, Tiling(36, 27, 4))
    assert counts["input_dram_read_bytes"] == 3 * 6 * 6
    # im2col on the way to the array: every fold column reads k = 27 words per output pixel.
    assert counts["input_sram_reads"] == 36 * 27 * 2


def test_bricks_of_output_rows_load_their_halo():
    from simulator import Conv2d

    op = Conv2d(1, 2, 6, 6, 3, 3, padding_h=1, padding_w=1)
    counts, _ = run(op, Tiling(2 * 6, 9, 2))
    # rows 0-2, 1-4 and 3-5 of the image: 3 + 4 + 3 rows of 6
    assert counts["input_dram_read_bytes"] == 10 * 6


def test_removed_filters_are_not_computed_loaded_or_stored():
    mask = np.ones((4, 6), dtype=bool)
    mask[:, 1] = mask[:, 4] = False
    machine = load_machine("systolic_ws", FIELDS)
    sparse = systolic.run(LayerTrace("layer", Gemm(5, 4, 6), mask), machine).counts
    small = systolic.run(LayerTrace("layer", Gemm(5, 4, 4)), machine).counts
    differ = {Count(i).name for i in np.flatnonzero(sparse != small)}
    assert differ == {"DENSE_MACS", "SKIPPED_MACS"}


def test_a_layer_without_weights_takes_no_time():
    machine = load_machine("systolic_ws", FIELDS)
    empty = systolic.run(LayerTrace("layer", Gemm(5, 4, 6), np.zeros((4, 6), dtype=bool)), machine)
    assert empty.executed_as == "removed"
    assert {Count(i).name for i in np.flatnonzero(empty.counts)} == {"DENSE_MACS", "SKIPPED_MACS"}
