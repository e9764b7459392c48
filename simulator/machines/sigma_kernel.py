"""Packing of stationary nonzeros into the passes of a flexible dot-product engine, one scan in the order of n, k.

Integers in, integers out; what a pass costs is sigma.py's.  Left out: which multiplier a value lands in, as the
distribution network reaches all of them alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import kernel

# Columns of the table of passes.
FILLED, DISTINCT, NONZEROS, SEGMENTS, CONTINUED, STORED, BITMAP_ROWS, FINISHED, GROUP = range(9)
COLUMNS = 9


@kernel
def pack(weights: NDArray[np.bool_], nonzeros: NDArray[np.int64], occurs: NDArray[np.bool_], multipliers: int,
         whole_rows: bool, table: NDArray[np.int64]) -> int:
    """Fill `table` int64[passes, COLUMNS] and return how many passes there are.

    weights: bool[groups, n, k], True where a weight is kept.  nonzeros: int64[groups, k], inputs streamed for that k
    over all vectors.  occurs: bool[groups, k], False where the stream never has that k.  A row is the weights of one
    n.  The table needs 2 * ceil(nonzeros / multipliers) + 2 rows per group.
    """
    groups, rows, k = weights.shape
    seen = np.full(k, -1, np.int64)  # the pass that last held a weight of this k
    current = -1
    for g in range(groups):
        free = 0  # a group has another stream, so it opens a pass of its own
        for n in range(rows):
            useful = 0
            for i in range(k):
                if weights[g, n, i] and occurs[g, i]:
                    useful += 1
            # Whole rows: one that the rest of the pass cannot hold waits for the next pass.
            if whole_rows and useful > free:
                free = 0
            if useful and free == 0:
                current, free = current + 1, multipliers
                table[current, GROUP] = g
            at = max(current, 0)
            table[at, BITMAP_ROWS] += 1
            if useful:
                table[at, SEGMENTS] += 1
            for i in range(k):
                if not weights[g, n, i]:
                    continue
                if occurs[g, i]:
                    if free == 0:
                        current, free = current + 1, multipliers
                        table[current, GROUP] = g
                        table[current, SEGMENTS] = table[current, CONTINUED] = 1
                    free -= 1
                    table[current, FILLED] += 1
                    if seen[i] != current:
                        seen[i] = current
                        table[current, DISTINCT] += 1
                        table[current, NONZEROS] += nonzeros[g, i]
                table[max(current, 0), STORED] += 1
            table[max(current, 0), FINISHED] += 1
    return current + 1
