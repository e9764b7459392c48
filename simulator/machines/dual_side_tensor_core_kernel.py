# mypy: allow-untyped-defs, allow-untyped-calls
"""Outer products of condensed columns and rows, k step by k step, and their scatter into accumulator banks.

Bank (r, c) holds the outputs (i, j) of a tile with i mod bank rows = r and j mod bank columns = c, so what one k
sends there is the product of two counts.  Integers in, integers out; what the times mean is dual_side_tensor_core.py's.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel

# What an item tells: vector steps of its first k step that has any; cycles from there to the hand-over of the last one;
# cycles of the last scatter; vector steps in all; cycles in which the multipliers wait for banks, but for the first.
FIRST, BETWEEN, LAST, STEPS, WAITS, ITEM = 0, 1, 2, 3, 4, 5


@kernel
def items(a, b, tile_k, vector_m, vector_n, found):
    """Fill found[i, j, :ITEM] for tile rows i and tile columns j.

    a: int32[tile rows, k, bank rows], nonzeros of a column of the tile by bank row; b: int32[tile columns, k, bank
    columns].
    """
    depth, bank_rows, bank_cols = a.shape[1], a.shape[2], b.shape[2]
    load = np.zeros((bank_rows, bank_cols), np.int32)
    units_a = vectors(a, vector_m)
    units_b = vectors(b, vector_n)
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            first = between = last = steps = waits = 0
            for start in range(0, depth, tile_k):
                here = 0
                load[:] = 0
                for k in range(start, min(depth, start + tile_k)):
                    vector_steps = units_a[i, k] * units_b[j, k]
                    if vector_steps:
                        here += vector_steps
                        for r in range(bank_rows):
                            times = a[i, k, r]
                            for c in range(bank_cols):
                                load[r, c] += times * b[j, k, c]
                if here:
                    if first:
                        between += max(here, last)
                        waits += max(0, last - here)
                    else:
                        first = here
                    steps += here
                    last = load.max()
            found[i, j, FIRST] = first
            found[i, j, BETWEEN] = between
            found[i, j, LAST] = last
            found[i, j, STEPS] = steps
            found[i, j, WAITS] = waits


@kernel
def vectors(counts, size):
    """int64[tiles, k]: vectors of `size` that the nonzeros of a k (int32[tiles, k, banks]) fill, the last in part."""
    found = np.zeros(counts.shape[:2], np.int64)
    for i in range(counts.shape[0]):
        for k in range(counts.shape[1]):
            found[i, k] = (counts[i, k].sum() + size - 1) // size
    return found


@kernel
def run_cycles(facts, index, starts, tile_columns, units, found):
    """Fill found[run] = (cycles of the busiest unit, waits for banks between items, last scatters) of each run.

    facts: int64[groups, tile columns, tile rows that differ, ITEM]; index: int64[tile rows], which of them a tile row
    is.  starts: first tile column of each run, numbered through the groups, then the end.  Items are dealt in turn.
    """
    busy = np.zeros(units, np.int64)
    scatter = np.zeros(units, np.int64)
    for run in range(len(starts) - 1):
        busy[:] = 0
        scatter[:] = 0
        waits = 0
        for column in range(starts[run], starts[run + 1]):
            unit = column * len(index) % units
            for row in range(len(index)):
                item = facts[column // tile_columns, column % tile_columns, index[row]]
                if item[FIRST]:
                    busy[unit] += max(item[FIRST], scatter[unit]) + item[BETWEEN]
                    waits += max(0, scatter[unit] - item[FIRST])
                    scatter[unit] = item[LAST]
                unit = unit + 1 if unit + 1 < units else 0
        found[run, 0] = (busy + scatter).max()
        found[run, 1] = waits
        found[run, 2] = scatter.sum()
