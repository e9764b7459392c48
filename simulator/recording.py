"""What a layer's time line does when, event by event, recorded while the engine's own kernels run as plain Python.

The functions of machines/systolic_kernel.py and steps_kernel.py are run uncompiled on counters and a channel that are
watched, so there is no second time line that could differ from the first.  Inside a step the gaps between its folds
stand together behind its stream.  Read timeline.py for layers in a row and who calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import CAUSES, Count
from .hardware import Memory

Ints = NDArray[np.int64]
ARRAY, CAUSE, CHANNEL = "array", "cycles by cause", "DRAM channel"
STALLS = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_PSUM, Count.STALL_OUTPUT)
LOADED = {Count.WEIGHT_DRAM_READ_BYTES: "weight", Count.INPUT_DRAM_READ_BYTES: "input",
          Count.PSUM_DRAM_READ_BYTES: "psum"}
STORED = {Count.OUTPUT_DRAM_WRITE_BYTES: "output", Count.PSUM_DRAM_WRITE_BYTES: "psum"}


@dataclass(frozen=True)
class Event:
    """`cycles` cycles from cycle `begin` on, on one of the tracks; args: integers that say more."""

    track: str
    name: str
    begin: int
    cycles: int
    args: Mapping[str, int] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The cycle after its last."""
        return self.begin + self.cycles


@dataclass
class _Visit:
    """A tile in a buffer half, from `begin` to `end`; step: the first that uses it."""

    operand: str
    half: int
    step: int
    begin: int
    end: int
    size: int = 0


class _Watched:
    """Counters that note what is added to them: causes become events in order, DRAM bytes name the transfers."""

    def __init__(self, memory: Memory, device: Ints, state: Ints) -> None:
        self.memory, self.device, self.state = memory, device, state
        self.values = [0] * len(Count)
        self.real = np.zeros(len(Count), dtype=np.int64)  # of the DRAM device, whose kernel stays compiled
        self.events: list[Event] = []
        self.now = self.step = 0
        self.channel_free = 0
        self.moving: tuple[int, int, int] | None = None  # begin, end, bytes of a load whose operand comes next
        self.storing = "output"
        self.visits: dict[str, list[_Visit]] = {"weight": [], "input": [], "output": []}
        self.stored = 0  # output tiles that have left their half
        self.halves = {name: 2 if getattr(memory, f"{name}_double_buffered") else 1 for name in self.visits}

    def __getitem__(self, index: int) -> int:
        return self.values[index]

    def __setitem__(self, index: int, value: int) -> None:
        added = int(value) - self.values[index]
        self.values[index] = int(value)
        if not added:
            return
        item = Count(index)
        if item in CAUSES:
            self.spent(item, added)
        elif item in LOADED and self.moving is not None:
            begin, end, size = self.moving
            self.moving = None
            self.loaded(LOADED[item], begin, end, size)
        elif item in STORED:
            self.storing = STORED[item]

    def spent(self, cause: Count, cycles: int) -> None:
        """Cycles of the array, one cause after the other."""
        self.events.append(Event(CAUSE, cause.name.lower(), self.now, cycles, {"step": self.step}))
        self.now += cycles

    def moved(self, _device: Any, _state: Any, channel: int, ready: int, cycles: int, address: int, size: int,
              write: bool, _counts: Any) -> int:
        """In place of dram_kernel.moved: the same result, and an event of the channel."""
        from . import dram_kernel

        size = int(size)
        if self.device[dram_kernel.ON]:
            end = int(dram_kernel.moved(self.device, self.state, int(channel), int(ready), int(cycles), int(address),
                                        size, bool(write), self.real))
        else:
            end = int(max(channel, ready) + cycles)
        # Transfers of a device with several channels overlap: each is drawn from the end of the one before it.
        begin = max(self.channel_free, int(ready))
        self.channel_free = until = max(begin, end) if self.device[dram_kernel.ON] else end
        if write:
            self.events.append(Event(CHANNEL, f"store {self.storing}", begin, until - begin, {"bytes": size}))
            if self.stored < len(self.visits["output"]):
                self.visits["output"][self.stored].end = end
                self.stored += 1
        else:
            self.moving = begin, until, size
        return end

    def loaded(self, operand: str, begin: int, end: int, size: int) -> None:
        """A load, which enters a buffer half."""
        self.events.append(Event(CHANNEL, f"load {operand}", begin, end - begin, {"bytes": size, "step": self.step}))
        if operand == "psum":
            self._enter("output", begin, size)
        else:
            self._enter(operand, begin, size)

    def computed(self, begin: int, end: int) -> None:
        """A step has used the tiles that are there."""
        for operand in ("weight", "input"):
            if self.visits[operand]:
                self.visits[operand][-1].end = end
        if self.outputs_open == 0 and self.memory.memory != "ideal":
            self._enter("output", begin, 0)

    @property
    def outputs_open(self) -> int:
        """Output tiles that have entered their half and not left it."""
        return len(self.visits["output"]) - self.stored

    def _enter(self, operand: str, begin: int, size: int) -> None:
        visits = self.visits[operand]
        visits.append(_Visit(operand, len(visits) % self.halves[operand], self.step, begin, begin, size))

    def buffers(self) -> list[Event]:
        """Which tile was in which half of a buffer, from the begin of its load to the end of its last use or store."""
        found = []
        for operand, visits in self.visits.items():
            for number, visit in enumerate(visits):
                track = f"{operand} buffer" + (f", half {visit.half}" if self.halves[operand] == 2 else "")
                end = max(visit.end, visit.begin)
                args = {"first step": visit.step} | ({"bytes": visit.size} if visit.size else {})
                found.append(Event(track, f"{operand} tile {number}", visit.begin, end - visit.begin, args))
        return found


class _Array(_Watched):
    """The systolic time line: steps are told apart by the call that counts a step's work."""

    def __init__(self, memory: Memory, device: Ints, state: Ints, names: Sequence[str], outputs: Sequence[int],
                 cold_first: bool, shift_last: bool) -> None:
        super().__init__(memory, device, state)
        self.names, self.outputs = names, outputs
        self.cold_first, self.shift_last = cold_first, shift_last
        self.step = -1
        self.waiting: list[tuple[Count, int]] = []
        self.begun: int | None = None
        self.slots_before = 0
        self.folds = 0
        self.output_entered = -1
        self.ending = 0  # cycles that the last stores take beyond the last result

    def begin_step(self, folds: int) -> None:
        """The kernel turns to the next tile."""
        self.end_step(self.now)
        self.step += 1
        self.folds = folds
        self.slots_before = self.values[Count.ISSUED_MACS]

    def spent(self, cause: Count, cycles: int) -> None:
        if self.begun is not None:
            self.ending = cycles if cause is Count.STALL_OUTPUT else 0
            super().spent(cause, cycles)
        elif cause is Count.COMPUTE:
            self._gap()
            self.begun = self.now
            self._output(self.now)
            super().spent(cause, cycles)
        else:
            self.waiting.append((cause, cycles))

    def _gap(self) -> None:
        """What stands between two streams, in the order in which it happens."""
        def place(item: tuple[Count, int]) -> int:
            cause = item[0]
            if cause is Count.WEIGHT_SHIFT:
                return 2 if self.shift_last else 0
            if cause is Count.FILL:
                return 2 if self.cold_first else 0
            return 0 if cause is Count.DRAIN else 1

        for cause, cycles in sorted(self.waiting, key=place):
            super().spent(cause, cycles)
        self.waiting = []

    def _output(self, begin: int) -> None:
        if self.memory.memory != "ideal" and self.outputs[self.step] != self.output_entered:
            self.output_entered = self.outputs[self.step]
            self._enter("output", begin, 0)

    def loaded(self, operand: str, begin: int, end: int, size: int) -> None:
        if operand == "psum":
            self.output_entered = self.outputs[self.step]
        super().loaded(operand, begin, end, size)

    def finish(self, tail: int) -> None:
        """The last results leave, and then the last store: no step's time."""
        self.end_step(self.now - self.ending - tail)
        self._gap()

    def end_step(self, end: int) -> None:
        """The step's stream and the gaps between its folds are over."""
        if self.begun is None:
            return
        slots = self.values[Count.ISSUED_MACS] - self.slots_before
        self.events.append(Event(ARRAY, self.names[self.step], self.begun, end - self.begun,
                                 {"step": self.step, "folds": self.folds, "slots": slots}))
        for operand in ("weight", "input"):
            if self.visits[operand]:
                self.visits[operand][-1].end = end
        self.begun = None


def record_array(kernel: ModuleType, p: Ints, tiles: Sequence[Ints], memory: Memory, steps: int) -> list[Event]:
    """Events of systolic_kernel.timeline for the parameters and arrays of one tiling, times in cycles of the layer."""
    device, state = tiles[0], tiles[1]
    names, outputs = _step_names(kernel, p, tiles, steps)
    watched = _Array(memory, device, state, names, outputs,
                     cold_first=p[kernel.FLOW] != kernel.OS, shift_last=p[kernel.BUFFERS] == 1)

    def count_step(parameters: Any, counts: Any, count: int, *sizes: Any) -> None:
        watched.begin_step(int(count))
        space["_count_step"](parameters, counts, count, *sizes)

    space = _uncompiled(kernel, moved=watched.moved)
    space["_count_step"], space["count_step"] = space["count_step"], count_step
    space["timeline"](p.tolist(), device.tolist(), state, *tiles[2:], watched)
    watched.finish(int(p[kernel.TAIL]))
    return [*watched.events, *watched.buffers()]


def record_steps(memory: Memory, device: Ints, state: Ints, p: Ints, parts: Sequence[Ints],
                 slots: Sequence[int]) -> list[Event]:
    """Events of steps_kernel.timeline; parts: bytes of weights, inputs and outputs and cycles, by step.

    slots: multiplications of each step.
    """
    from . import steps_kernel as kernel

    watched = _Watched(memory, device, state)

    class _Cycles(list[int]):
        def __getitem__(self, s: Any) -> Any:
            # Read once per step, when its start is known: the wait before it has been counted.
            cycles = int(list.__getitem__(self, s))
            watched.events.append(Event(ARRAY, f"step {s}", watched.now, cycles, {"step": s, "slots": slots[s]}))
            begin = watched.now
            watched.now += cycles
            watched.computed(begin, watched.now)
            watched.step = s + 1
            return cycles

    space = _uncompiled(kernel, moved=watched.moved)
    weight, inputs, output, cycles = (part.tolist() for part in parts)
    space["timeline"](p.tolist(), device.tolist(), state, weight, inputs, output, _Cycles(cycles), watched)
    return [*watched.events, *watched.buffers()]


def _uncompiled(kernel: ModuleType, **replaced: Callable[..., Any]) -> dict[str, Any]:
    """The module's names with its own functions as plain Python that see each other and what is replaced."""
    space = dict(vars(kernel))
    for name, value in vars(kernel).items():
        plain = getattr(value, "py_func", value)
        if isinstance(plain, FunctionType) and plain.__module__ == kernel.__name__:
            space[name] = FunctionType(plain.__code__, space, name)
    space.update(replaced)
    return space


def tile_counts(kernel: ModuleType, tiles: Sequence[Ints]) -> tuple[int, int, int]:
    """Tiles along m, k and n; tiles: what systolic_kernel.timeline takes between its parameters and its counts."""
    names = getattr(kernel.timeline, "py_func", kernel.timeline).__code__.co_varnames
    given = dict(zip(names[1:], tiles, strict=False))
    batch, row_out, col_out, folds = (given[name] for name in ("batch_sizes", "row_out", "col_out", "folds"))
    return len(batch) * len(row_out) * len(col_out), folds.shape[1], folds.shape[2]


def _step_names(kernel: ModuleType, p: Ints, tiles: Sequence[Ints], steps: int) -> tuple[list[str], list[int]]:
    """What each step is called, and the number of its output tile."""
    sizes = tile_counts(kernel, tiles)
    outer, middle = int(p[kernel.OUTER]), int(p[kernel.MIDDLE])
    inner = 3 - outer - middle
    names, outputs = [], []
    groups = int(p[kernel.GROUPS])
    for number in range(steps):
        group, rest = divmod(number, sizes[0] * sizes[1] * sizes[2])
        at = [0, 0, 0]
        rest, at[inner] = divmod(rest, sizes[inner])
        at[outer], at[middle] = divmod(rest, sizes[middle])
        place = f"tile m{at[0]} k{at[1]} n{at[2]}"
        names.append(f"group {group}, {place}" if groups > 1 else place)
        outputs.append((group * sizes[0] + at[0]) * sizes[2] + at[2])
    return names, outputs
