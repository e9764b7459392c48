"""Registers in series and the skew at the array's edge: the parts that both arrays are built of.

Every register takes what stands before it at every edge; a record whose `fold` is -1 is a bubble.  Reset,
stalling inside the array and clock gating are left out.  Read stationary.py and output_stationary.py next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]

# What moves along a row of the array.  fold and time say where a record belongs; fetched counts the elements
# that were read for it, and value and live hold the candidates among which an n:m weight chooses.
_ROW = [("fold", "i8"), ("time", "i8"), ("real", "?"), ("fetched", "i8")]
# What moves down a column or rests in a processing element.  column says that the column is in use, real that
# the row is too; choice is the position of the weight's input among the candidates.
COLUMN = np.dtype([("fold", "i8"), ("time", "i8"), ("column", "?"), ("real", "?"), ("last", "?"),
                   ("value", "i8"), ("live", "?"), ("choice", "i8")])
# A product, partial sum or result; row is where an output-stationary result was made.
SUM = np.dtype([("fold", "i8"), ("time", "i8"), ("row", "i8"), ("real", "?"), ("last", "?"), ("value", "i8")])


def row_type(lanes: int) -> np.dtype[np.void]:
    """The record that moves along a row with `lanes` candidate inputs."""
    return np.dtype([*_ROW, ("value", "i8", (lanes,)), ("live", "?", (lanes,))])


def bubbles(shape: int | tuple[int, ...], kind: np.dtype[Any]) -> Records:
    """Records that hold nothing."""
    records = np.zeros(shape, dtype=kind)
    records["fold"] = -1
    return records


class DelayLine:
    """`depth` registers in series, each an array of records; a wire where depth is 0."""

    def __init__(self, depth: int, shape: int | tuple[int, ...], kind: np.dtype[Any]) -> None:
        self.stages = [bubbles(shape, kind) for _ in range(depth)]

    def out(self, incoming: Records) -> Records:
        """What stands at the end before the coming edge."""
        return self.stages[-1] if self.stages else incoming

    def clock(self, incoming: Records) -> None:
        """One edge: every register takes what stands before it."""
        self.stages = [incoming.copy(), *self.stages[:-1]] if self.stages else []


class Skew:
    """Delays lane i of an array of records by delays[i] edges, as the staggered operand feeds at the edge do."""

    def __init__(self, delays: NDArray[np.int64], kind: np.dtype[Any]) -> None:
        self.delays = delays
        self.history = bubbles((int(delays.max(initial=0)) + 1, len(delays)), kind)
        self.now = 0

    def feed(self, incoming: Records) -> Records:
        """Take the records of this edge, give those that are due."""
        self.history[self.now % len(self.history)] = incoming
        due = self.history[(self.now - self.delays) % len(self.history), np.arange(len(self.delays))]
        self.now += 1
        return due


def from_left(edge: Records, line: DelayLine) -> Records:
    """What stands at every element of a grid whose rows are fed at the left: neighbour's registers, or the edge."""
    grid = np.empty_like(line.stages[-1])
    grid[:, 0], grid[:, 1:] = edge, line.stages[-1][:, :-1]
    return grid


def from_above(edge: Records, line: DelayLine) -> Records:
    """The same for a grid whose columns are fed at the top."""
    grid = np.empty_like(line.stages[-1])
    grid[0], grid[1:] = edge, line.stages[-1][:-1]
    return grid


def chosen(candidates: NDArray[Any], choice: NDArray[np.int64]) -> NDArray[Any]:
    """[rows, cols]: of the candidates [rows, cols, lanes] at each element, the one that its weight multiplies."""
    rows, cols = choice.shape
    return candidates[np.arange(rows)[:, None], np.arange(cols), choice]


def entered(line: DelayLine, what: str) -> int:
    """Sum of a field over all records that the registers of a line took at the last edge."""
    return sum(int(stage[what][stage["fold"] >= 0].sum()) for stage in line.stages)
