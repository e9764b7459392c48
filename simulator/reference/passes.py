"""Passes cut into chunks and slabs one by one, for the twins of machines that play passes through the memory.

The rules are docs/machines/passes.md's; times of the memory are clocked by steps.py.  Read eyeriss_v2.py for a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Memory
from ..mapping import Tiling
from ..steps import Steps
from .steps import play


@dataclass
class PassTraffic:
    """What one pass needs and leaves; values and metadata in bits, elements for the buffers."""

    cycles: int
    weights: int
    weight_bits: int
    metadata_bits: int
    inputs: int
    input_bytes: int
    bitmap_bits: int
    outputs_per_row: int
    same_input: bool
    same_weight: bool = False


def play_passes(passes: list[PassTraffic], rows: int, depth: int, tiling: Tiling, memory: Memory,
                output_bits: int) -> NDArray[np.int64]:
    """int64[len(Count)]: traffic and stalls of the passes, cut as the tiling says."""
    counts = np.zeros(len(Count), dtype=np.int64)
    chunks = [(a, min(rows, a + tiling.tile_m)) for a in range(0, rows, tiling.tile_m)]
    slabs = [(a, min(depth, a + tiling.tile_k)) for a in range(0, depth, tiling.tile_k)]
    table = []
    for one in passes:
        metadata_bytes = -(-one.metadata_bits // 8)
        weight_bytes = -(-one.weight_bits // 8) + metadata_bytes
        for chunk in chunks:
            brings_weight = len(slabs) > 1 or (chunk[0] == 0 and not one.same_weight)
            brings_input = not (one.same_input and len(slabs) == len(chunks) == 1)
            if brings_weight:
                counts[Count.WEIGHT_SRAM_WRITES] += one.weights
                counts[Count.METADATA_SRAM_WRITE_BITS] += one.metadata_bits
            for slab in slabs:
                last = slab[1] == depth
                size = chunk[1] - chunk[0]
                leaves = -(-one.outputs_per_row * output_bits * size // 8) if last else 0
                held = max(leaves, -(-one.outputs_per_row * memory.psum_bits * size // 8))
                table.append((
                    _part(weight_bytes, slab, depth) * brings_weight,
                    _part(_part(one.input_bytes, chunk, rows), slab, depth) * brings_input,
                    leaves,
                    _part(_part(one.cycles, chunk, rows), slab, depth),
                    _part(metadata_bytes, slab, depth) * brings_weight,
                    held,
                ))
            counts[Count.OUTPUT_SRAM_READS] += one.outputs_per_row * (chunk[1] - chunk[0])
        if not (one.same_input and len(slabs) == len(chunks) == 1):
            counts[Count.INPUT_SRAM_WRITES] += one.inputs
            counts[Count.METADATA_SRAM_WRITE_BITS] += one.bitmap_bits
    return counts + play(Steps(*(np.array(column, dtype=np.int64) for column in zip(*table, strict=True))), memory)


def _part(total: int, part: tuple[int, int], whole: int) -> int:
    return total * part[1] // whole - total * part[0] // whole


def stand_in_zeros(shape: tuple[int, ...], density: float) -> NDArray[np.bool_]:
    """Where a layer of which only the density is known counts as nonzero: smallest multiples of the golden ratio."""
    size = int(np.prod(shape))
    kept = int(density * size + 0.5)
    order = sorted(range(size), key=lambda index: index * 0x9E3779B97F4A7C15 % 2**64)
    mask = np.zeros(size, dtype=bool)
    mask[order[:kept]] = True
    return mask.reshape(shape)
