"""simulate_chip(parts) -> ChipReport: several arrays, each with a network of its own, on one DRAM.

The memory controller divides its time into equal slots, one for every array that has work left, so each sees 1/P of
the bandwidth; a layer keeps the part with which it began.  Left out: slots that an array does not use and another
could, and arrays that work on one layer together, which is machines/multi_array.py.  The text is docs/networks.md.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .engine import add_totals, simulate
from .errors import InputError
from .hardware import Machine
from .report import LayerReport, OperatorReport, Report, Total
from .trace import Trace
from .vector import DRAM_BYTES

DRAM = ("memory", "dram_bytes_per_cycle", "dram_latency_cycles", "dram_burst_bytes", "dram", "dram_channels",
        "dram_address_mapping", "dram_window")
"""Fields of the memory that describe the DRAM: one chip has one."""


@dataclass(frozen=True)
class OnChip:
    """One array: its report beside the others, the cycle in which it was done, and its cycles with the DRAM alone."""

    report: Report
    alone_cycles: int

    @property
    def finish_cycles(self) -> int:
        """All arrays start in cycle 0 and none waits for another, so it is done after its own cycles."""
        return self.report.cycles

    @property
    def slowdown(self) -> float:
        """What contention costs it: cycles over cycles alone."""
        return self.finish_cycles / self.alone_cycles if self.alone_cycles else 1.0


@dataclass(frozen=True)
class ChipReport:
    """The arrays in the order in which they were given."""

    arrays: Sequence[OnChip]

    @property
    def makespan_cycles(self) -> int:
        """Cycles until the last array is done."""
        return max(one.finish_cycles for one in self.arrays)

    @property
    def energy_pj(self) -> float:
        """Energy of all arrays in picojoules."""
        return sum(one.report.energy_pj for one in self.arrays)

    @property
    def dram_bytes(self) -> int:
        """Bytes that crossed the shared DRAM's pins."""
        return sum(int(one.report.total.counts[item]) for one in self.arrays for item in DRAM_BYTES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the whole, and every array's report as `simulate` has it."""
        return {"makespan_cycles": self.makespan_cycles, "dram_bytes": self.dram_bytes, "energy_pj": self.energy_pj,
                "arrays": [{"finish_cycles": one.finish_cycles, "alone_cycles": one.alone_cycles,
                            "slowdown": one.slowdown, **one.report.to_dict()} for one in self.arrays]}


def simulate_chip(parts: Sequence[tuple[Trace, Machine]]) -> ChipReport:
    """Every array's trace on its machine, all from cycle 0 on, with one DRAM between them.

    Raises InputError where the machines' clocks or DRAM differ, and for a machine whose layers depend on one another
    (keep_outputs_on_chip, several arrays on a link).
    """
    _check([machine for _, machine in parts])
    arrays = [_Array(trace, machine) for trace, machine in parts]
    waiting = [(0, number) for number in range(len(arrays))]
    while waiting:
        now, number = heapq.heappop(waiting)
        end = arrays[number].run_phase(now, busy=1 + len(waiting))
        if end is not None:
            heapq.heappush(waiting, (end, number))
    return ChipReport(tuple(array.done() for array in arrays))


def _check(machines: Sequence[Machine]) -> None:
    if not machines:
        raise InputError("no arrays", where="chip", expected="at least one trace and machine")
    first, errors = machines[0], []
    for machine in machines:
        where = f"chip, machine {machine.name!r}"
        for name in ("clock_hz", *DRAM):
            mine, wanted = (getattr(one if name == "clock_hz" else one.memory, name) for one in (machine, first))
            if mine != wanted:
                errors.append(InputError(f"{name} = {mine!r}", where=where,
                                         expected=f"{wanted!r} as on {first.name!r}: the arrays share one DRAM"))
        if machine.memory.keep_outputs_on_chip:
            errors.append(InputError("keep_outputs_on_chip = True", where=where, expected="false"))
        if getattr(machine.array, "arrays", 1) > 1:
            errors.append(InputError(f"arrays = {machine.array.arrays}", where=where, expected="1",
                                     fix="give each array a trace, or simulate it alone with shared_dram"))
    if errors:
        raise InputError.collect(errors)


@dataclass
class _Array:
    """An array under way: what it would do with each part of the DRAM, and what it has done."""

    trace: Trace
    machine: Machine
    known: dict[int, Report] = field(default_factory=dict)
    layers: list[LayerReport] = field(default_factory=list)
    operators: list[OperatorReport] = field(default_factory=list)

    def beside(self, busy: int) -> Report:
        """The whole network with 1/busy of the DRAM."""
        if busy not in self.known:
            from .machines.multi_array_memory import with_part_of_memory

            self.known[busy] = simulate(self.trace, with_part_of_memory(self.machine, busy), compare_dense=False)
        return self.known[busy]

    def run_phase(self, now: int, busy: int) -> int | None:
        """Run the next layer with its operators from cycle `now`; returns its end, None where all are done."""
        if len(self.layers) == len(self.trace.layers):
            return None
        report = self.beside(busy)
        layer = report.layers[len(self.layers)]
        here = (layer.name,) if self.layers else (layer.name, "")  # with the first layer goes what ran before it
        own = [one for one in report.operators if _runs_with(one) in here]
        self.layers.append(layer)
        self.operators += own
        return now + layer.cycles + sum(one.total.cycles for one in own)

    def done(self) -> OnChip:
        """The array's report, put together from its layers as they ran."""
        order = {one.operator.name: number for number, one in enumerate(self.beside(1).operators)}
        layers = [dataclasses.replace(one, total=self._clocked(one.total)) for one in self.layers]
        operators = [dataclasses.replace(one, total=self._clocked(one.total))
                     for one in sorted(self.operators, key=lambda one: order[one.operator.name])]
        alone = self.beside(1)
        total = add_totals([*layers, *operators], self.machine)
        report = dataclasses.replace(alone, layers=layers, operators=operators, total=total)
        return OnChip(report, alone.cycles)

    def _clocked(self, total: Total) -> Total:
        """With the array's own clock: a part of a DRAM with timings is a whole one beside a faster clock."""
        return dataclasses.replace(total, clock_hz=self.machine.clock_hz)


def _runs_with(one: OperatorReport) -> str:
    """The layer that an operator belongs to in time; "" where it runs before any."""
    return one.operator.producer if one.how == "fused" else one.operator.after
