"""The output-stationary array: inputs move right, weights move down, sums stay until their stream has passed.

Results are read in place, or leave downwards over one register per row: loaded from all rows of a column at once
after the last operand has left it (serial), or taken by each row as it finishes, so that the next fold may follow
(overlapped).  Where operands come from is systolic.py's.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..machines.systolic import Spec
from .registers import COLUMN, SUM, DelayLine, Records, Skew, bubbles, chosen, entered, from_above, from_left, row_type


class OutputStationaryArray:
    """R x C elements; `edge` is one rising clock edge.  Counters add up what the registers took."""

    def __init__(self, spec: Spec, lanes: int) -> None:
        grid = rows, cols = spec.rows, spec.cols
        across, down = spec.activation_hop_registers, spec.psum_hop_registers
        self.row_skew = Skew(np.arange(rows) * down, row_type(lanes))
        self.column_skew = Skew(np.arange(cols) * across, COLUMN)
        self.input_registers = (DelayLine(spec.input_register, rows, row_type(lanes)),
                                DelayLine(spec.input_register, cols, COLUMN))
        self.right, self.down = DelayLine(across, grid, row_type(lanes)), DelayLine(down, grid, COLUMN)
        self.multiplier = DelayLine(spec.multiplier_latency, grid, SUM)
        self.accumulated = np.zeros(grid, dtype=np.int64)
        # The accumulator's own register is the first; an adder in more stages settles in those behind it.
        self.finished = DelayLine(spec.accumulator_latency, grid, SUM)
        self.drain = None if spec.drain == "in_place" else Drain(spec)
        self.output_register = DelayLine(spec.output_register, grid if self.drain is None else cols, SUM)
        self.grid = grid
        self.slots = self.useful = self.row_hops = self.column_hops = self._register_hops = 0

    @property
    def sum_hops(self) -> int:
        """Results that entered a drain or output register."""
        return self._register_hops + (self.drain.hops if self.drain else 0)

    def edge(self, inputs: Records, weights: Records) -> Records:
        """One edge: a vector for the rows and one for the columns.  Returns SUM records visible after the edge."""
        fed = self.row_skew.feed(inputs), self.column_skew.feed(weights)
        left = from_left(self.input_registers[0].out(fed[0]), self.right)
        top = from_above(self.input_registers[1].out(fed[1]), self.down)
        products = self._multiply(left, top)
        done = self.finished.stages[-1].copy()
        self.finished.clock(self._accumulate(self.multiplier.out(products)))

        for line, what in zip((*self.input_registers, self.right, self.down, self.multiplier),
                              (*fed, left, top, products), strict=True):
            line.clock(what)
        self.row_hops += entered(self.input_registers[0], "fetched") + entered(self.right, "fetched")
        self.column_hops += entered(self.input_registers[1], "column") + entered(self.down, "column")

        if self.drain is None:
            leaving, visible = done, self.finished.stages[-1]
        else:
            leaving = self.drain.bottom.copy()
            self.drain.edge(done)
            visible = self.drain.bottom
        self.output_register.clock(leaving)
        self._register_hops += entered(self.output_register, "real")
        return self.output_register.out(visible)

    def _multiply(self, left: Records, top: Records) -> Records:
        assert (left[["fold", "time"]] == top[["fold", "time"]]).all(), "operands out of step"
        value, live = chosen(left["value"], top["choice"]), chosen(left["live"], top["choice"])
        slot = (top["fold"] >= 0) & left["real"] & top["real"]
        self.slots += int(slot.sum())
        self.useful += int((slot & live & top["live"]).sum())
        products = bubbles(self.grid, SUM)
        for name in ("fold", "time", "last"):
            products[name] = top[name]
        products["row"] = np.arange(self.grid[0])[:, None]
        products["real"] = slot
        products["value"] = np.where(slot, value * top["value"], 0)
        return products

    def _accumulate(self, products: Records) -> Records:
        """Add to the accumulators; results where the last product of a fold went in, else bubbles."""
        begun = np.where(products["time"] == 0, 0, self.accumulated)
        self.accumulated = np.where(products["fold"] >= 0, begun + products["value"], self.accumulated)
        results = bubbles(self.grid, SUM)
        last = (products["fold"] >= 0) & products["last"]
        results[last] = products[last]
        results["value"] = self.accumulated
        return results


class Drain:
    """One shift register per column, and per row as many places as the vertical operand has registers.

    More than one place is needed with an overlapped drain only: a row that has finished waits until the last
    operand has passed the rows below it, and may finish again before its turn comes.
    """

    def __init__(self, spec: Spec) -> None:
        self.rows, self.cols, self.overlapped = spec.rows, spec.cols, spec.drain == "overlapped"
        self.places = spec.psum_hop_registers
        self.waiting = [[deque[Records]() for _ in range(self.cols)] for _ in range(self.rows)]
        self.at_rest = bubbles((self.rows, self.cols), SUM)
        self.last_row_passed = DelayLine(spec.psum_hop_registers - 1, self.cols, SUM)
        self.shifts = [self.rows] * self.cols  # since the column's drain began; `rows` of them empty it
        self.bottom = bubbles(self.cols, SUM)
        self.hops = 0

    def edge(self, done: Records) -> None:
        """Move what is leaving down one row, take in what is done, and show the bottom row."""
        starting = self.last_row_passed.out(done[-1])["fold"] >= 0
        self.last_row_passed.clock(done[-1])
        self.at_rest[done["fold"] >= 0] = done[done["fold"] >= 0]
        self.bottom = bubbles(self.cols, SUM)
        for col in range(self.cols):
            if self.shifts[col] < self.rows:
                self._shift(col)
            for row in range(self.rows):
                if self.overlapped and done[row, col]["fold"] >= 0:
                    self._take(row, col, done[row, col])
                if not self.overlapped and starting[col]:
                    self._take(row, col, self.at_rest[row, col])
            if starting[col]:
                assert self.shifts[col] == self.rows, "two folds leave a column at once"
                self.shifts[col] = 0
            if self.shifts[col] < self.rows:
                self.bottom[col] = self.waiting[-1][col][0]

    def _shift(self, col: int) -> None:
        # The rows above the number of shifts so far have nothing left of this fold.
        first = self.shifts[col]
        heads = [self.waiting[row][col].popleft() for row in range(first, self.rows)]
        for row, head in zip(range(first + 1, self.rows), heads, strict=False):
            self.waiting[row][col].appendleft(head)
            self.hops += int(head["real"])
        self.shifts[col] += 1

    def _take(self, row: int, col: int, result: Records) -> None:
        self.waiting[row][col].append(result.copy())
        self.hops += int(result["real"])
        assert len(self.waiting[row][col]) <= self.places, "a row finished before its drain register was free"
