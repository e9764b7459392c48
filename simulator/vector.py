"""The vector unit: what operators that are not GEMMs cost, fused into the layer before them or on their own.

Lanes of scalar units with two reads and one write of an element per cycle share the buffers and the DRAM channel with
the array, which waits meanwhile; docs/networks.md has the equations.  Left out: rows that a softmax or a normalisation
would need whole in a tile, and arithmetic wider than the elements.  Read operators.py for what an operator is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import energy
from .counts import Count
from .errors import InputError
from .hardware import Machine, Memory
from .operators import Operator
from .report import LayerReport, OperatorReport, Total, sram_bytes
from .steps import Steps, check_fits, play

MOST_TILES = 2**20
DRAM_BYTES = (Count.INPUT_DRAM_READ_BYTES, Count.WEIGHT_DRAM_READ_BYTES, Count.PSUM_DRAM_READ_BYTES,
              Count.OUTPUT_DRAM_WRITE_BYTES, Count.PSUM_DRAM_WRITE_BYTES)


def run(operators: Iterable[Operator], layers: Sequence[LayerReport], machine: Machine) -> list[OperatorReport]:
    """What each operator adds to the layers' costs, in order; zero where the machine has no vector unit.

    Raises InputError for an operator whose smallest tiles do not fit the buffers, naming it.
    """
    room = {layer.name: _Room.after(layer, machine) for layer in layers}
    reports = []
    for operator in operators:
        how, counts = how_run(operator, machine), np.zeros(len(Count), dtype=np.int64)
        if how == "fused":
            counts = _fused(operator, room[operator.producer], machine)
        elif how == "own":
            counts = _on_its_own(operator, machine)
        reports.append(OperatorReport(operator, _total(counts, operator, machine), how))
    return reports


def how_run(operator: Operator, machine: Machine) -> str:
    """"folded" into weights, "fused" into its layer, "own" (from DRAM to DRAM), or "none": not priced."""
    if operator.kind == "unknown":
        return "none"
    if operator.fusion == "weights":
        return "folded"
    if not machine.vector.vector_lanes:
        return "none"
    return "fused" if operator.fusion == "producer" and machine.vector.vector_fused else "own"


def busy_cycles(operator: Operator, machine: Machine) -> int:
    """Cycles of the lanes: operations, pairs of elements read or elements written, whichever take longest."""
    unit = machine.vector
    lanes = unit.vector_lanes
    return max(-(-operator.operations // (lanes * unit.vector_operations_per_cycle)),
               -(-operator.reads // (2 * lanes)), -(-operator.writes // lanes))


class _Room:
    """What a layer's time leaves free: cycles of the vector unit and cycles of the channel."""

    def __init__(self, vector: int, channel: int) -> None:
        self.vector, self.channel = vector, channel

    @classmethod
    def after(cls, layer: LayerReport, machine: Machine) -> _Room:
        cycles = layer.total.cycles - int(layer.total.counts[Count.STARTUP])
        moved = sum(int(layer.total.counts[item]) for item in DRAM_BYTES)
        return cls(cycles, max(0, cycles - channel_cycles(moved, machine.memory)))


def channel_cycles(moved_bytes: int, memory: Memory) -> int:
    """Cycles for which so many bytes occupy the channel."""
    bytes_, per = memory.bandwidth()
    return 0 if not bytes_ or memory.memory == "ideal" else -(-moved_bytes * per // bytes_)


def _fused(operator: Operator, room: _Room, machine: Machine) -> NDArray[np.int64]:
    """The operator takes its layer's outputs as they leave: only what the layer's own time does not hide is added."""
    counts = _work(operator)
    others = -(-operator.others * operator.bits // 8)
    burst = machine.memory.dram_burst_bytes
    moved = 0 if machine.memory.memory == "ideal" else -(-others // burst) * burst
    busy, loading = busy_cycles(operator, machine), channel_cycles(moved, machine.memory)
    late = max(0, busy - room.vector, loading - room.channel)
    counts[Count.VECTOR if busy - room.vector == late else Count.STALL_INPUT] = late
    room.vector += late - busy
    room.channel += late - loading
    counts[Count.INPUT_DRAM_READ_BYTES] = moved
    if moved:
        counts[Count.INPUT_SRAM_WRITES] = operator.others
    counts[Count.INPUT_SRAM_READS] = operator.others
    return counts


def _on_its_own(operator: Operator, machine: Machine) -> NDArray[np.int64]:
    """The operator's elements come from DRAM and go back there, tile by tile."""
    counts = _work(operator)
    busy = busy_cycles(operator, machine)
    counts[Count.VECTOR], counts[Count.STARTUP] = busy, machine.vector.layer_startup_cycles
    counts[Count.INPUT_SRAM_READS], counts[Count.OUTPUT_SRAM_WRITES] = operator.reads, operator.writes
    if machine.memory.memory != "ideal":
        try:
            counts += play(tiles(operator, busy, machine.memory), machine.memory)
        except InputError as error:
            raise InputError(str(error), where=f"operator {operator.name!r} on {machine.name}") from None
        counts[Count.INPUT_SRAM_WRITES], counts[Count.OUTPUT_SRAM_READS] = operator.reads, operator.writes
    return counts


def tiles(operator: Operator, busy: int, memory: Memory) -> Steps:
    """The operator in as few equal tiles as fit the buffers; InputError where a byte of each does not."""
    moved = (-(-operator.reads * operator.bits // 8), -(-operator.writes * operator.bits // 8))
    few, many = 1, max(1, *moved)
    if not _fit(moved, many, memory):
        check_fits(_cut(moved, busy, min(many, MOST_TILES)), memory)
    while few < many:  # fewer and larger tiles never fit where more and smaller ones do not
        middle = (few + many) // 2
        few, many = (few, middle) if _fit(moved, middle, memory) else (middle + 1, many)
    if many > MOST_TILES:
        raise InputError(f"{many} tiles", expected=f"at most {MOST_TILES}", fix="enlarge the buffers")
    return _cut(moved, busy, many)


def _cut(moved: tuple[int, int], busy: int, number: int) -> Steps:
    ends = [np.array([size * i // number for i in range(number + 1)], dtype=np.int64) for size in (*moved, busy)]
    inputs, outputs, cycles = (np.diff(part) for part in ends)
    return Steps(np.zeros_like(inputs), inputs, outputs, cycles)


def _fit(moved: tuple[int, int], number: int, memory: Memory) -> bool:
    """Do tiles of one of `number` equal parts fit, twice where an operand is double buffered and has several?"""
    double = (memory.input_double_buffered, memory.output_double_buffered)
    needed = [-(-size // number) * (2 if twice and min(size, number) > 1 else 1)
              for size, twice in zip(moved, double, strict=True)]
    if memory.shared_buffer_bytes:
        return sum(needed) <= memory.shared_buffer_bytes
    return needed[0] <= memory.input_buffer_bytes and needed[1] <= memory.output_buffer_bytes


def _work(operator: Operator) -> NDArray[np.int64]:
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.VECTOR_OPERATIONS] = operator.operations
    return counts


def _total(counts: NDArray[np.int64], operator: Operator, machine: Machine) -> Total:
    """An operation is priced as a multiply-accumulate of the elements' width: tables have no price for the rest."""
    bits = (operator.bits,) * 4
    picojoules = energy.energy_pj(counts, machine, bits)
    if counts[Count.VECTOR_OPERATIONS]:
        each = energy.mac_pj(energy.load_table(machine.energy_table), operator.bits, operator.bits,
                             machine.memory.psum_bits)[0]
        picojoules["vector"] = int(counts[Count.VECTOR_OPERATIONS]) * each
    return Total(counts, machine.array.peak_macs_per_cycle, bits, sram_bytes(counts, bits), picojoules,
                 machine.clock_hz)
