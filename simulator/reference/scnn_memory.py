"""What a memory adds to SCNN: the steps of a layer, built from real operands, and their time line.

A step is one group of output channels with some of the input channels of one image; operands travel as values with
an index beside each.  Left out: tiles of the plane, partial sums off chip.  The time line is steps.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..steps import Steps
from ..trace import LayerTrace
from ..workload import Conv2d
from . import steps as twin


@dataclass(frozen=True)
class Group:
    """A group of output channels `ks` of one image: its input channels, their cycles, the halo's cycles."""

    image: int
    ks: range
    channels: range
    cycles: list[int]
    halo_cycles: int


def memory_counts(layer: LayerTrace, machine: Machine, groups: list[Group], channels_per_step: int, resident: bool,
                  live: NDArray[np.bool_], kept: NDArray[np.bool_], shape: Conv2d) -> NDArray[np.int64]:
    """int64[len(Count)]: DRAM bytes, stalls and buffer fills; all zero with an ideal memory.

    resident: an image's inputs are loaded whole and stay for all its output channels.
    live: bool[batch, in_channels, h, w]; kept: bool[out_channels, in_channels of a group, kernel_h, kernel_w].
    """
    counts = np.zeros(len(Count), dtype=np.int64)
    if machine.memory.memory == "ideal":
        return counts
    index_bits = machine.array.index_bits
    rows: list[tuple[int, int, int, int, int]] = []
    there_weight: object = None
    there_input: object = None
    for group in groups:
        per_in = len(group.channels)
        for first in range(0, per_in, channels_per_step):
            chunk = range(first, min(first + channels_per_step, per_in))
            last = chunk.stop == per_in
            weight = weight_metadata = activation = 0
            if there_weight != (group.ks, chunk):
                there_weight = (group.ks, chunk)
                values = int(kept[group.ks[0] : group.ks[-1] + 1, chunk[0] : chunk[-1] + 1].sum())
                weight = _bytes(values * (layer.weight_bits + index_bits))
                weight_metadata = _bytes(values * index_bits)
                counts[Count.WEIGHT_SRAM_WRITES] += values
                counts[Count.METADATA_SRAM_WRITE_BITS] += values * index_bits
            loaded = group.channels if resident else group.channels[first : chunk.stop]
            if there_input != (group.image, loaded):
                there_input = (group.image, loaded)
                values = int(live[group.image, loaded[0] : loaded[-1] + 1].sum())
                activation = _bytes(values * (layer.input_bits + index_bits))
                counts[Count.INPUT_SRAM_WRITES] += values
                counts[Count.METADATA_SRAM_WRITE_BITS] += values * index_bits
            stored = len(group.ks) * shape.out_h * shape.out_w * layer.output_bits if last else 0
            rows.append((weight, activation, _bytes(stored),
                         sum(group.cycles[c] for c in chunk) + (group.halo_cycles if last else 0), weight_metadata))
    table = np.array(rows, dtype=np.int64).T
    return counts + twin.play(Steps(*table), machine.memory)


def _bytes(bits: int) -> int:
    return -(-bits // 8)
