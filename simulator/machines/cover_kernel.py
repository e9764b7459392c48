# mypy: allow-untyped-defs, allow-untyped-calls
"""Counting the folds of n:m covers by tile and by row (docs/model.md 1.8).

`count_cover` stands in for systolic_kernel.count_folds; both fill the table that the time line reads.  Nothing here
knows of time.  Read systolic_kernel.py next.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from .systolic_kernel import COLS, ROWS, TILE_K, TILE_N, WEIGHT_BITS, K, N


@kernel
def most_per_block(mask, block, of):
    """int64[groups, ceil(k/block), n]: most nonzeros in any `of` rows of a k block, output by output."""
    groups, k, n = mask.shape
    most = np.zeros((groups, (k + block - 1) // block, n), np.int64)
    seen = np.zeros(n, np.int64)
    for g in range(groups):
        for first in range(0, k, of):
            seen[:] = 0
            for row in range(first, min(k, first + of)):
                for column in range(n):
                    seen[column] += mask[g, row, column]
            for column in range(n):
                most[g, first // block, column] = max(most[g, first // block, column], seen[column])
    return most


@kernel
def slots(height, keep, of):
    """Slots of one output in a k block of `height` rows: `keep` of every `of`, fewer of a ragged last group."""
    return height // of * keep + min(height % of, keep)


@kernel
def count_cover(p, by_row, of, block, index_bits, descriptor_bits, keep, folds):
    """Fill folds[group, k tile, n tile] as count_folds does, for a cover of N = keep[group, k block, n]."""
    for g in range(folds.shape[0]):
        for ki in range(folds.shape[1]):
            for ni in range(folds.shape[2]):
                tile = folds[g, ki, ni]
                tile[:] = 0
                n0, n1 = ni * p[TILE_N], min(p[N], (ni + 1) * p[TILE_N])
                for first in range(ki * p[TILE_K], min(p[K], (ki + 1) * p[TILE_K]), block):
                    height = min(p[K], first + block) - first
                    if by_row:
                        _rows_of_block(p, of, height, keep[g, first // block, n0:n1], index_bits, tile)
                        tile[4] += (n1 - n0) * descriptor_bits
                        continue
                    for c in range(n0, n1, p[COLS]):
                        _one_tile(p, of, height, min(n1, c + p[COLS]) - c, keep[g, first // block, c], index_bits, tile)
                        tile[4] += descriptor_bits


@kernel
def _one_tile(p, of, height, width, kept, index_bits, tile):
    """A block of `height` rows of k and `width` outputs, all at kept:of."""
    group = 1 if kept == of else of  # a dense tile has a lane per row
    if kept == of:
        kept = 1
    physical = slots(height, kept, group)
    for a in range(0, physical, p[ROWS]):
        b = min(physical, a + p[ROWS])
        tile[0] += 1
        tile[2] += width
        tile[3] += min(height, (b + kept - 1) // kept * group) - a // kept * group
        tile[5] += width
    tile[1] += physical * width
    if group > 1:
        tile[4] += physical * width * index_bits


@kernel
def _rows_of_block(p, of, height, keep, index_bits, tile):
    """A block of `height` rows of k whose outputs take `keep` columns each, one after the other."""
    at = 0
    for kept in keep:
        stored = slots(height, kept, of)
        tile[1] += stored
        if kept < of:
            tile[4] += stored * index_bits
        # An output that straddles folds leaves a result in each.
        tile[5] += (at + kept - 1) // p[COLS] - at // p[COLS] + 1
        at += kept
    count = (at + p[COLS] - 1) // p[COLS]
    tile[0] += count
    tile[2] += at
    tile[3] += count * height


@kernel
def stored_bits(p, by_row, of, block, index_bits, descriptor_bits, keep, k_sizes, n_sizes, stored):
    """stored[k size, n size] = (bits of the largest weight tile, of the first, folds over all tiles, bits over all)."""
    q = p.copy()
    for k_at in range(len(k_sizes)):
        q[TILE_K] = k_sizes[k_at]
        for n_at in range(len(n_sizes)):
            q[TILE_N] = n_sizes[n_at]
            tiles_k, tiles_n = (p[K] + q[TILE_K] - 1) // q[TILE_K], (p[N] + q[TILE_N] - 1) // q[TILE_N]
            folds = np.zeros((keep.shape[0], tiles_k, tiles_n, 6), np.int64)
            count_cover(q, by_row, of, block, index_bits, descriptor_bits, keep, folds)
            for g in range(keep.shape[0]):
                for ki in range(tiles_k):
                    for ni in range(tiles_n):
                        bits = folds[g, ki, ni, 1] * p[WEIGHT_BITS] + folds[g, ki, ni, 4]
                        if g == 0 and ki == 0 and ni == 0:
                            stored[k_at, n_at, 1] = bits
                        stored[k_at, n_at, 0] = max(stored[k_at, n_at, 0], bits)
                        stored[k_at, n_at, 2] += folds[g, ki, ni, 0]
                        stored[k_at, n_at, 3] += bits
