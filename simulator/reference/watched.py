"""The systolic twin with its registers watched: what stands in every processing element after every clock edge.

A frame is read out of the twin's own registers, and operands carry their places in the GEMM as values, so that a
picture of the frames shows what really moved.  The memory is left out.  Read ../tile_view.py for
the small GEMM that is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..trace import LayerTrace
from .operands import prepare
from .output_stationary import OutputStationaryArray
from .program import Fold, compile_program
from .registers import Records
from .stationary import StationaryArray
from .systolic import _Twin

Ints = NDArray[np.int64]
NONE = -1


@dataclass(frozen=True)
class Frame:
    """The array after an edge, row by row; every field but cause, entering and left is a list over rows x cols.

    product: (m, k, n, input is nonzero, weight is nonzero, first of the lanes, lanes) of this cycle's multiplication,
    where the lanes are the rows of k among which an n:m weight chooses; n (m, for is) is -1 where an operand only
    passes; () for none.  banks: per bank of resting operands the operand's number (`numbers`), 0 for a zero, -1 for
    none.  sums: number of the sum (m * N + n) in the element's register, leaving: that of a result on its way out of
    an output-stationary array; -1 for none.  entering: (fold, time) of the vector that enters at this edge, () for
    none.  left: (m, n) of the results that became visible.
    """

    cause: str
    entering: tuple[int, ...]
    product: list[tuple[int, ...]]
    banks: list[list[int]]
    sums: list[int]
    leaving: list[int]
    left: list[tuple[int, int]]


@dataclass(frozen=True)
class Film:
    """Frames of a layer, a cycle each.

    cycles_by_cause, useful and output are the twin's; per_element: useful multiplications of every element.
    """

    frames: list[Frame]
    cycles_by_cause: dict[str, int]
    useful: int
    per_element: Ints
    output: Ints
    pattern: tuple[int, int]  # n:m of the weights, 1 and 1 where they are not compacted


class _Stationary(StationaryArray):
    """Keeps what was multiplied at the last edge."""

    seen: tuple[Records, Records]

    def _multiply(self, inputs: Records, held: Records) -> Records:
        self.seen = inputs.copy(), held.copy()
        return super()._multiply(inputs, held)


class _OutputStationary(OutputStationaryArray):
    """Keeps what was multiplied at the last edge."""

    seen: tuple[Records, Records]

    def _multiply(self, left: Records, top: Records) -> Records:
        self.seen = left.copy(), top.copy()
        return super()._multiply(left, top)


class _Watched(_Twin):
    """Collects results by the edge at which they became visible, and what enters."""

    left: list[tuple[int, int]]
    entering: tuple[int, ...]

    def _accumulate(self, fold: Fold, m: int, n: int, value: int) -> None:
        self.left.append((m, n))
        super()._accumulate(fold, m, n, value)

    def _array_edge(self, vector: tuple[Fold, int] | None, row: tuple[Fold, int] | None) -> Records:
        self.entering = (vector[0].number, vector[1]) if vector else ()
        return super()._array_edge(vector, row)


def film(layer: LayerTrace, machine: Machine, inputs: Ints, weights: Ints) -> Film:
    """Step one GEMM on ideal memory and keep every cycle.

    inputs: int64[m, k] and weights: int64[k, n]; entries that are not zero must differ (`numbers`), for a resting
    operand is told by its value.
    """
    operands = prepare(layer, machine, inputs, weights)
    program = compile_program(operands, machine, Tiling(operands.m, operands.k, operands.n))
    twin = _Watched(layer, machine, operands, program)
    stationary = machine.array.dataflow != "os"
    watched = (_Stationary if stationary else _OutputStationary)(machine.array, operands.lanes)
    twin.array = watched
    frames: list[Frame] = []
    useful = np.zeros((machine.array.rows, machine.array.cols), dtype=np.int64)
    before = dict(twin.sequencer.cycles)
    now = 0
    while True:
        twin.left, twin.entering = [], ()
        watched.seen = (np.zeros(0, dtype=[("fold", "i8")]),) * 2
        if twin.step(now):
            break
        spent = [cause for cause, cycles in twin.sequencer.cycles.items() if cycles != before.get(cause, 0)]
        before = dict(twin.sequencer.cycles)
        frames.append(_frame(twin, watched, spent, useful))
        now += 1
    counts = twin.final_counts()
    return Film(frames, {Count(c).name.lower(): n for c, n in twin.sequencer.cycles.items() if n},
                int(counts[Count.USEFUL_MACS]), useful, twin.output(), (operands.keep, operands.of))


def numbers(mask: NDArray[np.bool_]) -> Ints:
    """int64 in the mask's shape: 1 + its place where True, 0 where False."""
    return np.where(mask, 1 + np.arange(mask.size, dtype=np.int64).reshape(mask.shape), 0)


def _lanes(twin: _Twin, fold: Fold) -> Ints:
    """int64[rows or vectors, lanes]: rows of k among which the weights of an array row (os: a vector) choose, or -1."""
    if fold.placement is not None:
        return fold.placement.lanes
    along = fold.stream if twin.machine.array.dataflow == "os" else fold.rows
    return twin.operands.bundles(along)[0]


def _frame(twin: _Watched, array: _Stationary | _OutputStationary, spent: list[Count], useful: Ints) -> Frame:
    grid = useful.shape
    products: list[tuple[int, ...]] = [()] * (grid[0] * grid[1])
    side, other = array.seen
    if side.shape == grid:
        for row, col in zip(*np.nonzero(side["fold"] >= 0), strict=True):
            products[row * grid[1] + col] = _product(twin, side[row, col], other[row, col], int(row), int(col))
        for row, col in np.ndindex(*grid):
            at = products[row * grid[1] + col]
            useful[row, col] += bool(at) and min(at[:3]) >= 0 and bool(at[3] and at[4])
    banks: list[list[int]] = []
    leaving = [NONE] * (grid[0] * grid[1])
    if isinstance(array, _Stationary):
        banks = [np.where(bank["real"], bank["value"], NONE).reshape(-1).tolist() for bank in array.banks]
        sums = array.sums.stages[0]
    else:
        sums = array.finished.stages[0]  # results only; running sums follow from the products
        if array.drain is not None:
            for row, col in np.ndindex(*grid):
                waiting = array.drain.waiting[row][col]
                if waiting and waiting[0]["real"]:
                    leaving[row * grid[1] + col] = _sum(twin, waiting[0], row, col)
    at_rest = [_sum(twin, sums[row, col], row, col) for row, col in np.ndindex(*grid)]
    cause = spent[0].name.lower() if spent else "wait"
    return Frame(cause, twin.entering, products, banks, at_rest, leaving, list(twin.left))


def _product(twin: _Twin, side: Records, other: Records, row: int, col: int) -> tuple[int, ...]:
    """Frame.product of an element in which something moves."""
    fold, time = twin.program.folds[int(side["fold"])], int(side["time"])
    if not side["real"]:
        return ()
    flow = twin.machine.array.dataflow
    if flow == "is":
        m, k, n = (fold.cols[col] if other["real"] else NONE), fold.rows[row], fold.stream[time]
        return m, k, n, int(bool(other["live"])), int(bool(side["live"][0])), k, 1
    lanes = _lanes(twin, fold)[row if flow == "ws" else time]
    choice = int(other["choice"]) if other["real"] else 0
    m = fold.stream[time] if flow == "ws" else fold.rows[row]
    if not other["real"]:
        n = NONE
    elif fold.placement is not None:
        n = int(fold.placement.outputs[col])
    else:
        n = fold.cols[col]
    there = lanes[lanes >= 0]
    return (m, int(lanes[choice]), n, int(bool(side["live"][choice])), int(bool(other["live"])),
            int(there[0]), len(there))


def _sum(twin: _Twin, record: Records, row: int, col: int) -> int:
    """m * N + n of a sum, -1 where the register holds a bubble or what nobody needs."""
    if record["fold"] < 0 or not record["real"]:
        return NONE
    fold = twin.program.folds[int(record["fold"])]
    m, n = twin._place(fold, int(record["time"]), int(record["row"]), col)
    return m * twin.operands.n + n
