# mypy: allow-untyped-defs, allow-untyped-calls
"""Sizes of compressed weight tiles, tile by tile: formats.size_bits for many rectangles of one mask.

Left out: n:m and filter-kernel-weight, which are formats of machines that compute on them.  Read storage.py next.
"""

from __future__ import annotations

from ..jit import kernel


@kernel
def index_bits(count):
    """Bits that tell `count` places apart."""
    bits = 0
    while count > 1 << bits:
        bits += 1
    return bits


@kernel
def metadata_bits(kind, run_bits, rows, cols, stored):
    """Metadata of a [rows, cols] matrix of `stored` entries; kinds are storage.KIND_NUMBERS."""
    if kind == 1:
        return rows * cols
    if kind == 2:
        return (rows + 1) * index_bits(rows * cols + 1) + stored * index_bits(cols)
    if kind == 3:
        return (cols + 1) * index_bits(rows * cols + 1) + stored * index_bits(rows)
    if kind == 4:
        return stored * (index_bits(rows) + index_bits(cols))
    return stored * run_bits if kind == 5 else 0


@kernel
def run_entries(stream, run_bits):
    """Entries of a stream of flags in run length: nonzeros, and stored zeros that cut long runs."""
    entries = run = 0
    for flag in stream:
        if flag:
            entries += 1 + (run >> run_bits)
            run = 0
        else:
            run += 1
    return entries


@kernel
def tile_entries(mask, k0, k1, n0, n1, run_bits):
    """run_entries of a tile, row by row."""
    entries = run = 0
    for row in range(k0, k1):
        for column in range(n0, n1):
            if mask[row, column]:
                entries += 1 + (run >> run_bits)
                run = 0
            else:
                run += 1
    return entries


@kernel
def weight_tiles(mask, before, k, n, k_size, n_size, kind, run_bits, found):
    """found[group, k tile, n tile] = (values stored, metadata bits).

    mask: bool[groups, k, n], empty = all nonzero; before: its sums, int64[groups, k + 1, n + 1].
    """
    for g in range(found.shape[0]):
        for ki in range(found.shape[1]):
            for ni in range(found.shape[2]):
                k0, k1 = ki * k_size, min(k, (ki + 1) * k_size)
                n0, n1 = ni * n_size, min(n, (ni + 1) * n_size)
                rows, cols = k1 - k0, n1 - n0
                stored = rows * cols
                if kind != 0 and len(mask):
                    stored = before[g, k1, n1] - before[g, k0, n1] - before[g, k1, n0] + before[g, k0, n0]
                    if kind == 5:
                        stored = tile_entries(mask[g], k0, k1, n0, n1, run_bits)
                found[g, ki, ni, 0] = stored
                found[g, ki, ni, 1] = metadata_bits(kind, run_bits, rows, cols, stored)
