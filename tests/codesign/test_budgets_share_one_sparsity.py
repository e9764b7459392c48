"""From one sparsity to densities: decimal arithmetic, and one ranking over layers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codesign.budgets import check_sparsity, density_of, erk_densities, global_densities
from simulator.errors import InputError
from simulator.structure import units_kept


def units(*scores: float, size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(scores, dtype=torch.float64), torch.full((len(scores),), size)


def test_density_is_decimal() -> None:
    assert density_of(0.9) == 0.1  # 1 - 0.9 in binary is 0.09999999999999998 and would keep 1 of 15, not 2
    assert units_kept(density_of(0.9), 15) == 2
    assert density_of(0.8, share=0.5) == 0.6


def test_the_higher_scores_win_whichever_layer_they_are_in() -> None:
    densities = global_densities({"a": units(5.0, 4.0, 3.0, 0.1), "b": units(1.0, 0.2, 0.3, 0.4)}, 0.5)
    assert densities == {"a": 0.75, "b": 0.25}


def test_erk_gives_no_layer_more_than_its_structure_can_keep() -> None:
    shapes = {"small": (16, 16, 3, 3), "large": (64, 64, 3, 3)}
    sizes = {"small": 16 * 16 * 9, "large": 64 * 64 * 9}
    free, capped = (erk_densities(shapes, 0.3, most) for most in (None, dict.fromkeys(shapes, 4 / 9)))
    assert free["small"] > 4 / 9 and capped["small"] == 4 / 9 and free["large"] < capped["large"] < 4 / 9
    for densities in (free, capped):
        assert sum(densities[name] * sizes[name] for name in shapes) == pytest.approx(0.3 * sum(sizes.values()))


def test_no_layer_is_cut_through() -> None:
    densities = global_densities({"a": units(5.0, 4.0, 3.0, 2.0), "b": units(0.1, 0.2, 0.3, 0.4)}, 0.5)
    assert densities == {"a": 0.75, "b": 0.25}


def test_units_rank_by_their_mean_score_per_weight() -> None:
    densities = global_densities({"wide": units(8.0, 6.0, size=4), "narrow": units(3.0, 2.5, 2.2, 1.0)}, 7 / 12)
    assert densities == {"wide": 0.5, "narrow": 0.75}


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=1, max_size=5),
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]),
)
def test_the_total_is_exact_in_units_of_one_weight(layers: list[list[int]], density: float) -> None:
    ranked = {str(i): units(*map(float, scores)) for i, scores in enumerate(layers)}
    densities = global_densities(ranked, density)
    total = sum(len(scores) for scores in layers)
    kept = [units_kept(densities[str(i)], len(scores)) for i, scores in enumerate(layers)]
    assert sum(kept) == max(units_kept(density, total), len(layers))
    assert min(kept) >= 1


@pytest.mark.parametrize("value", [1.0, -0.1, "half", True, float("nan")])
def test_a_sparsity_is_a_share_below_one(value: object) -> None:
    with pytest.raises(InputError, match=r"in \[0, 1\)"):
        check_sparsity(value, "here")
