"""What lies in the on-chip buffers: the real data of each tile, so that nothing can be read that was not loaded.

A half is made when its tile is entered and dropped when it is released; `Space` watches that the bytes in use
stay within the buffer.  Banks and ports are left out.  Who may enter when is systolic.py's.
"""

from __future__ import annotations

import numpy as np

from .operands import Bools, Group, Ints, Operands
from .program import Tile, input_box


class Space:
    """Bytes in use in a buffer, or in a scratchpad that several operands share."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes, self.used_bytes = capacity_bytes, 0

    def take(self, size: int) -> None:
        """Reserve; ValueError where the tiling is not legal."""
        self.used_bytes += size
        if self.used_bytes > self.capacity_bytes:
            raise ValueError(f"{self.used_bytes} bytes in a buffer of {self.capacity_bytes}: the tiling is not legal")

    def give(self, size: int) -> None:
        """Release."""
        self.used_bytes -= size


class InputHalf:
    """The part of the input tensor that an input tile reads."""

    def __init__(self, operands: Operands, tile: Tile) -> None:
        self.operands, self.group = operands, operands.groups[tile.group]
        box = input_box(operands, tile)
        self.present = np.zeros(operands.values.shape, dtype=bool)
        self.present[np.ix_(box.images, self.group.channels[box.channels], box.rows, box.cols)] = True
        self.values = np.where(self.present, operands.values, 0)

    @property
    def size(self) -> int:
        """Elements in this half."""
        return int(self.present.sum())

    def read(self, m: Ints, k: Ints) -> tuple[Ints, Bools]:
        """Values and live flags of inputs [m, k] (broadcast together); k = -1 is a lane without an input."""
        image, channel, row, col = self.operands.address[:, m, k]
        inside, lane = row >= 0, k >= 0
        at = image, self.group.channels[channel], row, col
        assert self.present[at][inside & lane].all(), "an input was read that is not in the buffer"
        values = np.where(inside & lane, self.values[at], 0)
        return values, np.where(inside, self.operands.live[at], self.operands.padding_live) & lane


class WeightHalf:
    """The slots of a weight tile that its folds use; present: bool[k, n] of the whole group."""

    def __init__(self, group: Group, present: Bools) -> None:
        self.group, self.present = group, present

    @property
    def size(self) -> int:
        """Elements in this half."""
        return int(self.present.sum())

    def read(self, k: Ints | int, n: Ints | int) -> tuple[Ints, Ints]:
        """Values and source rows of weights [k, n]."""
        assert self.present[k, n].all(), "a weight was read that is not in the buffer"
        return self.group.weight[k, n], self.group.source[k, n]


class OutputHalf:
    """Sums of one output tile, from zero or from the partial sums that came back."""

    def __init__(self, tile: Tile) -> None:
        self.tile = tile
        self.sums = np.zeros((len(tile.m), len(tile.n)), dtype=np.int64)

    def add(self, m: int, n: int, value: int) -> None:
        """Accumulate one result."""
        self.sums[self.tile.m.index(m), self.tile.n.index(n)] += value
