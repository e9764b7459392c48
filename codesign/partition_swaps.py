"""Swaps of neurons between two parts, in sequences whose best beginning is kept (Kernighan and Lin, 1970).

A swap exchanges two neurons of one layer, so that every layer stays evenly divided; neurons of a layer have no edge
between them, so the gains of the two add up.  Left out: where the division comes from (partition.py); gains are kept
up to date along rows and columns, never recomputed from the whole graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
PASSES = 8
"""Rounds over all pairs of parts at most; the gain is mostly in the first two."""
PATIENCE = 100
"""Swaps in a row without a new best after which a sequence ends."""
LEAST_GAIN = 1e-9
"""What a sequence must gain, as a share of the scores between the two parts."""


def refined(scores: Sequence[Floats], places: Sequence[Ints], parts: int) -> list[Ints]:
    """places after rounds of sequences between every two parts, until a round gains nothing; sizes stay as they are.

    scores: float[out, in] of every layer.  places: int64[neurons] of every layer of neurons, inputs first.
    """
    found = [place.copy() for place in places]
    for _ in range(PASSES):
        gains = [_sequence_(scores, found, one, other) for one, other in combinations(range(parts), 2)]
        if not any(gains):
            break
    return found


def _sequence_(scores: Sequence[Floats], places: list[Ints], one: int, other: int) -> bool:
    """Swap between two parts along the best sequence found; True if it gained."""
    nodes = [np.flatnonzero((place == one) | (place == other)) for place in places]
    between = [np.asarray(score[np.ix_(after, before)], dtype=np.float64)
               for score, before, after in zip(scores, nodes[:-1], nodes[1:], strict=True)]
    side = [np.where(place[node] == one, 1.0, -1.0) for place, node in zip(places, nodes, strict=True)]
    # What moving a neuron to the other part gains: the weights that it would keep, less those it keeps now.
    gain = [np.zeros(len(node)) for node in nodes]
    for index, weights in enumerate(between):
        gain[index + 1] -= side[index + 1] * (weights @ side[index])
        gain[index] -= side[index] * (side[index + 1] @ weights)
    total, best, kept_swaps = 0.0, 0.0, 0
    least = LEAST_GAIN * sum(float(weights.sum()) for weights in between)
    free = [np.zeros(len(node)) for node in nodes]  # 0, or -inf once moved
    swaps: list[tuple[int, int, int]] = []
    while len(swaps) - kept_swaps < PATIENCE:
        choice = _best_swap(gain, side, free)
        if choice is None:
            break
        worth, layer, first, second = choice
        total += worth
        swaps.append((layer, first, second))
        for neuron in (first, second):
            _move_(between, side, gain, layer, neuron)
            free[layer][neuron] = -np.inf
        if total > best + least:
            best, kept_swaps = total, len(swaps)
    for layer, first, second in swaps[:kept_swaps]:
        place, node = places[layer], nodes[layer]
        place[node[first]], place[node[second]] = place[node[second]], place[node[first]]
    return kept_swaps > 0


def _best_swap(gain: Sequence[NDArray[np.float64]], side: Sequence[NDArray[np.float64]],
               free: Sequence[NDArray[np.float64]]) -> tuple[float, int, int, int] | None:
    """(gain, layer, neuron of one part, neuron of the other), the first of equals; None where all have moved."""
    found: tuple[float, int, int, int] | None = None
    for layer, (gains, sides, open_) in enumerate(zip(gain, side, free, strict=True)):
        values = gains + open_
        left, right = np.where(sides > 0, values, -np.inf), np.where(sides < 0, values, -np.inf)
        first, second = int(left.argmax()) if len(left) else 0, int(right.argmax()) if len(right) else 0
        worth = float(left[first] + right[second]) if len(values) else -np.inf
        if worth > -np.inf and (found is None or worth > found[0]):
            found = worth, layer, first, second
    return found


def _move_(between: Sequence[NDArray[np.float64]], side: list[NDArray[np.float64]], gain: list[NDArray[np.float64]],
           layer: int, neuron: int) -> None:
    """Put a neuron on the other side; its neighbours' gains follow."""
    was = side[layer][neuron]
    side[layer][neuron] = -was
    gain[layer][neuron] = -gain[layer][neuron]
    # A neighbour on the side that the neuron left loses a reason to stay: +2 w; one on the other side gains one.
    if layer:
        gain[layer - 1] += 2.0 * was * side[layer - 1] * between[layer - 1][neuron]
    if layer < len(between):
        gain[layer + 1] += 2.0 * was * side[layer + 1] * between[layer][:, neuron]
