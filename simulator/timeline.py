"""When a network's layers load, compute and store on a machine: events of every layer and tile, one after the other.

Events come from the engine's own time lines (recording.py) and sum to the report's counts: cycles by cause, DRAM bytes,
multiplications.  A layer of too many steps, or on a model without steps, gets one event per cause instead.  Read
chrome_trace.py for the file that a trace viewer opens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import dram, grouped, precision
from . import steps as steps_module
from .counts import CAUSES, Count
from .hardware import Machine
from .machines import model
from .recording import ARRAY, CAUSE, Event, record_array, record_steps, tile_counts
from .report import LayerReport, OperatorReport, Report
from .steps import Steps
from .trace import LayerTrace

MOST_EVENTS = 100_000
EVENTS_PER_STEP = 8  # about: the step, its causes, its transfers and the tiles in the buffers
STALLS = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_OUTPUT)


@dataclass(frozen=True)
class Span:
    """A layer or operator in the network's time; events: times counted from `begin`.

    detailed: False where the events are one per cause, because the model has no steps or there would be too many.
    steps: of the layer, 0 where the model has none.
    """

    name: str
    kind: str
    begin: int
    cycles: int
    events: Sequence[Event]
    detailed: bool
    steps: int
    slots: int  # multiplications, switched or gated


@dataclass(frozen=True)
class Timeline:
    """A report's layers and operators in the order in which they run."""

    machine: Machine
    spans: Sequence[Span]

    @property
    def cycles(self) -> int:
        """End of the last; the report's cycles."""
        return self.spans[-1].begin + self.spans[-1].cycles if self.spans else 0

    @property
    def coarse(self) -> list[str]:
        """Layers that have one event per cause although they take steps."""
        return [span.name for span in self.spans if span.kind == "layer" and span.cycles and not span.detailed]

    def busy(self) -> Iterator[tuple[int, int, int]]:
        """(begin, end, multiplications) of every step, or of a whole layer where its steps are not known."""
        for span in self.spans:
            steps = [event for event in span.events if event.track == ARRAY and "slots" in event.args]
            for event in steps:
                yield span.begin + event.begin, span.begin + event.end, event.args["slots"]
            if not steps and span.slots:
                yield span.begin, span.begin + span.cycles, span.slots


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a layer's events are found: one piece per product that the machine runs by itself."""

    pieces: Sequence[tuple[LayerTrace, int, Steps | None]]  # layer, steps, and what was played

    @property
    def steps(self) -> int:
        return sum(steps for _, steps, _ in self.pieces)


def timeline(report: Report, most_events: int = MOST_EVENTS) -> Timeline:
    """Events of the whole report; layers of the most steps are the first to go without when there would be too many."""
    plans = [_plan(layer, report.machine) for layer in report.layers]
    room, detailed = most_events // EVENTS_PER_STEP, set()
    for index in sorted(range(len(plans)), key=lambda i: (plans[i].steps, i)):
        room -= plans[index].steps
        if plans[index].steps and room >= 0:
            detailed.add(index)
    spans: list[Span] = []
    now = 0
    after: dict[str, list[OperatorReport]] = {}
    for operator in report.operators:
        after.setdefault(operator.operator.after, []).append(operator)
    parts: list[tuple[int, LayerReport | OperatorReport]] = [(-1, operator) for operator in after.pop("", [])]
    for index, layer in enumerate(report.layers):
        parts.append((index, layer))
        parts += [(-1, operator) for operator in after.pop(layer.name, [])]
    parts += [(-1, operator) for rest in after.values() for operator in rest]
    for index, part in parts:
        events: list[Event] | None = None
        if isinstance(part, LayerReport):
            if index in detailed:
                events = _events(part, plans[index], report.machine)
            name, kind, steps = part.name, "layer", plans[index].steps
        else:
            name, kind, steps = part.operator.name, "operator", 0
        known = events is not None
        events = _by_cause(part) if events is None else _with_startup(part, events)
        slots = int(part.total.counts[Count.ISSUED_MACS] + part.total.counts[Count.GATED_MACS])
        spans.append(Span(name, kind, now, part.total.cycles, events, known, steps, slots))
        now += part.total.cycles
    return Timeline(report.machine, spans)


def _plan(report: LayerReport, machine: Machine) -> _Plan:
    """The steps of a layer, as many as the machine's model plays; none where it has no time line of its own."""
    layer = report.layer
    if report.executed_as == "removed" or (machine.type_rates and precision.rate(layer, machine) != 1):
        return _Plan(())
    parts = [layer]
    if grouped.in_groups(layer.operation):
        if grouped.supports(machine, grouped.as_convolution(layer.operation)):
            parts = [grouped.on_planes(layer)]
        else:
            parts = list(grouped.one_by_one(layer))
    if machine.model == "systolic":
        return _Plan([(part, _array_steps(part, report, machine), None) for part in parts])
    played = [_played(part, report, machine) for part in parts]
    if any(steps is None for steps in played):
        return _Plan(())
    return _Plan([(part, len(steps or ()), steps) for part, steps in zip(parts, played, strict=True)])


def _array_steps(layer: LayerTrace, report: LayerReport, machine: Machine) -> int:
    from .machines import systolic, systolic_kernel, tiling_search

    gemm = systolic.physical_gemm(layer, machine)
    if gemm.removed:
        return 0
    tiles = tiling_search.Problem.of(gemm, layer, machine).tiles(report.tiling)
    return gemm.groups * math.prod(tile_counts(systolic_kernel, tiles))


def _played(layer: LayerTrace, report: LayerReport, machine: Machine) -> Steps | None:
    """The steps that the model played through the memory for this layer's tiling; None where it plays none."""
    if machine.memory.memory == "ideal":
        return None
    heard: list[Steps] = []
    token = steps_module.PLAYED.set(heard)
    try:
        counts = model(machine.model).run(layer, machine, report.tiling).counts
    finally:
        steps_module.PLAYED.reset(token)
    cycles = int(counts[list(CAUSES)].sum()) - int(counts[list(STALLS)].sum())
    return next((steps for steps in reversed(heard) if steps.total_cycles == cycles), None)


def _events(report: LayerReport, plan: _Plan, machine: Machine) -> list[Event]:
    """Events of a layer's pieces, one after the other."""
    found: list[Event] = []
    now = 0
    for layer, _, played in plan.pieces:
        if played is None:
            events = _array_events(layer, report, machine)
        else:
            events = _steps_events(played, report, machine)
        found += [_later(event, now) for event in events]
        now = max((event.end for event in found), default=0)
    return found


def _array_events(layer: LayerTrace, report: LayerReport, machine: Machine) -> list[Event]:
    from .machines import systolic, systolic_kernel, tiling_search

    gemm = systolic.physical_gemm(layer, machine)
    if gemm.removed:
        return []
    problem = tiling_search.Problem.of(gemm, layer, machine)
    tiles = problem.tiles(report.tiling)
    return record_array(systolic_kernel, problem.parameters(report.tiling), tiles, machine.memory,
                        _array_steps(layer, report, machine))


def _steps_events(played: Steps, report: LayerReport, machine: Machine) -> list[Event]:
    """Multiplications are known for the layer: a step has its share of them by its cycles."""
    counts = report.total.counts
    slots, total = int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS]), played.total_cycles
    share, before, done = [], 0, 0
    for cycles in played.cycles.tolist():
        done += cycles
        upto = slots * done // total if total else 0
        share.append(upto - before)
        before = upto
    return record_steps(machine.memory, *dram.arguments(machine.memory), steps_module.parameters(machine.memory),
                        (played.weight_bytes, played.input_bytes, played.output_bytes, played.cycles), share)


def _later(event: Event, cycles: int) -> Event:
    return Event(event.track, event.name, event.begin + cycles, event.cycles, event.args)


def _with_startup(part: LayerReport | OperatorReport, events: Sequence[Event]) -> list[Event]:
    """The launch comes first; where a convention reports fewer cycles than there are, the last event is shorter."""
    startup = int(part.total.counts[Count.STARTUP])
    found = [Event(CAUSE, "startup", 0, startup)] if startup else []
    found += [_later(event, startup) for event in events]
    end = max((event.end for event in found), default=0)
    if part.total.cycle_offset:
        found = [Event(e.track, e.name, e.begin, e.cycles + part.total.cycle_offset, e.args)
                 if e.track == CAUSE and e.end == end else e for e in found]
    return found


def _by_cause(part: LayerReport | OperatorReport) -> list[Event]:
    """One event per cause, in the order of the causes."""
    found: list[Event] = []
    now = 0
    for cause, cycles in part.total.cycles_by_cause.items():
        found.append(Event(CAUSE, cause, now, cycles))
        now += cycles
    return found
