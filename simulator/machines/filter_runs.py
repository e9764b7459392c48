"""A layer as runs of filters through the memory: the passes of machines that give each output a place of its own.

Filters are cut into blocks (what the array works on at a time); a run of consecutive blocks is a pass, and the longest
run that the weight buffer takes is found by trying.  Left out: cuts that change the array's own time other than by
the wait at the end of a run.  passes.py cuts a pass further; read tensordash.py for a user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..mapping import Tiling
from ..trace import LayerTrace
from ..workload import Gemm
from .passes import STALLS, PassTable, best_cut

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stored:
    """What lies in memory, by group and block of `block` filters.

    weight_values, weight_metadata_bits: int64[groups, blocks].  input_values, input_metadata_bits: int64[groups], of
    the raw input.
    """

    block: int
    weight_values: Ints
    weight_metadata_bits: Ints
    input_values: Ints
    input_metadata_bits: Ints


def raw_input_words(layer: LayerTrace) -> tuple[Ints, Ints]:
    """Per group, int64[groups]: (words of the raw input, nonzero ones; all of them where no mask is known)."""
    groups, mask = layer.operation.groups, layer.input_mask
    words = np.full(groups, int(np.prod(layer.operation.input_shape)) // groups, dtype=np.int64)
    if mask is None:
        return words, words
    channels = mask.sum(axis=0 if isinstance(layer.operation, Gemm) else (0, 2, 3), dtype=np.int64)
    return words, channels.reshape(groups, -1).sum(axis=1)


def run_starts(groups: int, n: int, block: int, tile_n: int) -> Ints:
    """First block of each run; blocks are numbered through all groups.

    tile_n: filters of a run; below n a multiple of `block` in each group, from n on so many whole groups as it holds.
    Raises InputError for another number.
    """
    blocks = -(-n // block)
    if tile_n >= n:
        return np.arange(0, groups * blocks, tile_n // n * blocks)
    if tile_n < 1 or tile_n % block:
        raise InputError(f"tile_n = {tile_n}", where="tiling", expected=f"a multiple of {block}, or {n} and more")
    return (np.arange(groups)[:, None] * blocks + np.arange(0, blocks, tile_n // block)).reshape(-1)


def fastest_runs(layer: LayerTrace, machine: Machine, tiling: Tiling | None, stored: Stored,
                 cycles_of: Callable[[Ints], Ints]) -> tuple[Tiling, Ints, Ints]:
    """(tiling, first block of each run, what the memory adds, buffer fills among it): the fastest of the runs tried.

    cycles_of: from the first blocks of the runs to int64[runs], the array's cycles.  Tried are all groups, then 4, 16,
    ... times fewer blocks, coarsest first; of equals the first.  Raises InputError where nothing fits the buffers.
    """
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    sizes = _sizes(groups, gemm.n, stored.block) if tiling is None else [tiling.tile_n]
    where = f"layer {layer.name!r} on {machine.name}"
    best: tuple[int, Tiling, Ints, Ints] | None = None
    refused: InputError | None = None
    for size in sizes:
        starts = run_starts(groups, gemm.n, stored.block, size)
        cycles = cycles_of(starts)
        array = int(cycles.sum())
        if best is not None and array >= best[0]:
            continue
        table = _table(layer, machine, stored, starts, cycles)
        try:
            chosen, added = best_cut(table, size, machine.memory, tiling, where)
        except InputError as error:
            refused = error
            continue
        total = array + int(added[list(STALLS)].sum())
        if best is None or total < best[0]:
            best = total, chosen, starts, added + _fills(table, stored, starts, chosen, layer)
    if best is None:
        assert refused is not None
        raise refused
    return best[1:]


def _sizes(groups: int, n: int, block: int) -> list[int]:
    """Filters of a run to try, most first."""
    blocks = -(-n // block)
    whole = {groups, *(4**power for power in range(16) if 4**power < groups)}
    parts = {4**power for power in range(16) if 4**power < blocks}
    return [n * number for number in sorted(whole, reverse=True)] + [
        block * number for number in sorted(parts, reverse=True) if block * number < n]


def _ends(starts: Ints, stored: Stored) -> Ints:
    return np.append(starts[1:], stored.weight_values.size)


def _groups_of(starts: Ints, stored: Stored) -> tuple[Ints, Ints]:
    """First group of each run, and the one after its last."""
    blocks = stored.weight_values.shape[1]
    return starts // blocks, (_ends(starts, stored) - 1) // blocks + 1


def _table(layer: LayerTrace, machine: Machine, stored: Stored, starts: Ints, cycles: Ints) -> PassTable:
    gemm = layer.operation.gemm()
    values, bits = (np.add.reduceat(part.reshape(-1), starts)
                    for part in (stored.weight_values, stored.weight_metadata_bits))
    metadata = -(-bits // 8)
    of_group = -(-(stored.input_values * layer.input_bits + stored.input_metadata_bits) // 8)
    before = np.append(0, np.cumsum(of_group))
    first, last = _groups_of(starts, stored)
    same = np.append(False, (first[1:] == first[:-1]) & (last[1:] == last[:-1]))
    filters = _filters(gemm.n, stored, starts)
    return PassTable(
        weight_bytes=-(-values * layer.weight_bits // 8) + metadata, metadata_bytes=metadata,
        input_bytes=before[last] - before[first], output_bits=filters * layer.output_bits,
        held_bits=filters * machine.memory.psum_bits, cycles=cycles, same_input=same,
        same_weight=np.zeros(len(starts), dtype=bool), rows=gemm.m, depth=gemm.k)


def _filters(n: int, stored: Stored, starts: Ints) -> Ints:
    """int64[runs]: filters of each run; the last block of a group may be short."""
    groups, blocks = stored.weight_values.shape
    sizes = np.full((groups, blocks), stored.block, dtype=np.int64)
    sizes[:, -1] = n - (blocks - 1) * stored.block
    return np.asarray(np.add.reduceat(sizes.reshape(-1), starts))


def _fills(table: PassTable, stored: Stored, starts: Ints, chosen: Tiling, layer: LayerTrace) -> Ints:
    """int64[len(Count)]: elements that loads write into the buffers and stores read from them."""
    fills = np.zeros(len(Count), dtype=np.int64)
    chunks, slabs = table.parts(chosen)
    loads = chunks if slabs > 1 else 1
    fresh = ~(table.same_input & (chunks == slabs == 1))
    first, last = _groups_of(starts, stored)
    values, bits = (np.append(0, np.cumsum(part)) for part in (stored.input_values, stored.input_metadata_bits))
    fills[Count.WEIGHT_SRAM_WRITES] = stored.weight_values.sum() * loads
    fills[Count.INPUT_SRAM_WRITES] = (values[last] - values[first])[fresh].sum()
    fills[Count.METADATA_SRAM_WRITE_BITS] = (
        stored.weight_metadata_bits.sum() * loads + (bits[last] - bits[first])[fresh].sum())
    gemm = layer.operation.gemm()
    fills[Count.OUTPUT_SRAM_READS] = gemm.m * gemm.n * layer.operation.groups
    return fills
