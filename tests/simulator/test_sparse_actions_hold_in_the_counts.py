"""What each Spec states about zeros is what its counts show: gated, skipped, moved, and by whose zeros."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, preset_names, simulate
from simulator.counts import Count
from simulator.sparse_actions import LEVELS, actions_of, table
from simulator.structure import cover, parse, project

MACHINES = [*preset_names(), "systolic_ws?gating=zeros", "highlight?compressed_inputs=true", "sigma?two_sided=false",
            "tensordash?storage=bitmask", "tensordash?sparse_side=both", "s2ta?time_unrolled=false",
            "pattern_engine?gating=zeros", "vegeta?compact_channels=false"]
# The last has columns long enough for runs of zeros that an index of EIE's cannot say.
SHAPES = (Conv2d(64, 32, 6, 6, 3, 3, padding_h=1, padding_w=1), Gemm(16, 576, 32), Gemm(2, 18, 2048))


def masks(operation):
    """Weights of every structure that a machine exploits, and without any."""
    rng = np.random.default_rng(0)
    gemm = operation.gemm()

    def shaped(matrix):
        return matrix if isinstance(operation, Gemm) else matrix.T.reshape(operation.weight_shape)

    scores = rng.random((gemm.k, gemm.n))
    yield from (shaped(scores < density) for density in (0.3, 0.01))
    yield shaped(project(scores, parse("1:4")))
    yield shaped(cover(rng.random((gemm.k, gemm.n)) < 0.001, parse("block 16x16")))
    yield shaped((np.arange(gemm.k) // 9 % 2 == 0)[:, None] & np.ones(gemm.n, dtype=bool))


def run(machine, operation, weights=None, inputs=None):
    try:
        report = simulate(Trace([LayerTrace("probe", operation, weights, inputs)]), machine, compare_dense=False)
    except InputError:  # EIE has no convolutions
        return None
    return report.layers[0].total.counts


def observed(machine):
    """(action, level, condition) that the counts of some layer show against the same layer dense."""
    found = set()
    for operation in SHAPES:
        dense = run(machine, operation)
        if dense is None:
            continue
        inputs = np.random.default_rng(1).random(operation.input_shape) < 0.1
        sparse = [("weight", run(machine, operation, mask)) for mask in masks(operation)]
        for condition, counts in [*sparse, ("input", run(machine, operation, None, inputs))]:
            if counts[Count.SKIPPED_MACS] > dense[Count.SKIPPED_MACS]:
                found.add(("skip", "multiplier", condition))
            if counts[Count.GATED_MACS] > dense[Count.GATED_MACS]:
                found.add(("gate", "multiplier", condition))
            moved = Count[f"{condition.upper()}_DRAM_READ_BYTES"]
            if counts[moved] < 0.9 * dense[moved]:  # another tiling alone moves a little less
                found.add(("skip", "DRAM", condition))
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_the_counts_show_the_actions_that_are_stated_and_no_others(name):
    machine = load_machine(name)
    stated = {(one.action, one.level, one.condition) for one in actions_of(machine.array) if one.level != "buffer"}
    if machine.memory.memory == "ideal":
        stated = {one for one in stated if one[1] == "multiplier"}
    assert observed(machine) == stated


def test_actions_have_known_words():
    for name, one in itertools.chain.from_iterable(
            ((name, one) for one in actions_of(load_machine(name).array)) for name in MACHINES):
        assert one.level in LEVELS, name
        assert one.action in ("skip", "gate"), name
        assert one.condition in ("weight", "input"), name


def test_the_table_of_the_documentation_is_what_the_presets_state():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for row in table((name, load_machine(name).array) for name in preset_names()).splitlines():
        assert row in text


def test_a_report_says_what_is_gated_and_skipped():
    layer = LayerTrace("one", Gemm(4, 8, 8))
    stated = simulate(Trace([layer]), load_machine("eie")).to_dict()["sparse_actions"]
    assert {"action": "gate", "level": "multiplier", "target": "product", "condition": "weight",
            "unit": "filler"} in stated
