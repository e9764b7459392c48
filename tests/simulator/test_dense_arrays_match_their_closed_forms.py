"""Cycle counts that were measured on public RTL, from the presets' TOML alone (memory off).

Each expected value is the closed form of docs/model.md 1.3 written out here with the array's numbers, counted from
the edge that samples the first operand to the one after which the last result is visible.
"""

import pytest

from simulator import Gemm, LayerTrace, Trace, load_machine, simulate


def ideal_cycles(machine, m, k, n, **fields):
    machine = load_machine(machine, {**fields, "memory": "ideal"})
    report = simulate(Trace([LayerTrace("gemm", Gemm(m, k, n))]), machine)
    assert sum(report.cycles_by_cause.values()) == report.cycles
    return report.cycles


@pytest.mark.parametrize("s", [2, 4, 9, 16])
@pytest.mark.parametrize("m", [1, 3, 64])
def test_tiny_tpu_takes_3s_plus_m_minus_2(s, m):
    assert ideal_cycles("tiny_tpu", m, s, s, rows=s, cols=s) == 3 * s + m - 2


@pytest.mark.parametrize(("r", "c"), [(4, 4), (8, 4), (4, 8), (16, 16)])
@pytest.mark.parametrize("t", [1, 5, 40])
def test_output_stationary_with_serial_shift_out_takes_2r_plus_c_plus_t_minus_2(r, c, t):
    assert ideal_cycles("systolic_os", r, t, c, rows=r, cols=c, drain="serial") == 2 * r + c + t - 2


@pytest.mark.parametrize(("r", "c"), [(4, 4), (8, 4), (4, 8)])
@pytest.mark.parametrize("t", [1, 5, 40])
def test_output_stationary_read_in_place_takes_r_plus_c_plus_t_minus_2(r, c, t):
    assert ideal_cycles("systolic_os", r, t, c, rows=r, cols=c, drain="in_place") == r + c + t - 2


@pytest.mark.parametrize("tiles", [1, 2, 6])
@pytest.mark.parametrize(("r", "c"), [(4, 4), (8, 4), (4, 8), (16, 16)])
@pytest.mark.parametrize("t", [1, 5, 40])
def test_weight_stationary_takes_2r_plus_c_plus_t_minus_2_a_tile(r, c, t, tiles):
    # One weight buffer: nothing overlaps.  With two, the first tile is the same and the others cost max(R, T).
    tile = 2 * r + c + t - 2
    assert ideal_cycles("systolic_ws", t, r, c * tiles, rows=r, cols=c, weight_buffers=1) == tiles * tile
    assert ideal_cycles("systolic_ws", t, r, c * tiles, rows=r, cols=c) == tile + (tiles - 1) * max(r, t)


@pytest.mark.parametrize("dataflow", ["ws", "is"])
def test_folds_without_overlap_cost_the_whole_tile_again(dataflow):
    # 3 folds along k, 2 along the other held axis; streamed T = 7.
    sizes = (7, 12, 10) if dataflow == "ws" else (10, 12, 7)
    tile = 2 * 4 + 5 + 7 - 2
    assert ideal_cycles(f"systolic_{dataflow}", *sizes, rows=4, cols=5, weight_buffers=1) == 6 * tile


@pytest.mark.parametrize("t", [1, 3, 4, 5, 20])
def test_two_weight_buffers_hide_the_load_behind_a_long_stream(t):
    tile = 2 * 4 + 4 + t - 2
    assert ideal_cycles("systolic_ws", t, 12, 4, rows=4, cols=4) == tile + 2 * max(4, t)


@pytest.mark.parametrize("t", [1, 3, 4, 5, 20])
def test_an_overlapped_drain_hides_behind_a_long_reduction(t):
    # A second fold may not finish before the drain register is free again, R edges later.
    tile = 2 * 4 + 4 + t - 2
    assert ideal_cycles("systolic_os", 12, t, 4, rows=4, cols=4) == tile + 2 * max(4, t)


@pytest.mark.parametrize("s", [4, 8, 16])
@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize("g", [1, 2, 6])
def test_gemmini_with_own_weights_per_tile(s, extra, g):
    m, hop = s - 1, extra + 1
    assert ideal_cycles("gemmini", m, s * g, s, rows=s, cols=s, activation_hop_registers=hop, psum_hop_registers=hop,
                        rows_per_request=s, max_in_flight=5 * hop + 1) == s + s * (g - 1) + m + (2 * s - 1) * hop


@pytest.mark.parametrize("s", [4, 8, 16])
def test_gemmini_with_kept_weights_and_full_requests(s):
    blocks = 4
    assert ideal_cycles("gemmini", blocks * s, s, s, rows=s, cols=s, rows_per_request=s) == s + blocks * s + 2 * s - 1


def test_gemminis_queue_makes_short_requests_wait():
    # One row per request, six requests: no closed form shows the wait for a place in the queue.
    assert ideal_cycles("gemmini", 6, 16, 16, rows_per_request=1) == 81
    assert ideal_cycles("gemmini", 6, 16, 16, rows_per_request=1, max_in_flight=0) == 53


def test_gemminis_queue_follows_its_recurrence():
    s, rows, blocks, limit = 8, 2, 15, 6
    tail = 2 * s - 1
    fire, done = [0], [s + tail]
    lengths = [s] + [rows] * blocks
    for i in range(1, blocks + 1):
        start = fire[i - 1] + lengths[i - 1]
        if i >= limit:
            start = max(start, done[i - (limit - 1)] + 1)
        fire.append(start)
        done.append(start + lengths[i] + tail)
    assert ideal_cycles("gemmini", rows * blocks, s, s, rows=s, cols=s, rows_per_request=rows) == done[-1]


@pytest.mark.parametrize("registers", [
    {"activation_hop_registers": 2}, {"psum_hop_registers": 3}, {"multiplier_latency": 2}, {"input_register": 1},
    {"output_register": 1}, {"preload_bias": True}, {"accumulator_latency": 3},
])
def test_each_register_parameter_adds_what_the_formula_says(registers):
    r, c, t = 3, 5, 7
    a, p = registers.get("activation_hop_registers", 1), registers.get("psum_hop_registers", 1)
    one = (r + t - 1 + (c - 1) * a + r * p + registers.get("input_register", 0) + registers.get("output_register", 0)
           + registers.get("multiplier_latency", 0) + (r if registers.get("preload_bias") else 0))
    assert ideal_cycles("systolic_ws", t, r, c, rows=r, cols=c, **registers) == one
    late = registers.get("accumulator_latency", 1) - 1
    assert ideal_cycles("systolic_os", r, t, c, rows=r, cols=c, drain="serial", **registers) == one + late


def test_a_fold_of_zeros_is_free_on_a_block_array_only():
    import numpy as np

    mask = np.ones((12, 4), dtype=bool)
    mask[4:8] = False
    layer = Trace([LayerTrace("gemm", Gemm(9, 12, 4), mask)])
    fields = {"rows": 4, "cols": 4, "memory": "ideal", "compact_channels": False}
    dense = simulate(layer, load_machine("systolic_ws", fields))
    blocks = simulate(layer, load_machine("block_array", fields))
    assert dense.cycles - blocks.cycles == 9
    assert (dense.layers[0].executed_as, blocks.layers[0].executed_as) == ("dense", "block 4x4")


def test_two_of_four_halves_the_reduction():
    import numpy as np

    mask = np.zeros((32, 4), dtype=bool)
    mask[::2] = True
    layer = Trace([LayerTrace("gemm", Gemm(100, 32, 4), mask, structure="2:4")])
    fields = {"rows": 4, "cols": 4, "memory": "ideal", "compact_channels": False}
    report = simulate(layer, load_machine("nm_array", fields))
    assert report.layers[0].executed_as == "2:4"
    assert report.total.to_dict()["cycles_by_cause"]["compute"] == 100 * 16 // 4
    assert report.dense.to_dict()["cycles_by_cause"]["compute"] == 100 * 32 // 4
