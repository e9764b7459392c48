"""EIE's entries per column and PE, and the broadcasts that full queues hold back: event by event, exactly.

Integers in, integers out; who pays for what is eie.py's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import kernel

Ints = NDArray[np.int64]


@kernel
def count_entries(weights: NDArray[np.bool_], longest: int, entries: Ints) -> None:
    """Fill entries: int64[k, pes], stored values of each column k in each PE, fillers of long runs of zeros included.

    weights: bool[k, n], True where kept; filter i is in PE i mod pes.  longest: zeros that an entry can skip, -1 = any.
    """
    k, n = weights.shape
    pes = entries.shape[1]
    for i in range(k):
        for pe in range(pes):
            zeros = total = 0
            for j in range(pe, n, pes):
                if weights[i, j]:
                    total += 1
                    if longest >= 0:
                        # Every (longest + 1)-th zero of a run is stored as a filler.
                        total += zeros // (longest + 1)
                    zeros = 0
                else:
                    zeros += 1
            entries[i, pe] = total


@kernel
def vector_cycles(live: NDArray[np.bool_], entries: Ints, depth: int) -> int:
    """Cycles of one input vector, live: bool[k]; 0 where it has no nonzero.

    b(j) = max(b(j-1) + 1, F(j-depth)); f(p, j) = max(f(p, j-1), b(j) + 1) + entries(j, p); F(j) = max over p of f.
    """
    k, pes = entries.shape
    free = np.zeros(pes, np.int64)
    done = np.zeros(depth, np.int64)  # F of the last `depth` activations
    count = last = 0
    sent = -1
    for i in range(k):
        if live[i]:
            sent += 1
            if count >= depth:
                sent = max(sent, done[count % depth])
            for pe in range(pes):
                free[pe] = max(free[pe], sent + 1) + entries[i, pe]
                last = max(last, free[pe])
            done[count % depth] = last
            count += 1
    return last


@kernel
def all_cycles(live: NDArray[np.bool_], entries: Ints, depth: int, cycles: Ints) -> None:
    """Fill cycles: int64[m] for live: bool[m, k]."""
    for m in range(len(live)):
        cycles[m] = vector_cycles(live[m], entries, depth)
