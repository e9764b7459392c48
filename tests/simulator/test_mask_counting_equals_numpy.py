"""The counting kernels of lowering say what structure.conforms and numpy say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulator.lowering_kernel import most_in_group, nonzeros_per_row
from simulator.structure import conforms, parse

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 13), st.integers(1, 5)))


@settings(max_examples=200, deadline=None)
@given(mask=MASKS, kept=st.integers(1, 4), of=st.integers(1, 5))
def test_recognition_of_n_of_m(mask, kept, of):
    kept = min(kept, of)
    expected = all(conforms(one, parse(f"{kept}:{of}")) for one in mask)
    assert (most_in_group(mask, of) <= kept) == expected


@settings(max_examples=50, deadline=None)
@given(mask=MASKS)
def test_row_counts(mask):
    assert np.array_equal(nonzeros_per_row(mask), mask.sum(axis=2))
