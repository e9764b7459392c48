"""Compressed operands of a systolic array: what every weight tile and input tile takes off chip (docs/formats.md).

Weights are the real tiles of the mask in the declared format; inputs are the channels that a tile of k reads, their
bytes shared out evenly over the bricks of m.  Left out: the decoder's time, and words that straddle tiles.  Read
tiling_search.py for the user; storage_kernel.py counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..formats import Format, candidates_of, index_bits
from ..hardware import Machine
from ..lowering import Physical
from ..trace import LayerTrace
from ..workload import Conv2d

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KIND_NUMBERS = {"uncompressed": 0, "bitmask": 1, "csr": 2, "csc": 3, "coordinate": 4, "rle": 5}
"""Formats as storage_kernel.py knows them."""


@dataclass(frozen=True, eq=False)
class Storage:
    """How one layer's operands are stored off chip for one machine."""

    gemm: Physical
    layer: LayerTrace
    machine: Machine

    @property
    def decoded_behind(self) -> bool:
        """Does the weight buffer hold weights as they are stored, so that the decoder is behind it?"""
        return self.machine.memory.weight_decoder == "read"

    @cached_property
    def weight(self) -> Format | None:
        """The format of the weights, None where it is native; "auto" is the smallest in all, ties to the first."""
        if self.gemm.slots_kept < self.gemm.slots_of or self.gemm.cover is not None:
            return None
        return _smallest(self.machine.memory.weight_format, self._whole_weight_bits)

    @cached_property
    def input(self) -> Format | None:
        """The format of the inputs, None where it is native; "auto" is the smallest for all that the layer reads."""
        return _smallest(self.machine.memory.input_format, self._whole_input_bits)

    @property
    def names(self) -> dict[str, str]:
        """What a report says of the operands that have a declared format; nothing is stored off an ideal memory."""
        if self.machine.memory.memory == "ideal":
            return {}
        both = {"weight": self.weight, "input": self.input}
        return {operand: str(fmt) for operand, fmt in both.items() if fmt is not None}

    def weight_tiles(self, k_size: int, n_size: int, fmt: Format | None = None) -> Ints:
        """int64[groups or 1, k tiles, n tiles, 2]: (values stored, metadata bits) of every weight tile."""
        from . import storage_kernel as kernel

        gemm, fmt = self.gemm, fmt or self.weight
        assert fmt is not None  # the caller asked
        tiles = -(-gemm.k // k_size), -(-gemm.n // n_size)
        found = np.zeros((1 if gemm.mask is None else gemm.groups, *tiles, 2), dtype=np.int64)
        mask = np.ones((0, 0, 0), dtype=np.bool_) if gemm.mask is None else gemm.mask
        kernel.weight_tiles(mask, self._weights_before, gemm.k, gemm.n, k_size, n_size,
                            KIND_NUMBERS[fmt.kind], fmt.run_bits, found)
        return found

    def weight_bits(self, k_size: int, n_size: int) -> tuple[int, int, int]:
        """Stored bits of the largest weight tile, of the first one, and of all tiles of all groups."""
        gemm, width = self.gemm, self.layer.weight_bits
        if gemm.mask is not None:
            tiles = self.weight_tiles(k_size, n_size)
            bits = tiles[..., 0] * width + tiles[..., 1]
            return int(bits.max()), int(bits[0, 0, 0]), int(bits.sum())
        assert self.weight is not None  # the caller asked
        total = 0
        for rows, down in ((k_size, gemm.k // k_size), (gemm.k % k_size, 1)):
            for cols, across in ((n_size, gemm.n // n_size), (gemm.n % n_size, 1)):
                values, metadata = _form(self.weight, rows, cols, rows * cols)
                total += down * across * (values * width + metadata) if rows and cols else 0
        values, metadata = _form(self.weight, min(k_size, gemm.k), min(n_size, gemm.n),
                                 min(k_size, gemm.k) * min(n_size, gemm.n))
        first = values * width + metadata
        return first, first, total * gemm.groups

    def input_spans(self, spans: Sequence[tuple[int, int]], fmt: Format | None = None) -> Ints:
        """int64[groups or 1, spans, 2]: (bits, words) of the inputs in the channels [first, last) of every group."""
        from . import storage_kernel as kernel

        fmt = fmt or self.input
        assert fmt is not None  # the caller asked
        width, present = self.layer.input_bits, self._inputs
        groups, _, positions = present.shape if present is not None else (1, 0, self.positions)
        found = np.zeros((groups, len(spans), 2), dtype=np.int64)
        for g in range(groups):
            for at, (first, last) in enumerate(spans):
                words = (last - first) * positions
                if present is not None:
                    nonzeros = int(self._inputs_before[g, last] - self._inputs_before[g, first])
                else:
                    nonzeros = math.ceil(Fraction(str(self.layer.input_density)) * words)
                stored = nonzeros
                if fmt.kind == "rle" and present is not None:
                    stored = int(kernel.run_entries(present[g, first:last].reshape(-1), fmt.run_bits))
                elif fmt.kind == "rle":
                    stored = _even_run_entries(words, nonzeros, fmt.run_bits)
                values, metadata = _form(fmt, last - first, positions, stored)
                found[g, at] = values * width + metadata, words
        return found

    def _whole_weight_bits(self, fmt: Format) -> int:
        tiles = self.weight_tiles(self.gemm.k, self.gemm.n, fmt)
        return int((tiles[..., 0] * self.layer.weight_bits + tiles[..., 1]).sum())

    def _whole_input_bits(self, fmt: Format) -> int:
        channels = self.gemm.k_rows // self.gemm.operation.window
        return int(self.input_spans([(0, channels)], fmt)[..., 0].sum())

    @cached_property
    def _weights_before(self) -> Ints:
        """int64[groups, k + 1, n + 1]: nonzero weights above and to the left."""
        mask = self.gemm.mask
        if mask is None:
            return np.zeros((0, 0, 0), dtype=np.int64)
        return np.pad(mask.cumsum(axis=1, dtype=np.int64).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))

    @cached_property
    def positions(self) -> int:
        """Positions of one channel that some output reads, over the batch."""
        operation = self.gemm.operation
        if not isinstance(operation, Conv2d):
            return operation.m
        rows, cols = _read_positions(operation)
        return operation.batch * len(rows) * len(cols)

    @cached_property
    def _inputs(self) -> Bools | None:
        """bool[groups, channels, positions]: which inputs that are read are nonzero; None where only a density is."""
        mask = self.layer.input_mask
        if mask is None:
            return None
        operation = self.gemm.operation
        channels = _kept_channels(self.layer, self.gemm)
        mask = mask[:, channels]
        if isinstance(operation, Conv2d):
            rows, cols = _read_positions(operation)
            mask = mask[:, :, rows][..., cols].transpose(1, 0, 2, 3)
        else:
            mask = mask.T
        return np.ascontiguousarray(mask).reshape(self.gemm.groups, len(channels) // self.gemm.groups, self.positions)

    @cached_property
    def _inputs_before(self) -> Ints:
        """int64[groups, channels + 1]: nonzero inputs in the channels before."""
        assert self._inputs is not None  # the caller asked
        return np.pad(self._inputs.sum(axis=2, dtype=np.int64).cumsum(axis=1), ((0, 0), (1, 0)))


def _smallest(text: str, bits: Callable[[Format], int]) -> Format | None:
    candidates = candidates_of(text)
    return min(candidates, key=bits) if len(candidates) > 1 else next(iter(candidates), None)


def _form(fmt: Format, rows: int, cols: int, stored: int) -> tuple[int, int]:
    """(values, metadata bits) of `stored` entries of a [rows, cols] matrix, as formats.size_bits has them."""
    match fmt.kind:
        case "uncompressed":
            return rows * cols, 0
        case "bitmask":
            return stored, rows * cols
        case "csr":
            return stored, (rows + 1) * index_bits(rows * cols + 1) + stored * index_bits(cols)
        case "csc":
            return stored, (cols + 1) * index_bits(rows * cols + 1) + stored * index_bits(rows)
        case "coordinate":
            return stored, stored * (index_bits(rows) + index_bits(cols))
    return stored, stored * fmt.run_bits


def _even_run_entries(words: int, nonzeros: int, run_bits: int) -> int:
    """Entries of run length where nonzero i of a stream stands at floor(i * words / nonzeros)."""
    if nonzeros == 0:
        return 0
    short, gaps = words // nonzeros, nonzeros - 1
    longer = gaps * words // nonzeros - gaps * short  # gaps of `short` + 1
    return nonzeros + (gaps - longer) * ((short - 1) >> run_bits) + longer * (short >> run_bits)


def _kept_channels(layer: LayerTrace, gemm: Physical) -> Ints:
    """Indices of the input channels that are left after the removal of empty ones."""
    operation = layer.operation
    per_group = operation.gemm().k // operation.window
    if gemm.groups * gemm.k_rows == operation.groups * operation.gemm().k:
        return np.arange(operation.groups * per_group)
    weights = layer.weight_matrix()
    if operation.groups > 1:
        live = np.repeat(weights.any(axis=(1, 2)), per_group)
    else:
        live = weights[0].reshape(per_group, -1).any(axis=1)
    return np.flatnonzero(live)


def _read_positions(operation: Conv2d) -> tuple[Ints, Ints]:
    """Rows and columns of the image that some output reads."""
    from .systolic import axes

    found = []
    for out, stride, kernel, dilation, padding, size in axes(operation):
        positions = np.unique((np.arange(out) * stride)[:, None] + np.arange(kernel) * dilation - padding)
        found.append(positions[(positions >= 0) & (positions < size)])
    return found[0], found[1]
