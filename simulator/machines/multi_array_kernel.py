"""Connected components of the bipartite graph that a mask is, by union of sets in one pass over it.

scipy.sparse.csgraph says the same and is the tests' measure, but wants 16 bytes per kept weight: too many for a fully
connected layer of 10^8.  Read multi_array_division.py for what becomes of the components.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import kernel

Ints = NDArray[np.int64]


@kernel
def root_of(parent: Ints, node: int) -> int:
    """The smallest node of a set; paths are halved on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def join(mask: NDArray[np.bool_], parent: Ints) -> None:
    """Join row i with node rows + j of every True entry (i, j) of bool[rows, cols]; parent: int64[rows + cols]."""
    rows, cols = mask.shape
    for i in range(rows):
        for j in range(cols):
            if mask[i, j]:
                a, b = root_of(parent, i), root_of(parent, rows + j)
                if a != b:
                    parent[max(a, b)] = min(a, b)
