"""The fast engine and the cycle-stepped twin count the same, entry by entry, and the twin makes the product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from simulator.counts import Count
from simulator.errors import InputError
from simulator.hardware import Machine
from simulator.machines import MACHINES, model, reference
from simulator.mapping import Tiling
from simulator.testing import layers_for, machines, operands, product, tilings
from simulator.trace import LayerTrace

THOROUGH = settings(
    max_examples=500, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def differences(layer: LayerTrace, machine: Machine, tiling: Tiling | None, seed: int) -> list[str]:
    """`Count: engine against reference` for every count that differs; nothing where they agree."""
    fast = model(machine.model).run(layer, machine, tiling)
    inputs, weights = operands(layer, np.random.default_rng(seed))
    slow, output = reference(machine.model).run(layer, machine, fast.tiling, inputs, weights)
    np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
    found = [
        f"{name.name}: engine {engine}, reference {twin}"
        for name, engine, twin in zip(Count, fast.counts.tolist(), slow.counts.tolist(), strict=True)
        if engine != twin
    ]
    for what in ("executed_as", "tiling"):
        engine, twin = getattr(fast, what), getattr(slow, what)
        found += [f"{what}: engine {engine}, reference {twin}"] if engine != twin else []
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_engine_equals_reference_on_drawn_tilings(name: str) -> None:
    @THOROUGH
    @given(data=st.data(), seed=st.integers(0, 2**16))
    def check(data: st.DataObject, seed: int) -> None:
        layer, machine = data.draw(layers_for(name)), data.draw(machines(name))
        tiling = data.draw(tilings(layer, machine))
        found = differences(layer, machine, tiling, seed)
        assert not found, "\n".join([f"{layer}", f"{machine}", f"{tiling}", *found])

    check()


@pytest.mark.parametrize("name", MACHINES)
def test_engine_equals_reference_on_the_tiling_that_the_search_chooses(name: str) -> None:
    @settings(THOROUGH, max_examples=60)
    @given(layer=layers_for(name), machine=machines(name), seed=st.integers(0, 2**16))
    def check(layer: LayerTrace, machine: Machine, seed: int) -> None:
        try:
            found = differences(layer, machine, None, seed)
        except InputError:
            reject()  # no tile fits the drawn buffers
        assert not found, "\n".join([f"{layer}", f"{machine}", *found])

    check()
