"""What reaches the array: removed channels, n:m compaction and the integer values behind both.

A layer is treated as a convolution throughout (a GEMM is m images of one pixel with k channels), and its
values are kept as plain integers with a flag that says whether each counts as nonzero.  Tiles, time and
traffic are left out; read program.py next.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..hardware import Machine
from ..trace import LayerTrace
from ..workload import Conv2d, Gemm
from .cover import Cover, covers

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Group:
    """The GEMM of one group: which channels and filters of the layer it has, and its compacted weight.

    channels, filters: indices into the layer's input and output channels.  weight: int64[k, n], a slot a row.
    source: int64[k, n], the uncompacted row that each slot multiplies with.
    """

    channels: Ints
    filters: Ints
    weight: Ints
    source: Ints


@dataclass(frozen=True, eq=False)
class Operands:
    """The physical operation: groups of equal size, the input and the address of every input of the GEMM.

    values, live: int64 and bool [batch, channels, h, w]; live says whether an entry counts as nonzero.
    keep, of: the n:m in use, 1 and 1 where the weight is not compacted.  long_k: rows of k before compaction.
    covers: per group the n:m of each tile or row, where the machine chooses it so; k is then not compacted as a whole.
    """

    shape: Conv2d
    groups: tuple[Group, ...]
    keep: int
    of: int
    long_k: int
    values: Ints
    live: Bools
    padding_live: bool
    covers: tuple[Cover, ...] | None = None

    @property
    def m(self) -> int:
        """Rows of the GEMM: images, then output rows, then output columns."""
        return self.shape.batch * self.shape.out_h * self.shape.out_w

    @property
    def k(self) -> int:
        """Physical rows of the reduction, after compaction."""
        return int(self.groups[0].weight.shape[0])

    @property
    def n(self) -> int:
        """Filters of one group."""
        return int(self.groups[0].weight.shape[1])

    @property
    def lanes(self) -> int:
        """Inputs that stream side by side along an array row, of which a weight chooses one."""
        return self.covers[0].of if self.covers else self.of

    @property
    def metadata_bits(self) -> int:
        """Bits that tell which of its m inputs a kept weight belongs to."""
        return (self.of - 1).bit_length()

    def bundle(self, row: int) -> range:
        """Uncompacted rows of k among which a weight in physical row `row` may choose."""
        first = row // self.keep * self.of
        return range(first, min(self.long_k, first + self.of))

    def bundles(self, rows: range) -> tuple[Ints, Ints]:
        """Candidates of physical rows, int64[len(rows), of] with -1 beyond k, and how many each row brings anew.

        Rows of one n:m group choose among the same inputs: only the first of them in `rows` fetches those.
        """
        candidates = np.full((len(rows), self.of), -1, dtype=np.int64)
        fetched = np.zeros(len(rows), dtype=np.int64)
        for position, row in enumerate(rows):
            bundle = self.bundle(row)
            candidates[position, : len(bundle)] = bundle
            if position == 0 or row % self.keep == 0:
                fetched[position] = len(bundle)
        return candidates, fetched

    @cached_property
    def address(self) -> Ints:
        """int64[4, m, long_k]: image, channel within the group, input row and column; row -1 in the padding."""
        shape = self.shape
        image, out_row, out_col = np.unravel_index(np.arange(self.m), (shape.batch, shape.out_h, shape.out_w))
        channel, tap_row, tap_col = np.unravel_index(
            np.arange(self.long_k), (self.long_k // shape.window, shape.kernel_h, shape.kernel_w)
        )
        row = out_row[:, None] * shape.stride_h - shape.padding_h + tap_row[None] * shape.dilation_h
        col = out_col[:, None] * shape.stride_w - shape.padding_w + tap_col[None] * shape.dilation_w
        inside = (row >= 0) & (row < shape.in_h) & (col >= 0) & (col < shape.in_w)
        full = np.broadcast_arrays(image[:, None], channel[None], np.where(inside, row, -1), np.where(inside, col, -1))
        return np.stack(full).astype(np.int64)


def prepare(layer: LayerTrace, machine: Machine, inputs: Ints, weights: Ints) -> Operands:
    """Lower, remove channels, compact: docs/model.md 1.1, on values instead of masks alone.

    A layer whose channels would all be removed does not come this far.
    """
    shape = _as_conv(layer)
    masked = layer.packed_weight is not None
    activations = np.asarray(inputs, dtype=np.int64).reshape(shape.batch, shape.in_channels, shape.in_h, shape.in_w)
    filters = np.asarray(weights, dtype=np.int64)
    if isinstance(layer.operation, Gemm):
        filters = filters.T[:, :, None, None]
    members = _members(shape, filters, machine.array.compact_channels and masked)
    long = [_matrix(filters, own_channels, own_filters, shape) for own_channels, own_filters in members]
    whole = masked and machine.array.nm_cover == "layer"
    keep, of = _pattern(long, machine.array.nm) if whole else (1, 1)
    chosen = covers(long, machine.array) if masked else None
    groups = []
    for (own_channels, own_filters), matrix in zip(members, long, strict=True):
        weight, source = _compact(matrix, keep, of)
        groups.append(Group(own_channels, own_filters, weight, source))
    recorded = layer.packed_input is not None
    live = activations != 0 if recorded else np.ones(activations.shape, dtype=bool)
    return Operands(shape, tuple(groups), keep, of, long[0].shape[0], activations, live,
                    padding_live=not recorded, covers=tuple(chosen) if chosen else None)


def _as_conv(layer: LayerTrace) -> Conv2d:
    operation = layer.operation
    if isinstance(operation, Gemm):
        return Conv2d(in_channels=operation.k, out_channels=operation.n, in_h=1, in_w=1, kernel_h=1, kernel_w=1,
                      batch=operation.m)
    return operation


def _members(shape: Conv2d, filters: Ints, compact: bool) -> list[tuple[Ints, Ints]]:
    """Input channels and filters of every group that remains."""
    per_in, per_out = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    found = [(np.arange(g * per_in, (g + 1) * per_in), np.arange(g * per_out, (g + 1) * per_out))
             for g in range(shape.groups)]
    if not compact:
        return found
    if shape.groups > 1:
        return [(ins, outs) for ins, outs in found if filters[outs].any()]
    return [(np.flatnonzero(filters.any(axis=(0, 2, 3))), np.flatnonzero(filters.any(axis=(1, 2, 3))))]


def _matrix(filters: Ints, own_channels: Ints, own_filters: Ints, shape: Conv2d) -> Ints:
    """int64[k, n] of one group; k runs over (channel, kernel row, kernel column)."""
    within = own_channels % (shape.in_channels // shape.groups)
    return filters[own_filters][:, within].reshape(len(own_filters), -1).T


def _pattern(matrices: list[Ints], texts: tuple[str, ...]) -> tuple[int, int]:
    pairs = [tuple(map(int, text.split(":"))) for text in texts]
    pairs.sort(key=lambda pair: (Fraction(*pair), pair[1]))
    for keep, of in pairs:
        if all(_fits(matrix, keep, of) for matrix in matrices):
            return (keep, of) if keep < of else (1, 1)
    return 1, 1


def _fits(matrix: Ints, keep: int, of: int) -> bool:
    return all(
        int(np.count_nonzero(matrix[first : first + of], axis=0).max(initial=0)) <= keep
        for first in range(0, matrix.shape[0], of)
    )


def _compact(matrix: Ints, keep: int, of: int) -> tuple[Ints, Ints]:
    """(slot values, slot source rows), both int64[k', n]."""
    values, sources = [], []
    for first in range(0, matrix.shape[0], of):
        part = matrix[first : first + of]
        # Nonzero rows first, then zero rows as fillers, each in order of row; the chosen slots again in that order.
        order = np.argsort(part == 0, axis=0, kind="stable")[: min(keep, part.shape[0])]
        rows = np.sort(order, axis=0)
        values.append(np.take_along_axis(part, rows, axis=0))
        sources.append(rows + first)
    return np.concatenate(values).astype(np.int64), np.concatenate(sources).astype(np.int64)
