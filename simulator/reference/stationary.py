"""The array that holds one operand: weights (ws) or inputs (is) rest, the other moves right, sums move down.

The stationary operand is shifted in from the top, row by row, into the bank that the stream does not use; the
shift and the change of banks run through the array as the same wave as the stream, so that a column that still
works for the last fold is never disturbed.  Where operands come from is systolic.py's.
"""

from __future__ import annotations

import numpy as np

from ..machines.systolic import Spec
from .registers import COLUMN, SUM, DelayLine, Records, Skew, bubbles, chosen, entered, from_above, from_left, row_type


class StationaryArray:
    """R x C elements; `edge` is one rising clock edge.  Counters add up what the registers took."""

    def __init__(self, spec: Spec, lanes: int) -> None:
        grid = rows, cols = spec.rows, spec.cols
        across, down = spec.activation_hop_registers, spec.psum_hop_registers
        self.banks = [bubbles(grid, COLUMN) for _ in range(spec.weight_buffers)]
        # A row passes the stationary operand on as late as it passes sums on: `down` registers behind the bank.
        self.between_banks = DelayLine(down, grid, COLUMN)
        self.row_skew = Skew(np.arange(rows) * down, row_type(lanes))
        self.input_register = DelayLine(spec.input_register, rows, row_type(lanes))
        self.right = DelayLine(across, grid, row_type(lanes))
        self.push_skew = Skew(spec.input_register + np.arange(cols) * across, COLUMN)
        lag = spec.input_register + np.arange(rows)[:, None] * down + np.arange(cols)[None] * across
        self.shift_wave = Skew(lag.reshape(-1), np.dtype([("fold", "i8")]))
        self.multiplier = DelayLine(spec.multiplier_latency, grid, SUM)
        self.sums = DelayLine(down, grid, SUM)
        # Below the array a sum that is not yet whole moves to the right, as late as the stream does.
        self.sideways = DelayLine(across, cols, SUM)
        self.output_register = DelayLine(spec.output_register, cols, SUM)
        self.grid, self.lanes = grid, lanes
        self.slots = self.useful = self.row_hops = self.column_hops = self.sum_hops = 0

    def edge(self, stream: Records, push: Records) -> Records:
        """One edge: a vector for the rows and a row for the banks (bubbles where there is none).

        Returns SUM records, one per column, that are visible after the edge.
        """
        at_edge = self.row_skew.feed(stream)
        inputs = from_left(self.input_register.out(at_edge), self.right)
        held = self._held(inputs["fold"])
        products = self._multiply(inputs, held)
        ready = self.multiplier.out(products)

        above = from_above(bubbles(self.grid[1], SUM), self.sums)
        above["fold"][0], above["time"][0] = ready["fold"][0], ready["time"][0]  # the top row adds to nothing
        assert (above[["fold", "time"]] == ready[["fold", "time"]]).all(), "sums out of step"
        sums = ready.copy()
        sums["value"] += above["value"]
        leaving = self._added_up()
        to_right = bubbles(self.grid[1], SUM)
        moves = leaving["real"] & ~leaving["last"]
        to_right[1:][moves[:-1]] = leaving[:-1][moves[:-1]]
        leaving["real"] &= leaving["last"]

        self._shift_banks(push)
        self.input_register.clock(at_edge)
        self.right.clock(inputs)
        self.multiplier.clock(products)
        self.sums.clock(sums)
        self.sideways.clock(to_right)
        self.output_register.clock(leaving)
        self.row_hops += entered(self.input_register, "fetched") + entered(self.right, "fetched")
        self.sum_hops += sum(entered(line, "real") for line in (self.sums, self.sideways, self.output_register))
        visible: Records = self._added_up()
        visible["real"] &= visible["last"]
        return self.output_register.out(visible)

    def _added_up(self) -> Records:
        """What stands at the bottom of each column, with what came from the column to the left."""
        bottom, carried = self.sums.stages[-1][-1].copy(), self.sideways.stages[-1]
        comes = carried["fold"] >= 0
        assert (bottom[comes][["fold", "time"]] == carried[comes][["fold", "time"]]).all(), "sums out of step"
        bottom["value"] += np.where(comes, carried["value"], 0)
        return np.asarray(bottom)

    def _held(self, folds: np.ndarray) -> Records:
        """The bank that each element works with; the stream brings the bank's number with it."""
        if len(self.banks) == 1:
            return self.banks[0]
        return np.where(folds % 2 == 0, self.banks[0], self.banks[1])

    def _multiply(self, inputs: Records, held: Records) -> Records:
        busy = inputs["fold"] >= 0
        assert (held["fold"][busy] == inputs["fold"][busy]).all(), "a stream met another fold's stationary operand"
        value, live = chosen(inputs["value"], held["choice"]), chosen(inputs["live"], held["choice"])
        slot = busy & inputs["real"] & held["real"]
        self.slots += int(slot.sum())
        self.useful += int((slot & live & held["live"]).sum())
        products = bubbles(self.grid, SUM)
        products["fold"], products["time"] = inputs["fold"], inputs["time"]
        products["value"] = np.where(slot, value * held["value"], 0)
        products["real"] = busy & held["column"]
        products["last"] = held["last"]
        return products

    def _shift_banks(self, push: Records) -> None:
        command = bubbles(self.grid[0] * self.grid[1], self.shift_wave.history.dtype)
        command["fold"] = push["fold"][0]
        loading = self.shift_wave.feed(command)["fold"].reshape(self.grid)
        above = from_above(self.push_skew.feed(push), self.between_banks)
        passed_on = bubbles(self.grid, COLUMN)
        for number, bank in enumerate(self.banks):
            here = (loading >= 0) & (loading % len(self.banks) == number)
            passed_on[here] = bank[here]
            bank[here] = above[here]
        # What the bank held of an earlier fold moves down ahead of the load and is worth nothing.
        self.column_hops += int(((loading >= 0) & (above["fold"] == loading) & above["column"]).sum())
        self.between_banks.clock(passed_on)
