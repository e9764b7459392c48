"""A layer as passes of an array whose time is known, cut for the buffers and played through the memory.

A pass has weights, inputs, outputs and cycles; it is cut evenly into chunks of the m output rows and, within a chunk,
into slabs of the reduction, whatever loads the memory hides best.  Left out: rows that two chunks of a convolution
share are taken to stay on chip.  steps.py plays the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Memory
from ..mapping import Tiling
from ..steps import Steps, missing_bytes, play

Ints = NDArray[np.int64]
STALLS = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_OUTPUT)
MOST_STEPS = 1 << 17  # no finer cut is tried unless nothing else fits
NO_MORE_STEPS = 1 << 21  # and none beyond this at all: it would take gigabytes


@dataclass(frozen=True, eq=False)
class PassTable:
    """What the passes of a layer move; each field int64[passes] or bool[passes].

    weight_bytes (of which metadata_bytes), input_bytes: needed by the pass.  output_bits, held_bits: per output row of
    the layer, as they leave and as they wait in the buffer.  same_input, same_weight: what the pass before had serves.
    rows, depth: output rows and reduction that a pass may be cut along.
    """

    weight_bytes: Ints
    metadata_bytes: Ints
    input_bytes: Ints
    output_bits: Ints
    held_bits: Ints
    cycles: Ints
    same_input: NDArray[np.bool_]
    same_weight: NDArray[np.bool_]
    rows: int
    depth: int

    def parts(self, tiling: Tiling) -> tuple[int, int]:
        """(chunks of the rows, slabs of the reduction) into which a tiling cuts every pass."""
        return -(-self.rows // tiling.tile_m), -(-self.depth // tiling.tile_k)


def cut(table: PassTable, tile_rows: int, tile_depth: int) -> Steps:
    """A step per pass, chunk of `tile_rows` output rows and slab of `tile_depth` of the reduction, slabs innermost."""
    row, slab = _bounds(table.rows, tile_rows), _bounds(table.depth, tile_depth)
    chunks, slabs = len(row) - 1, len(slab) - 1
    shape = (len(table.cycles), chunks, slabs)

    def shared(total: Ints, last: int, bounds: Ints) -> Ints:
        """Even shares of `total` along an axis, whole units that add up."""
        return np.diff(total[..., None] * bounds // last, axis=-1)

    weights = np.broadcast_to(shared(table.weight_bytes, table.depth, slab)[:, None], shape).copy()
    metadata = np.broadcast_to(shared(table.metadata_bytes, table.depth, slab)[:, None], shape).copy()
    inputs = shared(shared(table.input_bytes, table.rows, row), table.depth, slab)
    cycles = shared(shared(table.cycles, table.rows, row), table.depth, slab)
    if slabs == 1:
        weights[:, 1:], metadata[:, 1:] = 0, 0
        weights[table.same_weight], metadata[table.same_weight] = 0, 0
    if slabs == chunks == 1:
        inputs[table.same_input] = 0
    size = np.diff(row)
    outputs = np.zeros(shape, dtype=np.int64)
    outputs[:, :, -1] = -(-table.output_bits[:, None] * size // 8)
    held = np.broadcast_to(-(-table.held_bits[:, None] * size // 8)[:, :, None], shape)
    return Steps(*(np.ascontiguousarray(part).reshape(-1)
                   for part in (weights, inputs, outputs, cycles, metadata, np.maximum(held, outputs))))


def best_cut(table: PassTable, n: int, memory: Memory, tiling: Tiling | None, where: str) -> tuple[Tiling, Ints]:
    """(tiling, what the memory adds): the fastest cut, of equals the coarsest; or the given one.

    Raises InputError, saying by how many bytes, where no cut fits the buffers.
    """
    best: tuple[int, Tiling, Ints] | None = None
    refused: InputError | None = None
    least = int(table.cycles.sum())
    cuts = _cuts(table) if tiling is None else [(tiling.tile_m, tiling.tile_k)]
    for rows, depth in cuts:
        number = len(table.cycles) * -(-table.rows // rows) * -(-table.depth // depth)
        if best is not None and (best[0] == 0 or number > MOST_STEPS):
            continue
        if number > NO_MORE_STEPS:
            refused = refused or InputError(f"no cut of up to {NO_MORE_STEPS} steps fits the buffers",
                                            fix="enlarge the buffers or split the layer")
            continue
        steps = cut(table, rows, depth)
        if best is not None and (missing_bytes(steps, memory) or _channel_cycles(steps, memory) >= best[0] + least):
            continue
        try:
            added = play(steps, memory)
        except InputError as error:
            refused = error
            continue
        stalls = int(added[list(STALLS)].sum())
        if best is None or stalls < best[0]:
            best = (stalls, Tiling(rows, depth, n), added)
    if best is None:
        raise InputError(str(refused), where=where)
    return best[1:]


def _bounds(size: int, tile: int) -> Ints:
    return np.append(np.arange(0, size, tile), size).astype(np.int64)


def _cuts(table: PassTable) -> list[tuple[int, int]]:
    """Tile sizes for 1, 4, 16, ... and all parts of both axes, the fewest steps first."""
    def tiles(size: int) -> list[int]:
        parts = {size, *(4**power for power in range(16) if 4**power < size)}
        return sorted({-(-size // number) for number in parts}, reverse=True)

    both = [(rows, depth) for rows in tiles(table.rows) for depth in tiles(table.depth)]
    return sorted(both, key=lambda tile: (-(-table.rows // tile[0]) * -(-table.depth // tile[1]), -tile[0]))


def _channel_cycles(steps: Steps, memory: Memory) -> int:
    """What the channel needs for all bytes: no time line is shorter."""
    moved, per = memory.bandwidth()
    total = int(steps.weight_bytes.sum() + steps.input_bytes.sum() + steps.output_bytes.sum())
    return total * per // moved if moved else 0
