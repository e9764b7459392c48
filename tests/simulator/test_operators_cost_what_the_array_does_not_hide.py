"""Operators on their own pass through the channel; fused ones cost what their layer's time does not hide."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, InputError, LayerTrace, Machine, Trace, files, load_machine, simulate
from simulator.counts import CAUSES, Count
from simulator.operators import Operator
from simulator.reference.steps import play as play_twin
from simulator.testing import memories
from simulator.vector import busy_cycles, tiles

FC = LayerTrace("fc", Gemm(64, 32, 48))
RELU = Operator("relu", "relu", "activation", 3072, 3072, 3072, after="fc", fusion="producer", producer="fc")
POOL = Operator("pool", "max_pool2d", "pooling", 4096, 1024, 4096, after="fc")
NORM = Operator("bn", "batch_norm", "normalisation", 3072, 3072, 6144, after="fc", fusion="weights", producer="fc")


def machine(**overrides: object) -> Machine:
    return load_machine("systolic_ws", {"vector_lanes": 16, **overrides})


def test_without_a_vector_unit_nothing_changes_and_the_report_says_so() -> None:
    plain = load_machine("systolic_ws")
    alone, beside = simulate(Trace([FC]), plain), simulate(Trace([FC], operators=[RELU, POOL, NORM]), plain)
    assert beside.total.counts.tobytes() == alone.total.counts.tobytes()
    assert beside.energy_pj == alone.energy_pj
    assert dict(beside.coverage.at_zero) == {"max_pool2d": 1, "relu": 1}
    assert beside.coverage.operators == (2, 4)  # the layer, and the norm that its weights have taken in
    assert not alone.coverage.recorded
    assert "not recorded" in alone.coverage.line()


def test_an_operator_on_its_own_with_ideal_memory_takes_the_lanes_time() -> None:
    # 4096 elements read two a lane and cycle: 128; 1024 written: 64; 4096 operations of 16 lanes: 256.
    report = simulate(Trace([FC], operators=[POOL]), machine(memory="ideal", layer_startup_cycles=7))
    assert report.operators[0].total.cycles_by_cause == {"vector": 256, "startup": 7}
    assert report.layers[0].cycles_by_cause["startup"] == 7
    faster = machine(memory="ideal", vector_operations_per_cycle=4)
    assert busy_cycles(POOL, faster) == 128
    assert report.cycles == report.layers[0].cycles + 263


def test_a_change_of_layout_has_no_operations_and_still_moves() -> None:
    layout = Operator("permute", "permute", "layout", 640, 640, 0, after="fc")
    assert busy_cycles(layout, machine()) == 40
    report = simulate(Trace([FC], operators=[layout]), machine(dram_burst_bytes=1))
    counts = report.operators[0].total.counts
    assert (counts[Count.INPUT_DRAM_READ_BYTES], counts[Count.OUTPUT_DRAM_WRITE_BYTES]) == (640, 640)
    assert "vector" not in report.operators[0].total.energy_pj_by_component


def test_a_fused_operator_adds_only_what_the_layer_does_not_hide() -> None:
    """relu works 3072/16 = 192 cycles in a layer of L; the 193rd operator cycle on is only added beyond L."""
    report = simulate(Trace([FC], operators=[RELU]), machine())
    length = report.layers[0].cycles
    assert length > 192
    assert report.operators[0].total.cycles == 0
    assert report.total.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == report.layers[0].total.counts[
        Count.OUTPUT_DRAM_WRITE_BYTES]
    slow = simulate(Trace([FC], operators=[RELU]), machine(vector_lanes=2))
    assert slow.operators[0].total.cycles_by_cause == {"vector": 1536 - length}
    assert slow.cycles == 1536
    # Two of them share the layer's time, in whatever order.
    twice = dataclasses.replace(RELU, name="relu2")
    assert simulate(Trace([FC], operators=[RELU, twice]), machine(vector_lanes=2)).cycles == 2 * 1536


def test_fusion_switched_off_sends_every_operator_through_dram() -> None:
    fused, unfused = (simulate(Trace([FC], operators=[RELU]), machine(vector_fused=on)) for on in (True, False))
    assert [one.operators[0].how for one in (fused, unfused)] == ["fused", "own"]
    assert unfused.operators[0].total.counts[Count.INPUT_DRAM_READ_BYTES] == 3072
    assert unfused.cycles > fused.cycles
    assert unfused.energy_pj > fused.energy_pj


def test_the_other_operand_of_a_fused_addition_comes_from_dram_and_waits_for_the_channel() -> None:
    add = Operator("add", "add", "elementwise", 6144, 3072, 3072, after="fc", fusion="producer", producer="fc",
                   others=3072)
    narrow = machine(dram_bytes_per_cycle=1, vector_lanes=64)
    report = simulate(Trace([FC], operators=[add]), narrow)
    layer, found = report.layers[0].total, report.operators[0].total
    moved = sum(int(layer.counts[item]) for item in Count if item.name.endswith(("READ_BYTES", "WRITE_BYTES")))
    assert found.counts[Count.INPUT_DRAM_READ_BYTES] == 3072
    assert found.cycles_by_cause == {"stall_input": max(0, 3072 - (layer.cycles - moved))}
    assert report.cycles >= moved + 3072  # the channel moves a byte a cycle


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 3000), st.sampled_from((1, 4, 8, 16)), memories())
def test_an_operator_on_its_own_is_played_like_any_steps(reads: int, writes: int, operations: int, bits: int,
                                                         memory: object) -> None:
    operator = Operator("x", "avg_pool2d", "pooling", reads, writes, operations, bits=bits, after="fc")
    on = dataclasses.replace(machine(vector_lanes=3), memory=memory)
    huge = dataclasses.replace(on, memory=dataclasses.replace(memory, input_buffer_bytes=10**6, shared_buffer_bytes=0,
                                                              weight_buffer_bytes=10**6, output_buffer_bytes=10**6))
    layer = LayerTrace("fc", Gemm(1, 1, 1))
    roomy = simulate(Trace([layer], operators=[operator]), huge).operators[0].total
    assert roomy.counts[Count.VECTOR] == busy_cycles(operator, on)
    if memory.memory == "ideal":
        assert roomy.cycles == busy_cycles(operator, on)
        return
    steps = tiles(operator, busy_cycles(operator, on), memory)
    assert (steps.input_bytes.sum(), steps.output_bytes.sum()) == (-(-reads * bits // 8), -(-writes * bits // 8))
    twin = play_twin(steps, memory)
    try:
        found = simulate(Trace([layer], operators=[operator]), on).operators[0].total.counts
    except InputError as error:
        assert "misses" in str(error)  # noqa: PT017  the layer, not the operator, may be refused
        return
    twin[Count.VECTOR] += busy_cycles(operator, on)
    for item in (*CAUSES, Count.INPUT_DRAM_READ_BYTES, Count.OUTPUT_DRAM_WRITE_BYTES):
        assert found[item] == twin[item], item.name


def test_an_operator_that_no_buffer_holds_is_refused_by_name() -> None:
    tiny = machine(shared_buffer_bytes=1)
    with pytest.raises(InputError, match="misses the buffers by"):
        tiles(POOL, 1, tiny.memory)


@pytest.mark.parametrize(("lanes", "startup"), [(1, 0), (4, 0), (16, 0), (4, 300), (16, 20_000)])
def test_a_whole_networks_speedup_obeys_amdahl(lanes: int, startup: int) -> None:
    """Removing 3 of 4 channels makes layers faster, operators and start-ups not: dense/pruned <= 1/(their share)."""
    mask = np.zeros((64, 64, 3, 3), dtype=bool)
    mask[:16, :16] = True
    conv = Conv2d(64, 64, 14, 14, 3, 3, padding_h=1, padding_w=1)
    pool = Operator("pool", "avg_pool2d", "pooling", 64 * 196, 64 * 49, 64 * 196, after="a")
    trace = Trace([LayerTrace("a", conv, mask), LayerTrace("b", conv, mask)], operators=[pool])
    on = machine(vector_lanes=lanes, layer_startup_cycles=startup)
    whole, array_alone = simulate(trace, on), simulate(trace, load_machine("systolic_ws"))
    fixed = sum(one.total.cycles for one in whole.operators) + 2 * startup
    assert whole.cycles_by_cause.get("startup", 0) == 3 * startup
    share = fixed / whole.dense.cycles
    gain = array_alone.speedup
    assert fixed > 0
    assert whole.speedup == pytest.approx(1 / (share + (1 - share) / gain), rel=1e-12)
    assert whole.speedup < min(gain, 1 / share)


def test_coverage_counts_operators_macs_and_bytes() -> None:
    lost = Operator("up", "conv_transpose2d", "unknown", 100, 400, 0, after="fc", macs=98304)
    report = simulate(Trace([FC], operators=[RELU, lost, NORM]), machine())
    found = report.coverage
    assert found.operators == (3, 4)
    assert found.macs == (98304, 2 * 98304)
    layer = 64 * 32 + 32 * 48 + 64 * 48
    assert found.bytes == (layer + 2 * 6144, layer + 2 * 6144 + 500)
    assert found.line() == ("priced: 3 of 4 operators (75 % of operators, 50 % of MACs, 97.4 % of bytes); "
                            "at zero: conv_transpose2d; folded into weights: batch_norm")
    table = report.to_dict()["coverage"]
    assert table["macs"] == {"priced": 98304, "total": 196608, "share": 0.5}
    assert table["priced_at_zero"] == {"conv_transpose2d": 1}
    assert not found.complete
    assert simulate(Trace([FC], operators=[RELU]), machine()).coverage.complete


def test_operators_travel_with_the_trace_and_older_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    trace = Trace([FC], operators=[RELU, POOL, NORM])
    trace.save(path)
    assert Trace.load(path).operators == trace.operators
    assert Trace.load(path).dense().operators == trace.operators
    Trace([FC]).save(path)
    assert Trace.load(path).operators is None
    header, tensors = files.load(path, "trace", "a test")
    files.save(path, "trace", {**header, "schema": 1}, tensors)
    assert Trace.load(path).layers[0].operation == FC.operation
    files.save(path, "trace", {**header, "schema": 3}, tensors)
    with pytest.raises(InputError, match="expected schema 2"):
        Trace.load(path)


@pytest.mark.parametrize(("changes", "said"), [
    ({"reads": -1}, "reads = -1"), ({"bits": 0}, "bits = 0"), ({"kind": "poolin"}, "did you mean 'pooling'"),
    ({"fusion": "producer"}, "without a producer"), ({"others": 9000}, "others = 9000"),
    ({"operations": 2**62}, "operations"),
])
def test_mistakes_in_operators_are_explained(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        dataclasses.replace(POOL, **changes)


def test_a_trace_checks_the_names_that_operators_use() -> None:
    with pytest.raises(InputError, match="did you mean 'fc'"):
        Trace([FC], operators=[dataclasses.replace(POOL, after="fd")])
    with pytest.raises(InputError, match="used twice"):
        Trace([FC], operators=[POOL, POOL])
