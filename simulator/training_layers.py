"""The two products of a layer's backward pass, as layers of their own with masks of their own.

The input gradient is the error map times the transposed weights, the weight gradient the activations times the error
map; both become operations that a machine runs forward, and their masks are transposed with them.  What is no product
(activation functions, normalisation, losses) is left out.  Read training.py for what they cost.

The forms are those of public compilers: a convolution's input gradient is a convolution of the error map with flipped
kernels, its weight gradient one of the activations with the error map as kernel (JAX, jax/_src/lax/convolution.py,
`_conv_general_dilated_transpose_lhs` and `_rhs`).  docs/training.md has the formulas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, nearest
from .machines.spread import spread
from .structure import CHANNEL, FILTER, conforms, parse
from .trace import LayerTrace
from .workload import Conv2d, Gemm, Operation

Array = NDArray[Any]
Bools = NDArray[np.bool_]
STRIDED = ("phases", "dilated")


@dataclass(frozen=True, eq=False)
class Product:
    """One forward operation of a backward pass and its operands.

    inputs, weights: arrays in the operation's own shapes, masks or values alike; None where nothing is known to be
    zero.  rows, columns: which rows and columns of the input's gradient the outputs are (one phase of a stride).
    """

    operation: Operation
    inputs: Array | None
    weights: Array | None
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))


def input_gradient(layer: LayerTrace, strided: str = "phases", *, drop_empty: bool = True,
                   error_type: str = "") -> list[LayerTrace]:
    """The layers that compute the gradient of a layer's input; several for a strided convolution in phases.

    strided: "phases" = one stride-1 convolution per residue of the stride, no inserted zero is computed; "dilated" =
    one convolution over an error map with stride - 1 zeros between its entries, as a machine without support for
    strided gradients runs it.  drop_empty: filters whose error map is zero in the whole batch take no part, as
    error-map pruning leaves them out.  Empty where nothing is left.  error_type: that of error maps, "" = that of the
    activations they belong to.
    """
    if strided not in STRIDED:
        raise InputError(f"strided = {strided!r}", where="input gradient", expected=f"one of {', '.join(STRIDED)}",
                         fix=nearest(strided, STRIDED))
    errors, weights, operation = _errors(layer), layer.weight_mask, layer.operation
    if drop_empty and errors is not None:
        filters = _any_outside(errors, operation, 1)
        if not filters.any():
            return []
        operation, _, weights, errors = keep(operation, _all_channels(operation), filters, None, weights, errors)
    products = input_gradient_products(operation, errors, weights, strided)
    types = {"weight": layer.weight_type, "input": error_type or layer.output_type,
             "output": error_type or layer.input_type}
    return [_layer(f"{layer.name}, input gradient{_part(number, len(products))}", product, layer.structure, types)
            for number, product in enumerate(products, start=1)]


def weight_gradient(layer: LayerTrace, output_type: str, *, live_only: bool = True,
                    drop_empty: bool = True, error_type: str = "") -> list[LayerTrace]:
    """Forms of the layer that computes the gradient of a layer's weight, any one of which will do; the first is direct.

    A convolution has two: a convolution whose kernel is the error map, and the GEMM over batch * out_h * out_w whose
    input is read window by window.  live_only: channels and filters without a single weight get no gradient.
    drop_empty: nor do filters whose error map is zero in the whole batch.  Empty where nothing is left.
    """
    errors, inputs, operation = _errors(layer), _inputs(layer), layer.operation
    channels, filters = _all_channels(operation), np.ones(_filters(operation), dtype=bool)
    if live_only and layer.packed_weight is not None:
        channels, filters = _live(layer)
    if drop_empty and errors is not None:
        filters = filters & _any_outside(errors, operation, 1)
    if not (channels.any() and filters.any()):
        return []
    operation, inputs, _, errors = keep(operation, channels, filters, inputs, None, errors)
    types = {"weight": error_type or layer.output_type, "input": layer.input_type, "output": output_type}
    return [_layer(f"{layer.name}, weight gradient", product, "unstructured", types)
            for product in weight_gradient_products(operation, inputs, errors)]


def input_gradient_products(operation: Operation, errors: Array | None, weights: Array | None,
                            strided: str = "phases") -> list[Product]:
    """The operations whose outputs make up the gradient of the input.

    errors: [batch, out, out_h, out_w] or [m, n]; weights: [out, in/groups, kh, kw] or [k, n].  Rows and columns that
    no product covers are zero: no output reads them.
    """
    if isinstance(operation, Gemm):
        swapped = None if weights is None else np.ascontiguousarray(weights.swapaxes(-1, -2))
        return [Product(Gemm(operation.m, operation.n, operation.k, operation.groups), errors, swapped)]
    op = operation
    height, width, stride = op.out_h, op.out_w, (op.stride_h, op.stride_w)
    if strided == "dilated" and stride != (1, 1):
        spaced = np.zeros((op.batch, op.out_channels, (op.out_h - 1) * op.stride_h + 1,
                           (op.out_w - 1) * op.stride_w + 1), dtype=bool if errors is None else errors.dtype)
        spaced[:, :, :: op.stride_h, :: op.stride_w] = True if errors is None else errors
        errors, (height, width), stride = spaced, spaced.shape[2:], (1, 1)
    products = []
    for y in _phases(op.in_h, height, op.kernel_h, stride[0], op.padding_h, op.dilation_h):
        for x in _phases(op.in_w, width, op.kernel_w, stride[1], op.padding_w, op.dilation_w):
            seen, pad_y, pad_x, in_h, in_w = _window(errors, (op.batch, op.out_channels, height, width), y, x)
            kernels = None if weights is None else _transposed(weights[:, :, list(y.taps)][:, :, :, list(x.taps)],
                                                               op.groups)
            product = Conv2d(op.out_channels, op.in_channels, in_h, in_w, len(y.taps), len(x.taps), op.batch,
                             padding_h=pad_y, padding_w=pad_x, dilation_h=y.dilation, dilation_w=x.dilation,
                             groups=op.groups)
            products.append(Product(product, seen, kernels, slice(y.start, None, y.stride),
                                    slice(x.start, None, x.stride)))
    return products


def weight_gradient_products(operation: Operation, inputs: Array | None, errors: Array | None) -> list[Product]:
    """The forms of the operation whose output is the gradient of the weight.

    inputs: [batch, in, h, w] or [m, k]; errors as in input_gradient_products.  Outputs: of a Gemm [k, n] (with groups
    [groups, k, n]); of the convolution form of a Conv2d [in/groups, out, kh, kw].
    """
    if isinstance(operation, Gemm):
        swapped = None if inputs is None else np.ascontiguousarray(inputs.swapaxes(-1, -2))
        return [Product(Gemm(operation.k, operation.m, operation.n, operation.groups), swapped, errors)]
    op, gemm = operation, operation.gemm()
    per_in, per_out = op.in_channels // op.groups, op.out_channels // op.groups
    # Taps of the error map are `stride` apart; outputs, which are the kernel's taps, `dilation` apart.
    y = _Reach(-op.padding_h, (op.kernel_h - 1) * op.dilation_h + (op.out_h - 1) * op.stride_h + 1)
    x = _Reach(-op.padding_w, (op.kernel_w - 1) * op.dilation_w + (op.out_w - 1) * op.stride_w + 1)
    seen, pad_y, pad_x, in_h, in_w = _window(inputs, op.input_shape, y, x)
    if seen is not None:
        seen = seen.reshape(op.batch, op.groups, per_in, in_h, in_w).transpose(2, 1, 0, 3, 4)
        seen = np.ascontiguousarray(seen).reshape(per_in, op.groups * op.batch, in_h, in_w)
    kernel = None if errors is None else np.ascontiguousarray(errors.transpose(1, 0, 2, 3))
    direct = Conv2d(op.groups * op.batch, op.out_channels, in_h, in_w, op.out_h, op.out_w, per_in,
                    stride_h=op.dilation_h, stride_w=op.dilation_w, padding_h=pad_y, padding_w=pad_x,
                    dilation_h=op.stride_h, dilation_w=op.stride_w, groups=op.groups)
    lowered = Gemm(gemm.k, gemm.m, gemm.n, op.groups)
    rows = None if inputs is None else windows(op, inputs).swapaxes(1, 2).reshape(lowered.input_shape)
    columns = None if errors is None else (
        errors.reshape(op.batch, op.groups, per_out, -1).transpose(1, 0, 3, 2).reshape(lowered.weight_shape))
    return [Product(direct, seen, kernel), Product(lowered, rows, columns)]


def windows(op: Conv2d, inputs: Array) -> Array:
    """[groups, m, k]: the lowered input, a row per output pixel, k as in Conv2d.gemm(); padding is zero."""
    padded = np.pad(inputs, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    taps = np.empty((op.batch, op.in_channels, op.kernel_h, op.kernel_w, op.out_h, op.out_w), dtype=inputs.dtype)
    for r in range(op.kernel_h):
        for s in range(op.kernel_w):
            top, left = r * op.dilation_h, s * op.dilation_w
            taps[:, :, r, s] = padded[:, :, top : top + (op.out_h - 1) * op.stride_h + 1 : op.stride_h,
                                      left : left + (op.out_w - 1) * op.stride_w + 1 : op.stride_w]
    gemm = op.gemm()
    grouped = taps.reshape(op.batch, op.groups, gemm.k, op.out_h * op.out_w)
    return grouped.transpose(1, 0, 3, 2).reshape(op.groups, gemm.m, gemm.k)


def keep(operation: Operation, channels: Bools, filters: Bools, inputs: Array | None, weights: Array | None,
         errors: Array | None) -> tuple[Operation, Array | None, Array | None, Array | None]:
    """(operation, inputs, weights, errors) with some input channels and some filters only, at least one of each.

    channels: bool[in channels], or bool[groups * k] of a Gemm; filters: bool[out channels], or bool[groups * n].  With
    more than one group a group stays whole as soon as one of its channels and one of its filters do.
    """
    if channels.all() and filters.all():
        return operation, inputs, weights, errors
    groups, conv = operation.groups, isinstance(operation, Conv2d)
    if groups > 1:
        whole = channels.reshape(groups, -1).any(axis=1) & filters.reshape(groups, -1).any(axis=1)
        left = int(whole.sum())
        if isinstance(operation, Gemm):
            picked = [None if array is None else array[whole] for array in (inputs, weights, errors)]
            if left == 1:
                picked = [None if array is None else array[0] for array in picked]
            return dataclasses.replace(operation, groups=left), *picked  # type: ignore[return-value]
        channels, filters = (np.repeat(whole, len(axis) // groups) for axis in (channels, filters))
        if weights is not None:
            weights = weights[filters]
    elif weights is not None:
        weights = weights[filters][:, channels] if conv else weights[channels][:, filters]
    inputs, errors = (None if array is None else array[:, kept]
                      for array, kept in ((inputs, channels), (errors, filters)))
    rows, columns = int(channels.sum()), int(filters.sum())
    if isinstance(operation, Conv2d):
        smaller: Operation = dataclasses.replace(operation, in_channels=rows, out_channels=columns,
                                                 groups=1 if groups == 1 else left)
    else:
        smaller = Gemm(operation.m, rows, columns)
    return smaller, inputs, weights, errors


@dataclass(frozen=True)
class _Reach:
    """A window along one axis: it reads positions [first, first + length), which may lie outside."""

    first: int
    length: int


@dataclass(frozen=True)
class _Phase(_Reach):
    """One residue of the stride: outputs start, start + stride, ...; taps of the kernel, last one first."""

    start: int
    stride: int
    taps: tuple[int, ...]
    dilation: int


def _phases(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[_Phase]:
    """Gradient of position y: the sum over taps r of error[(y + padding - r * dilation) / stride] where it is whole."""
    found = []
    for start in range(min(stride, size)):
        taps = [r for r in range(kernel) if (start + padding - r * dilation) % stride == 0]
        count = -(-(size - start) // stride)
        apart = dilation // math.gcd(dilation, stride)
        if not taps:
            continue
        first = (start + padding - taps[-1] * dilation) // stride
        length = count + (len(taps) - 1) * apart
        if first < out and first + length > 0:
            found.append(_Phase(first, length, start, stride, tuple(reversed(taps)), apart))
    return found


def _window(array: Array | None, shape: Sequence[int], y: _Reach,
            x: _Reach) -> tuple[Array | None, int, int, int, int]:
    """(array, padding_h, padding_w, in_h, in_w): what a window reads, with as much of the zeros around it as padding.

    Zeros that are not the same on both sides become entries of the array.
    """
    cut, extra, pads, sizes = [slice(None), slice(None)], [(0, 0), (0, 0)], [], []
    for reach, size in ((y, shape[2]), (x, shape[3])):
        before, after = -reach.first, reach.first + reach.length - size
        padding = max(0, min(before, after))
        before, after = before - padding, after - padding
        cut.append(slice(max(0, -before), size - max(0, -after)))
        extra.append((max(0, before), max(0, after)))
        pads.append(padding)
        sizes.append(reach.length - 2 * padding)
    zeros = any(side for pair in extra for side in pair)
    if array is None and zeros:
        array = np.ones(shape, dtype=bool)
    if array is not None:
        array = np.pad(array[tuple(cut)], extra) if zeros else array[tuple(cut)]
    return array, pads[0], pads[1], sizes[0], sizes[1]


def _transposed(weights: Array, groups: int) -> Array:
    """[out, in/groups, kh, kw] as [in, out/groups, kh, kw]."""
    out, per_in, *kernel = weights.shape
    grouped = weights.reshape(groups, out // groups, per_in, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(grouped).reshape(groups * per_in, out // groups, *kernel)


def _layer(name: str, product: Product, claimed: str, types: dict[str, str]) -> LayerTrace:
    masks = [None if mask is None or mask.all() else np.ascontiguousarray(mask)
             for mask in (product.weights, product.inputs)]
    plain = LayerTrace(name, product.operation, *masks)
    return plain.replace(structure=_structure(plain, claimed)).with_types(**types)


def _structure(layer: LayerTrace, claimed: str) -> str:
    """What a transposed mask still is: the claimed structure, its mirror image, or unstructured."""
    if layer.packed_weight is None:
        return "dense"
    mirrored = {str(CHANNEL): str(FILTER), str(FILTER): str(CHANNEL)}.get(claimed, claimed)
    matrices, window = layer.weight_matrix(), layer.operation.window
    for text in (claimed, mirrored):
        if text != "dense" and all(conforms(matrix, parse(text), window) for matrix in matrices):
            return text
    return "unstructured"


def _part(number: int, of: int) -> str:
    return f" {number}/{of}" if of > 1 else ""


def _errors(layer: LayerTrace) -> Bools | None:
    """bool of the output's shape, or None where no entry is known to be zero; a density becomes an even spread."""
    if layer.packed_error is None and layer.error_density < 1.0:
        return spread(layer.operation.output_shape, layer.error_density)
    return layer.error_mask


def _inputs(layer: LayerTrace) -> Bools | None:
    if layer.packed_input is None and layer.input_density < 1.0:
        return spread(layer.operation.input_shape, layer.input_density)
    return layer.input_mask


def _filters(operation: Operation) -> int:
    return operation.gemm().n * operation.groups


def _all_channels(operation: Operation) -> Bools:
    return np.ones(operation.gemm().k // operation.window * operation.groups, dtype=bool)


def _any_outside(array: Bools, operation: Operation, axis: int) -> Bools:
    """bool[filters]: is any error of the filter nonzero?  Grouped GEMMs have the group first, all others the batch."""
    if isinstance(operation, Gemm):
        return np.asarray(array.any(axis=-2)).reshape(-1)
    return np.asarray(array.any(axis=(0, 2, 3)))


def _live(layer: LayerTrace) -> tuple[Bools, Bools]:
    """(bool[channels], bool[filters]): which of them have a weight left."""
    matrices = layer.weight_matrix()
    channels = matrices.reshape(len(matrices), -1, layer.operation.window, matrices.shape[2]).any(axis=(2, 3))
    return channels.reshape(-1), matrices.any(axis=1).reshape(-1)
