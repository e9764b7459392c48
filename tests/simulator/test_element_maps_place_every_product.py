"""Maps of the array: every multiplication of a layer in the element that the stepped twin's schedule gives it to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.element_map import element_map, why_not
from simulator.errors import InputError
from simulator.grouped import in_groups, on_planes
from simulator.reference import scnn
from simulator.reference.operands import prepare
from simulator.reference.program import compile_program
from simulator.testing import layers_for, machines, operands
from simulator.tile_view import tile_view


def by_schedule(report, machine):
    """(useful, slots) per element from the twin's folds: what each holds, and what streams past it."""
    layer, spec = on_planes(report.layer) if in_groups(report.layer.operation) else report.layer, machine.array
    op = layer.operation
    inputs = np.ones(op.input_shape, dtype=int) if layer.input_mask is None else layer.input_mask.astype(int)
    weights = np.ones(op.weight_shape, dtype=int) if layer.weight_mask is None else layer.weight_mask.astype(int)
    operands = prepare(layer, machine, inputs, weights)
    image, channel, row, col = operands.address
    useful, slots = np.zeros((2, spec.rows, spec.cols))
    for fold in compile_program(operands, machine, report.tiling).folds:
        group = operands.groups[fold.group]
        live = operands.live[image, group.channels[channel], row, col]
        seen = np.where(row >= 0, live, operands.padding_live)
        for r, i in enumerate(fold.rows):
            for c, j in enumerate(fold.cols):
                for t in fold.stream:
                    m, k, n = {"ws": (t, i, j), "os": (i, t, j), "is": (j, i, t)}[spec.dataflow]
                    slots[r, c] += 1
                    useful[r, c] += bool(group.weight[k, n]) and seen[m, group.source[k, n]]
    return useful, slots


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_elements_multiply_what_the_schedule_gives_them(data):
    layer, machine = data.draw(layers_for("systolic")), data.draw(machines("systolic"))
    try:
        report = simulate(Trace([layer]), machine, compare_dense=False).layers[0]
    except InputError:
        return  # its smallest tile misses the buffers
    if why_not(report, machine):
        return
    found = element_map(report, machine)
    useful, slots = by_schedule(report, machine)
    density = 1.0 if layer.packed_input is not None else layer.input_density
    np.testing.assert_allclose(found.useful, useful * density)
    np.testing.assert_array_equal(found.slots, slots)
    counts = report.total.counts
    assert found.slots.sum() == counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS]
    assert found.useful.sum() == pytest.approx(counts[Count.USEFUL_MACS], abs=1)


@pytest.mark.parametrize("name", ["systolic_ws", "systolic_os", "systolic_is", "nm_array", "nm_array?dataflow=os",
                                  "block_array"])
def test_a_small_tile_is_used_as_the_twin_used_it(name):
    """The map of the whole GEMM is what the watched twin multiplied, element by element."""
    rng = np.random.default_rng(5)
    k = 8 if name == "systolic_os" else 16  # as much as a view shows
    weights = np.zeros((k, 7), dtype=bool)
    for first in range(0, k, 4):
        weights[first : first + 2] = rng.random((2, 7)) < 0.8
    machine = load_machine(name, overrides={"rows": 8, "cols": 8, "memory": "ideal", "compact_channels": False})
    layer = LayerTrace("l", Gemm(8, k, 7), weights, rng.random((8, k)) < 0.6)
    report = simulate(Trace([layer]), machine, compare_dense=False).layers[0]
    np.testing.assert_array_equal(element_map(report, machine).useful, tile_view(layer, machine).film.per_element)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_elements_of_an_scnn_make_the_products_of_their_tile(data):
    """Products as the watched twin adds them, element by element."""
    layer, machine = data.draw(layers_for("scnn")), data.draw(machines("scnn"))
    try:
        report = simulate(Trace([layer]), machine, compare_dense=False).layers[0]
    except InputError:
        return  # its smallest step misses the buffers
    single = on_planes(layer) if in_groups(layer.operation) else layer
    watched = []
    scnn.run(single, machine, report.tiling, *operands(single, np.random.default_rng(1)), watched=watched)
    found = element_map(report, machine)
    added = np.zeros(found.useful.size)
    for cycle in watched:
        added += [len(element.added) for element in cycle]
    np.testing.assert_array_equal(found.useful.reshape(-1), added)
    assert found.useful.sum() == report.total.counts[Count.USEFUL_MACS]


def test_layers_without_a_map_say_why():
    layer = LayerTrace("l", Gemm(4, 8, 4), np.arange(32).reshape(8, 4) % 5 == 0)
    said = {name: why_not(simulate(Trace([layer]), load_machine(name)).layers[0], load_machine(name))
            for name in ("systolic_ws", "sparten", "vegeta")}
    assert said["systolic_ws"] == ""
    assert "counts its multipliers together" in said["sparten"]
    assert "n:m of their own" in said["vegeta"]
    machine = load_machine("scalesim_ws")
    large = simulate(Trace([LayerTrace("l", Gemm(2, 20_000, 20_000))]), machine, compare_dense=False).layers[0]
    assert "more than 134,217,728 operands" in why_not(large, machine)
