"""A record of every access that the systolic twin makes: who, where, when, in the order in which it happens.

Addresses are element numbers in the layer's own tensors on chip and bytes of the blocked layout in DRAM; metadata,
which lies beside the weights, is left out.  Read systolic.py for where accesses are noted, ../access_trace.py for the
door.
"""

from __future__ import annotations

import numpy as np

from .buffers import InputHalf, WeightHalf
from .operands import Group, Ints, Operands
from .program import Fold

SRAM, DRAM = 0, 1
OPERANDS = ("weight", "input", "output", "psum")
PADDING = -1  # the address of an input that the array reads as zero outside the image


class AccessLog:
    """Rows of (cycle, level, operand, address, write, count): count elements on chip, bytes in DRAM."""

    def __init__(self, operands: Operands, first: int) -> None:
        self.operands, self.first, self.now = operands, first, 0
        self.parts: list[Ints] = []

    def table(self) -> Ints:
        """int64[accesses, 6]."""
        return np.concatenate([np.zeros((0, 6), dtype=np.int64), *self.parts])

    def dram(self, operand: str, address: int, write: bool, size: int) -> None:
        """A transfer of `size` bytes that begins."""
        self._note(DRAM, operand, np.array([address]), write, size)

    def inputs(self, group: Group, m: Ints, candidates: Ints, fetched: Ints) -> None:
        """The first `fetched` candidates (rows of k) of each array row, for output pixels m."""
        m, candidates, fetched = np.broadcast_arrays(m[..., None], candidates, fetched[..., None])
        wanted = np.arange(candidates.shape[-1]) < fetched
        image, channel, row, col = self.operands.address[:, m[wanted], candidates[wanted]]
        shape = self.operands.shape
        at = ((image * shape.in_channels + group.channels[channel]) * shape.in_h + row) * shape.in_w + col
        self._note(SRAM, "input", np.where(row < 0, PADDING, at), False)

    def weights(self, group: Group, k: Ints | int, n: Ints | int, write: bool = False) -> None:
        """Physical rows k and filters n of a group's weight."""
        k, n = np.broadcast_arrays(np.asarray(k), np.asarray(n))
        shape = self.operands.shape
        per_group = shape.in_channels // shape.groups
        source = group.source[k, n]
        channel = group.channels[source // shape.window] % per_group
        at = (group.filters[n] * per_group + channel) * shape.window + source % shape.window
        self._note(SRAM, "weight", at.reshape(-1), write)

    def outputs(self, group: Group, m: Ints | int, n: Ints | int, write: bool) -> None:
        """Output pixels m and filters n of a group."""
        m, n = np.broadcast_arrays(np.asarray(m), np.asarray(n))
        self._note(SRAM, "output", (m * self.operands.shape.out_channels + group.filters[n]).reshape(-1), write)

    def output_tile(self, group: Group, m: range, n: range, write: bool) -> None:
        """A whole output tile, from or for DRAM."""
        self.outputs(group, np.array(m)[:, None], np.array(n)[None], write)

    def filled(self, half: InputHalf | WeightHalf) -> None:
        """All elements of a half, as they come from DRAM."""
        if isinstance(half, WeightHalf):
            k, n = np.nonzero(half.present)
            self.weights(half.group, k, n, write=True)
        else:
            self._note(SRAM, "input", np.flatnonzero(half.present), True)

    def placed(self, fold: Fold, group: Group, array_row: int) -> None:
        """The weights of an array row whose places a cover chose."""
        assert fold.placement is not None  # the caller asked
        rows = fold.placement.weight_row[array_row]
        self.weights(group, rows[rows >= 0], fold.placement.outputs[rows >= 0])

    def _note(self, level: int, operand: str, addresses: Ints, write: bool, count: int = 1) -> None:
        if self.now < self.first or not len(addresses):
            return
        part = np.empty((len(addresses), 6), dtype=np.int64)
        part[:] = self.now, level, OPERANDS.index(operand), 0, write, count
        part[:, 3] = addresses
        self.parts.append(part)
