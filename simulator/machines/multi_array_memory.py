"""What one array sees of a DRAM that several arrays share: its part of the bandwidth, at any time.

Every busy array is given an equal part, whether the others use theirs or not: contention from one transfer to the
next is left out.  Read multi_array.py for who is busy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import InputError
from ..hardware import Machine, Memory


@dataclass(frozen=True)
class PartOfMemory(Memory):
    """A channel that serves `sharers` arrays, as one of them sees it: exactly 1/sharers of the bytes per cycle."""

    sharers: int = 1

    def bandwidth(self) -> tuple[int, int]:
        """Bytes per cycle as an exact fraction; (0, 1) stands for no limit."""
        moved, cycles = super().bandwidth()
        return (moved, cycles * self.sharers) if moved else (moved, cycles)


def with_part_of_memory(machine: Machine, sharers: int) -> Machine:
    """The machine as one of `sharers` arrays on its DRAM sees it; a DRAM with timings runs at 1/sharers of its clock.

    Raises InputError where that clock is too odd a fraction of the array's.
    """
    memory = machine.memory
    if sharers == 1 or memory.memory == "ideal":
        return machine
    if memory.memory == "channel":
        fields = {item.name: getattr(memory, item.name) for item in dataclasses.fields(Memory)}
        return dataclasses.replace(machine, memory=PartOfMemory(**fields, sharers=sharers))
    # The ratio of the clocks is all that the DRAM's model takes from the array's.
    slower = dataclasses.replace(machine, clock_hz=machine.clock_hz * sharers)
    if problems := slower.memory.problems():
        raise InputError(problems[0], where=f"machine {machine.name!r} with shared_dram, {sharers} busy arrays")
    return slower
