"""n:m covers by tile and by row, placed weight by weight: which k row and output each array element holds.

This is the compiler's part of docs/model.md 1.8: every k block gets its N and its folds, and a fold says for each
element what it multiplies with what.  Time and the values are left out.  Read stationary.py for the array that runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..machines.systolic import Spec

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Placement:
    """One fold's contents.

    weight_row: int64[rows, cols], the row of k whose weight an element holds, -1 for none.  outputs: int64[cols], the
    column of n that an array column works for.  lanes: int64[rows, of], the rows of k that stream past an array row,
    -1 for none; the first lane of an element is lanes[row, choice[row, col]].  fetched: int64[rows], inputs that a row
    reads for each vector.  ends: bool[cols], whether the column's sum leaves the array or moves on to the right.
    indexed: bool[cols], whether the column's weights carry an index.
    """

    weight_row: Ints
    outputs: Ints
    lanes: Ints
    fetched: Ints
    ends: Bools
    indexed: Bools

    @property
    def choice(self) -> Ints:
        """int64[rows, cols]: the lane that each element's weight multiplies; 0 where it holds none."""
        return np.asarray(np.argmax(self.lanes[:, None, :] == self.weight_row[:, :, None], axis=2))


@dataclass(frozen=True, eq=False)
class Cover:
    """The cover of one group: blocks of `block` rows of k, and N of each block and column, int64[blocks, n]."""

    by_row: bool
    of: int
    block: int
    keep: Ints
    descriptor_bits: int

    def metadata_bits(self, k: range, n: range, held: Bools, cols: int) -> int:
        """Bits of a tile's indices and descriptors; held: bool[k, n] of the whole group, True at stored slots."""
        blocks = range(k.start // self.block, -(-k.stop // self.block))
        descriptors = len(blocks) * (len(n) if self.by_row else -(-len(n) // cols))
        indexed = 0
        for number in blocks:
            rows = range(max(k.start, number * self.block), min(k.stop, (number + 1) * self.block))
            for column in n:
                if self.keep[number, column] < self.of:
                    indexed += int(held[rows.start : rows.stop, column].sum())
        return descriptors * self.descriptor_bits + indexed * (self.of - 1).bit_length()


def covers(matrices: list[Ints], spec: Spec) -> list[Cover] | None:
    """The covers of all groups (int64[k, n] each); None where no tile or row needs less than the dense m slots, or
    nothing is pruned."""
    if spec.nm_cover == "layer" or not spec.nm or all(np.all(matrix) for matrix in matrices):
        return None
    pairs = [tuple(map(int, text.split(":"))) for text in spec.nm]
    of = pairs[0][1]
    levels = sorted({keep for keep, _ in pairs} | {of})
    by_row = spec.nm_cover == "row"
    block = of * (spec.rows if by_row else max(1, spec.rows // levels[0]))
    found = []
    for matrix in matrices:
        keep = np.stack([_keeps(matrix[first : first + block], of, levels) for first in range(0, len(matrix), block)])
        if not by_row:
            for first in range(0, matrix.shape[1], spec.cols):
                keep[:, first : first + spec.cols] = keep[:, first : first + spec.cols].max(axis=1, keepdims=True)
        found.append(Cover(by_row, of, block, keep, (len(levels) - 1).bit_length()))
    return found if any((cover.keep < of).any() for cover in found) else None


def _keeps(part: Ints, of: int, levels: list[int]) -> Ints:
    """Per column of a k block the smallest level that holds the nonzeros of each of its groups of `of` rows."""
    most = np.max([np.count_nonzero(part[first : first + of], axis=0) for first in range(0, len(part), of)], axis=0)
    return np.array([next(level for level in levels if level >= count) for count in most])


def placements(matrix: Ints, cover: Cover, k: range, n: range, spec: Spec) -> list[Placement]:
    """The folds of tile k x n in order: by tile, column folds outer and k blocks inner; by row, k blocks outer."""
    blocks = [range(first, min(k.stop, first + cover.block)) for first in range(k.start, k.stop, cover.block)]
    if cover.by_row:
        return [fold for rows in blocks for fold in _row_folds(matrix, cover, rows, n, spec)]
    columns = [range(first, min(n.stop, first + spec.cols)) for first in range(n.start, n.stop, spec.cols)]
    return [fold for cols in columns for rows in blocks for fold in _tile_folds(matrix, cover, rows, cols, spec)]


def _stored(column: Ints, keep: int, of: int) -> list[list[int]]:
    """Per group of `of` entries of a column, those that get a slot: nonzeros, then the first zeros, in order."""
    slots = []
    for first in range(0, len(column), of):
        group = column[first : first + of]
        chosen = [*np.flatnonzero(group), *np.flatnonzero(group == 0)][: min(keep, len(group))]
        slots.append(sorted(first + int(row) for row in chosen))
    return slots


def _tile_folds(matrix: Ints, cover: Cover, k: range, n: range, spec: Spec) -> list[Placement]:
    keep = int(cover.keep[k.start // cover.block, n.start])
    group = 1 if keep == cover.of else cover.of  # a dense tile has a lane per row
    keep = 1 if keep == cover.of else keep
    columns = [[row for rows in _stored(matrix[k.start : k.stop, col], keep, group) for row in rows] for col in n]
    slots = np.array(columns).T + k.start  # int64[physical rows, cols]
    found = []
    for first in range(0, len(slots), spec.rows):
        held = slots[first : first + spec.rows]
        lanes = np.full((len(held), cover.of), -1)
        fetched = np.zeros(len(held), dtype=np.int64)
        for row in range(len(held)):
            bundle = range(k.start + (first + row) // keep * group,
                           min(k.stop, k.start + ((first + row) // keep + 1) * group))
            lanes[row, : len(bundle)] = bundle
            # The rows of one m-group share its inputs: the first of them in the fold fetches.
            fetched[row] = len(bundle) if row == 0 or (first + row) % keep == 0 else 0
        columns_on = np.ones(len(n), dtype=bool)
        found.append(Placement(held, np.array(n), lanes, fetched, columns_on, columns_on & (group > 1)))
    return found


def _row_folds(matrix: Ints, cover: Cover, k: range, n: range, spec: Spec) -> list[Placement]:
    groups = -(-len(k) // cover.of)
    lanes = np.full((groups, cover.of), -1)
    for row in range(groups):
        bundle = range(k.start + row * cover.of, min(k.stop, k.start + (row + 1) * cover.of))
        lanes[row, : len(bundle)] = bundle
    columns, outputs, indexed = [], [], []
    for col in n:
        keep = int(cover.keep[k.start // cover.block, col])
        slots = _stored(matrix[k.start : k.stop, col], keep, cover.of)
        for position in range(keep):
            columns.append([k.start + rows[position] if position < len(rows) else -1 for rows in slots])
            outputs.append(col)
            indexed.append(keep < cover.of)
    found = []
    for first in range(0, len(columns), spec.cols):
        here = slice(first, first + spec.cols)
        works_for = np.array(outputs[here])
        found.append(Placement(np.array(columns[here]).T, works_for, lanes, (lanes >= 0).sum(axis=1),
                               np.append(works_for[1:] != works_for[:-1], True), np.array(indexed[here])))
    return found
