"""Steps: a layer as a list of loads, computations and stores, played through the buffers and one DRAM channel.

Machines whose array time is known without the memory (the sparse ones) cut their layer into steps and let `play` say
what the memory adds.  Left out: partial sums that leave the chip, overlap between layers; the systolic array has a
time line of its own.  docs/model.md section 2 is the text, reference/steps.py the twin.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from .counts import Count
from .errors import InputError
from .hardware import Memory

Ints = NDArray[np.int64]
OPERANDS = ("weight", "input", "output")


# Where set, `play` adds what it plays: the time line of a layer is drawn from the steps that its model made.
PLAYED: ContextVar[list[Steps] | None] = ContextVar("PLAYED", default=None)


@dataclass(frozen=True, eq=False)
class Steps:
    """What each step of a layer moves and how long it computes; every field is int64[steps], none negative.

    weight_bytes, input_bytes: loaded for the step, metadata and indices included, before rounding to bursts; 0 = the
    operand that is there stays.  output_bytes: stored after the step; 0 = the outputs stay and the next step goes on
    with them.  cycles: of computation.  metadata_bytes: the part of weight_bytes that is metadata (None = none).
    output_held_bytes: what the outputs of the step occupy in their buffer (None = output_bytes); larger where partial
    sums are wider than the outputs that leave.  Raises ValueError where shapes differ or a value is negative.
    """

    weight_bytes: Ints
    input_bytes: Ints
    output_bytes: Ints
    cycles: Ints
    metadata_bytes: Ints | None = None
    output_held_bytes: Ints | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            array = np.ascontiguousarray(value, dtype=np.int64)
            if array.shape != (len(self.cycles),):
                raise ValueError(f"{item.name} has shape {array.shape}, cycles {len(self.cycles)} steps")
            if (array < 0).any():
                raise ValueError(f"{item.name} has a negative entry")
            object.__setattr__(self, item.name, array)

    def __len__(self) -> int:
        return len(self.cycles)

    @property
    def total_cycles(self) -> int:
        """Cycles of computation; what `play` adds are the stalls."""
        return int(self.cycles.sum())

    @property
    def total_bytes(self) -> int:
        """Bytes loaded and stored, before rounding to bursts."""
        return int(self.weight_bytes.sum() + self.input_bytes.sum() + self.output_bytes.sum())


def play(steps: Steps, memory: Memory) -> Ints:
    """int64[len(Count)]: what the memory adds to a layer; to be added to the machine's own counts.

    Filled are the DRAM bytes of weights, inputs and outputs (rounded to bursts), METADATA_BYTES, for memory = "dram"
    the DRAM_* counts, and the stalls COLD_FILL, STALL_WEIGHT, STALL_INPUT, STALL_OUTPUT: steps.total_cycles plus their
    sum is the layer's time.  All zero for memory = "ideal".  Accesses of the on-chip buffers are in elements and stay
    the machine's.  Raises InputError where the steps do not fit the buffers (check_fits) or the times leave 64 bits.
    """
    counts = np.zeros(len(Count), dtype=np.int64)
    if memory.memory == "ideal" or not len(steps):
        return counts
    check_fits(steps, memory)
    steps = crossing(steps, memory)
    from . import dram
    from . import steps_kernel as kernel

    _require_countable(steps, memory, *memory.bandwidth())
    if (heard := PLAYED.get()) is not None:
        heard.append(steps)
    kernel.timeline(parameters(memory), *dram.arguments(memory), steps.weight_bytes, steps.input_bytes,
                    steps.output_bytes, steps.cycles, counts)
    if steps.metadata_bytes is not None:
        counts[Count.METADATA_BYTES] = steps.metadata_bytes.sum()
    return counts


def parameters(memory: Memory) -> Ints:
    """The memory as steps_kernel.timeline takes it."""
    from . import steps_kernel as kernel

    p = np.zeros(kernel.PARAMETERS, dtype=np.int64)
    for index, operand in ((kernel.HALVES_W, "weight"), (kernel.HALVES_I, "input"), (kernel.HALVES_O, "output")):
        p[index] = _halves(memory, operand)
    p[kernel.BW_BYTES], p[kernel.BW_CYCLES] = memory.bandwidth()
    p[kernel.LATENCY], p[kernel.BURST] = memory.dram_latency_cycles, memory.burst_bytes
    return p


def crossing(steps: Steps, memory: Memory) -> Steps:
    """The steps without the transfers of operands that are on chip already, or stay there."""
    nothing = np.zeros(len(steps), dtype=np.int64)
    if memory.inputs_on_chip:
        steps = replace(steps, input_bytes=nothing)
    return replace(steps, output_bytes=nothing) if memory.outputs_on_chip else steps


def missing_bytes(steps: Steps, memory: Memory) -> int:
    """Bytes by which the steps miss the buffers; 0 = they fit, and an ideal memory holds anything.

    Each operand needs its largest tile, twice where it is double buffered and has more than one tile.
    """
    if memory.memory == "ideal":
        return 0
    needed = needed_bytes(steps, memory)
    if memory.shared_buffer_bytes:
        return max(0, sum(needed.values()) - memory.shared_buffer_bytes)
    return sum(max(0, size - int(getattr(memory, f"{operand}_buffer_bytes"))) for operand, size in needed.items())


def needed_bytes(steps: Steps, memory: Memory) -> dict[str, int]:
    """Bytes of buffer that weight, input and output need, all halves together."""
    held = steps.output_bytes if steps.output_held_bytes is None else steps.output_held_bytes
    runs = int(np.count_nonzero(steps.output_bytes[:-1])) + 1
    sizes = {"weight": steps.weight_bytes, "input": steps.input_bytes, "output": held}
    tiles = {name: int(np.count_nonzero(size)) for name, size in sizes.items()}
    tiles["output"] = runs
    return {name: int(size.max(initial=0)) * (_halves(memory, name) if tiles[name] > 1 else 1)
            for name, size in sizes.items()}


def check_fits(steps: Steps, memory: Memory) -> None:
    """Raise InputError, saying by how many bytes, where a step's tiles do not fit the buffers."""
    missing = missing_bytes(steps, memory)
    if not missing:
        return
    needed = needed_bytes(steps, memory)
    shared = memory.shared_buffer_bytes
    have = (f"{shared} shared" if shared else
            ", ".join(f"{getattr(memory, f'{operand}_buffer_bytes')} {operand}" for operand in OPERANDS))
    raise InputError(
        f"the smallest tile misses the buffers by {missing} bytes: it needs "
        + ", ".join(f"{needed[operand]} {operand}" for operand in OPERANDS),
        expected=f"at most {have} bytes", fix="enlarge the buffers, switch double buffering off, or cut the layer",
    )


def _halves(memory: Memory, operand: str) -> int:
    return 2 if getattr(memory, f"{operand}_double_buffered") else 1


def _require_countable(steps: Steps, memory: Memory, moved: int, per: int) -> None:
    """The kernel counts in int64, which wraps silently: the longest time line is bounded here, in Python integers."""
    transfers = 3 * len(steps)
    size = sum(int(part.sum(dtype=object)) for part in (steps.weight_bytes, steps.input_bytes, steps.output_bytes))
    size += transfers * memory.burst_bytes
    time = int(steps.cycles.sum(dtype=object)) + transfers * (memory.dram_latency_cycles + 1) + (
        size * per // moved if moved else 0)
    if max(size * per, time, moved) > 2**62:
        raise InputError(f"{size} bytes at {moved}/{per} bytes per cycle", where="memory",
                         expected="times within 64 bits", fix="give dram_bytes_per_cycle with fewer digits")
