"""A sparse machine under Verilator and its twin as the same arrays: what every slot and unit does in every cycle.

Slots add products (whether, where, how much), units work or wait.  Each machine's file says what its slots are, writes
its operands and turns its twin's cycles into a Trace: lanes.py, inner_join.py, cartesian.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from simulator.counts import CAUSES, Count
from simulator.hardware import Machine
from simulator.machines import model
from simulator.report import LayerCounts
from simulator.trace import LayerTrace

from .verilated import build

Ints = NDArray[np.int64]
Write = tuple[int, int, int, int]  # memory, unit, address, data
MOST_CYCLES = 5000


@dataclass(frozen=True, eq=False)
class Trace:
    """valid, place, value: [cycles, slots], zero where not valid; busy, stall: [cycles, units]; sums: what was read."""

    valid: Ints
    place: Ints
    value: Ints
    busy: Ints
    stall: Ints
    sums: Ints

    @property
    def cycles(self) -> int:
        """Cycles until everything was done."""
        return len(self.valid)


def blank(cycles: int, slots: int, units: int, sums: int) -> Trace:
    """A trace in which nothing happens, to be filled in."""
    shapes = [(cycles, slots)] * 3 + [(cycles, units)] * 2 + [(sums,)]
    return Trace(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


def difference(one: Trace, other: Trace) -> str | None:
    """The first field in which two traces differ, and where; None where they are equal."""
    if one.cycles != other.cycles:
        return f"{one.cycles} cycles against {other.cycles}"
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if not np.array_equal(mine, theirs):
            where = tuple(int(i) for i in np.argwhere(mine != theirs)[0])
            return f"{field.name}{list(where)}: {mine[where]} against {theirs[where]}"
    return None


def sparse_library(
    top: str, parameters: Mapping[str, int], mutation: tuple[str, str, str] | None = None
) -> ctypes.CDLL:
    """The built machine, with one line changed where a mutation is given."""
    return build(top, parameters, mutation, harness="sparse_harness.cpp")


def record(
    library: ctypes.CDLL, slots: int, units: int, writes: Sequence[Write], reads: Sequence[tuple[int, int]]
) -> Trace:
    """Write operands, run, and read the sums at (unit, place); a machine that is never done is stopped."""
    found = blank(MOST_CYCLES, slots, units, len(reads))
    given = np.array(writes, dtype=np.uint32).reshape(-1, 4)
    asked = np.array(reads, dtype=np.uint32).reshape(-1, 2)
    raw = [np.zeros(getattr(found, name).shape, dtype=kind) for name, kind in (
        ("valid", np.uint8), ("place", np.uint32), ("value", np.int32), ("busy", np.uint8), ("stall", np.uint8),
        ("sums", np.int32))]
    at = [array.ctypes.data_as(ctypes.c_void_p) for array in raw]
    cycles = library.run(len(given), given.ctypes.data_as(ctypes.c_void_p), MOST_CYCLES, *at[:5], len(asked),
                         asked.ctypes.data_as(ctypes.c_void_p), at[5])
    made = [array.astype(np.int64) for array in (*(part[:cycles] for part in raw[:5]), raw[5])]
    return Trace(*made)


def modelled(
    layer: LayerTrace, machine: Machine, run: Callable[[LayerTrace, Machine], LayerCounts] | None = None
) -> tuple[int, dict[Count, int]]:
    """The engine's cycles of the elements (a halo is not theirs) and its counts; `run` may be a mutated engine."""
    counts = (run or model(machine.model).run)(layer, machine).counts
    cycles = sum(int(counts[cause]) for cause in CAUSES if cause != Count.HALO)
    return cycles, {item: int(counts[item]) for item in Count}


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask from empty to full; some have whole rows or columns of zeros, as pruned layers and dead channels do."""
    density = rng.choice([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    mask = rng.random(shape) < density
    for axis in range(len(shape)):
        if rng.random() < 0.25:
            lines = rng.random(shape[axis]) < 0.6
            mask &= np.expand_dims(lines, tuple(other for other in range(len(shape)) if other != axis))
    return mask


def operand(rng: np.random.Generator, mask: NDArray[np.bool_]) -> Ints:
    """Eight-bit values where the mask is set, never zero there; the extremes come often."""
    values = rng.integers(-128, 128, mask.shape)
    values = np.where(rng.random(mask.shape) < 0.2, rng.choice([-128, 127], mask.shape), values)
    return np.where(mask, np.where(values == 0, 1, values), 0)
