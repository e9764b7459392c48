"""Bank conflicts word by word: how many edges the buffers need for the words of one vector of a stream.

Each word goes to the bank of its address in the layer's own tensor; a bank serves `bank_ports` words an edge.  Loads of
the stationary operand, the drain and the DMA are left out.  Read systolic.py for who asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..hardware import Machine
from ..trace import LayerTrace
from ..workload import Gemm
from .operands import Operands
from .program import Fold


class Banks:
    """The banks of the three buffers."""

    def __init__(self, layer: LayerTrace, machine: Machine, operands: Operands) -> None:
        self.machine, self.operands = machine, operands
        shape = operands.shape
        self.channels = operands.long_k // shape.window
        self.line = self.channels if isinstance(layer.operation, Gemm) else shape.in_w

    def edges(self, fold: Fold, position: int) -> int:
        """Edges that vector `position` of the fold takes, at least one."""
        memory = self.machine.memory
        words: dict[str, Counter[int]] = {"input": Counter(), "weight": Counter(), "output": Counter()}
        for operand, address, line in self._words(fold, position):
            banks = getattr(memory, f"{operand}_banks")
            if banks:
                words[operand][(address // line if memory.bank_interleave == "row" else address) % banks] += 1
        busiest = max((number for counter in words.values() for number in counter.values()), default=0)
        return max(1, -(-busiest // memory.bank_ports))

    def _words(self, fold: Fold, position: int) -> Iterator[tuple[str, int, int]]:
        """(operand, address, words in a line of its tensor) of everything that one vector reads or accumulates."""
        flow, columns = self.machine.array.dataflow, self.operands.n
        at = fold.stream[position]
        if flow == "is":
            yield from (("weight", k * columns + at, columns) for k in fold.rows)
            yield from (("output", m * columns + at, columns) for m in fold.cols)
            return
        if flow == "ws":
            candidates, fetched = self.operands.bundles(fold.rows)
            for row, count in zip(candidates, fetched, strict=True):
                yield from self._inputs(at, row[:count].tolist())
            yield from (("output", at * columns + n, columns) for n in fold.cols)
            return
        candidates, fetched = self.operands.bundles(fold.stream)
        for pixel in fold.rows:
            yield from self._inputs(pixel, candidates[position][: fetched[position]].tolist())
        yield from (("weight", at * columns + n, columns) for n in fold.cols)

    def _inputs(self, pixel: int, rows: list[int]) -> Iterator[tuple[str, int, int]]:
        shape = self.operands.shape
        for k in rows:
            image, channel, row, col = self.operands.address[:, pixel, k].tolist()
            if row >= 0 and col >= 0:
                yield "input", ((image * self.channels + channel) * shape.in_h + row) * shape.in_w + col, self.line
