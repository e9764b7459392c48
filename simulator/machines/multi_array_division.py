"""Dividing a layer among arrays: by connected components of its mask, by output features or by rows of the batch.

A piece of a layer is a smaller layer of its own: some inputs, some outputs, some images.  Time and the link are left
out: multi_array.py runs the pieces and chooses among the divisions.  docs/machines/multi_array.md is the text.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace
from ..workload import Conv2d, Gemm, Operation

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a layer: the input and output features it has, and its rows (images, or rows of m) [first, last).

    groups: of the convolution that the piece is; with more than one, inputs and outputs are those of whole groups.
    """

    inputs: Ints
    outputs: Ints
    groups: int
    first: int
    last: int

    @property
    def rows(self) -> int:
        """Images, or rows of m."""
        return self.last - self.first


@dataclass(frozen=True, eq=False)
class Division:
    """Pieces for every array.  kind: "components", "n" or "m".  placement: the array of each component, else ()."""

    kind: str
    arrays: tuple[tuple[Piece, ...], ...]
    placement: tuple[int, ...] = ()

    @property
    def busy(self) -> int:
        """Arrays that have a piece."""
        return sum(1 for pieces in self.arrays if pieces)


def rows_of(operation: Operation) -> int:
    """What a layer can be cut into along m without reading an input twice: rows of a GEMM, images of a convolution."""
    return operation.m if isinstance(operation, Gemm) else operation.batch


def pixels_of(operation: Operation) -> tuple[int, int]:
    """(input, output) elements of one feature in one row."""
    if isinstance(operation, Gemm):
        return 1, 1
    return operation.in_h * operation.in_w, operation.out_h * operation.out_w


def connections(layer: LayerTrace) -> Bools:
    """bool[out, in/groups], True where any weight between two features is kept."""
    mask, operation = layer.weight_mask, layer.operation
    if isinstance(operation, Gemm):
        return np.ones((operation.n, operation.k), dtype=bool) if mask is None else mask.T
    if mask is None:
        return np.ones(operation.weight_shape[:2], dtype=bool)
    return np.asarray(mask.any(axis=(2, 3)))


def components(layer: LayerTrace, kept: Bools) -> list[Piece]:
    """What of a layer is independent of the rest, in order of the first output; features without a weight are in none.

    kept: connections(layer).  The groups of a grouped convolution are not divided further.
    """
    operation = layer.operation
    if operation.groups > 1:
        live = np.flatnonzero(kept.reshape(operation.groups, -1).any(axis=1))
        return [of_groups(operation, live[at : at + 1]) for at in range(len(live))]
    rows = rows_of(operation)
    if layer.packed_weight is None:
        return [Piece(np.arange(kept.shape[1]), np.arange(kept.shape[0]), 1, 0, rows)]
    from . import multi_array_kernel as kernel

    parent = np.arange(sum(kept.shape), dtype=np.int64)
    kernel.join(np.ascontiguousarray(kept), parent)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    root, of_input = parent[: len(kept)], parent[len(kept) :]
    by_output, by_input = np.argsort(root, kind="stable"), np.argsort(of_input, kind="stable")
    # Roots are the smallest nodes: outputs, in order, or inputs without a weight.
    found = np.unique(of_input[of_input < len(kept)])
    outputs = np.split(by_output, np.searchsorted(root[by_output], found[1:])) if len(found) else []
    starts = np.searchsorted(of_input[by_input], found)
    ends = np.searchsorted(of_input[by_input], found, side="right")
    pieces = []
    for one, members, start, end in zip(found, outputs, starts, ends, strict=True):
        pieces.append(Piece(by_input[start:end], members[root[members] == one], 1, 0, rows))
    return pieces


def of_groups(operation: Operation, groups: Ints) -> Piece:
    """The piece that has some whole groups of a grouped convolution."""
    assert isinstance(operation, Conv2d)
    per_in, per_out = operation.in_channels // operation.groups, operation.out_channels // operation.groups
    return Piece((groups[:, None] * per_in + np.arange(per_in)).reshape(-1),
                 (groups[:, None] * per_out + np.arange(per_out)).reshape(-1), len(groups), 0, operation.batch)


def pack(work: Sequence[int], arrays: int) -> tuple[int, ...]:
    """The array of each component: longest first, always to the array with the least work, ties to the lowest."""
    placement = [0] * len(work)
    loads = [(0, array) for array in range(arrays)]
    for index in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        load, array = heapq.heappop(loads)
        placement[index] = array
        heapq.heappush(loads, (load + work[index], array))
    return tuple(placement)


def by_components(layer: LayerTrace, parts: Sequence[Piece], arrays: int,
                  placement: tuple[int, ...] | None = None) -> Division:
    """Components packed onto the arrays by their dense products, or placed as said."""
    if placement is None:
        placement = pack([len(part.inputs) * len(part.outputs) for part in parts], arrays)
    return Division("components", tuple(
        tuple(part for part, where in zip(parts, placement, strict=True) if where == array)
        for array in range(arrays)), placement)


def by_outputs(layer: LayerTrace, kept: Bools, arrays: int, compact: bool) -> Division:
    """Consecutive output features (groups of a grouped convolution) on every array, as many on each as possible."""
    operation, rows = layer.operation, rows_of(layer.operation)
    if operation.groups > 1:
        live = np.flatnonzero(kept.reshape(operation.groups, -1).any(axis=1))
        return Division("n", tuple((of_groups(operation, share),) if len(share) else ()
                                   for share in np.array_split(live, arrays)))
    live = np.flatnonzero(kept.any(axis=1)) if compact else np.arange(len(kept))
    pieces = []
    for share in np.array_split(live, arrays):
        inputs = np.flatnonzero(kept[share].any(axis=0)) if compact else np.arange(kept.shape[1])
        pieces.append((Piece(inputs, share, 1, 0, rows),) if len(share) else ())
    return Division("n", tuple(pieces))


def by_rows(layer: LayerTrace, arrays: int) -> Division:
    """Consecutive images (rows of m of a GEMM) on every array, as many on each as possible."""
    operation = layer.operation
    inputs, outputs = np.arange(features_in(operation)), np.arange(features_out(operation))
    bounds = [(int(share[0]), int(share[-1]) + 1) if len(share) else (0, 0)
              for share in np.array_split(np.arange(rows_of(operation)), arrays)]
    return Division("m", tuple((Piece(inputs, outputs, operation.groups, first, last),) if last > first else ()
                               for first, last in bounds))


def features_in(operation: Operation) -> int:
    """Input channels, or k."""
    return operation.k if isinstance(operation, Gemm) else operation.in_channels


def features_out(operation: Operation) -> int:
    """Output channels, or n."""
    return operation.n if isinstance(operation, Gemm) else operation.out_channels


def merged(operation: Operation, pieces: Sequence[Piece]) -> Piece:
    """The components of an array as one layer over all their features, the zeros between them included."""
    if len(pieces) == 1:
        return pieces[0]
    # Features of components interleave; those of groups are in order already, and sorting leaves them so.
    groups = sum(piece.groups for piece in pieces) if operation.groups > 1 else 1
    return Piece(np.sort(np.concatenate([piece.inputs for piece in pieces])),
                 np.sort(np.concatenate([piece.outputs for piece in pieces])), groups, pieces[0].first, pieces[0].last)


def sub_layer(layer: LayerTrace, piece: Piece, weight: Bools | None, inputs: Bools | None) -> LayerTrace:
    """The piece as a layer; weight, inputs: the layer's masks, unpacked."""
    operation = layer.operation
    smaller: Operation
    if isinstance(operation, Gemm):
        smaller = Gemm(piece.rows, len(piece.inputs), len(piece.outputs))
        kept = None if weight is None else weight[np.ix_(piece.inputs, piece.outputs)]
    else:
        smaller = dataclasses.replace(operation, batch=piece.rows, in_channels=len(piece.inputs),
                                      out_channels=len(piece.outputs), groups=piece.groups)
        kept = None if weight is None else (
            weight[np.ix_(piece.outputs, piece.inputs)] if operation.groups == 1 else weight[piece.outputs])
    changes: dict[str, object] = {"operation": smaller, "weight_mask": kept}
    if inputs is not None:
        changes["input_mask"] = inputs[piece.first : piece.last][:, piece.inputs]
    return layer.replace(**changes)
