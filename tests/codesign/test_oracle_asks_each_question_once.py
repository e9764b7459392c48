"""Prices from the oracle are those of the simulator, each simulated once, whatever it is called."""

import numpy as np
import pytest

from codesign.oracle import Oracle, content_key
from simulator import Conv2d, LayerTrace, Trace, load_machine, simulate

CONV = Conv2d(in_channels=8, out_channels=16, in_h=6, in_w=6, kernel_h=3, kernel_w=3, padding_h=1, padding_w=1)


def layer(name: str = "conv", seed: int = 0, structure: str = "unstructured", **more: object) -> LayerTrace:
    mask = np.random.default_rng(seed).random(CONV.weight_shape) < 0.5
    return LayerTrace(name, CONV, mask, structure=structure, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("machine", ["nm_array", "block_array", "systolic_os"])
def test_a_price_is_what_simulate_says(machine: str) -> None:
    loaded = load_machine(machine)
    price = Oracle(loaded).price(layer())
    report = simulate(Trace([layer()]), loaded)
    assert price.cycles == report.cycles
    assert price.energy_pj == report.energy_pj


def test_equal_masks_are_simulated_once_under_any_name_and_label() -> None:
    oracle = Oracle(load_machine("nm_array"))
    first = oracle.price(layer())
    assert oracle.price(layer("another name")) == first
    assert (oracle.asked, oracle.simulated) == (2, 1)


@pytest.mark.parametrize("other", [
    layer(seed=1), layer(input_density=0.5), layer(weight_bits=4), layer(output_bits=32), layer().dense(),
    layer(input_bits=16, input_number="float"),
    LayerTrace("conv", Conv2d(8, 16, 7, 6, 3, 3, padding_h=1, padding_w=1), layer().weight_mask),
])
def test_whatever_a_machine_can_see_makes_another_question(other: LayerTrace) -> None:
    assert content_key(other) != content_key(layer())


def test_a_given_key_is_answered_without_making_the_layer_again() -> None:
    oracle = Oracle(load_machine("nm_array"))
    first = oracle.price_by("half", layer)
    assert oracle.price_by("half", lambda: pytest.fail("made again")) == first
    assert oracle.price_by("other", lambda: LayerTrace("wide", Conv2d(8, 32, 6, 6, 3, 3))) != first


def test_prices_add_up_like_layers_that_run_one_after_the_other() -> None:
    machine = load_machine("nm_array")
    oracle = Oracle(machine)
    both = oracle.price(layer()) + oracle.price(layer(seed=1))
    report = simulate(Trace([layer("a"), layer("b", seed=1)]), machine)
    assert both.cycles == report.cycles
    assert both.energy_pj == pytest.approx(report.energy_pj, rel=1e-12)  # float64 sums in another order
