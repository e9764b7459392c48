"""One array described twice: as parameters of the SystemVerilog and as fields of the simulator's Spec.

`tiles_of` cuts a GEMM into what the RTL asks for, and `total` puts its results together again; both are written
from docs/model.md 1.1 and 1.2 and share nothing with the simulator.  Building and clocking is verilated.py's.
"""

from __future__ import annotations

import ctypes
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.hardware import Machine, Memory
from simulator.machines.systolic import Spec

from .verilated import build, clock

Ints = NDArray[np.int64]


LEVELS = (1, 2)
"""What a tile of an array with `by_tile` may keep of a group; all of it is the last resort."""


@dataclass(frozen=True)
class Array:
    """Size, registers and scheme of an array; flow is ws, is or os, and keep:of its n:m (1:1 = dense).

    by_tile: every weight tile has its own n of LEVELS.  That takes the hardware of 1:of, where each row has `of` inputs
    of its own: what streams past neighbouring rows may be the same group.
    """

    flow: str
    rows: int
    cols: int
    activation_hop: int = 1
    psum_hop: int = 1
    multiplier: int = 0
    accumulator: int = 1
    input_register: int = 0
    output_register: int = 0
    weight_buffers: int = 2
    drain: str = "overlapped"
    keep: int = 1
    of: int = 1
    by_tile: bool = False

    def __str__(self) -> str:
        registers = (f"a{self.activation_hop}p{self.psum_hop}m{self.multiplier}"
                     f"i{self.input_register}o{self.output_register}")
        scheme = f"{self.drain}-l{self.accumulator}" if self.flow == "os" else f"{self.weight_buffers}buffers"
        compact = f"-{'n' if self.by_tile else self.keep}of{self.of}" if self.of > 1 else ""
        return f"{self.flow}{compact}-{self.rows}x{self.cols}-{scheme}-{registers}"

    @property
    def top(self) -> str:
        """The RTL's top module; input stationary is the weight-stationary one with the operands exchanged."""
        return "output_stationary" if self.flow == "os" else "weight_stationary"

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the top module."""
        common = {"ROWS": self.rows, "COLS": self.cols, "ACTIVATION_HOP": self.activation_hop,
                  "PSUM_HOP": self.psum_hop, "MULTIPLIER_LATENCY": self.multiplier,
                  "INPUT_REGISTER": self.input_register, "OUTPUT_REGISTER": self.output_register}
        if self.flow == "os":
            return {**common, "ACCUMULATOR_LATENCY": self.accumulator, "OVERLAPPED": int(self.drain == "overlapped")}
        return {**common, "WEIGHT_BUFFERS": self.weight_buffers, "N": self.keep, "M": self.of}

    @property
    def machine(self) -> Machine:
        """The simulator's description, array alone."""
        fields: dict[str, Any] = {"nm": (f"{self.keep}:{self.of}",)} if self.of > 1 else {}
        if self.by_tile:
            fields = {"nm": tuple(f"{level}:{self.of}" for level in LEVELS), "nm_cover": "tile"}
        spec = Spec(
            rows=self.rows, cols=self.cols, dataflow=self.flow, activation_hop_registers=self.activation_hop,
            psum_hop_registers=self.psum_hop, multiplier_latency=self.multiplier,
            accumulator_latency=self.accumulator, input_register=self.input_register,
            output_register=self.output_register, weight_buffers=self.weight_buffers, drain=self.drain,
            compact_channels=False, **fields)
        assert not spec.problems()
        return Machine(str(self), "systolic", spec, Memory(memory="ideal"))

    @property
    def word_bits(self) -> int:
        """Width of what an element holds: value and index."""
        return 8 + (self.of - 1).bit_length()


# Registers everywhere, each kind in another number.
SLOW: dict[str, Any] = {"activation_hop": 2, "psum_hop": 3, "multiplier": 2, "accumulator": 3, "input_register": 1,
                        "output_register": 1}


@dataclass(frozen=True, eq=False)
class Tiles:
    """A GEMM cut for the array.  rows and cols answer the RTL's requests (see verilated.clock).

    places: per tile the rows and columns of the output, `shape`, that it adds to.
    """

    rows: NDArray[np.uint8]
    cols: NDArray[np.uint16]
    places: list[tuple[slice, slice]]
    shape: tuple[int, int]


def tiles_of(array: Array, inputs: Ints, weights: Ints) -> Tiles:
    """Column tiles outer, row tiles inner.  inputs: [m, k], weights: [k, n], values of 8 bits."""
    if array.flow == "os":
        return _accumulating_tiles(array, inputs, weights)
    if array.flow == "is":
        return _stationary_tiles(array, weights.T, inputs.T, np.zeros_like(inputs.T))
    if array.by_tile:
        return _covered_tiles(array, inputs, weights)
    return _stationary_tiles(array, inputs, *compacted(array, weights))


def compacted(array: Array, weights: Ints) -> tuple[Ints, Ints]:
    """(values, indices), both [slots, n]: per column and group of `of` rows, `keep` slots in order of row.

    Which zeros fill a group that has fewer nonzeros, its first, decides in which of two folds a nonzero stands.
    """
    if array.of == 1:
        return weights, np.zeros_like(weights)
    k, n = weights.shape
    slots = k // array.of * array.keep + min(k % array.of, array.keep)
    values, indices = np.zeros((slots, n), dtype=np.int64), np.zeros((slots, n), dtype=np.int64)
    for col in range(n):
        for group, first in enumerate(range(0, k, array.of)):
            part = weights[first : first + array.of, col]
            kept = np.sort([*np.flatnonzero(part), *np.flatnonzero(part == 0)][: array.keep])
            at = group * array.keep + np.arange(len(kept))
            values[at, col], indices[at, col] = weights[first + kept, col], kept
    return values, indices


def _stationary_tiles(array: Array, streamed: Ints, values: Ints, indices: Ints) -> Tiles:
    """streamed: [vectors, k]; values, indices: [slots of k, columns]."""
    groups = array.rows // array.keep
    length = len(streamed)
    rows, cols, places = [], [], []
    for col in range(0, values.shape[1], array.cols):
        for slot in range(0, values.shape[0], array.rows):
            first = slot // array.keep * array.of
            rows.append(_padded(streamed[:, first : first + groups * array.of], (length, groups * array.of)))
            here = np.s_[slot : slot + array.rows, col : col + array.cols]
            words = (values[here] & 0xFF) | indices[here] << 8
            # The word of the bottom row goes in first.
            cols.append(_padded(words, (array.rows, array.cols))[::-1])
            places.append((slice(0, length), slice(col, min(col + array.cols, values.shape[1]))))
    return Tiles(np.stack(rows).astype(np.uint8), np.stack(cols).astype(np.uint16), places,
                 (length, values.shape[1]))


def _covered_tiles(array: Array, streamed: Ints, weights: Ints) -> Tiles:
    """Blocks of rows * of rows of k, each at the least n that holds its groups (docs/model.md 1.8)."""
    length, height = len(streamed), array.rows * array.of
    rows, cols, places = [], [], []
    for col in range(0, weights.shape[1], array.cols):
        for first in range(0, weights.shape[0], height):
            block, inputs = weights[first : first + height, col : col + array.cols], streamed[:, first : first + height]
            most = max(int((block[at : at + array.of] != 0).sum(axis=0).max()) for at in range(0, len(block), array.of))
            keep, of = next(((level, array.of) for level in LEVELS if most <= level), (1, 1))
            values, indices = compacted(dataclasses.replace(array, keep=keep, of=of), block)
            for slot in range(0, len(values), array.rows):
                lanes = np.zeros((length, array.rows, array.of), dtype=np.int64)
                for row in range(min(array.rows, len(values) - slot)):
                    group = inputs[:, (slot + row) // keep * of : (slot + row) // keep * of + of]
                    lanes[:, row, : group.shape[1]] = group
                words = (values[slot : slot + array.rows] & 0xFF) | indices[slot : slot + array.rows] << 8
                rows.append(lanes.reshape(length, -1) & 0xFFFF)
                cols.append(_padded(words, (array.rows, array.cols))[::-1])
                places.append((slice(0, length), slice(col, min(col + array.cols, weights.shape[1]))))
    return Tiles(np.stack(rows).astype(np.uint8), np.stack(cols).astype(np.uint16), places,
                 (length, weights.shape[1]))


def _accumulating_tiles(array: Array, inputs: Ints, weights: Ints) -> Tiles:
    (m, k), n = inputs.shape, weights.shape[1]
    rows, cols, places = [], [], []
    for col in range(0, n, array.cols):
        for row in range(0, m, array.rows):
            rows.append(_padded(inputs[row : row + array.rows].T, (k, array.rows)))
            cols.append(_padded(weights[:, col : col + array.cols], (k, array.cols)))
            places.append((slice(row, min(row + array.rows, m)), slice(col, min(col + array.cols, n))))
    return Tiles(np.stack(rows).astype(np.uint8), (np.stack(cols) & 0xFF).astype(np.uint16), places, (m, n))


def _padded(block: Ints, shape: tuple[int, int]) -> Ints:
    """The block in the corner of zeros, as bits of bytes where it is negative."""
    full = np.zeros(shape, dtype=np.int64)
    full[: block.shape[0], : block.shape[1]] = block
    return full & 0xFFFF


@dataclass(frozen=True, eq=False)
class Seen:
    """What left the RTL: edges up to the last visible result, and valid and result of every column after every edge."""

    edges: int
    valid: NDArray[np.bool_]
    result: Ints


def watch(array: Array, tiles: Tiles, hurry: bool = False, library: ctypes.CDLL | None = None) -> Seen:
    """Clock the RTL (or a mutated `library`) through the tiles; a machine that never ends is stopped."""
    most = 200 + 4 * len(tiles.rows) * (tiles.rows.shape[1] + 10 * (array.rows + array.cols))
    library = library or build(array.top, array.parameters)
    return Seen(*clock(library, tiles.rows, tiles.cols, array.word_bits, most, hurry))


def total(array: Array, tiles: Tiles, seen: Seen) -> Ints | None:
    """The output [m, n] that the RTL's results add up to; None where a column gave too few or too many of them."""
    per_tile = array.rows if array.flow == "os" else tiles.rows.shape[1]
    output = np.zeros(tiles.shape, dtype=np.int64)
    columns = [seen.result[seen.valid[:, col], col] for col in range(array.cols)]
    if any(len(column) != per_tile * len(tiles.places) for column in columns):
        return None
    made = np.stack(columns, axis=1).reshape(len(tiles.places), per_tile, array.cols)
    if array.flow == "os":
        made = made[:, ::-1]  # the bottom row leaves first
    for (rows, cols), block in zip(tiles.places, made, strict=True):
        output[rows, cols] += block[: rows.stop - rows.start, : cols.stop - cols.start]
    return output.T if array.flow == "is" else output


# What the tests cover: each scheme plain and with registers everywhere, R != C, single rows.
ARRAYS = [
    Array("ws", 4, 3),
    Array("ws", 3, 5, **SLOW),
    Array("ws", 1, 3),
    Array("ws", 3, 4, weight_buffers=1),
    Array("ws", 5, 2, **SLOW, weight_buffers=1),
    Array("is", 4, 3),
    Array("is", 3, 5, **SLOW),
    Array("is", 3, 4, weight_buffers=1),
    Array("os", 4, 3, drain="serial"),
    Array("os", 2, 5, **SLOW, drain="serial"),
    Array("os", 3, 4),
    Array("os", 5, 2, **SLOW),
    Array("os", 1, 3),
    Array("ws", 4, 3, keep=2, of=4),
    Array("ws", 6, 4, keep=2, of=4, weight_buffers=1),
    Array("ws", 3, 4, **SLOW, keep=1, of=4),
    Array("ws", 4, 2, keep=2, of=8, psum_hop=2),
    Array("ws", 3, 2, keep=3, of=5, input_register=1),
    Array("ws", 3, 4, keep=1, of=4, by_tile=True),
    Array("ws", 4, 3, **SLOW, keep=1, of=4, by_tile=True, weight_buffers=1),
]
