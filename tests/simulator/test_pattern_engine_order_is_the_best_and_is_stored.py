"""Filter-kernel reordering: no other grouping of filters is faster, and the stored order gives the weights back."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Conv2d, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.formats import best, decode, encode, parse_format, size_bits
from simulator.kernel_order import filter_kernel_order, kernel_patterns, runs_in_channel_order


@st.composite
def masks(draw, filters=6):
    """bool[out, in, kh, kw]: kernels from a small library or at random, some removed; windows below and above 16."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = draw(st.sampled_from(((1, 1), (2, 2), (3, 3), (4, 4), (5, 5))))
    shape = (draw(st.integers(1, filters)), draw(st.integers(1, 5)))
    library = rng.random((draw(st.integers(1, 4)), *kernel)) < 0.5
    drawn = library[rng.integers(0, len(library), shape)]
    if draw(st.booleans()):
        drawn = rng.random((*shape, *kernel)) < 0.5
    return drawn & (rng.random(shape) < draw(st.sampled_from((0.3, 0.8, 1.0))))[:, :, None, None]


@settings(max_examples=200, deadline=None)
@given(masks())
def test_patterns_are_the_kept_entries_of_every_kernel(mask):
    patterns, pattern = kernel_patterns(mask)
    assert len({tuple(row) for row in patterns.tolist()}) == len(patterns)
    assert all(row.any() for row in patterns)
    assert set(range(len(patterns))) == set(pattern[pattern >= 0].tolist())
    for out, channel in np.ndindex(mask.shape[:2]):
        kernel, number = mask[out, channel].reshape(-1), pattern[out, channel]
        assert (patterns[number] == kernel).all() if number >= 0 else not kernel.any()


@settings(max_examples=200, deadline=None)
@given(masks())
def test_a_filter_runs_each_pattern_once_after_reordering(mask):
    order = filter_kernel_order(mask)
    natural = runs_in_channel_order(order.pattern)
    for one in range(len(mask)):
        channels = order.kernels(one)
        assert sorted(channels) == np.flatnonzero(mask[one].any(axis=(1, 2))).tolist()
        numbers = order.pattern[one, channels].tolist()
        assert numbers == sorted(numbers)
        assert order.runs[one] == len(set(numbers)) <= natural[one]
        in_place = [number for number in order.pattern[one].tolist() if number >= 0]
        assert natural[one] == sum(a != b for a, b in zip([-1, *in_place], in_place, strict=False))
        assert order.entries[one] == mask[one].sum()


@settings(max_examples=60, deadline=None)
@given(masks(filters=5), st.integers(1, 3), st.integers(0, 3))
def test_no_other_order_of_the_filters_is_faster(mask, lanes, switch):
    order = filter_kernel_order(mask, switch)
    time = order.entries + switch * order.runs

    def groups(filters):
        return sum(max(time[list(filters[at : at + lanes])]) for at in range(0, len(filters), lanes))

    assert sorted(order.filters) == list(range(len(mask)))
    assert groups(order.filters.tolist()) == min(groups(other) for other in permutations(range(len(mask))))


def test_equal_filters_stay_in_their_order():
    assert filter_kernel_order(np.ones((5, 2, 3, 3), bool)).filters.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=200, deadline=None)
@given(masks(), st.sampled_from((1, 8)), st.integers(0, 2**16))
def test_the_format_gives_the_weights_back_in_the_bits_it_charges(mask, bits, seed):
    rng = np.random.default_rng(seed)
    weights = np.where(mask, rng.integers(1, 100, mask.shape), 0)
    matrix = weights.reshape(len(mask), -1).T
    fmt = parse_format(f"fkw {mask[0, 0].size}")
    stored = encode(matrix, fmt, bits)
    np.testing.assert_array_equal(decode(stored), matrix)
    assert (stored.values.size * bits, stored.metadata_bits) == size_bits(matrix != 0, fmt, bits)
    for entries, width in stored.fields:
        assert entries.min(initial=0) >= 0 and entries.max(initial=0) < 2**width


@settings(max_examples=60, deadline=None)
@given(masks())
def test_the_engine_charges_the_bits_of_the_format(mask):
    if not mask.any():
        return
    out, channels, rows, cols = mask.shape
    conv = LayerTrace("conv", Conv2d(channels, out, rows, cols, rows, cols), mask)
    machine = load_machine("pattern_engine", {"lanes": 64})  # all filters in a pass: rounded to bytes once
    bits = size_bits(mask.reshape(out, -1).T, parse_format(f"fkw {rows * cols}"), 8)[1]
    assert simulate(Trace([conv]), machine).to_dict()["total"]["metadata_bytes"] == -(-bits // 8)


def test_a_library_of_patterns_makes_it_the_smallest_format():
    rng = np.random.default_rng(0)
    library = np.array([[1, 1, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 1, 1]], bool)
    kernels = library[rng.integers(0, 2, (16, 32))] & (rng.random((16, 32)) < 0.4)[..., None]
    assert str(best(kernels.reshape(16, -1).T, 8)) == "fkw 9"
    assert str(best(rng.random((288, 16)) < 0.4, 8)) == "bitmask"


def test_rows_that_are_no_whole_kernels_are_refused():
    with pytest.raises(InputError, match=r"10 rows.*multiple of 9"):
        size_bits(np.ones((10, 2), bool), parse_format("fkw 9"), 8)
    with pytest.raises(InputError, match="unknown format"):
        parse_format("fkw 0")
