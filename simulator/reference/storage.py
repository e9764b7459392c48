"""What a load of the systolic twin brings: an operand's tile as DRAM holds it, and as its buffer does.

Weights are really encoded in the declared format, and decoded again to see that nothing was lost; inputs take their
channels' share (docs/formats.md).  The decoder's time is left out.  Read systolic.py for who moves the loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from ..formats import Format, candidates_of, decode, encode, size_bits
from ..hardware import Machine
from ..trace import LayerTrace
from .operands import Bools, Ints, Operands
from .program import Load, Program, Tile, input_box, load_bits


@dataclass(frozen=True)
class Form:
    """A tile: bits that cross the channel, metadata bits among them; bits, values and metadata bits in its buffer."""

    bits: int
    metadata_bits: int
    buffer_bits: int
    buffer_values: int
    buffer_metadata_bits: int


@dataclass(frozen=True, eq=False)
class Store:
    """The formats that a layer's operands have off chip."""

    layer: LayerTrace
    machine: Machine
    operands: Operands
    program: Program

    @cached_property
    def weight_format(self) -> Format | None:
        """None for the array's own."""
        if self.operands.of > 1 or self.operands.covers:
            return None
        whole = [group.weight != 0 for group in self.operands.groups]
        return _least(self.machine.memory.weight_format, whole, self.layer.weight_bits)

    @cached_property
    def input_format(self) -> Format | None:
        """None for the array's own."""
        everything = range(self.operands.k)
        whole = [self._channels(Tile(g, range(self.operands.m), everything, range(0)))
                 for g in range(len(self.operands.groups))]
        return _least(self.machine.memory.input_format, whole, self.layer.input_bits)

    @property
    def decoder_behind_buffer(self) -> bool:
        """Are weights in their buffer as they came?"""
        return self.weight_format is not None and self.machine.memory.weight_decoder == "read"

    def form(self, load: Load) -> Form:
        """What a load brings."""
        values, metadata = load_bits(load, self.operands, self.layer, self.machine, self.program)
        width = self.layer.weight_bits if load.operand == "weight" else self.layer.input_bits
        native = Form(values + metadata, metadata, values + metadata, values // width, metadata)
        if load.operand == "input":
            return self._input_form(load, native)
        if self.weight_format is None:
            return native
        tile = self.operands.groups[load.tile.group].weight[load.tile.k.start : load.tile.k.stop,
                                                            load.tile.n.start : load.tile.n.stop]
        stored = encode(tile, self.weight_format, width)
        np.testing.assert_array_equal(decode(stored), tile)
        if self.decoder_behind_buffer:
            return Form(stored.size_bits, stored.metadata_bits, stored.size_bits, stored.values.size,
                        stored.metadata_bits)
        return Form(stored.size_bits, stored.metadata_bits, tile.size * width, tile.size, 0)

    def _input_form(self, load: Load, native: Form) -> Form:
        if self.input_format is None or native.buffer_values == 0:
            return native
        tile = load.tile
        flags = self._channels(Tile(tile.group, range(self.operands.m), tile.k, range(0)))
        whole = sum(size_bits(flags, self.input_format, self.layer.input_bits))
        return Form(-(-native.buffer_values * whole // flags.size), 0, native.bits, native.buffer_values, 0)

    def _channels(self, tile: Tile) -> Bools:
        """bool[channels, positions]: which of the inputs that the layer reads in a tile's channels are nonzero."""
        box = input_box(self.operands, tile)
        channels = self.operands.groups[tile.group].channels[box.channels]
        live = self.operands.live[np.ix_(box.images, channels, box.rows, box.cols)]
        flags = live.transpose(1, 0, 2, 3).reshape(len(channels), len(box.images) * len(box.rows) * len(box.cols))
        if self.layer.packed_input is None:
            flags = _evenly(flags.size, Fraction(str(self.layer.input_density))).reshape(flags.shape)
        return np.asarray(flags)


def _evenly(words: int, density: Fraction) -> Bools:
    """That share of a stream, rounded up, True at equal distances."""
    flags = np.zeros(words, dtype=bool)
    nonzeros = -(-density.numerator * words // density.denominator)
    flags[[number * words // nonzeros for number in range(nonzeros)]] = True
    return flags


def _least(declared: str, matrices: list[Bools] | list[Ints], value_bits: int) -> Format | None:
    """The format that a declaration means for these matrices together."""
    best: tuple[int, Format] | None = None
    for fmt in candidates_of(declared):
        size = sum(sum(size_bits(np.asarray(matrix, dtype=bool), fmt, value_bits)) for matrix in matrices)
        if best is None or size < best[0]:
            best = size, fmt
    return best[1] if best else None
