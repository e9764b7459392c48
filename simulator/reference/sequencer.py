"""The controller of the array: which vector and which stationary row enter at the coming edge, and why not.

It sees only what has happened: loads that arrived, folds whose last result is visible, halves that are free.
Each idle cycle gets its cause here (docs/model.md 1.3 and 1.6).  Read systolic.py for the memory beside it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..counts import Count
from ..hardware import Machine
from .program import Fold, Program

STALLS = {"weight": Count.STALL_WEIGHT, "input": Count.STALL_INPUT,
          "psum": Count.STALL_PSUM, "output": Count.STALL_OUTPUT}


class Sequencer:
    """Starts folds in order.  `cycles` collects what each cycle was spent on."""

    def __init__(self, machine: Machine, program: Program, edges: Callable[[Fold, int], int]) -> None:
        self.edges = edges  # that the banks need for a vector of a fold
        self.spent = 0  # on the vector that is being read
        self.spec, self.program, self.folds = machine.array, program, program.folds
        self.stationary = {"ws": "weight", "is": "input", "os": None}[machine.array.dataflow]
        # With one tile per group and nothing to wait for, an ideal memory has every operand at once.
        self.ideal = machine.memory.memory == "ideal"
        self.output_halves = 2 if machine.memory.output_double_buffered else 1
        self.cycles: dict[Count, int] = dict.fromkeys(STALLS.values(), 0)
        self.bias_left = machine.array.rows if machine.array.preload_bias else 0
        self.started = 0  # folds whose stream has started
        self.position = 0  # vectors of the current fold that have entered
        self.streaming = False
        self.start = self.end = 0  # of the last stream: its first edge, and the edge after its last
        self.pushed_folds = self.pushed_rows = 0
        self.results_due: dict[int, int] = {}  # per started fold: results to come; folds overlap by the array's skew
        self.completed = 0
        self.places = machine.array.max_in_flight - 1 if machine.array.max_in_flight else 2**62
        self.requests = self.leaving = 0  # in flight; done, and popped at the coming edge
        self.waited, self.waited_for = 0, Count.COLD_FILL

    @property
    def done(self) -> bool:
        """True when the last result of the last fold is visible."""
        return self.completed == len(self.folds)

    def decide(self, now: int) -> tuple[tuple[Fold, int] | None, tuple[Fold, int] | None]:
        """(fold, time) of the vector and (fold, array row) of the stationary row that enter at edge `now`."""
        missing = self._missing() if not self.streaming and self.started < len(self.folds) else []
        vector = self._vector(now, missing)
        bias = self._bias_row()
        row = None if bias else self._stationary_row()
        cause = self._cause(now, vector is not None, bias or row is not None, missing)
        if cause is not None:
            self.cycles[cause] = self.cycles.get(cause, 0) + 1
        return vector, row

    def close_edge(self, now: int) -> Fold | None:
        """After edge `now`: requests that were done are popped; returns the fold whose stream ended with it."""
        self.requests -= self.leaving
        self.leaving = 0
        if self.streaming and self.position == len(self.folds[self.started - 1].stream):
            self.streaming, self.end = False, now + 1
            return self.folds[self.started - 1]
        return None

    def collected(self, fold: Fold, time: int, last_column: bool) -> None:
        """A result of a fold, real or of a row or column that is not in use, has become visible."""
        self.results_due[fold.number] -= 1
        if last_column and self.stationary and self._ends_request(fold, time):
            self.leaving += 1
        while self.results_due.get(self.completed) == 0:
            self.completed += 1

    def _ends_request(self, fold: Fold, time: int) -> bool:
        return (time + 1) % self._rows_per_request == 0 or time + 1 == len(fold.stream)

    @property
    def _rows_per_request(self) -> int:
        return int(self.spec.rows_per_request or self.spec.rows)

    def _vector(self, now: int, missing: list[str]) -> tuple[Fold, int] | None:
        if not self.streaming and (self.started == len(self.folds) or missing or not self._array_free(now)):
            return None
        if self.stationary and self._at_request():
            if self.requests >= self.places:
                return None
            self.requests += 1
        if not self.streaming:
            self._begin(now)
        self.spent += 1
        if self.spent < self.edges(self.folds[self.started - 1], self.position):
            return None
        self.spent = 0
        self.position += 1
        return self.folds[self.started - 1], self.position - 1

    def _at_request(self) -> bool:
        return not self.streaming or self.position % self._rows_per_request == 0

    def _begin(self, now: int) -> None:
        fold = self.folds[self.started]
        cause = Count.COLD_FILL if fold.number == 0 else self.waited_for
        self.cycles[cause] = self.cycles.get(cause, 0) + self.waited
        self.waited = 0
        self.streaming, self.start, self.position = True, now, 0
        self.started += 1
        self.results_due[fold.number] = self.spec.cols * (len(fold.stream) if self.stationary else self.spec.rows)

    def _array_free(self, now: int) -> bool:
        """Whether the array itself lets the next fold start at edge `now`."""
        if self.stationary:
            return True  # its stationary operand is in: the bank was free
        if self.started == 0:
            return self.bias_left == 0
        if self.spec.drain == "overlapped":
            # A column's results leave in R edges, so folds must not end closer together than that.
            fold = self.folds[self.started]
            length = sum(self.edges(fold, position) for position in range(len(fold.stream)))
            return bool(now + length >= self.end + self.spec.rows)
        return self.completed == self.started

    def _missing(self) -> list[str]:
        """What the next fold waits for, in the order in which a tie is charged."""
        fold = self.folds[self.started]
        step = self.program.steps[fold.step]
        assert step.weight is not None
        assert step.input is not None  # a step with folds has both
        absent = {"weight": not step.weight.arrived, "input": not step.input.arrived}
        if self.stationary:
            absent[self.stationary] = self.pushed_folds <= fold.number
        output = step.output
        absent["psum"] = output.returns and not output.arrived
        older = output.number - self.output_halves
        absent["output"] = not self.ideal and older >= 0 and not self.program.outputs[older].stored
        return [name for name, is_absent in absent.items() if is_absent]

    def _bias_row(self) -> bool:
        """Whether a row of bias enters: once, ahead of the first stationary row, or of the first stream (os)."""
        if not self.bias_left or not self.folds or (self.stationary and not self._bank_free(0)):
            return False
        self.bias_left -= 1
        return True

    def _stationary_row(self) -> tuple[Fold, int] | None:
        """The stationary row that is shifted in at this edge."""
        number = self.pushed_folds
        if not self.stationary or number == len(self.folds) or (self.pushed_rows == 0 and not self._bank_free(number)):
            return None
        fold, row = self.folds[number], self.spec.rows - 1 - self.pushed_rows
        self.pushed_rows += 1
        if self.pushed_rows == self.spec.rows:
            self.pushed_folds, self.pushed_rows = number + 1, 0
        return fold, row

    def _bank_free(self, number: int) -> bool:
        step = self.program.steps[self.folds[number].step]
        load = step.weight if self.stationary == "weight" else step.input
        assert load  # a step with folds has both
        if not load.arrived:
            return False
        return self.started >= number if self.spec.weight_buffers == 2 else self.completed >= number

    def _cause(self, now: int, vector: bool, filling: bool, missing: list[str]) -> Count | None:
        """What this cycle is spent on; None where that is known only when the wait is over."""
        if vector:
            return Count.COMPUTE
        if self.started == len(self.folds) and not self.streaming:
            return Count.STALL_OUTPUT if self.done else Count.DRAIN
        if self.streaming:
            return Count.BANK_CONFLICT if self.spent else Count.QUEUE
        if missing:
            self.waited_for = STALLS[missing[0]]
        if self.started == 0:
            if filling:
                return Count.FILL
        elif self.stationary:
            if self.spec.weight_buffers == 2 and now < self.start + self.spec.rows:
                return Count.WEIGHT_SHIFT
            if self.spec.weight_buffers == 1 and self.completed < self.started:
                return Count.DRAIN
            if self.spec.weight_buffers == 1 and filling:
                return Count.WEIGHT_SHIFT
        elif not self._array_free(now):
            return Count.DRAIN
        if not missing:
            return Count.QUEUE
        self.waited += 1
        return None
