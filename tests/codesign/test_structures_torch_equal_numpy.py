"""The torch projection makes exactly the masks of the numpy one: ties, ragged edges, any memory layout."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.gradual import part_way
from codesign.structures import as_matrix, keep_best, project, unit_scores, window_of
from simulator import structure as numpy_side
from simulator.errors import InputError

TEXTS = ["dense", "unstructured", "1:4", "2:4", "3:5", "7:20"]
TEXTS += ["ck", "window", "window 2", "bank 4", "bank 20", "2:4 of 1x3", "1:2 of 4x1 + 2:4", "block 2x2 + 1:2"]
TEXTS += ["block 2x2", "block 3x5", "block 16x16", "channel", "filter", "kernel"]


@st.composite
def scores(draw: st.DrawFn) -> torch.Tensor:
    """Linear or Conv2d shapes; coarse values make ties, fine ones make sums that round."""
    shape = [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
    if draw(st.booleans()):
        shape += [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.rand(shape, generator=generator)
    kind = draw(st.sampled_from(["coarse", "float32", "wide"]))
    if kind == "coarse":
        return (values * 3).round()
    return values if kind == "float32" else torch.exp(40 * (values.double() - 0.5))


def by_numpy(values: torch.Tensor, text: str, density: float, pool: str = "sum") -> np.ndarray:
    window = window_of(values.shape)
    return numpy_side.project(as_matrix(values).numpy(), numpy_side.parse(text), density, window, pool)


@given(scores(), st.sampled_from(TEXTS), st.sampled_from([0.0, 0.1, 0.15, 1 / 3, 0.5, 0.85, 1.0]),
       st.sampled_from(["sum", "max"]))
@settings(max_examples=500, deadline=None)
def test_torch_and_numpy_masks_are_equal(values: torch.Tensor, text: str, density: float, pool: str) -> None:
    mask = project(values, text, density, pool)
    assert mask.shape == values.shape and mask.dtype == torch.bool
    assert np.array_equal(as_matrix(mask).numpy(), by_numpy(values, text, density, pool))


OF_3X3 = ["pattern 4", "pattern 12", "pattern #7#90", "kernel + pattern 8", "ck + window", "kernel + window 3"]


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(OF_3X3), st.sampled_from([0.05, 0.2, 0.4]),
       st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_patterns_and_windows_of_3x3_kernels_are_equal(
    outputs: int, inputs: int, text: str, density: float, seed: int
) -> None:
    values = torch.rand(outputs, inputs, 3, 3, generator=torch.Generator().manual_seed(seed))
    values = (values * 3).round() if seed % 2 else values
    mask = project(values, text, density)
    assert np.array_equal(as_matrix(mask).numpy(), by_numpy(values, text, density))
    assert numpy_side.conforms(as_matrix(mask).numpy(), numpy_side.parse(text), 9)


def test_sums_whose_order_matters_fall_alike() -> None:
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in the last bit: a tie on paper that a sum's order decides."""
    values = torch.tensor([[0.1, 0.2, 0.3, 0.6], [0.3, 0.2, 0.1, 0.6], [0.6, 0.3, 0.2, 0.1]], dtype=torch.float64)
    values = values.repeat(5, 7)
    for layout in (values, values.T.contiguous().T):
        for text in ("filter", "channel", "block 3x3", "block 5x2"):
            mask = project(layout, text, 0.5)
            assert np.array_equal(as_matrix(mask).numpy(), by_numpy(layout, text, 0.5)), text


def test_two_of_four_on_an_already_sparse_weight_keeps_two_by_lowest_index() -> None:
    mask = project(torch.zeros(3, 8), "2:4")
    assert mask.tolist() == [[True, True, False, False] * 2] * 3


def test_channel_mask_drops_whole_input_channels_of_a_convolution() -> None:
    values = torch.zeros(4, 3, 2, 2)
    values[:, 1] = 1.0
    mask = project(values, "channel", 1 / 3)
    assert mask[:, 1].all() and not mask[:, 0].any() and not mask[:, 2].any()


def test_filter_mask_drops_whole_output_channels() -> None:
    values = torch.ones(4, 3, 2, 2) * torch.arange(4.0).reshape(4, 1, 1, 1)
    assert project(values, "filter", 0.5).reshape(4, -1).sum(1).tolist() == [0, 0, 12, 12]


def test_keep_best_takes_equal_values_by_lowest_index() -> None:
    values = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    assert keep_best(values, 2).tolist() == [False, True, True, False, False]


def test_unit_scores_sum_each_unit_and_count_ragged_ones() -> None:
    values = torch.arange(6.0).reshape(2, 3)  # [k, n] = [[0, 3], [1, 4], [2, 5]]
    score, size = unit_scores(values, numpy_side.parse("block 2x2"))
    assert score.tolist() == [8.0, 7.0] and size.tolist() == [4, 2]


@pytest.mark.parametrize(("share", "kept"), [(0.0, 4), (0.2, 4), (0.25, 3), (0.7, 3), (0.75, 2), (1.0, 2)])
def test_two_of_four_is_reached_in_whole_steps(share: float, kept: int) -> None:
    assert part_way(numpy_side.parse("2:4"), share) == numpy_side.n_of_m(kept, 4)


def test_nan_scores_and_densities_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(InputError, match="a score is NaN"):
        project(torch.tensor([[1.0, math.nan]]), "unstructured", 0.5)
    with pytest.raises(InputError, match=r"density 1\.5"):
        project(torch.ones(2, 2), "unstructured", 1.5)
