"""A training iteration is its phases: each product as the machine runs it, each byte of the states by hand."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from simulator import (
    Conv2d,
    Gemm,
    InputError,
    LayerTrace,
    Machine,
    Trace,
    grouped,
    load_machine,
    preset_names,
    simulate,
)
from simulator.engine import simulate_layer
from simulator.hardware import PRESETS
from simulator.machines import MACHINES, model, reference
from simulator.structure import n_of_m, project
from simulator.testing import operands, product
from simulator.training import PHASES, TrainingRun, training_iteration
from simulator.training_layers import input_gradient, weight_gradient
from simulator.training_state import Updates

PRUNED = Path(__file__).resolve().parents[2] / "sweeps" / "workloads" / "resnet8_pruned.safetensors"
CONV = Conv2d(8, 8, 6, 6, 3, 3, batch=4, padding_h=1, padding_w=1)


def array(**fields: object) -> Machine:
    """A 4x4 weight-stationary array; one byte per cycle and no latency, so that bytes are cycles."""
    small = {"rows": 4, "cols": 4, "dram_bytes_per_cycle": 1, "dram_latency_cycles": 0, "dram_burst_bytes": 1}
    return load_machine("systolic_ws", {**small, **fields})


def two_layers(layer: LayerTrace) -> Trace:
    """The layer behind another one, so that it has an input gradient."""
    return Trace([LayerTrace("first", Gemm(1, 1, 1)), layer], [("first", layer.name)])


def two_of_four(rng: np.random.Generator, k: int, n: int) -> np.ndarray:
    return project(rng.random((k, n)), n_of_m(2, 4))


@pytest.mark.parametrize("name", ["nm_array", "systolic_ws", "sparten", "scnn"])
def test_the_forward_phase_is_what_simulate_says(name: str) -> None:
    trace, machine = Trace.load(PRUNED), load_machine(name)
    forward = training_iteration(trace, machine, phases=("forward",)).phases["forward"]
    alone = simulate(trace, machine, compare_dense=False).total
    assert np.array_equal(forward.counts, alone.counts)
    assert forward.energy_pj == pytest.approx(alone.energy_pj, rel=1e-12)


def test_a_linear_layers_three_products_are_three_gemms() -> None:
    machine = array(memory="ideal")
    report = training_iteration(two_layers(LayerTrace("fc", Gemm(3, 8, 12))), machine)
    cycles = {phase: total.cycles for phase, total in report.layers[1].phases.items()}
    same = {"forward": Gemm(3, 8, 12), "input_gradient": Gemm(3, 12, 8), "weight_gradient": Gemm(8, 3, 12)}
    for phase, gemm in same.items():
        assert cycles[phase] == simulate_layer(LayerTrace("g", gemm), machine).cycles
    # [8, 3] @ [3, 12]: three folds of k = 3 rows on 4 columns, streams of T = 8 that hide the next load:
    # 2R + C + T - 2 with R = C = 4, and 2 * 8 more edges of stream
    assert cycles["weight_gradient"] == 2 * 4 + 4 + 8 - 2 + 2 * 8


def test_two_of_four_helps_forward_and_not_backward() -> None:
    rng = np.random.default_rng(1)
    machine = load_machine("nm_array", {"memory": "ideal"})
    mask = two_of_four(rng, 64, 64)
    report = training_iteration(two_layers(LayerTrace("fc", Gemm(32, 64, 64), mask, structure="2:4")), machine)
    executed = {phase: [p.executed_as for p in products] for phase, products in report.layers[1].products.items()}
    assert executed == {"forward": ["2:4"], "input_gradient": ["dense"], "weight_gradient": ["dense"]}
    dense = training_iteration(two_layers(LayerTrace("fc", Gemm(32, 64, 64))), machine)
    assert report.layers[1].phases["forward"].cycles < dense.layers[1].phases["forward"].cycles
    for phase in ("input_gradient", "weight_gradient"):
        assert report.layers[1].phases[phase].cycles == dense.layers[1].phases[phase].cycles
    # A checkerboard is 2:4 along both axes ("transposable"): now the input gradient gains what the forward pass gains.
    both = np.indices((64, 64)).sum(axis=0) % 2 == 0
    report = training_iteration(two_layers(LayerTrace("fc", Gemm(32, 64, 64), both, structure="2:4")), machine)
    assert report.layers[1].phases["input_gradient"].cycles == report.layers[1].phases["forward"].cycles
    assert [p.executed_as for p in report.layers[1].products["input_gradient"]] == ["2:4"]


def test_error_maps_that_happen_to_be_two_of_four_are_not_packed() -> None:
    machine = load_machine("nm_array", {"memory": "ideal"})
    errors = np.indices((32, 64)).sum(axis=0) % 2 == 0
    trace = two_layers(LayerTrace("fc", Gemm(32, 64, 64), error_mask=errors))
    report = training_iteration(trace, machine)
    assert [p.executed_as for p in report.layers[1].products["weight_gradient"]] == ["dense"]
    assert any("cannot be packed ahead of time" in note for note in report.notes)


def test_only_layers_with_a_producer_have_an_input_gradient() -> None:
    layers = [LayerTrace(name, Gemm(2, 4, 4)) for name in "abc"]
    machine = array(memory="ideal")
    found = training_iteration(Trace(layers), machine)
    assert ["input_gradient" in layer.phases for layer in found.layers] == [False, True, True]
    two_inputs = training_iteration(Trace(layers, [("a", "c"), ("b", "c")]), machine)
    assert ["input_gradient" in layer.phases for layer in two_inputs.layers] == [False, False, True]


@pytest.mark.parametrize(("updates", "read", "written"), [
    # 16 weights of int8; gradient int32 (the partial sums' width), master and states fp32
    (Updates("sgd"), 16 * (32 + 32), 16 * (32 + 8)),
    (Updates("sgd_momentum"), 16 * (32 + 32 + 32), 16 * (32 + 32 + 8)),
    (Updates("adam"), 16 * (32 + 32 + 64), 16 * (32 + 64 + 8)),
    (Updates("adam", state_type="int8"), 16 * (32 + 32 + 16), 16 * (32 + 16 + 8)),
    (Updates("sgd", master_type="int8"), 16 * (8 + 32), 16 * 8),
    # 8 of the 16 are kept: 8 values, and a bit for each of the 16 places
    (Updates("sgd_momentum", storage="bitmask"), 8 * 96 + 16, 8 * 72),
    # 2:4: 8 slots with 2 bits each
    (Updates("sgd_momentum", storage="2:4"), 8 * 96 + 16, 8 * 72),
    (Updates("sgd_momentum", storage="coordinate"), 8 * 96 + 8 * 4, 8 * 72),
])
def test_the_optimisers_bytes_by_hand(updates: Updates, read: int, written: int) -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[[0, 2]] = True
    trace = Trace([LayerTrace("fc", Gemm(1, 4, 4), mask, structure="2:4")])
    report = training_iteration(trace, array(compact_channels=False), updates)
    total = report.phases["optimiser"]
    assert total.to_dict()["dram_read_bytes"] == read // 8
    assert total.to_dict()["dram_write_bytes"] == written // 8
    assert total.cycles == (read + written) // 8  # one byte per cycle
    assert total.energy_pj == pytest.approx((read + written) * 8.0)  # LPDDR4, 8 pJ/bit


def test_removed_channels_have_no_states_where_the_machine_removes_them() -> None:
    mask = np.ones((4, 4), dtype=bool)
    mask[[0, 2]] = False
    trace = Trace([LayerTrace("fc", Gemm(1, 4, 4), mask)])
    read = [training_iteration(trace, array(compact_channels=removes), Updates("sgd")).phases["optimiser"]
            .to_dict()["dram_read_bytes"] for removes in (True, False)]
    assert read == [8 * 8, 16 * 8]


def test_a_mask_update_is_charged_by_its_interval() -> None:
    mask = np.eye(4, dtype=bool)
    trace = Trace([LayerTrace("fc", Gemm(1, 4, 4), mask)])
    never = training_iteration(trace, array(compact_channels=False))
    often = training_iteration(trace, array(compact_channels=False), Updates(mask_interval=10))
    assert "mask_update" not in never.phases
    event = often.phases["mask_update"]
    assert event.cycles == 16 * 4 + 2  # every fp32 weight is read, a bit of each is written
    assert often.cycles == pytest.approx(never.cycles + event.cycles / 10)
    assert often.energy_j == pytest.approx(never.energy_j + event.energy_pj / 10 * 1e-12)
    by_gradient = training_iteration(trace, array(compact_channels=False), Updates(mask_interval=10,
                                                                                    mask_score="gradient"))
    assert by_gradient.phases["mask_update"].cycles == 16 * 8 + 2


def test_growing_by_gradient_pays_for_the_gradients_of_dead_channels() -> None:
    mask = np.ones((16, 16), dtype=bool)
    mask[4:] = False
    trace = Trace([LayerTrace("fc", Gemm(8, 16, 16), mask)])
    by = {score: training_iteration(trace, array(), Updates(mask_interval=5, mask_score=score))
          for score in ("magnitude", "gradient")}
    live = by["gradient"].phases["weight_gradient"]
    every = simulate_layer(LayerTrace("g", Gemm(16, 8, 16), output_bits=32), array())
    extra = by["gradient"].phases["mask_update"].cycles - by["magnitude"].phases["mask_update"].cycles
    assert live.cycles < every.cycles
    assert extra == every.cycles - live.cycles + 256 * 4  # and the gradients that are read


def test_a_static_mask_needs_no_update_and_dense_layers_none() -> None:
    report = training_iteration(Trace([LayerTrace("fc", Gemm(1, 4, 4))]), array(), Updates(mask_interval=10))
    assert "mask_update" not in report.phases


def test_instances_that_stay_forward_cost_no_backward_pass() -> None:
    trace = two_layers(LayerTrace("fc", Gemm(8, 16, 16)))
    trace = Trace([LayerTrace("first", Gemm(8, 4, 16)), trace.layers[1]], [("first", "fc")])
    machine = array(memory="ideal")
    macs = {count: {phase: total.to_dict()["dense_macs"] for phase, total in
                    training_iteration(trace, machine, backward_instances=count).phases.items()}
            for count in (8, 2, 0)}
    for phase in ("input_gradient", "weight_gradient"):
        assert macs[2][phase] * 4 == macs[8][phase]
    assert macs[2]["forward"] == macs[8]["forward"]
    assert set(macs[0]) == {"forward"}


def test_the_masks_of_the_instances_that_stay_are_theirs() -> None:
    errors = np.zeros(CONV.output_shape, dtype=bool)
    errors[:2] = True
    trace = Trace([LayerTrace("conv", CONV, error_mask=errors)])
    machine = load_machine("sparten")
    useful = {count: training_iteration(trace, machine, backward_instances=count).phases["weight_gradient"]
              .to_dict()["useful_macs"] for count in (1, 2, 3, 4)}
    assert useful[2] == 2 * useful[1] and useful[4] == useful[3] == useful[2]  # the last two have no errors


def test_pruned_error_channels_halve_both_gradients_of_a_dense_array() -> None:
    errors = np.ones(CONV.output_shape, dtype=bool)
    errors[:, ::2] = False
    trace = two_layers(LayerTrace("conv", CONV, error_mask=errors))
    machine = array(memory="ideal")
    pruned = training_iteration(trace, machine).layers[1].phases
    whole = training_iteration(trace, machine, drop_empty_errors=False).layers[1].phases
    for phase in ("input_gradient", "weight_gradient"):
        assert pruned[phase].to_dict()["dense_macs"] * 2 == whole[phase].to_dict()["dense_macs"]
        assert pruned[phase].cycles < 0.6 * whole[phase].cycles
    assert pruned["forward"].cycles == whole["forward"].cycles


def test_a_sparse_machine_gains_from_zeros_in_the_error_map_and_a_dense_one_does_not() -> None:
    rng = np.random.default_rng(2)
    errors = rng.random(CONV.output_shape) < 0.25
    for name, gains in (("sparten", True), ("systolic_ws", False)):
        machine = load_machine(name, {"memory": "ideal"})
        dense, sparse = (training_iteration(two_layers(layer), machine).layers[1].phases for layer in (
            LayerTrace("conv", CONV), LayerTrace("conv", CONV, error_mask=errors)))
        for phase in ("input_gradient", "weight_gradient"):
            assert (sparse[phase].cycles < 0.6 * dense[phase].cycles) == gains, (name, phase)


def test_inserted_zeros_of_a_stride_cost_a_dense_array_three_times_and_a_sparse_one_less() -> None:
    op = Conv2d(16, 16, 16, 16, 3, 3, stride_h=2, stride_w=2, padding_h=1, padding_w=1)
    trace = two_layers(LayerTrace("conv", op))
    times = {}
    for name in ("systolic_ws", "sparten"):
        machine = load_machine(name, {"memory": "ideal"})
        cycles = [training_iteration(trace, machine, strided=way).layers[1].phases["input_gradient"].cycles
                  for way in ("phases", "dilated")]
        times[name] = cycles[1] / cycles[0]
    assert times["systolic_ws"] > 3  # four times the vectors; but the phases fill and drain four times
    assert times["sparten"] < 1.7  # a chunk without a match still takes its cycle


def test_products_of_activations_have_two_gradients_and_no_optimiser() -> None:
    attention = LayerTrace("scores", Gemm(6, 8, 6, groups=4), weight_source="activation")
    trace = Trace([LayerTrace("q", Gemm(12, 8, 8)), attention], [("q", "scores")])
    report = training_iteration(trace, array(), Updates("adam", mask_interval=3))
    assert set(report.layers[1].phases) == {"forward", "input_gradient", "weight_gradient"}
    operations = [p.layer.operation for p in report.layers[1].products["weight_gradient"]]
    assert operations == [Gemm(8, 6, 6, groups=4)]
    assert report.layers[1].products["weight_gradient"][0].layer.output_bits == 8  # an error map, not a gradient sum


def test_a_machine_without_convolutions_says_which_phase_it_cannot_run() -> None:
    with pytest.raises(InputError, match="eie cannot run the forward of layer 'conv'"):
        training_iteration(Trace([LayerTrace("conv", CONV)]), load_machine("eie"))
    report = training_iteration(two_layers(LayerTrace("fc", Gemm(2, 8, 8))), load_machine("eie"))
    assert set(report.phases) == {"forward", "input_gradient", "weight_gradient", "optimiser"}


@pytest.mark.parametrize("name", MACHINES)
def test_fast_engines_and_twins_agree_on_the_shapes_of_gradients(name: str) -> None:
    # Kernels as large as the output plane, dilated by the stride, on as many channels as the batch has images.
    rng = np.random.default_rng(7)
    op = Conv2d(2, 3, 7, 6, 3, 3, batch=2, stride_h=2, padding_h=1, padding_w=1)
    w, a, e = (rng.random(shape) < 0.6 for shape in (op.weight_shape, op.input_shape, op.output_shape))
    conv = LayerTrace("conv", op, w, a, error_mask=e)
    linear = LayerTrace("fc", Gemm(3, 5, 4), rng.random((5, 4)) < 0.6, rng.random((3, 5)) < 0.6,
                        error_mask=rng.random((3, 4)) < 0.6)
    machine = {"systolic": array(), "eie": load_machine("eie", {"pes": 3})}.get(name)
    machine = machine or load_machine(next(preset for preset in preset_names() if _model(preset) == name))
    compared = 0
    for layer in (conv, linear):
        for piece in [*input_gradient(layer), *weight_gradient(layer, "int32")]:
            if grouped.supports(machine, piece.operation):
                fast = model(name).run(piece, machine)
                values = operands(piece, rng)
                slow, output = reference(name).run(piece, machine, fast.tiling, *values)
                assert np.array_equal(output, product(piece.operation, *values))
                assert fast.counts.tolist() == slow.counts.tolist(), piece.name
                compared += 1
    assert compared >= 2


def _model(preset: str) -> str:
    return str(tomllib.loads((PRESETS / f"{preset}.toml").read_text()).get("model"))


def test_json_adds_up() -> None:
    report = training_iteration(Trace.load(PRUNED), load_machine("nm_array"), Updates("adam", mask_interval=100))
    table = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(table["phases"]) == list(PHASES)
    share = {phase: 1.0 for phase in PHASES} | {"mask_update": 0.01}
    for key, whole in (("cycles", "cycles"), ("energy_pj", "energy_j")):
        added = sum(table["phases"][phase][key] * share[phase] for phase in PHASES)
        assert added * (1e-12 if whole == "energy_j" else 1) == pytest.approx(table["iteration"][whole])
    for phase in PHASES:
        of_layers = sum(layer["phases"].get(phase, {"cycles": 0})["cycles"] for layer in table["layers"])
        assert of_layers == table["phases"][phase]["cycles"]
    assert table["iteration"]["seconds"] == pytest.approx(table["iteration"]["cycles"] / table["clock_hz"])


def test_a_run_is_its_stretches() -> None:
    trace, machine = Trace.load(PRUNED), load_machine("nm_array")
    dense, pruned = training_iteration(trace.dense(), machine), training_iteration(trace, machine)
    run = TrainingRun([(dense, 100), (pruned, 300)])
    assert run.energy_j == pytest.approx(100 * dense.energy_j + 300 * pruned.energy_j)
    assert run.seconds == pytest.approx(100 * dense.seconds + 300 * pruned.seconds)
    assert [part["iterations"] for part in run.to_dict()["parts"]] == [100, 300]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Updates("adm"), "optimiser = 'adm'; expected one of sgd, sgd_momentum, adam; did you mean 'adam'"),
    (lambda: Updates(mask_score="size"), "mask_score = 'size'"),
    (lambda: Updates(mask_interval=-1), "mask_interval = -1"),
    (lambda: Updates(master_type="fp31"), "master_type: unknown number type 'fp31'"),
    (lambda: Updates(storage="bitmsk"), "bitmsk"),
])
def test_mistakes_are_named(make: object, words: str) -> None:
    with pytest.raises(InputError) as error:
        make()  # type: ignore[operator]
    assert words in str(error.value)


def test_mistakes_of_an_iteration_are_named() -> None:
    trace, machine = Trace([LayerTrace("fc", Gemm(4, 4, 4))]), array()
    with pytest.raises(InputError, match="backward_instances = 5; expected 0 to 4"):
        training_iteration(trace, machine, backward_instances=5)
    with pytest.raises(InputError, match=r"phase 'forwards'; .*did you mean 'forward'"):
        training_iteration(trace, machine, phases=("forwards",))
    with pytest.raises(InputError, match=r"strided = 'diluted'; .*did you mean 'dilated'"):
        training_iteration(two_layers(LayerTrace("conv", CONV)), machine, strided="diluted")
    uneven = Trace([LayerTrace("a", Gemm(4, 4, 4)), LayerTrace("b", Gemm(6, 4, 4))])
    with pytest.raises(InputError, match="layer 'b': 6 rows for 4 instances"):
        training_iteration(uneven, machine, backward_instances=2)


def test_error_and_gradient_types_reach_the_products() -> None:
    trace = two_layers(LayerTrace("fc", Gemm(4, 8, 8)))
    report = training_iteration(trace, array(), error_type="int16", gradient_type="int24")
    products = {phase: found[0].layer for phase, found in report.layers[1].products.items()}
    assert products["forward"].output_type == "int8"
    assert (products["input_gradient"].input_type, products["input_gradient"].output_type) == ("int16", "int16")
    assert (products["weight_gradient"].weight_type, products["weight_gradient"].output_type) == ("int16", "int24")
