"""Random GEMMs that an array runs as 1 to 6 back-to-back tiles, and what the simulator's two models say of them.

The corners that matter come first: a single streamed vector, the shortest stream that hides a load or a drain, one
shorter, a ragged edge.  What the RTL says is machines.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import Gemm, LayerTrace, Trace, simulate
from simulator.counts import CAUSES
from simulator.mapping import Tiling
from simulator.reference import systolic as reference

from .machines import LEVELS, Array, Ints, Seen

MOST_TILES = 6


@dataclass(frozen=True, eq=False)
class Case:
    """inputs: [m, k], weights: [k, n], both int8 in int64; mask: bool[k, n] of an n:m array, else None."""

    inputs: Ints
    weights: Ints
    mask: NDArray[np.bool_] | None

    @property
    def layer(self) -> LayerTrace:
        """The case as the simulator takes it."""
        (m, k), n = self.inputs.shape, self.weights.shape[1]
        return LayerTrace("case", Gemm(m, k, n), self.mask)


def draw(array: Array, rng: np.random.Generator, folds: int, length: int, whole: bool = False) -> Case:
    """A case of `folds` tiles that stream `length` vectors each; `whole` tiles have no ragged edge."""
    if array.by_tile:
        return _covered(array, rng, folds, length, whole)
    down = int(rng.choice([part for part in range(1, folds + 1) if folds % part == 0]))
    held_rows = _extent(rng, down, array.rows, whole)
    held_cols = _extent(rng, folds // down, array.cols, whole)
    if array.of > 1:
        held_rows = _rows_for(array, rng, held_rows)
    m, k, n = {"ws": (length, held_rows, held_cols), "is": (held_cols, held_rows, length),
               "os": (held_rows, length, held_cols)}[array.flow]
    inputs, weights = rng.integers(-128, 128, (m, k)), rng.integers(-128, 128, (k, n))
    if array.of == 1:
        return Case(inputs, weights, None)
    return Case(inputs, np.where(mask := _conforming(array, rng, (k, n)), weights, 0), mask)


def _covered(array: Array, rng: np.random.Generator, folds: int, length: int, whole: bool) -> Case:
    """Blocks of one n of LEVELS each, or dense; columns of blocks differ in their order, but not in the last block."""
    down = int(rng.choice([part for part in range(1, folds + 1) if folds % part == 0]))
    levels: list[int] = []
    while sum(levels) < down:
        levels.append(int(rng.choice([level for level in (*LEVELS, array.of) if sum(levels) + level <= down])))
    last = array.rows * array.of
    while not whole and _slots(array, last - 1, levels[-1]) > (levels[-1] - 1) * array.rows and rng.random() < 0.7:
        last -= 1  # still as many folds
    n = _extent(rng, folds // down, array.cols, whole)
    columns = []
    for first in range(0, n, array.cols):
        ordered = [*rng.permutation(levels[:-1]).astype(int).tolist(), levels[-1]]
        heights = [array.rows * array.of] * (len(levels) - 1) + [last]
        blocks = [_block(array, rng, height, min(array.cols, n - first), level)
                  for height, level in zip(heights, ordered, strict=True)]
        columns.append(np.concatenate(blocks))
    mask = np.concatenate(columns, axis=1)
    values = rng.integers(1, 128, mask.shape) * rng.choice(np.array([-1, 1]), mask.shape)
    return Case(rng.integers(-128, 128, (length, len(mask))), np.where(mask, values, 0), mask)


def _slots(array: Array, height: int, level: int) -> int:
    return height // array.of * level + min(height % array.of, level)


def _block(array: Array, rng: np.random.Generator, height: int, width: int, level: int) -> NDArray[np.bool_]:
    """bool[height, width]: at most `level` in a group of `of` rows, and in one group all of them."""
    mask = np.zeros((height, width), dtype=bool)
    for first in range(0, height, array.of):
        size = min(array.of, height - first)
        for col in range(width):
            most = level if first == 0 and col == 0 else int(rng.integers(0, level + 1))
            mask[first + rng.permutation(size)[:most], col] = True
    return mask


def _extent(rng: np.random.Generator, folds: int, size: int, whole: bool) -> int:
    return folds * size - (0 if whole else int(rng.integers(0, size)))


def _rows_for(array: Array, rng: np.random.Generator, slots: int) -> int:
    """Rows of k that fill so many slots: `of` for each `keep` of them, and fewer in a last group."""
    groups, rest = divmod(slots, array.keep)
    return groups * array.of + (rest or -int(rng.integers(0, array.of - array.keep + 1)))


def _conforming(array: Array, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """At most `keep` of every `of` rows, fewer here and there, and exactly `keep` in the first group of each tile."""
    mask = np.zeros(shape, dtype=bool)
    for first in range(0, shape[0], array.of):
        rows = np.arange(first, min(first + array.of, shape[0]))
        for col in range(shape[1]):
            first_of_tile = first // array.of % (array.rows // array.keep) == 0
            count = array.keep if first_of_tile else int(rng.integers(0, array.keep + 1))
            mask[rng.permutation(rows)[:count], col] = True
    return mask


def cases(array: Array, seed: int, least_tiles: int) -> Iterator[tuple[int, Case]]:
    """(tiles, case) until at least `least_tiles` tiles have been drawn."""
    rng = np.random.default_rng(seed)
    rows = array.rows
    corners = [(1, 1), (MOST_TILES, 1), (2, rows), (3, max(1, rows - 1)), (MOST_TILES, rows + 1)]
    done = 0
    while done < least_tiles:
        folds, length = corners.pop() if corners else (int(rng.integers(1, MOST_TILES + 1)), int(rng.integers(1, 10)))
        yield folds, draw(array, rng, folds, length)
        done += folds


@dataclass(frozen=True, eq=False)
class Modelled:
    """Cycles of the fast engine, cycles of the clocked twin, and the twin's results as the RTL's are kept."""

    engine_cycles: int
    executed_as: str
    twin_cycles: int
    output: Ints
    seen: Seen


def modelled(array: Array, case: Case) -> Modelled:
    """What the simulator says."""
    layer = case.layer
    (m, k), n = case.inputs.shape, case.weights.shape[1]
    engine = simulate(Trace([layer]), array.machine)
    arrivals: list[tuple[int, int, int]] = []
    counts, output = reference.run(layer, array.machine, Tiling(m, k, n), case.inputs, case.weights, arrivals)
    edges = max(edge for edge, _, _ in arrivals) + 1
    valid, result = np.zeros((edges, array.cols), dtype=bool), np.zeros((edges, array.cols), dtype=np.int64)
    for edge, col, value in arrivals:
        assert not valid[edge, col], "two results in one column after one edge"
        valid[edge, col], result[edge, col] = True, value
    twin_cycles = int(counts.counts[list(CAUSES)].sum())
    return Modelled(engine.cycles, engine.layers[0].executed_as, twin_cycles, output, Seen(edges, valid, result))
