"""The frames of a small tile: every product once, in one place, as the counts and the output say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.errors import InputError
from simulator.testing import layers_for, machines
from simulator.tile_view import tile_view

PRESETS = ("systolic_ws", "systolic_os", "systolic_is", "nm_array", "nm_array?dataflow=os", "block_array", "vegeta",
           "gemmini", "tiny_tpu", "scalesim_os", "tpu_like")


def two_of_four(rng, k, n):
    mask = np.zeros((k, n), dtype=bool)
    for col in range(n):
        for first in range(0, k, 4):
            mask[first + rng.permutation(4)[:2], col] = True
    return mask


def check(view):
    """What the frames show is what the twin counted, and all of it."""
    film, gemm = view.film, view.gemm
    inputs = gemm.input_mask if gemm.input_mask is not None else np.ones(gemm.operation.input_shape, dtype=bool)
    weights = gemm.weight_mask if gemm.weight_mask is not None else np.ones(gemm.operation.weight_shape, dtype=bool)
    assert sum(film.cycles_by_cause.values()) == view.cycles
    shown = [one for frame in film.frames for one in frame.product if one and min(one[:3]) >= 0]
    assert len({one[:3] for one in shown}) == len(shown)  # no product twice
    expected = {(m, k, n) for m, k, n in np.argwhere(inputs[:, :, None] & weights[None])}
    useful = {one[:3] for one in shown if one[3] and one[4]}
    assert useful == {tuple(map(int, one)) for one in expected}
    assert int(film.per_element.sum()) == film.useful == len(expected)
    for m, k, n, live, kept, first, lanes in shown:
        assert live == inputs[m, k]
        assert kept == weights[k, n]
        assert first <= k < first + lanes
    left = [pair for frame in film.frames for pair in frame.left]
    assert {n for _, n in left} == {n for _, _, n, *_ in shown}


@pytest.mark.parametrize("name", PRESETS)
def test_every_product_of_the_tile_is_shown_once(name):
    rng = np.random.default_rng(3)
    layer = LayerTrace("layer", Gemm(33, 64, 40), two_of_four(rng, 64, 40), rng.random((33, 64)) < 0.7)
    view = tile_view(layer, load_machine(name))
    check(view)
    if name.startswith("nm_array"):
        assert view.film.pattern == (2, 4)
        assert {one[6] for frame in view.film.frames for one in frame.product if one} == {4}  # muxes of four inputs


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_drawn_layers_on_drawn_arrays(data):
    layer, machine = data.draw(layers_for("systolic")), data.draw(machines("systolic"))
    try:
        simulate(Trace([layer]), machine, compare_dense=False)
        view = tile_view(layer, machine)
    except InputError as error:
        assume("misses" not in str(error) and "no weight left" not in str(error))
        raise
    check(view)


def test_ws_moves_inputs_right_and_sums_down_one_element_per_cycle():
    """2 x 2, m = 3: input (m, k) meets column n at edge 2 + m + k + n, after two edges of weights."""
    view = tile_view(LayerTrace("l", Gemm(3, 2, 2)), load_machine("systolic_ws?rows=2&cols=2"))
    seen = {(cycle, index // 2, index % 2): one[:3] for cycle, frame in enumerate(view.film.frames)
            for index, one in enumerate(frame.product) if one}
    assert seen == {(2 + m + k + n, k, n): (m, k, n) for m in range(3) for k in range(2) for n in range(2)}
    # Weight (k, n) rests in element (k, n), and has the number 1 + 2k + n.
    assert view.film.frames[4].banks[0] == [1, 2, 3, 4]
    # The sum stands in the register of the element that added to it last.
    assert [frame.sums[3] for frame in view.film.frames[4:7]] == [1, 3, 5]


def test_a_layer_with_empty_first_weights_shows_the_first_that_are_not():
    mask = np.zeros((128, 8), dtype=bool)
    mask[70] = True
    view = tile_view(LayerTrace("l", Gemm(4, 128, 8), mask), load_machine("block_array"))
    assert view.film.useful > 0


def test_other_models_and_removed_layers_are_refused():
    with pytest.raises(InputError, match="model systolic"):
        tile_view(LayerTrace("l", Gemm(4, 4, 4)), load_machine("sparten"))
    conv = Conv2d(in_channels=2, out_channels=2, in_h=4, in_w=4, kernel_h=1, kernel_w=1)
    with pytest.raises(InputError, match="no weight left"):
        tile_view(LayerTrace("l", conv, np.zeros((2, 2, 1, 1), dtype=bool)), load_machine("systolic_ws"))
