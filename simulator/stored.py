"""How many bytes a network's weights take, dense and in the smallest format that each layer's mask allows.

It leaves out what a machine can read: a preset declares its own formats, and its traffic is counted in those.
Read formats.py for the sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .formats import best, size_bits
from .trace import Trace


@dataclass(frozen=True)
class StoredWeights:
    """dense, smallest: bytes over all layers with weights, values at the trace's bits and indices.  formats: how many
    layers take which format, the most used first."""

    dense: int
    smallest: int
    formats: Mapping[str, int]


def stored_weights(trace: Trace) -> StoredWeights:
    """What the weights of `trace` take."""
    dense = smallest = 0
    used: Counter[str] = Counter()
    for layer in trace.layers:
        if not layer.has_parameters:
            continue
        # Columns of all groups side by side: every format here stores columns of k.
        matrix = np.concatenate(list(layer.weight_matrix()), axis=1)
        chosen = best(matrix, layer.weight_bits)
        used[str(chosen)] += 1
        dense += matrix.size * layer.weight_bits
        smallest += sum(size_bits(matrix, chosen, layer.weight_bits))
    return StoredWeights(-(-dense // 8), -(-smallest // 8), dict(used.most_common()))
