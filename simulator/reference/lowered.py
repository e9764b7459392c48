"""Real operands as the GEMMs that a machine runs, element by element: the twins' own lowering.

Every output pixel looks up the input pixels under its kernel, and padding is a zero of its own.  Tiles, compression
and time are left out.  Read the twin that imports it next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace
from ..workload import Gemm

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GroupOperands:
    """One group's GEMM: inputs int64[m, k], live bool[m, k] (counts as nonzero), weights int64[k, n]."""

    inputs: Ints
    live: Bools
    weights: Ints


def group_operands(layer: LayerTrace, inputs: Ints, weights: Ints) -> list[GroupOperands]:
    """The groups of a layer in order; without an input mask everything counts as nonzero, padding included."""
    operation, recorded = layer.operation, layer.packed_input is not None
    if isinstance(operation, Gemm):
        live = inputs != 0 if recorded else np.ones(inputs.shape, dtype=bool)
        return [GroupOperands(inputs, live, weights)]
    op, gemm = operation, operation.gemm()
    per_in = op.in_channels // op.groups
    found = []
    for group in range(op.groups):
        matrix = np.zeros((gemm.m, gemm.k), dtype=np.int64)
        live = np.full((gemm.m, gemm.k), not recorded)
        for row, (image, y, x) in enumerate(np.ndindex(op.batch, op.out_h, op.out_w)):
            for column, (channel, r, s) in enumerate(np.ndindex(per_in, op.kernel_h, op.kernel_w)):
                in_y = y * op.stride_h + r * op.dilation_h - op.padding_h
                in_x = x * op.stride_w + s * op.dilation_w - op.padding_w
                if 0 <= in_y < op.in_h and 0 <= in_x < op.in_w:
                    value = inputs[image, group * per_in + channel, in_y, in_x]
                    matrix[row, column] = value
                    live[row, column] = value != 0 or not recorded
        filters = weights[group * gemm.n : (group + 1) * gemm.n]
        found.append(GroupOperands(matrix, live, filters.reshape(gemm.n, gemm.k).T.copy()))
    return found


def operation_output(layer: LayerTrace, groups: list[Ints]) -> Ints:
    """The groups' outputs int64[m, n] in the operation's own shape."""
    operation = layer.operation
    if isinstance(operation, Gemm):
        return groups[0]
    pixels = np.concatenate(groups, axis=1).reshape(operation.batch, operation.out_h, operation.out_w, -1)
    return pixels.transpose(0, 3, 1, 2)
