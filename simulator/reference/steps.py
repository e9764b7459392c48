"""Steps through buffers and a DRAM channel, one clock cycle at a time (docs/model.md section 2).

The channel moves bytes by credits (channel.py); halves are taken and given back as tiles enter and leave; the
controller sees only what has arrived.  The fast engine, ../steps.py, must give the same counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Memory
from ..steps import Steps
from .channel import Channel, Job
from .dram import Dram, Layout

STALLS = {"weight": Count.STALL_WEIGHT, "input": Count.STALL_INPUT, "output": Count.STALL_OUTPUT}


@dataclass
class Visit:
    """A tile's stay in a half, from its load (or its first sum) to its release (or the end of its store)."""

    last_step: int
    arrived: bool = False
    over: bool = False


class Player:
    """The steps, the halves and the queue of one layer."""

    def __init__(self, steps: Steps, memory: Memory) -> None:
        self.steps = steps
        self.counts = np.zeros(len(Count), dtype=np.int64)
        self.burst = memory.burst_bytes
        self.inputs_stay, self.outputs_stay = memory.inputs_on_chip, memory.outputs_on_chip
        self.layout = Layout(memory) if memory.memory == "dram" else None
        self.halves = {name: 2 if getattr(memory, f"{name}_double_buffered") else 1 for name in STALLS}
        self.visits: dict[str, list[Visit]] = {name: [] for name in STALLS}
        self.used: list[dict[str, tuple[int, Visit]]] = []  # per step: (number, visit) of what it works on
        self.ended = 0  # steps that are over
        self.computing, self.left = False, 0
        self.waited_for: Count | None = None
        self.waited = 0
        self.channel: Channel | Dram
        if memory.memory == "dram":
            self.channel = Dram(memory, self._queue())
        else:
            self.channel = Channel(*memory.bandwidth(), memory.dram_latency_cycles, self._queue())

    def _queue(self) -> list[Job]:
        """Transfers in the order of the queue."""
        jobs: list[Job] = []
        new_output = True
        for number in range(len(self.steps)):
            if number and new_output and self.halves["output"] == 1:
                jobs.append(self._store(number - 1))
            for operand, sizes, count in (
                ("weight", self.steps.weight_bytes, Count.WEIGHT_DRAM_READ_BYTES),
                ("input", self.steps.input_bytes, Count.INPUT_DRAM_READ_BYTES),
            ):
                if sizes[number] and not (operand == "input" and self.inputs_stay):
                    self.visits[operand].append(Visit(number))
                    jobs.append(self._load(operand, int(sizes[number]), count))
                if self.visits[operand]:
                    self.visits[operand][-1].last_step = number
            if number and new_output and self.halves["output"] == 2:
                jobs.append(self._store(number - 1))
            if new_output:
                self.visits["output"].append(Visit(number, arrived=True))
            self.visits["output"][-1].last_step = number
            new_output = bool(self.steps.output_bytes[number]) and not self.outputs_stay
            self.used.append({name: (len(all_) - 1, all_[-1]) for name, all_ in self.visits.items() if all_})
        if new_output and not self.outputs_stay:
            jobs.append(self._store(len(self.steps) - 1))
        return jobs

    def _load(self, operand: str, size: int, count: Count) -> Job:
        visits, number = self.visits[operand], len(self.visits[operand]) - 1
        older = number - self.halves[operand]

        def arrive() -> None:
            visits[number].arrived = True

        return self._job(operand, number, size, count, lambda: older < 0 or visits[older].over, arrive)

    def _store(self, step: int) -> Job:
        visit = self.visits["output"][-1]  # the one that this step has just closed

        def leave() -> None:
            visit.over = True

        return self._job("output", step, int(self.steps.output_bytes[step]), Count.OUTPUT_DRAM_WRITE_BYTES,
                         lambda: self.ended > step, leave)

    def _job(self, operand: str, number: int, size: int, count: Count, ready: Callable[[], bool],
             deliver: Callable[[], None]) -> Job:
        bursts = -(-size // self.burst)
        address = self.layout.address(operand, number, bursts * self.burst) if self.layout else 0

        def begin() -> None:
            self.counts[count] += bursts * self.burst

        return Job(bursts * self.burst, operand != "output", ready, begin, deliver, address)

    def run(self) -> NDArray[np.int64]:
        """Step the clock until nothing is left."""
        now = 0
        while not self._settle(now):
            self._count_cycle()
            self.channel.edge()
            self.left -= self.computing
            now += 1
        if isinstance(self.channel, Dram):
            for count, number in self.channel.count().items():
                self.counts[count] += number
        return self.counts

    def _settle(self, now: int) -> bool:
        """All that happens between two edges; True when nothing is left."""
        while True:
            self.channel.settle(now)
            if self.computing and self.left == 0:
                self._end_step()
            elif not self.computing and self.ended < len(self.steps) and not self._missing():
                self._begin_step()
            else:
                break
        return self.ended == len(self.steps) and self.channel.idle

    def _missing(self) -> list[str]:
        """What the next step waits for, in the order in which a tie is charged."""
        used = self.used[self.ended]
        absent = [name for name in ("weight", "input") if name in used and not used[name][1].arrived]
        older = used["output"][0] - self.halves["output"]
        return absent + (["output"] if older >= 0 and not self.visits["output"][older].over else [])

    def _begin_step(self) -> None:
        if self.waited:
            assert self.waited_for is not None
            self.counts[self.waited_for] += self.waited
        self.computing, self.left, self.waited = True, int(self.steps.cycles[self.ended]), 0

    def _end_step(self) -> None:
        used = self.used[self.ended]
        for operand in ("weight", "input"):
            if operand in used and used[operand][1].last_step == self.ended:
                used[operand][1].over = True
        self.computing = False
        self.ended += 1

    def _count_cycle(self) -> None:
        """A cycle in which the array does not compute gets its cause when the wait is over."""
        if self.computing:
            return
        if self.ended == len(self.steps):
            self.counts[Count.STALL_OUTPUT] += 1
            return
        self.waited_for = STALLS[self._missing()[0]] if self.ended else Count.COLD_FILL
        self.waited += 1


def play(steps: Steps, memory: Memory) -> NDArray[np.int64]:
    """int64[len(Count)], as ../steps.py's play."""
    if memory.memory == "ideal" or not len(steps):
        return np.zeros(len(Count), dtype=np.int64)
    counts = Player(steps, memory).run()
    if steps.metadata_bytes is not None:
        counts[Count.METADATA_BYTES] = sum(map(int, steps.metadata_bytes))
    return counts
