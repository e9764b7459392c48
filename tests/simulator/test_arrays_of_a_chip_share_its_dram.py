"""Several arrays with a network each on one DRAM: limit cases, a schedule by hand, and what cannot be shared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, InputError, LayerTrace, Machine, Trace, load_machine, simulate
from simulator.chip import simulate_chip
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.machines.multi_array_memory import with_part_of_memory
from simulator.operators import Operator
from simulator.vector import DRAM_BYTES

SMALL = {"dram_bytes_per_cycle": 2, "dram_burst_bytes": 4, "dram_latency_cycles": 5}


def machine(preset: str = "systolic_ws", **fields: object) -> Machine:
    size = {"rows": 4, "cols": 4} if preset.startswith("systolic") else {}
    return load_machine(preset, {"clock_hz": 1e9, **size, **SMALL, **fields})


def network(*sizes: tuple[int, int, int], operators: list[Operator] | None = None, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace([LayerTrace(f"l{i}", Gemm(m, k, n), rng.random((k, n)) < 0.5) for i, (m, k, n) in enumerate(sizes)],
                 operators=operators)


RELU = Operator("relu", "relu", "activation", 128, 128, 128, after="l0", fusion="producer", producer="l0")
SOFTMAX = Operator("softmax", "softmax", "softmax", 128, 128, 768, after="l0")
FIRST = Operator("scale", "mul", "elementwise", 64, 64, 64)


@pytest.mark.parametrize("fields", [{}, {"memory": "ideal"}, {"memory": "dram"}, {"vector_lanes": 3}])
@pytest.mark.parametrize("preset", ["systolic_ws", "sparten", "scalesim_os"])
def test_one_array_is_simulate(preset: str, fields: dict[str, object]) -> None:
    trace, on = network((8, 16, 16), (8, 16, 4), operators=[FIRST, RELU, SOFTMAX]), machine(preset, **fields)
    [one] = simulate_chip([(trace, on)]).arrays
    assert one.report.to_dict() == simulate(trace, on, compare_dense=False).to_dict()
    assert (one.finish_cycles, one.slowdown) == (one.report.cycles, 1.0)


def test_arrays_are_independent_where_the_channel_has_no_limit() -> None:
    traces = [network((8, 64, 32), seed=1), network((5, 16, 9), (5, 9, 40), seed=2), network((30, 8, 8), seed=3)]
    machines = [machine(dram_bytes_per_cycle=float("inf")), machine("sparten", dram_bytes_per_cycle=float("inf")),
                machine("systolic_os", dram_bytes_per_cycle=float("inf"))]
    chip = simulate_chip(list(zip(traces, machines, strict=True)))
    alone = [simulate(trace, on, compare_dense=False) for trace, on in zip(traces, machines, strict=True)]
    assert [one.finish_cycles for one in chip.arrays] == [one.cycles for one in alone]
    assert chip.makespan_cycles == max(one.cycles for one in alone)
    assert chip.energy_pj == pytest.approx(sum(one.energy_pj for one in alone))


def test_layers_take_the_part_that_is_theirs_when_they_begin() -> None:
    """The long array's first layer begins beside the short one, its second after it: halves, then everything.

        short  |--l0 at 1/2--|
        long   |--l0 at 1/2-------------|--l1 alone--|
    """
    short, long = network((4, 8, 8), seed=4), network((4, 64, 64), (4, 64, 64), seed=5)
    on = machine()
    chip = simulate_chip([(short, on), (long, on)])
    half = with_part_of_memory(on, 2)
    first, second = simulate_layer(long.layers[0], half).cycles, simulate_layer(long.layers[1], on).cycles
    assert [one.finish_cycles for one in chip.arrays] == [simulate_layer(short.layers[0], half).cycles, first + second]
    assert chip.arrays[0].finish_cycles < first
    assert [layer.cycles for layer in chip.arrays[1].report.layers] == [first, second]
    assert chip.arrays[1].slowdown > 1.0
    assert chip.to_dict()["arrays"][1]["finish_cycles"] == first + second == chip.makespan_cycles


def test_operators_that_take_their_tensors_to_dram_contend_too() -> None:
    trace = network((8, 16, 16), operators=[FIRST, RELU, SOFTMAX])
    on = machine(vector_lanes=8)
    chip = simulate_chip([(trace, on), (trace, on)])
    for one in chip.arrays:
        half = simulate(trace, with_part_of_memory(on, 2), compare_dense=False)
        assert one.report.to_dict() == {**half.to_dict(), "coverage": one.report.coverage.to_dict()}


def test_time_on_a_dram_with_timings_is_at_the_arrays_own_clock() -> None:
    on = machine(memory="dram", clock_hz=8e8)
    chip = simulate_chip([(network((8, 64, 64)), on)] * 2)
    for one in chip.arrays:
        assert one.report.total.latency_s == pytest.approx(one.finish_cycles / 8e8)
        assert one.slowdown > 1.05
    misses = [Count.DRAM_ROW_MISSES, Count.DRAM_ROW_CONFLICTS, Count.DRAM_ROW_HITS]
    assert all(one.report.total.counts[misses].sum() > 0 for one in chip.arrays)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(("systolic_ws", "systolic_os", "sparten", "nm_array")),
                          st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=1, max_size=3)),
                min_size=2, max_size=4), st.sampled_from((0.5, 3.0, 16.0)))
def test_no_byte_is_lost_and_no_channel_carries_more_than_it_can(parts: list[tuple[str, list[tuple[int, int, int]]]],
                                                                bandwidth: float) -> None:
    chosen = [(network(*sizes, seed=i), machine(preset, dram_bytes_per_cycle=bandwidth))
              for i, (preset, sizes) in enumerate(parts)]
    chip = simulate_chip(chosen)
    for one in chip.arrays:
        assert sum(layer.cycles for layer in one.report.layers) == one.finish_cycles
        assert sum(one.report.cycles_by_cause.values()) == one.finish_cycles
    moved = [sum(int(layer.total.counts[item]) for item in DRAM_BYTES)
             for one in chip.arrays for layer in one.report.layers]
    assert sum(moved) == chip.dram_bytes
    assert chip.makespan_cycles >= chip.dram_bytes / bandwidth
    for one, (trace, on) in zip(chip.arrays, chosen, strict=True):
        least = simulate(trace, with_part_of_memory(on, len(chosen)), compare_dense=False)
        assert one.alone_cycles <= one.finish_cycles <= least.cycles


@pytest.mark.parametrize(("other", "said"), [
    ({"dram_bytes_per_cycle": 4}, "dram_bytes_per_cycle = 4.0; expected 2.0 as on 'systolic_ws'"),
    ({"memory": "ideal"}, "memory = 'ideal'"),
    ({"clock_hz": 5e8}, "clock_hz = 500000000.0"),
    ({"keep_outputs_on_chip": True}, "keep_outputs_on_chip = True"),
])
def test_what_cannot_share_is_refused(other: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate_chip([(network((4, 8, 8)), machine()), (network((4, 8, 8)), machine(**other))])


def test_arrays_on_a_link_are_one_machine() -> None:
    linked = load_machine("multi_array", {"arrays": 2, "clock_hz": 1e9, **SMALL})
    with pytest.raises(InputError, match="shared_dram"):
        simulate_chip([(network((4, 8, 8)), linked)])
    with pytest.raises(InputError, match="no arrays"):
        simulate_chip([])


def test_convolutions_and_masks_of_inputs_go_along() -> None:
    rng = np.random.default_rng(6)
    conv = Conv2d(8, 8, 6, 6, 3, 3, padding_h=1, padding_w=1)
    trace = Trace([LayerTrace("c", conv, rng.random(conv.weight_shape) < 0.3, rng.random(conv.input_shape) < 0.5)])
    on = machine("scnn")
    two = simulate_chip([(trace, on)] * 2).arrays
    alone = simulate(trace, on, compare_dense=False)
    for one in two:
        assert one.alone_cycles == alone.cycles
        assert one.report.total.counts[Count.USEFUL_MACS] == alone.total.counts[Count.USEFUL_MACS]
    assert two[0].finish_cycles == two[1].finish_cycles > alone.cycles
