"""Runs of filters one by one, for the twins of machines that play them through the memory.

Which filters a run has follows from the tiling, what its inputs occupy from the raw tensor; filters are the twin's.
Cuts of a run into chunks and slabs are passes.py's.  Read tensordash.py for a user.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace
from ..workload import Gemm
from .lowered import GroupOperands, group_operands
from .passes import stand_in_zeros

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def filter_blocks(groups: int, n: int, block: int) -> list[tuple[int, range]]:
    """(group, filters) of what the array works on at a time, in order."""
    return [(group, range(first, min(n, first + block))) for group in range(groups) for first in range(0, n, block)]


def runs(groups: int, n: int, block: int, tile_n: int) -> Iterator[list[tuple[int, range]]]:
    """The blocks of each run: so many whole groups as tile_n filters make, or tile_n filters of one group."""
    blocks = filter_blocks(groups, n, block)
    while blocks:
        group = blocks[0][0]
        taken: list[tuple[int, range]] = []
        while blocks:
            of, filters = blocks[0]
            inside = of < group + tile_n // n if tile_n >= n else (
                of == group and filters.start < (taken[0][1].start if taken else filters.start) + tile_n)
            if not inside:
                break
            taken.append(blocks.pop(0))
        yield taken


def operands_of_groups(layer: LayerTrace, inputs: Ints,
                       weights: Ints) -> tuple[list[GroupOperands], list[Bools], Bools]:
    """(operands of each group, its lowered inputs that count as nonzero bool[m, k], the same of the raw input)."""
    groups = group_operands(layer, inputs, weights)
    if layer.packed_input is not None:
        return groups, [one.live for one in groups], inputs != 0
    if layer.input_density == 1.0:
        return groups, [one.live for one in groups], np.ones(inputs.shape, dtype=bool)
    counted = stand_in_zeros(inputs.shape, layer.input_density)
    stand_in = LayerTrace("stand-in", layer.operation, None, counted)
    return groups, [one.live for one in group_operands(stand_in, counted.astype(np.int64), weights)], counted


def raw_inputs(layer: LayerTrace, counts_as_nonzero: Bools, used: list[int], packed: bool) -> tuple[int, int, int]:
    """(elements, bytes, bits of bitmap) of the raw inputs of the groups `used`, each group rounded up to bytes."""
    elements = volume = bitmap = 0
    for group in used:
        own = counts_as_nonzero
        if not isinstance(layer.operation, Gemm):
            per = layer.operation.in_channels // layer.operation.groups
            own = own[:, group * per : (group + 1) * per]
        words, marks = (int(own.sum()), own.size) if packed else (own.size, 0)
        elements, bitmap = elements + words, bitmap + marks
        volume += -(-(words * layer.input_bits + marks) // 8)
    return elements, volume, bitmap
