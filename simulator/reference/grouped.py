"""The twins on a GEMM in groups: real operands as images of one column, or group by group.

Channel g*k + i of the image holds column i of group g's input, so that a grouped convolution of single pixels makes
the products of every group.  Nothing here counts; read the twin of a machine for that, and ../grouped.py for what the
engine does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..grouped import as_convolution, in_groups, supports
from ..hardware import Machine
from ..machines import reference
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace

Ints = NDArray[np.int64]


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """(counts, output in the operation's own shape) of any layer; operands in the operation's shapes."""
    twin, operation = reference(machine.model), layer.operation
    if not in_groups(operation):
        found: tuple[LayerCounts, Ints] = twin.run(layer, machine, tiling, inputs, weights)
        return found
    gemm, groups = operation.gemm(), operation.groups
    shape = as_convolution(operation)
    if supports(machine, shape):
        image = np.zeros(shape.input_shape, dtype=inputs.dtype)
        filters = np.zeros(shape.weight_shape, dtype=weights.dtype)
        for g in range(groups):
            for i in range(gemm.k):
                image[0, g * gemm.k + i, :, 0] = inputs[g, :, i]
                filters[g * gemm.n : (g + 1) * gemm.n, i, 0, 0] = weights[g, i]
        changes = _masks(layer, image != 0, filters != 0)
        counts, planes = twin.run(layer.replace(operation=shape, **changes), machine, tiling, image, filters)
        output = [planes[0, g * gemm.n : (g + 1) * gemm.n, :, 0].T for g in range(groups)]
        return counts, np.stack(output)
    parts = [twin.run(layer.replace(operation=gemm, **_masks(layer, inputs[g] != 0, weights[g] != 0)), machine, tiling,
                      inputs[g], weights[g]) for g in range(groups)]
    executed = [part.executed_as for part, _ in parts]
    total = LayerCounts(sum(part.counts for part, _ in parts), parts[0][0].tiling,
                        min(executed, key=lambda text: text == "removed"))
    return total, np.stack([output for _, output in parts])


def _masks(layer: LayerTrace, live: NDArray[np.bool_], kept: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """The masks that the layer has, read off the operands themselves."""
    found = {}
    if layer.packed_weight is not None:
        found["weight_mask"] = kept
    if layer.packed_input is not None:
        found["input_mask"] = live
    return found
