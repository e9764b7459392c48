"""What must hold of any simulation of any machine, whoever wrote the model.

`broken_laws(layer, machine)` runs a layer and returns a sentence for every law that it breaks: work is
conserved, causes sum to the cycles, no bound is beaten, more bandwidth or larger buffers are never slower.
A new machine model is held to these by the contract tests; users can hold their own descriptions to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .counts import CAUSES, Count
from .dram import clocks_per_cycle
from .engine import simulate_layer
from .errors import InputError
from .grouped import in_groups, on_planes
from .hardware import Machine
from .report import LayerReport
from .trace import LayerTrace
from .workload import Conv2d, Operation

STALLS = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_PSUM, Count.STALL_OUTPUT)
BUFFERS = ("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes")


def broken_laws(layer: LayerTrace, machine: Machine) -> list[str]:
    """A sentence for each law that the simulation of `layer` on `machine` breaks; raises what the simulation raises."""
    report = simulate_layer(layer, machine)
    return [*_of_one_report(report, machine), *_of_related_runs(report, machine)]


def _of_one_report(report: LayerReport, machine: Machine) -> Iterator[str]:
    counts, total = report.total.counts, report.total
    for item in Count:
        if counts[item] < 0:
            yield f"{item.name} = {counts[item]} is negative"
    split = [int(counts[item]) for item in (Count.ISSUED_MACS, Count.GATED_MACS, Count.SKIPPED_MACS)]
    if sum(split) != counts[Count.DENSE_MACS]:
        yield f"issued + gated + skipped = {sum(split)}, dense MACs {counts[Count.DENSE_MACS]}"
    if report.layer.operation.macs != counts[Count.DENSE_MACS]:
        yield f"dense MACs {counts[Count.DENSE_MACS]}, the operation has {report.layer.operation.macs}"
    if counts[Count.USEFUL_MACS] > counts[Count.ISSUED_MACS]:
        yield f"useful MACs {counts[Count.USEFUL_MACS]} exceed issued {counts[Count.ISSUED_MACS]}"
    if sum(total.cycles_by_cause.values()) != total.cycles:
        yield f"causes sum to {sum(total.cycles_by_cause.values())}, cycles {total.cycles}"
    cycles = int(counts[list(CAUSES)].sum())
    slots = split[0] + split[1]
    if slots > cycles * total.peak_macs_per_cycle:
        yield f"{slots} slots in {cycles} cycles of {total.peak_macs_per_cycle} multipliers"
    if total.utilisation > 1:
        yield f"utilisation {total.utilisation}"
    if total.energy_pj < 0 or not math.isfinite(total.energy_pj):
        yield f"energy {total.energy_pj} pJ"
    out = total.to_dict()
    traffic, (bytes_, per) = out["dram_read_bytes"] + out["dram_write_bytes"], machine.memory.bandwidth()
    if machine.memory.memory == "ideal":
        if traffic or any(counts[item] for item in STALLS):
            yield f"ideal memory moved {traffic} bytes or stalled"
        return
    memories = getattr(machine.array, "memories", 1)  # of several arrays, where each has a channel of its own
    if bytes_ and traffic * per > (cycles + _unfinished_cycles(report, machine)) * bytes_ * memories:
        yield f"{traffic} bytes in {cycles} cycles of {bytes_}/{per} bytes from {memories} memories"
    yield from _distinct_words(report, machine)


def _unfinished_cycles(report: LayerReport, machine: Machine) -> Fraction:
    """Cycles by which a stream of bursts may end before the pace of its peak says.

    n bursts at a distance of d clocks have crossed the pins after (n - 1) * d + tBL: where columns are further apart
    than a burst is long (tCCD_S > tBL, in no shipped device), nothing waits after the last burst of a layer.  A layer
    begins with closed banks, and so does each group where the machine runs them as layers of their own.
    """
    if machine.memory.memory != "dram":
        return Fraction(0)
    device = machine.memory.device
    clocks = (device.burst_clocks - device.tBL) * report.layer.operation.groups
    return clocks / clocks_per_cycle(device, machine.clock_hz)


def _distinct_words(report: LayerReport, machine: Machine) -> Iterator[str]:
    """DRAM must bring every distinct word that the layer needs, and take every output away, at least once."""
    layer, counts = report.layer, report.total.counts
    if report.executed_as == "removed":
        return
    if in_groups(layer.operation):
        layer = on_planes(layer)
    if counts[Count.WEIGHT_DRAM_READ_BYTES] * 8 < layer.weight_nnz * layer.weight_bits:
        yield f"{counts[Count.WEIGHT_DRAM_READ_BYTES]} weight bytes read for {layer.weight_nnz} weights"
    weights = layer.weight_matrix()
    operation = layer.operation
    channels = weights.reshape(operation.groups, -1, operation.window, weights.shape[2]).any(axis=(2, 3)).reshape(-1)
    words = int(channels.sum()) * _positions_per_channel(operation)
    if getattr(machine.array, "compressed_inputs", False) or machine.memory.input_format != "native":
        words = _nonzero_words(layer, channels)
    if counts[Count.INPUT_DRAM_READ_BYTES] * 8 < words * layer.input_bits:
        yield f"{counts[Count.INPUT_DRAM_READ_BYTES]} input bytes read for {words} distinct words"
    outputs = int(weights.any(axis=1).sum()) * operation.gemm().m
    if counts[Count.OUTPUT_DRAM_WRITE_BYTES] * 8 < outputs * layer.output_bits:
        yield f"{counts[Count.OUTPUT_DRAM_WRITE_BYTES]} bytes written for {outputs} outputs"


def _nonzero_words(layer: LayerTrace, channels: NDArray[np.bool_]) -> int:
    """Nonzero input words that outputs read in the `channels` (bool[in channels]): compressed zeros need not move."""
    operation, mask = layer.operation, layer.input_mask
    if mask is None:
        return int(channels.sum()) * math.floor(layer.input_density * _positions_per_channel(operation))
    if isinstance(operation, Conv2d):
        return int(mask[:, channels][:, :, _read_positions(operation)].sum())
    return int(mask[:, channels].sum())


def _positions_per_channel(operation: Operation) -> int:
    """Input positions of one channel that at least one output reads, over the batch."""
    return operation.batch * int(_read_positions(operation).sum()) if isinstance(operation, Conv2d) else operation.m


def _read_positions(operation: Conv2d) -> NDArray[np.bool_]:
    """bool[in_h, in_w], True where an output reads, by marking the positions one by one."""
    op = operation
    seen = np.zeros((op.in_h + 2 * op.padding_h, op.in_w + 2 * op.padding_w), dtype=bool)
    for r in range(op.kernel_h):
        for s in range(op.kernel_w):
            y, x = r * op.dilation_h, s * op.dilation_w
            seen[y : y + (op.out_h - 1) * op.stride_h + 1 : op.stride_h,
                 x : x + (op.out_w - 1) * op.stride_w + 1 : op.stride_w] = True
    return seen[op.padding_h : op.padding_h + op.in_h, op.padding_w : op.padding_w + op.in_w]


def _of_related_runs(report: LayerReport, machine: Machine) -> Iterator[str]:
    """Laws that compare with another run of the same layer."""
    layer = report.layer
    dense = simulate_layer(layer.replace(weight_mask=None, structure=None), machine)
    full = layer.replace(weight_mask=np.ones(layer.operation.weight_shape, dtype=bool), structure=None)
    masked = simulate_layer(full, machine)
    if machine.memory.memory == "ideal" and masked.cycles != dense.cycles:
        yield f"an all-ones mask takes {masked.cycles} cycles, no mask {dense.cycles}"
    empty = LayerTrace(layer.name, layer.operation, np.zeros(layer.operation.weight_shape, dtype=bool))
    if _skips_empty(machine) and simulate_layer(empty, machine).total.counts[Count.COMPUTE]:
        yield "an empty mask costs compute cycles"
    if simulate_layer(layer, machine).total.counts.tobytes() != report.total.counts.tobytes():
        yield "two runs differ"
    if machine.memory.memory == "ideal":
        return
    ideal = simulate_layer(layer, machine.replace(memory="ideal"))
    # With a request queue smaller tiles can mean fewer waits; those machines do not claim the next two laws whole.
    queued = bool(getattr(machine.array, "max_in_flight", 0))
    if ideal.cycles > report.cycles and not queued:
        yield f"ideal memory takes {ideal.cycles} cycles, real memory {report.cycles}"
    private = not machine.memory.shared_buffer_bytes
    boundless = dict.fromkeys(BUFFERS if private else ["shared_buffer_bytes"], 2**40)
    free = simulate_layer(layer, machine.replace(memory="channel", input_banks=0, weight_banks=0,
                                                 output_banks=0, dram_bytes_per_cycle=math.inf, dram_latency_cycles=0,
                                                 **boundless))
    # Groups are tiles of their own, and a short one waits for the results of the one before it.
    if (free.cycles > ideal.cycles or (free.cycles < ideal.cycles and not queued)) and layer.operation.groups == 1:
        yield f"a memory without limits takes {free.cycles} cycles, ideal memory {ideal.cycles}"
    faster = simulate_layer(layer, machine.replace(dram_bytes_per_cycle=machine.memory.dram_bytes_per_cycle * 2))
    if faster.cycles > report.cycles:
        yield f"twice the bandwidth takes {faster.cycles} cycles instead of {report.cycles}"
    try:
        twice = {name: 2 * getattr(machine.memory, name) for name in (*BUFFERS, "shared_buffer_bytes")}
        larger = simulate_layer(layer, machine.replace(**twice))
    except InputError as error:
        yield f"larger buffers are refused: {error}"
    else:
        if larger.cycles > report.cycles:
            yield f"twice the buffers take {larger.cycles} cycles instead of {report.cycles}"


def _skips_empty(machine: Machine) -> bool:
    """Does the machine claim that a layer without weights costs no compute?"""
    array = machine.array
    return bool(getattr(array, "compact_channels", True) or getattr(array, "skip_zero_blocks", False))

