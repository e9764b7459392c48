"""What each structure's text means: hand-drawn masks, compositions, patterns by rank, and what conforms to what."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import InputError, patterns
from simulator.structure import FORMS, conforms, parse, project

WRITTEN = ["unstructured", "2:4", "2:4 of 1x2", "1:2 of 4x1 + 2:4", "block 2x3", "bank 4", "channel", "filter",
           "kernel", "ck", "window", "window 4", "pattern 4", "pattern 8", "pattern 12", "pattern #1#126",
           "kernel + pattern 4", "ck + window", "ck + window 2"]


@given(st.sampled_from(WRITTEN), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.1, 0.25, 0.4]),
       st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_what_is_projected_conforms_and_reads_back(text, channels, n, density, seed):
    structure = parse(text)
    assert parse(str(structure)) == structure
    scores = np.random.default_rng(seed).random((9 * channels, n))
    mask = project(scores, structure, density, window=9)
    assert conforms(mask, structure, window=9)
    fixed = structure.density_on(9)
    if fixed is not None and 9 * channels % 8 == 0 and n % 2 == 0:
        assert mask.mean() == pytest.approx(fixed)


def test_every_form_that_the_message_names_is_understood():
    examples = {"N:M": "2:4", "N:M of RxC": "2:4 of 1x8", "block RxC": "block 4x4", "bank B": "bank 8",
                "window K": "window 4", "pattern K": "pattern 8", "pattern #A#B...": "pattern #3#12",
                "partition P": "partition 4", "A + B": "ck + window"}
    for form in FORMS:
        assert str(parse(examples.get(form, form))) == examples.get(form, form)
    with pytest.raises(InputError, match="bank B"):
        parse("bonk 8")


@pytest.mark.parametrize("text", ["0:4", "5:4", "2:4 of 0x1", "bank 0", "window 0", "pattern 5", "pattern #127",
                                  "pattern #3#3", "dense + 2:4", "2:4 + dense", "2:4 + "])
def test_a_structure_that_makes_no_sense_is_refused(text):
    with pytest.raises(InputError):
        parse(text)


def test_the_patterns_are_numbered_as_in_the_released_configurations():
    assert patterns.FIXED[4] == (3, 12, 65, 120)
    assert [patterns.drawn(rank) for rank in patterns.FIXED[4]] == [
        "000/011/011", "000/110/110", "011/011/000", "110/110/000"]
    assert {125, 126} <= set(patterns.FIXED[12])
    for rank in range(1, 127):
        assert patterns.rank_of(patterns.drawn(rank)) == rank


def test_a_kernel_takes_the_pattern_with_most_score_and_of_equals_the_first():
    scores = np.zeros((18, 1))
    scores[[4, 5, 7, 8], 0] = 1.0  # the lower right square of the first kernel; the second has nothing to choose by
    mask = project(scores, parse("pattern 4"), window=9)
    assert mask[:9, 0].nonzero()[0].tolist() == [4, 5, 7, 8]
    assert mask[9:, 0].nonzero()[0].tolist() == [4, 5, 7, 8]  # #3 stands first in the library


def test_a_library_is_made_of_what_most_kernels_would_choose():
    wanted = [(0, 1, 2, 3), (0, 1, 2, 3), (5, 6, 7, 8), (1, 3, 5, 7)]
    scores = np.zeros((9 * len(wanted), 1))
    for kernel, kept in enumerate(wanted):
        scores[[9 * kernel + place for place in kept], 0] = 1.0
    found = patterns.most_chosen(scores, 2)
    assert {patterns.entries(rank) for rank in found} >= {(0, 1, 2, 3)}
    assert len(found) == 2 and patterns.votes(scores).sum() == 4


def test_vectors_share_one_pattern_and_columns_of_vectors_do_not():
    scores = np.array([[1, 0, 0, 9], [0, 0, 3, 0], [2, 2, 0, 0], [0, 0, 0, 0]], dtype=float)
    mask = project(scores, parse("1:4 of 1x2"))
    assert mask.astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_hierarchical_n_of_m_keeps_blocks_first_and_entries_inside_them():
    scores = np.array([[5, 1, 1, 0, 3, 3, 3, 3]], dtype=float).T
    mask = project(scores, parse("1:2 of 4x1 + 2:4"))
    assert mask[:, 0].astype(int).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert conforms(mask, parse("1:2 of 4x1 + 2:4"))
    mask[0, 0] = True  # a second block of four is in use
    assert not conforms(mask, parse("1:2 of 4x1 + 2:4")) and conforms(mask, parse("2:4"))


def test_balanced_structures_keep_the_same_number_everywhere():
    scores = np.arange(36, dtype=float).reshape(18, 2)
    kernels = project(scores, parse("ck"), 0.5, window=9)
    assert kernels.reshape(2, 9, 2).all(axis=1).sum(axis=0).tolist() == [1, 1]
    kernels[:, 0] = True  # one filter keeps two kernels, the other one
    assert not conforms(kernels, parse("ck"), window=9)
    windows = project(scores, parse("window"), 1 / 3, window=9)
    assert (windows.reshape(2, 9, 2).sum(axis=1) == 3).all()


def test_the_two_parts_of_a_composition_share_a_density():
    assert parse("ck + window").split(0.25, 9) == (0.5, 0.5)
    assert parse("kernel + pattern 4").split(0.2, 9) == (pytest.approx(0.45), 4 / 9)
    assert parse("kernel + pattern 4").split(0.2, 1) == (0.2, 1.0)
    assert parse("kernel + pattern 4").split(0.9, 9)[0] == 1.0


def test_one_by_one_kernels_have_no_window_to_prune():
    scores = np.random.default_rng(0).random((8, 3))
    assert project(scores, parse("pattern 4"), window=1).all() and project(scores, parse("window 4"), window=1).all()
    with pytest.raises(InputError, match="3x3"):
        project(np.ones((25, 1)), parse("pattern 4"), window=25)


PARTS = ["unstructured", "2:4", "block 4x4", "bank 8", "channel", "filter", "kernel", "ck", "window", "window 3",
         "pattern 4"]


@pytest.mark.parametrize("window", [1, 9])
@pytest.mark.parametrize(("outer", "inner"), list(itertools.permutations(PARTS, 2)))
def test_a_composition_keeps_what_it_was_told_to_or_is_refused(outer: str, inner: str, window: int) -> None:
    structure, asked = parse(f"{outer} + {inner}"), 0.25
    try:
        structure.check_parts_nest(window)
    except InputError:
        return
    kept = project(np.random.default_rng(0).random((16 * window, 32)), structure, asked, window)
    assert conforms(kept, structure, window)
    # a window keeps a whole number of its nine entries: 5, where the root of a quarter is 4.5
    share = structure.density_on(window) or asked * (5 / 4.5 if inner == "window" and window == 9 else 1.0)
    assert kept.mean() == pytest.approx(share, abs=0.5 * 9 * 16 / kept.size * window)


@pytest.mark.parametrize(
    "text", ["unstructured + 2:4", "bank 8 + 2:4", "kernel + 2:4", "channel + 2:4", "2:4 + filter", "2:4 + window 4"])
def test_parts_that_cut_through_each_other_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"groups of .* that lie within units of"):
        parse(text).split(0.2, 9)
