"""Attention's products per head: engine equals twin, the twin makes every group's product, no law is broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator import Gemm, LayerTrace, Trace, load_machine, preset_names, simulate
from simulator.counts import Count
from simulator.errors import InputError
from simulator.grouped import as_convolution, on_planes, run
from simulator.hardware import Machine
from simulator.laws import broken_laws
from simulator.machines import MACHINES
from simulator.reference import grouped as twins
from simulator.testing import grouped_layers, machines, operands, product

DRAWN = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", MACHINES)
def test_engine_equals_reference(name: str) -> None:
    @DRAWN
    @given(layer=grouped_layers(), machine=machines(name), seed=st.integers(0, 2**16))
    def check(layer: LayerTrace, machine: Machine, seed: int) -> None:
        try:
            fast = run(layer, machine)
        except InputError as error:
            assume("misses" not in str(error))
            raise
        inputs, weights = operands(layer, np.random.default_rng(seed))
        slow, output = twins.run(layer, machine, fast.tiling, inputs, weights)
        np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
        found = [(item.name, a, b) for item, a, b in
                 zip(Count, fast.counts.tolist(), slow.counts.tolist(), strict=True) if a != b]
        assert not found, f"{layer} {machine}"
        assert fast.executed_as == slow.executed_as

    check()


@pytest.mark.parametrize("name", MACHINES)
def test_no_law_is_broken(name: str) -> None:
    @DRAWN
    @given(layer=grouped_layers(), machine=machines(name))
    def check(layer: LayerTrace, machine: Machine) -> None:
        try:
            broken = broken_laws(layer, machine)
        except InputError as error:
            assume("misses" not in str(error))
            raise
        assert broken == []

    check()


def test_product_of_groups_is_numpys_batched_product() -> None:
    rng = np.random.default_rng(0)
    inputs, weights = rng.integers(-9, 9, (3, 4, 5)), rng.integers(-9, 9, (3, 5, 2))
    by_hand = [[[sum(inputs[g, m, k] * weights[g, k, n] for k in range(5)) for n in range(2)] for m in range(4)]
               for g in range(3)]
    np.testing.assert_array_equal(product(Gemm(4, 5, 2, groups=3), inputs, weights), by_hand)


def test_planes_hold_the_masks_of_their_groups() -> None:
    rng = np.random.default_rng(1)
    weight, inputs = rng.random((3, 5, 2)) < 0.5, rng.random((3, 4, 5)) < 0.5
    layer = LayerTrace("scores", Gemm(4, 5, 2, groups=3), weight, inputs)
    planes = on_planes(layer)
    assert planes.operation == as_convolution(layer.operation)
    np.testing.assert_array_equal(planes.weight_matrix(), weight)
    for group in range(3):
        np.testing.assert_array_equal(planes.input_mask[0, group * 5 : (group + 1) * 5, :, 0], inputs[group].T)


@pytest.mark.parametrize("preset", preset_names())
def test_one_head_of_attention_costs_what_a_gemm_costs_and_heads_conserve_work(preset: str) -> None:
    machine = load_machine(preset)
    one = run(LayerTrace("scores", Gemm(6, 8, 6)), machine)
    heads = run(LayerTrace("scores", Gemm(6, 8, 6, groups=3)), machine)
    for item in (Count.DENSE_MACS, Count.USEFUL_MACS):
        assert heads.counts[item] == 3 * one.counts[item]
    again = run(LayerTrace("scores", Gemm(6, 8, 6, groups=1)), machine)
    assert again.counts.tobytes() == one.counts.tobytes()


def test_report_names_groups_and_source() -> None:
    trace = Trace([LayerTrace("scores", Gemm(6, 8, 6, groups=3), weight_source="activation")])
    layer = simulate(trace, load_machine("systolic_ws")).to_dict()["layers"][0]
    assert (layer["op"], layer["m"], layer["k"], layer["n"], layer["groups"]) == ("gemm", 6, 8, 6, 3)
    assert layer["weight_source"] == "activation"


def test_groups_are_counted_in_64_bits_and_masks_have_an_axis_for_them() -> None:
    with pytest.raises(InputError, match="multiply-accumulates"):
        Gemm(2**16, 2**16, 2**16, groups=2**10)
    with pytest.raises(InputError, match=r"expected \[3, 8, 6\]"):
        LayerTrace("scores", Gemm(6, 8, 6, groups=3), np.ones((8, 6), dtype=bool))
    with pytest.raises(InputError, match="weight_source"):
        LayerTrace("scores", Gemm(6, 8, 6), weight_source="activations")
