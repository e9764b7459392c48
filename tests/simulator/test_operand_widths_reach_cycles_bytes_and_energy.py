"""Number types: bytes follow the width, energy the table, cycles only what the array declares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.hardware import Machine
from simulator.number_types import EXAMPLES, multiplied_as, parse_type, type_name
from simulator.testing import layers

LAYER = LayerTrace("fc", Gemm(64, 64, 32))


def array(**fields: object) -> Machine:
    return load_machine("systolic_ws", {"energy_table": "horowitz_45nm", **fields})


def test_a_type_is_its_bits_and_its_kind() -> None:
    for text in EXAMPLES:
        assert type_name(*parse_type(text)) == text
    for text in ("int0", "int65", "fp8", "bf32", "float", ""):
        with pytest.raises(InputError, match="unknown number type"):
            parse_type(text)
    with pytest.raises(InputError, match="weight_number = 'float' of 8 bits"):
        LayerTrace("fc", Gemm(1, 1, 1), weight_number="float")


@pytest.mark.parametrize(("weight", "inputs", "seen"), [
    ("int4", "int8", ("int4", "int8")), ("int4", "fp16", ("fp16", "fp16")), ("fp16", "fp32", ("fp32", "fp32")),
    ("bf16", "bf16", ("bf16", "bf16")), ("fp16", "bf16", ("fp32", "fp32")), ("bf16", "fp32", ("fp32", "fp32")),
])
def test_the_multiplier_sees_a_type_that_holds_both(weight: str, inputs: str, seen: tuple[str, str]) -> None:
    assert tuple(type_name(*each) for each in multiplied_as(parse_type(weight), parse_type(inputs))) == seen


def test_bytes_follow_each_operands_width() -> None:
    base = simulate_layer(LAYER, array()).total.counts
    for operand, entry in (("weight", Count.WEIGHT_DRAM_READ_BYTES), ("input", Count.INPUT_DRAM_READ_BYTES),
                           ("output", Count.OUTPUT_DRAM_WRITE_BYTES)):
        wide = simulate_layer(LAYER.with_types(**{operand: "int16"}), array()).total.counts
        narrow = simulate_layer(LAYER.with_types(**{operand: "int4"}), array()).total.counts
        assert wide[entry] == 2 * base[entry] == 4 * narrow[entry]


def test_without_a_declared_rate_the_array_takes_its_own_time() -> None:
    ideal = array(memory="ideal")
    cycles = {simulate_layer(LAYER.with_types(weight=text, input=text), ideal).cycles
              for text in ("int4", "int8", "int16", "fp16", "fp32")}
    assert len(cycles) == 1


def test_horowitzs_floats_cost_what_the_figure_says() -> None:
    macs = LAYER.operation.macs
    for text, picojoules, psum in (("fp16", 1.1 + 0.9, 32), ("fp16", 1.1 + 0.4, 16), ("fp32", 3.7 + 0.9, 32)):
        layer = LAYER.with_types(weight=text, input=text)
        parts = simulate_layer(layer, array(psum_bits=psum, memory="ideal")).total.energy_pj_by_component
        assert parts["mac"] == pytest.approx(macs * picojoules)


@pytest.mark.parametrize(("fields", "types", "words"), [
    ({}, ("bf16", "bf16"), "'multiply' in bf16 x bf16; expected a sourced entry; it has fp16 x fp16, fp32 x fp32"),
    ({}, ("fp64", "fp64"), "'multiply' in fp64 x fp64"),
    ({"psum_bits": 24}, ("fp16", "fp16"), "'add'"),
    ({"energy_table": "cacti_45nm"}, ("fp16", "fp16"), "choose a table that has it (horowitz_45nm)"),
    ({"gating": "zeros"}, ("fp16", "fp16"), "'mac_gated' in fp16 x fp16"),
])
def test_a_float_without_a_sourced_entry_is_refused_by_name(fields: dict[str, object], types: tuple[str, str],
                                                            words: str) -> None:
    layer = LayerTrace("fc", Gemm(64, 64, 32), np.eye(64, 32, dtype=bool)).with_types(weight=types[0], input=types[1])
    with pytest.raises(InputError) as error:
        simulate_layer(layer, array(**fields))
    assert words in str(error.value)


def test_a_declared_double_rate_halves_the_reduction() -> None:
    # "int4:2": rows hold two weights each, so k = 64 is four folds of a 16x16 array instead of ... eight of k = 128
    fast = array(memory="ideal", type_rates=["int4:2"])
    int4 = LayerTrace("fc", Gemm(64, 128, 32)).with_types(weight="int4", input="int4")
    assert simulate_layer(int4, fast).cycles == simulate_layer(LAYER, array(memory="ideal")).cycles
    assert simulate_layer(int4.with_types(weight="int8"), fast).cycles > simulate_layer(int4, fast).cycles
    total = simulate_layer(int4, fast).total
    assert total.counts[Count.ISSUED_MACS] == total.counts[Count.DENSE_MACS] == int4.operation.macs
    assert total.peak_macs_per_cycle == 512
    base = simulate_layer(int4, array(memory="ideal")).total
    assert total.energy_pj_by_component["mac"] == base.energy_pj_by_component["mac"]
    assert total.energy_pj_by_component["output_sram"] < base.energy_pj_by_component["output_sram"]


def test_depthwise_convolutions_have_no_neighbours_to_pack() -> None:
    fast = array(memory="ideal", type_rates=["int4:2"])
    depthwise = LayerTrace("conv", Conv2d(8, 8, 6, 6, 3, 3, groups=8)).with_types(weight="int4", input="int4")
    assert simulate_layer(depthwise, fast).cycles == simulate_layer(depthwise, array(memory="ideal")).cycles


def test_a_declared_slow_type_takes_its_cycles_and_a_memory_does_not_wait_for_it() -> None:
    slow = {"type_rates": ["fp32:1/4"]}
    layer = LAYER.with_types(weight="fp32", input="fp32")
    assert (simulate_layer(layer, array(memory="ideal", **slow)).cycles
            == 4 * simulate_layer(layer, array(memory="ideal")).cycles)
    bound = {"dram_bytes_per_cycle": 0.5, "dram_latency_cycles": 0}
    fast = simulate_layer(layer, array(**bound)).cycles
    assert fast <= simulate_layer(layer, array(**bound, **slow)).cycles < 1.1 * fast
    assert simulate_layer(LAYER, array(**slow)).cycles == simulate_layer(LAYER, array()).cycles


def test_work_is_conserved_on_packed_layers() -> None:
    machine = array(type_rates=["int16:2", "int8:2", "int4:2", "int3:3", "int1:4"], rows=3, cols=4)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(layers())
    def check(layer: LayerTrace) -> None:
        total = simulate_layer(layer, machine).total
        at = total.counts
        assert at[Count.DENSE_MACS] == layer.operation.macs
        assert at[Count.ISSUED_MACS] + at[Count.GATED_MACS] + at[Count.SKIPPED_MACS] == at[Count.DENSE_MACS]
        assert 0 <= at[Count.USEFUL_MACS] <= at[Count.ISSUED_MACS]
        assert at.min() >= 0
        assert total.utilisation <= 1

    check()


@pytest.mark.parametrize(("fields", "words"), [
    ({"type_rates": ["int4"]}, "expected \"type:N\""), ({"type_rates": ["int4:2/3"]}, "type:1/N"),
    ({"type_rates": ["int4:0"]}, "'int4:0'"), ({"type_rates": ["ink4:2"]}, "unknown number type 'ink4'"),
    ({"type_rate": ["int4:2"]}, "did you mean 'type_rates'"),
])
def test_a_wrong_declaration_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as error:
        array(**fields)
    assert words in str(error.value)


def test_machines_that_look_at_single_zeros_refuse_packed_operands() -> None:
    layer = LAYER.with_types(weight="int4", input="int4")
    for name in ("sparten", "nm_array", "block_array"):
        with pytest.raises(InputError, match="expected a dense systolic array"):
            simulate_layer(layer, load_machine(name, {"type_rates": ["int4:2"]}))


def test_a_network_of_mixed_types_adds_up() -> None:
    trace = Trace([LAYER, LayerTrace("b", Gemm(64, 32, 8)).with_types(weight="fp16", input="fp16")])
    report = simulate(trace, array(), compare_dense=False)
    assert report.energy_pj == pytest.approx(sum(layer.energy_pj for layer in report.layers))
    assert report.total.bits == (16, 16, 8, 32)
