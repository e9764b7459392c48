"""How large a layer may be for a model that looks at every weight.

Sparse models visit weights one by one; beyond this size they would take minutes and gigabytes, so the layer is refused
with a message.  Nothing is simulated here; read sigma.py for a user.
"""

from __future__ import annotations

import math

from ..errors import InputError
from ..trace import LayerTrace

MOST_ENTRIES = 1 << 28


def require_enumerable(layer: LayerTrace) -> None:
    """Raise InputError where the weight or the input of a layer has more than 2^28 entries."""
    operation = layer.operation
    for operand, shape in (("weight", operation.weight_shape), ("input", operation.input_shape)):
        if math.prod(shape) > MOST_ENTRIES:
            raise InputError(f"a {operand} of {math.prod(shape)} entries", where=f"layer {layer.name!r}",
                             expected=f"at most {MOST_ENTRIES}, as this machine is driven by every single entry",
                             fix="split the layer")
