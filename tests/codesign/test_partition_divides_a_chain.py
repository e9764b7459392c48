"""A chain of layers in P parts: exact assignments, solvers that find what is planted, and even parts everywhere."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from codesign.partition import SOLVERS, alternating, assigned, kept, masks, places_of, pulls, shuffled, solve, widths
from codesign.partition_swaps import refined
from simulator.errors import InputError
from simulator.structure import conforms, parse


def random_chain(sizes, seed):
    random = np.random.default_rng(seed)
    return [random.exponential(size=(after, before)) for before, after in pairwise(sizes)]


def planted(sizes, parts, seed):
    """Weights of 10 within parts that nobody was told of, of 0 to 1 across."""
    random = np.random.default_rng(seed)
    truth = [random.permutation(np.arange(size) % parts) for size in sizes]
    scores = [random.random((len(after), len(before))) + 10.0 * (after[:, None] == before[None])
              for before, after in pairwise(truth)]
    return scores, truth


@given(st.integers(1, 5), st.integers(0, 14), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_an_assignment_is_even_and_worth_as_much_as_the_hungarian_one(parts, more, coarse, seed):
    count = parts + more
    random = np.random.default_rng(seed)
    gain = random.integers(0, 4, (count, parts)).astype(float) if coarse else random.random((count, parts))
    place = assigned(gain)
    sizes = np.bincount(place, minlength=parts)
    assert sizes.max() - sizes.min() <= 1
    # every part has floor(n / P) places that must be filled, and one more that may be
    columns = np.concatenate([np.repeat(np.arange(parts), count // parts), np.arange(parts)])
    must = np.arange(len(columns)) < parts * (count // parts)
    rows, chosen = linear_sum_assignment(-(gain[:, columns] + 1e6 * must))
    assert gain[np.arange(count), place].sum() == pytest.approx(gain[rows, columns[chosen]].sum())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_every_solver_divides_every_layer_evenly_and_makes_partitions(solver, parts):
    scores = random_chain([21, 17, 12, 8], 3)
    places = solve(scores, parts, solver, seed=1)
    assert [len(place) for place in places] == widths(scores) == [21, 17, 12, 8]
    for place in places:
        sizes = np.bincount(place, minlength=parts)
        assert len(sizes) == parts and sizes.max() - sizes.min() <= 1
    for mask in masks(places):
        assert conforms(mask.T, parse(f"partition {parts}"))


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_alternation_finds_a_planted_partition_and_baselines_keep_a_pth(parts):
    scores, truth = planted([24, 36, 24, 12], parts, seed=parts)
    everything = sum(score.sum() for score in scores)
    best = kept(scores, truth)
    assert kept(scores, solve(scores, parts, tries=6)) == pytest.approx(best)
    for baseline in ("contiguous", "random"):
        assert kept(scores, solve(scores, parts, baseline)) / everything == pytest.approx(1 / parts, abs=0.12)


def test_swaps_leave_a_local_optimum_of_alternation_and_never_lose():
    better = 0
    for seed in range(12):
        scores = random_chain([16, 12, 8], seed)
        start = alternating(scores, 2, np.random.default_rng(seed))
        end = refined(scores, start, 2)
        assert [np.bincount(a).tolist() for a in start] == [np.bincount(b).tolist() for b in end]
        assert kept(scores, end) >= kept(scores, start) - 1e-9
        better += kept(scores, end) > kept(scores, start) + 1e-9
    assert better


def test_refined_from_a_random_start_is_as_good_as_networkxs_bisection():
    """networkx balances the graph as a whole, ours each layer, which costs a little."""
    ours, theirs = [], []
    for seed in range(6):
        scores = random_chain([10, 10], seed)
        places = shuffled(scores, 2, np.random.default_rng(seed))
        graph = nx.Graph()
        graph.add_weighted_edges_from((("in", i), ("out", j), scores[0][j, i]) for i in range(10) for j in range(10))
        sides = [{(name, i) for name, place in zip(("in", "out"), places, strict=True) for i in np.flatnonzero(
            place == part)} for part in (0, 1)]
        found = nx.community.kernighan_lin_bisection(graph, [set(side) for side in sides], seed=seed)
        theirs.append(scores[0].sum() - nx.cut_size(graph, *found, weight="weight"))
        ours.append(kept(scores, refined(scores, places, 2)))
        # what is kept is what is not cut
        assert kept(scores, places) == pytest.approx(scores[0].sum() - nx.cut_size(graph, *sides, weight="weight"))
    assert sum(ours) > 0.97 * sum(theirs)


def test_a_pull_is_what_a_neuron_would_keep():
    scores = random_chain([5, 4, 6], 0)
    places = shuffled(scores, 2, np.random.default_rng(0))
    for layer in range(3):
        found = pulls(scores, places, layer, 2)
        for neuron in range(len(places[layer])):
            for part in (0, 1):
                alone = [place.copy() for place in places]
                alone[layer][:] = -1
                alone[layer][neuron] = part
                mask = masks(alone)
                by_hand = sum(float(score[kept_].sum()) for index, (score, kept_) in enumerate(
                    zip(scores, mask, strict=True)) if index in (layer - 1, layer))
                assert found[neuron, part] == pytest.approx(by_hand)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_division_is_read_back_from_its_masks(parts):
    found = masks(shuffled(random_chain([15, 11, 9, 5], 1), parts, np.random.default_rng(2)))
    places = places_of(found)
    assert all(np.array_equal(a, b) for a, b in zip(masks(places), found, strict=True))
    assert places[0][0] == 0 and set(places[0]) == set(range(parts))
    found[1][0, 0] ^= True
    with pytest.raises(InputError, match="no partition of the chain"):
        places_of(found)


def test_the_same_seed_gives_the_same_parts_and_more_tries_never_less():
    scores = random_chain([20, 16, 12], 7)
    first, again = solve(scores, 4, seed=5), solve(scores, 4, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert kept(scores, solve(scores, 4, seed=5, tries=5)) >= kept(scores, first)


@pytest.mark.parametrize(("scores", "parts", "solver", "said"), [
    ([np.ones((4, 4))], 2, "alternate", "did you mean 'alternating'"),
    ([np.ones((4, 8)), np.ones((3, 4))], 4, "random", "1 to 3, the neurons of the chain's narrowest layer"),
    ([np.ones((4, 8)), np.ones((3, 5))], 2, "random", "a chain"),
    ([], 2, "random", "a chain"),
])
def test_a_mistake_is_answered(scores, parts, solver, said):
    with pytest.raises(InputError, match=said):
        solve(scores, parts, solver)
