"""Stand-in zeros for a layer of which only the share of nonzero activations is known.

A machine that skips zeros needs to know where they are.  The entries kept are those whose index times the golden ratio
has the smallest fraction: an even spread without a period, the same on every machine.  Nothing is drawn at random.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd: no two indices share a fraction


def spread(shape: tuple[int, ...], density: float) -> NDArray[np.bool_]:
    """bool[shape] with floor(density * size + 1/2) entries True."""
    size = math.prod(shape)
    kept = math.floor(density * size + 0.5)
    fractions = np.arange(size, dtype=np.uint64) * GOLDEN  # modulo 2^64
    if kept == size:
        return np.ones(shape, dtype=bool)
    return np.asarray(fractions < np.partition(fractions, kept)[kept]).reshape(shape)


def with_explicit_inputs(layer: LayerTrace) -> LayerTrace:
    """The layer with stand-in zeros where only a density below 1 is known; else the layer itself."""
    if layer.packed_input is not None or layer.input_density == 1.0:
        return layer
    return LayerTrace(layer.name, layer.operation, layer.packed_weight,
                      spread(layer.operation.input_shape, layer.input_density), structure=layer.structure,
                      weight_bits=layer.weight_bits, input_bits=layer.input_bits, output_bits=layer.output_bits)
