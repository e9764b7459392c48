# mypy: allow-untyped-defs, allow-untyped-calls
"""Counting in masks: what n:m recognition and the useful products need, in one pass over the bits.

Plain loops; structure.conforms and numpy sums say the same and are the tests' measure.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel


@kernel
def most_in_group(mask, size):
    """The most nonzeros in any `size` consecutive rows of k, over groups and columns of bool[groups, k, n]."""
    groups, k, n = mask.shape
    seen = np.zeros(n, np.int64)
    most = 0
    for g in range(groups):
        for first in range(0, k, size):
            seen[:] = 0
            for row in range(first, min(k, first + size)):
                for column in range(n):
                    seen[column] += mask[g, row, column]
            for column in range(n):
                most = max(most, seen[column])
    return most


@kernel
def nonzeros_per_row(mask):
    """int64[groups, k]: nonzeros of each row of bool[groups, k, n]."""
    groups, k, n = mask.shape
    counts = np.zeros((groups, k), np.int64)
    for g in range(groups):
        for row in range(k):
            for column in range(n):
                counts[g, row] += mask[g, row, column]
    return counts
