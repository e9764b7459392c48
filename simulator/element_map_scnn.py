"""Which element of an SCNN's grid made how many of a layer's products: nonzero inputs of its tile by nonzero weights.

The counts are docs/machines/scnn.md's products, taken tap by tap; cycles and banks are left out.  Read element_map.py
for the systolic array's map and machines/scnn.py for the machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .hardware import Machine
from .machines.spread import spread
from .trace import LayerTrace
from .workload import Conv2d, Gemm


def products(layer: LayerTrace, machine: Machine) -> NDArray[np.float64]:
    """float64[pe_rows, pe_cols]: products of two nonzero operands that reach an output, for each element.

    A density without a mask is spread over the inputs as the machine spreads it.
    """
    shape, inputs, weights = layer.operation, layer.input_mask, layer.weight_mask
    if inputs is None:
        inputs = spread(layer.operation.input_shape, layer.input_density)
    if isinstance(shape, Gemm):
        # m pixels of a plane one column wide, as the machine sees them.
        shape = Conv2d(in_channels=shape.k, out_channels=shape.n, in_h=shape.m, in_w=1, kernel_h=1, kernel_w=1)
        inputs = inputs.T.reshape(shape.input_shape)
        weights = None if weights is None else weights.T.reshape(shape.weight_shape)
    if weights is None:
        weights = np.ones(shape.weight_shape, dtype=bool)
    per_group = shape.out_channels // shape.groups
    # float64[channels, taps]: filters that have a weight there; float64[channels, h * w]: images that have an input.
    filters = weights.reshape(shape.groups, per_group, -1, shape.window).sum(axis=1, dtype=np.float64)
    images = inputs.sum(axis=0, dtype=np.float64).reshape(shape.in_channels, -1)
    made = filters.reshape(shape.in_channels, shape.window).T @ images
    grid = (machine.array.pe_rows, machine.array.pe_cols)
    rows, row_reached = _axis(shape.in_h, shape.padding_h, shape.stride_h, shape.kernel_h, shape.dilation_h,
                              shape.out_h, grid[0])
    cols, col_reached = _axis(shape.in_w, shape.padding_w, shape.stride_w, shape.kernel_w, shape.dilation_w,
                              shape.out_w, grid[1])
    planes = made.reshape(shape.kernel_h, shape.kernel_w, shape.in_h, shape.in_w)
    plane = np.einsum("rshw,rh,sw->hw", planes, row_reached.astype(np.float64), col_reached.astype(np.float64))
    found = np.zeros(grid)
    np.add.at(found, (rows[:, None], cols[None]), plane)
    return found


def _axis(size: int, padding: int, stride: int, kernel: int, dilation: int, outs: int,
          elements: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(int64[size], the element of every position; bool[kernel, size], does a tap take it to an output?)."""
    at = np.arange(size) + padding
    distance = at[None] - np.arange(kernel)[:, None] * dilation
    tile = -(-(size + 2 * padding) // elements)
    return at // tile, (distance >= 0) & (distance % stride == 0) & (distance // stride < outs)
