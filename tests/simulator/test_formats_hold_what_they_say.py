"""Compressed formats: what was encoded comes back, and the size by formula is the size of what was stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import InputError
from simulator.formats import CANDIDATES, KINDS, Format, best, decode, encode, index_bits, parse_format, size_bits


@st.composite
def matrices(draw):
    shape = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((0.0, 0.02, 0.1, 0.5, 1.0)))
    return np.where(rng.random(shape) < density, rng.integers(1, 100, shape) * rng.choice([-1, 1], shape), 0)


def n_of_m(matrix, keep, of):
    """The matrix with all but the first `keep` nonzeros of every `of` rows of a column removed."""
    rows, cols = matrix.shape
    padded = np.pad(matrix, ((0, -rows % of), (0, 0))).reshape(-1, of, cols)
    return np.where(np.cumsum(padded != 0, axis=1) <= keep, padded, 0).reshape(-1, cols)[:rows]


@settings(max_examples=300, deadline=None)
@given(matrices(), st.sampled_from((*KINDS, "rle 1", "rle 2", "rle 5")), st.sampled_from((1, 4, 8, 16)))
def test_what_goes_in_comes_out_and_has_the_size_of_the_formula(matrix, text, bits):
    fmt = parse_format(text)
    stored = encode(matrix, fmt, bits)
    np.testing.assert_array_equal(decode(stored), matrix)
    assert (stored.values.size * bits, stored.metadata_bits) == size_bits(matrix != 0, fmt, bits)
    for entries, width in stored.fields:
        assert entries.min(initial=0) >= 0
        assert entries.max(initial=0) < 2**width, "an entry does not fit the bits that are charged for it"


@settings(max_examples=150, deadline=None)
@given(matrices(), st.sampled_from(("1:2", "2:4", "1:4", "2:3", "3:5", "4:4", "1:1")))
def test_n_of_m_stores_slots_and_places_inside_the_group(matrix, text):
    fmt = parse_format(text)
    matrix = n_of_m(matrix, fmt.keep, fmt.of)
    stored = encode(matrix, fmt, 8)
    np.testing.assert_array_equal(decode(stored), matrix)
    assert (stored.values.size * 8, stored.metadata_bits) == size_bits(matrix != 0, fmt, 8)
    assert stored.fields[0][0].max(initial=0) < 2 ** stored.fields[0][1]


@settings(max_examples=150, deadline=None)
@given(matrices(), st.sampled_from((1, 8, 16)))
def test_the_best_format_is_the_smallest_that_holds_the_mask(matrix, bits):
    mask = matrix != 0
    chosen = best(mask, bits)
    sizes = {}
    for text in CANDIDATES:
        try:
            sizes[text] = encode(matrix, parse_format(text), bits).size_bits
        except InputError:
            continue
    assert sizes[str(chosen)] == min(sizes.values())
    assert str(chosen) == next(text for text in sizes if sizes[text] == min(sizes.values()))


def test_sizes_of_a_small_matrix_by_hand():
    # 4 x 8, three nonzeros at (0,1), (0,7), (3,7): offsets 0..32 take 6 bits, columns 3, rows 2
    mask = np.zeros((4, 8), dtype=bool)
    mask[0, 1] = mask[0, 7] = mask[3, 7] = True
    by_hand = {
        "uncompressed": (32 * 8, 0), "bitmask": (24, 32), "csr": (24, 5 * 6 + 3 * 3), "csc": (24, 9 * 6 + 3 * 2),
        "coordinate": (24, 3 * 5),
        # runs before the values: 1, 5, 23; in 3 bits the last is two entries of 7 and a stored zero, then 7
        "rle 3": (5 * 8, 5 * 3), "rle 5": (24, 15),
        "2:4": (2 * 8 * 8, 2 * 8 * 2),
    }
    for text, size in by_hand.items():
        assert size_bits(mask, parse_format(text), 8) == size, text
    assert str(best(mask, 8)) == "coordinate"  # rle 5 is as large and comes later
    assert str(best(np.ones((4, 4), dtype=bool), 8)) == "uncompressed"


def test_long_runs_are_split_and_trailing_zeros_are_not_stored():
    row = np.array([[0] * 9 + [5] + [0] * 50])
    stored = encode(row, Format("rle", run_bits=2), 8)
    assert stored.fields[0][0].tolist() == [3, 3, 1]
    assert stored.values.tolist() == [0, 0, 5]
    assert encode(np.zeros((3, 3), dtype=np.int64), Format("rle", run_bits=2), 8).size_bits == 0


def test_index_bits_is_the_ceiling_of_the_logarithm():
    assert [index_bits(count) for count in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("text", ["bitmaks", "5:4", "0:4", "rle 0", "rle 99", "rle"])
def test_an_unknown_format_is_refused(text):
    with pytest.raises(InputError, match="unknown format"):
        parse_format(text)


def test_a_mask_that_does_not_conform_is_refused():
    with pytest.raises(InputError, match="does not conform to 1:4"):
        size_bits(np.ones((4, 1), dtype=bool), parse_format("1:4"), 8)
    with pytest.raises(InputError, match="no candidate"):
        best(np.ones((4, 1), dtype=bool), 8, ["1:4"])
