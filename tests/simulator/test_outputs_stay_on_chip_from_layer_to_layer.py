"""What stays on chip does not cross the channel, occupies its buffer meanwhile, and is reported edge by edge."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator import Gemm, InputError, LayerTrace, Machine, Trace, energy, load_machine, simulate
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.grouped import run
from simulator.machines import MACHINES
from simulator.operators import Operator
from simulator.reference import grouped as twins
from simulator.residency import candidates, on_chip
from simulator.testing import layers_for, machines, operands, product

DRAWN = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
DRAM = [item for item in Count if item.name.endswith(("DRAM_READ_BYTES", "DRAM_WRITE_BYTES"))]


def staying(machine: Machine, inputs: bool, outputs: bool) -> Machine:
    memory = dataclasses.replace(machine.memory, inputs_on_chip=inputs, outputs_on_chip=outputs)
    return dataclasses.replace(machine, memory=memory)


UNABLE = ("sigma", "multi_array")


@pytest.mark.parametrize("name", [name for name in MACHINES if name not in UNABLE])
def test_engine_equals_reference_with_operands_that_stay(name: str) -> None:
    @DRAWN
    @given(layer=layers_for(name), machine=machines(name), which=st.integers(1, 3), seed=st.integers(0, 2**16))
    def check(layer: LayerTrace, machine: Machine, which: int, seed: int) -> None:
        assume(machine.memory.memory != "ideal")
        stays = staying(machine, bool(which & 1), bool(which & 2))
        try:
            fast = run(layer, stays)
        except InputError as error:
            assume("misses" not in str(error))
            raise
        inputs, weights = operands(layer, np.random.default_rng(seed))
        slow, output = twins.run(layer, stays, fast.tiling, inputs, weights)
        np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
        found = [(item.name, a, b) for item, a, b in
                 zip(Count, fast.counts.tolist(), slow.counts.tolist(), strict=True) if a != b]
        assert not found, f"{found} {layer} {stays} {fast.tiling}"
        assert not which & 1 or fast.counts[Count.INPUT_DRAM_READ_BYTES] == 0
        assert not which & 2 or fast.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 0

    check()


def chain(*sizes: int, operators: list[Operator] | None = None, edges: list[tuple[str, str]] | None = None) -> Trace:
    """A chain of GEMMs a, b, c ... of eight rows."""
    names = "abcdefgh"
    layers = [LayerTrace(names[i], Gemm(8, k, n)) for i, (k, n) in enumerate(itertools.pairwise(sizes))]
    if edges is None:
        edges = [(names[i], names[i + 1]) for i in range(len(layers) - 1)]
    return Trace(layers, edges, operators=operators)


def machine(**overrides: object) -> Machine:
    return load_machine("systolic_ws", {"rows": 4, "cols": 4, "dram_burst_bytes": 1, "dram_bytes_per_cycle": 1,
                                        "keep_outputs_on_chip": True, **overrides})


def test_a_kept_output_saves_its_stores_and_its_loads_to_the_byte() -> None:
    trace = chain(16, 32, 24)
    kept, plain = simulate(trace, machine()), simulate(trace, machine(keep_outputs_on_chip=False))
    [one] = kept.kept_on_chip
    assert (one.producer, one.consumers, one.bytes) == ("a", ("b",), 8 * 32)
    first, second = kept.layers
    assert first.total.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 0
    assert second.total.counts[Count.INPUT_DRAM_READ_BYTES] == 0
    assert second.total.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 8 * 24
    moved = [sum(int(report.total.counts[item]) for item in DRAM) for report in (plain, kept)]
    assert moved[0] - moved[1] == one.dram_bytes_saved == 2 * 8 * 32
    assert kept.cycles < plain.cycles
    assert kept.to_dict()["kept_on_chip"][0]["dram_bytes_saved"] == 512
    assert plain.kept_on_chip == []


def test_an_access_costs_what_the_whole_buffer_costs() -> None:
    """A kept tensor leaves less room for tiles; the memory that is accessed is as large as before."""
    on = machine(output_buffer_bytes=65536, energy_table="cacti_45nm")
    kept = simulate(chain(256, 512, 64), on)
    assert len(kept.kept_on_chip) == 1
    for layer in kept.layers:
        total = layer.total
        assert total.energy_pj_by_component == energy.energy_pj(total.counts, on, total.bits)
        assert total.energy_pj_by_component != energy.energy_pj(
            total.counts, on.replace(output_buffer_bytes=65536 - 8 * 512), total.bits)


def test_an_output_that_is_larger_than_what_the_buffer_leaves_goes_to_dram() -> None:
    """256 bytes stay beside a working tile of 8 rows x 4 columns of 4-byte partial sums, twice (double buffered)."""
    fits = machine(output_buffer_bytes=256 + 2 * 8 * 4 * 4)
    assert [one.producer for one in simulate(chain(16, 32, 24), fits).kept_on_chip] == ["a"]
    assert simulate(chain(16, 32, 24), machine(output_buffer_bytes=256)).kept_on_chip == []
    assert simulate(chain(16, 32, 24), machine(output_buffer_bytes=200)).kept_on_chip == []


def test_layers_meanwhile_tile_for_what_is_left() -> None:
    [tensor] = candidates(chain(16, 32, 24), machine())
    first, second = (on_chip(machine(output_buffer_bytes=1000), [tensor], index) for index in (0, 1))
    assert (first.memory.output_buffer_bytes, first.memory.outputs_on_chip, first.memory.inputs_on_chip) == (
        744, True, False)
    assert (second.memory.output_buffer_bytes, second.memory.outputs_on_chip, second.memory.inputs_on_chip) == (
        744, False, True)
    shared = machine(shared_buffer_bytes=4000, output_buffer_bytes=7)
    assert on_chip(shared, [tensor], 0).memory.shared_buffer_bytes == 3744


def test_a_tensor_stays_until_its_last_reader() -> None:
    """b -> c and b -> d: b's output is there during c, although c makes another."""
    trace = chain(16, 32, 32, 32, 32, edges=[("a", "b"), ("b", "c"), ("b", "d")])
    found = {one.made: one for one in candidates(trace, machine())}
    assert list(found[1].span) == [1, 2, 3]
    report = simulate(trace, machine())
    assert [(one.producer, one.consumers) for one in report.kept_on_chip] == [("a", ("b",)), ("b", ("c", "d"))]
    for name in (2, 3):
        assert report.layers[name].total.counts[Count.INPUT_DRAM_READ_BYTES] == 0
    assert report.layers[2].total.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 8 * 32


@pytest.mark.parametrize(("operator", "lanes", "kept"), [
    (Operator("r", "relu", "activation", 256, 256, 256, after="a", fusion="producer", producer="a",
              sources=("a",)), 8, True),
    (Operator("r", "relu", "activation", 256, 256, 256, after="a", fusion="producer", producer="a",
              sources=("a",)), 0, True),
    (Operator("p", "softmax", "softmax", 256, 256, 256, after="a", sources=("a",)), 8, False),
    (Operator("p", "softmax", "softmax", 256, 256, 256, after="a", sources=("a",)), 0, False),
    (Operator("s", "add", "elementwise", 512, 256, 256, after="b", fusion="producer", producer="b",
              sources=("a", "b")), 8, False),
])
def test_what_operators_take_away_is_not_kept(operator: Operator, lanes: int, kept: bool) -> None:
    report = simulate(chain(16, 32, 32, operators=[operator]), machine(vector_lanes=lanes))
    assert ("a" in [one.producer for one in report.kept_on_chip]) == kept


def test_a_fused_operator_that_is_not_fused_here_takes_its_tensor_away() -> None:
    relu = Operator("r", "relu", "activation", 256, 256, 256, after="a", fusion="producer", producer="a",
                    sources=("a",))
    assert simulate(chain(16, 32, 32, operators=[relu]), machine(vector_lanes=8, vector_fused=False)).kept_on_chip == []


def test_tensors_of_another_size_or_width_are_others() -> None:
    layers = [LayerTrace("a", Gemm(8, 16, 32)), LayerTrace("b", Gemm(4, 32, 8)),
              LayerTrace("c", Gemm(4, 8, 8), input_bits=4)]
    assert candidates(Trace(layers, [("a", "b"), ("b", "c")]), machine()) == []


@pytest.mark.parametrize("name", UNABLE)
def test_machines_whose_outputs_leave_say_why(name: str) -> None:
    with pytest.raises(InputError, match="keep_outputs_on_chip = True; expected false"):
        load_machine(name, {"keep_outputs_on_chip": True})


def test_what_the_engine_decides_is_no_field_of_a_file() -> None:
    with pytest.raises(InputError, match="unknown field 'inputs_on_chip'"):
        machine(inputs_on_chip=True)
    assert "outputs_on_chip" not in machine().to_dict()


@pytest.mark.parametrize("overrides", [{"memory": "ideal"}, {"keep_outputs_on_chip": False}])
def test_off_is_off(overrides: dict[str, object]) -> None:
    report = simulate(chain(16, 32, 24), machine(**overrides))
    assert report.kept_on_chip == []
    alone = [simulate_layer(layer, machine(**overrides)).cycles for layer in chain(16, 32, 24).layers]
    assert [layer.cycles for layer in report.layers] == alone


@settings(DRAWN, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=6), st.sampled_from((60, 300, 1000)),
       st.sampled_from((0.5, 4.0)))
def test_keeping_never_costs_cycles_or_bytes(sizes: list[int], buffer: int, bandwidth: float) -> None:
    on = machine(output_buffer_bytes=buffer, dram_bytes_per_cycle=bandwidth, dram_burst_bytes=4)
    kept = simulate(chain(*sizes), on)
    plain = simulate(chain(*sizes), on.replace(keep_outputs_on_chip=False))
    assert kept.cycles <= plain.cycles
    moved = [sum(int(report.total.counts[item]) for item in DRAM) for report in (plain, kept)]
    assert moved[0] - moved[1] == sum(one.dram_bytes_saved for one in kept.kept_on_chip)
