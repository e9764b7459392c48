"""The laws of simulator/laws.py, for every machine model in the table and every preset, on drawn layers.

A law that fails prints its sentence.  The presets are drawn too, because their buffers and clocks are the real ones.
"""

import concurrent.futures
import json

import pytest
from hypothesis import HealthCheck, assume, given, settings

from simulator import InputError, Trace, load_machine, preset_names, simulate
from simulator.laws import broken_laws
from simulator.machines import MACHINES
from simulator.testing import layers, layers_for, machines

SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.parametrize("name", MACHINES)
def test_no_law_is_broken_on_drawn_machines(name):
    @settings(max_examples=300, deadline=None, suppress_health_check=SLOW_TO_DRAW)
    @given(layers_for(name), machines(name))
    def check(layer, machine):
        try:
            broken = broken_laws(layer, machine)
        except InputError as error:
            if "misses the buffers by" not in str(error):
                raise
            assume(False)
        assert broken == []

    check()


@pytest.mark.parametrize("preset", preset_names())
def test_no_law_is_broken_on_a_preset(preset):
    machine = load_machine(preset)

    @settings(max_examples=25, deadline=None, suppress_health_check=SLOW_TO_DRAW)
    @given(layers_for(machine.model))
    def check(layer):
        assert broken_laws(layer, machine) == []

    check()


def test_any_number_of_threads_gives_the_same_bytes():
    machine = load_machine("nm_array")
    drawn = []

    @settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=SLOW_TO_DRAW)
    @given(layers())
    def collect(layer):
        drawn.append(layer)

    collect()
    alone = [json.dumps(simulate(Trace([layer]), machine).to_dict()) for layer in drawn]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda layer: json.dumps(simulate(Trace([layer]), machine).to_dict()), drawn))
    assert together == alone
