"""Is a mask a partition: does it fall into independent parts that can be dealt out to P places evenly?

The parts are the connected components of the bipartite graph of inputs and outputs that the mask is; a place
has within one of a P-th of the inputs and of the outputs.  Left out: how a partition is found, which needs
the weights of a chain of layers.  Read structure.py for the text form.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

STATES = 10_000
"""Ways of dealing that are looked at before the answer is no: a partition as it is made needs one."""


def bounds(size: int, parts: int) -> tuple[int, int]:
    """(least, most) members of one of `parts` of `size`: every whole number within one of size / parts."""
    return max(0, -(-size // parts) - 1), size // parts + 1


def components(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows, columns) of each connected component of bool[rows, columns], by the first row; empty ones are in none."""
    packed = np.ascontiguousarray(np.packbits(mask, axis=1))  # packbits keeps the order that a transposed mask has
    # Rows alike are one node: a partition has P kinds of rows, however many rows there are.
    kinds, kind_of = np.unique(packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1), return_inverse=True)
    rows = np.unpackbits(kinds.view(np.uint8).reshape(len(kinds), -1), axis=1, count=mask.shape[1]).astype(bool)
    found = []
    waiting = np.asarray(rows.any(axis=1))
    while waiting.any():
        members = np.zeros(len(rows), dtype=bool)
        fresh = np.array([np.argmax(waiting)])
        columns = np.zeros(rows.shape[1], dtype=bool)
        while len(fresh):
            members[fresh] = True
            reached = rows[fresh].any(axis=0) & ~columns
            columns |= reached
            waiting[fresh] = False
            fresh = np.flatnonzero(waiting & rows[:, reached].any(axis=1))
        found.append((np.flatnonzero(members[kind_of.reshape(-1)]), np.flatnonzero(columns)))
    return sorted(found, key=lambda part: int(part[0][0]))


def fits(mask: NDArray[np.bool_], parts: int, window: int = 1) -> bool:
    """Can the components of bool[k, n] be dealt to `parts` places, each within one of its share of both sides?

    window: rows of k of one input channel, which stay together.  What has no weight may be anywhere.  After STATES ways
    the answer is no.
    """
    inputs = np.asarray(mask.reshape(-1, window, mask.shape[1]).any(axis=1))
    sizes = sorted(((len(rows), len(columns)) for rows, columns in components(inputs)), reverse=True)
    (least_in, most_in), (least_out, most_out) = bounds(inputs.shape[0], parts), bounds(inputs.shape[1], parts)
    spare_in = inputs.shape[0] - sum(size for size, _ in sizes)
    spare_out = inputs.shape[1] - sum(size for _, size in sizes)
    left = STATES
    seen: set[tuple[int, tuple[tuple[int, int], ...]]] = set()
    waiting = [(0, ((0, 0),) * parts)]
    while waiting and left:
        left -= 1
        done, places = waiting.pop()
        if done == len(sizes):
            if (sum(max(0, least_in - size) for size, _ in places) <= spare_in
                    and sum(max(0, least_out - size) for _, size in places) <= spare_out):
                return True
            continue
        more_in, more_out = sizes[done]
        # Places that hold as much are the same place; the emptiest is tried first (last in, first out).
        for place in sorted(set(places), key=math.prod, reverse=True):
            if place[0] + more_in <= most_in and place[1] + more_out <= most_out:
                rest = list(places)
                rest[rest.index(place)] = (place[0] + more_in, place[1] + more_out)
                state = (done + 1, tuple(sorted(rest)))
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return False
