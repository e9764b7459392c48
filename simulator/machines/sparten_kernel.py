"""SparTen's inner join on packed bitmasks: matches per chunk, the slowest unit of a cluster, chunk after chunk.

64 bits at a time: an AND and a population count per word of a filter's chunk.  Which filters a unit has and what the
memory adds is left to sparten.py and sparten_memory.py.  docs/machines/sparten.md is the text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import kernel

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

ONES = np.uint64(0x5555555555555555)
TWOS = np.uint64(0x3333333333333333)
FOURS = np.uint64(0x0F0F0F0F0F0F0F0F)
BYTES = np.uint64(0x0101010101010101)
SHIFT_1, SHIFT_2, SHIFT_4, SHIFT_56 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)


@kernel
def popcount(x: np.uint64) -> np.int64:
    """Ones in a word, in the form that LLVM knows as its population count."""
    x = x - ((x >> SHIFT_1) & ONES)
    x = (x & TWOS) + ((x >> SHIFT_2) & TWOS)
    x = (x + (x >> SHIFT_4)) & FOURS
    return np.int64((x * BYTES) >> SHIFT_56)


@kernel
def join(inputs: Words, weights: Words, routing: Ints, found: Ints) -> None:
    """Fill found[filter group, position] = (cycles of the units, further ones of routing, empty chunks, products).

    inputs: uint64[positions, chunks, words]; weights: uint64[filter groups, chunks, filters per unit, words, units];
    routing: int64[filter groups], cycles that the sums of a chunk need.
    """
    groups, chunks, halves, words, units = weights.shape
    matches = np.zeros(units, np.int64)
    for f in range(groups):
        for p in range(inputs.shape[0]):
            cycles = excess = empty = products = 0
            for c in range(chunks):
                matches[:] = 0
                for h in range(halves):
                    for w in range(words):
                        word = inputs[p, c, w]
                        for u in range(units):
                            matches[u] += popcount(word & weights[f, c, h, w, u])
                most = 0
                for u in range(units):
                    most = max(most, matches[u])
                    products += matches[u]
                if most == 0:
                    empty += 1
                    most = 1
                cycles += most
                excess += max(0, routing[f] - most)
            found[f, p, 0] = cycles
            found[f, p, 1] = excess
            found[f, p, 2] = empty
            found[f, p, 3] = products
