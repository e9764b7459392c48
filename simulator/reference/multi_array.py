"""Several arrays, each the clocked systolic twin on real operands, with a link that moves bytes cycle by cycle.

Who gets what is decided here anew, on values: components by flooding from each output, the longest first onto the least
loaded array.  The choice among divisions and tilings is the plan's.  docs/machines/multi_array.md is the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..counts import CAUSES, Count
from ..hardware import Machine
from ..machines.multi_array import Plan, Spec
from ..machines.multi_array_memory import with_part_of_memory
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace
from ..workload import Conv2d, Gemm
from . import systolic

Ints = NDArray[np.int64]


@dataclass
class Part:
    """Some inputs, outputs and rows of a layer, by their numbers; groups > 1: whole groups of a convolution."""

    inputs: list[int]
    outputs: list[int]
    rows: list[int]
    groups: int = 1


def run(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: Ints, weights: Ints) -> tuple[LayerCounts, Ints]:
    """Counts of a layer on real operands, divided and tiled as the Plan says, and its output."""
    spec: Spec = machine.array
    if spec.arrays == 1:
        return systolic.run(layer, _single(machine, 1), tiling, inputs, weights)
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    output = np.zeros(_output_shape(layer), dtype=np.int64)
    if not weights.any():
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        gemm = layer.operation.gemm()
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed"), output
    assert isinstance(tiling, Plan)
    arrays = _arrays(layer, tiling, spec, weights)
    single = _single(machine, sum(1 for parts in arrays if parts))
    clocks = []
    exploited = ""
    for parts, tilings in zip(arrays, tiling.tilings, strict=True):
        mine = np.zeros(len(Count), dtype=np.int64)
        own = [_together(parts, layer.operation.groups > 1)] if len(tilings) == 1 < len(parts) else parts
        for part, own_tiling in zip(own, tilings, strict=True):
            found, values = _run_part(layer, single, own_tiling, part, inputs, weights)
            output[np.ix_(part.rows, part.outputs)] += values
            mine += found.counts
            if not exploited and found.executed_as not in ("dense", "removed"):
                exploited = f", {found.executed_as}"
        clocks.append(mine)
    _add(counts, clocks)
    for count in _exchange(layer, tiling, arrays, spec):
        counts[Count.LINK_BYTES] += count
        counts[Count.EXCHANGE] += _link(count, spec)
    done = int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS])
    counts[Count.SKIPPED_MACS] = layer.operation.macs - done
    text = f"{len(tiling.placement)} components" if tiling.division == "components" else f"split {tiling.division}"
    return LayerCounts(counts, tiling, text + exploited), output


def _single(machine: Machine, busy: int) -> Machine:
    single = dataclasses.replace(machine, model="systolic", array=machine.array.one)
    return with_part_of_memory(single, busy) if machine.array.shared_dram else single


def _output_shape(layer: LayerTrace) -> tuple[int, ...]:
    operation = layer.operation
    if isinstance(operation, Gemm):
        return operation.m, operation.n
    return operation.batch, operation.out_channels, operation.out_h, operation.out_w


def _arrays(layer: LayerTrace, plan: Plan, spec: Spec, weights: Ints) -> list[list[Part]]:
    """The parts of every array."""
    operation = layer.operation
    rows = list(range(operation.m if isinstance(operation, Gemm) else operation.batch))
    if plan.division == "m":
        ins, outs = list(range(_sizes(layer)[0])), list(range(_sizes(layer)[1]))
        return [[Part(ins, outs, own, operation.groups)] if own else [] for own in _deal(rows, spec.arrays)]
    if operation.groups > 1:
        live = [g for g in range(operation.groups) if _of_group(layer, weights, g).any()]
        if plan.division == "n":
            return [[_groups(layer, own)] if own else [] for own in _deal(live, spec.arrays)]
        parts = [_groups(layer, [g]) for g in live]
    elif plan.division == "n":
        return _by_outputs(layer, weights, spec, rows)
    else:
        parts = _components(_linked(layer, weights), rows)
    placement = plan.placement if not plan.scatter else _pack(parts, spec.arrays)
    return [[part for part, where in zip(parts, placement, strict=True) if where == array]
            for array in range(spec.arrays)]


def _sizes(layer: LayerTrace) -> tuple[int, int]:
    operation = layer.operation
    if isinstance(operation, Gemm):
        return operation.k, operation.n
    return operation.in_channels, operation.out_channels


def _of_group(layer: LayerTrace, weights: Ints, group: int) -> Ints:
    per = _sizes(layer)[1] // layer.operation.groups
    return weights[group * per : (group + 1) * per]


def _groups(layer: LayerTrace, numbers: list[int]) -> Part:
    operation = layer.operation
    assert isinstance(operation, Conv2d)
    per_in, per_out = operation.in_channels // operation.groups, operation.out_channels // operation.groups
    return Part([g * per_in + i for g in numbers for i in range(per_in)],
                [g * per_out + i for g in numbers for i in range(per_out)], list(range(operation.batch)), len(numbers))


def _linked(layer: LayerTrace, weights: Ints) -> NDArray[np.bool_]:
    """bool[in, out]: is there a weight between the two?  Without a mask there is, whatever its value."""
    if layer.packed_weight is None:
        return np.ones(_sizes(layer), dtype=bool)
    nonzero = weights != 0
    return nonzero if isinstance(layer.operation, Gemm) else np.asarray(nonzero.any(axis=(2, 3)).T)


def _deal(numbers: list[int], arrays: int) -> list[list[int]]:
    """Consecutive shares whose sizes differ by one at most, the larger ones first."""
    shares, at = [], 0
    for array in range(arrays):
        size = (len(numbers) - at + arrays - array - 1) // (arrays - array)
        shares.append(numbers[at : at + size])
        at += size
    return shares


def _by_outputs(layer: LayerTrace, weights: Ints, spec: Spec, rows: list[int]) -> list[list[Part]]:
    linked = _linked(layer, weights)
    ins, outs = range(linked.shape[0]), range(linked.shape[1])
    live = [o for o in outs if linked[:, o].any() or not spec.compact_channels]
    parts: list[list[Part]] = []
    for own in _deal(live, spec.arrays):
        needed = [i for i in ins if linked[i, own].any() or not spec.compact_channels]
        parts.append([Part(needed, own, rows)] if own else [])
    return parts


def _components(linked: NDArray[np.bool_], rows: list[int]) -> list[Part]:
    """Flood from every output that nothing has reached yet."""
    parts, reached = [], set()
    for first in range(linked.shape[1]):
        if first in reached or not linked[:, first].any():
            continue
        ins: set[int] = set()
        outs, waiting = {first}, [first]
        while waiting:
            for i in np.flatnonzero(linked[:, waiting.pop()]).tolist():
                if i not in ins:
                    ins.add(i)
                    fresh = set(np.flatnonzero(linked[i]).tolist()) - outs
                    outs |= fresh
                    waiting.extend(fresh)
        reached |= outs
        parts.append(Part(sorted(ins), sorted(outs), rows))
    return parts


def _pack(parts: list[Part], arrays: int) -> list[int]:
    work = [len(part.inputs) * len(part.outputs) for part in parts]
    load, where = [0] * arrays, [0] * len(parts)
    for index in sorted(range(len(parts)), key=lambda i: -work[i]):  # stable: equals in order
        where[index] = load.index(min(load))
        load[where[index]] += work[index]
    return where


def _together(parts: list[Part], grouped: bool) -> Part:
    """An array's parts as one: whole groups in their order, or all features in order."""
    ins, outs = [i for part in parts for i in part.inputs], [o for part in parts for o in part.outputs]
    if grouped:
        return Part(ins, outs, parts[0].rows, len(parts))
    return Part(sorted(ins), sorted(outs), parts[0].rows)


def _run_part(layer: LayerTrace, single: Machine, tiling: Tiling, part: Part, inputs: Ints, weights: Ints
              ) -> tuple[LayerCounts, Ints]:
    operation = layer.operation
    grouped = operation.groups > 1
    smaller: Gemm | Conv2d
    if isinstance(operation, Gemm):
        smaller = Gemm(len(part.rows), len(part.inputs), len(part.outputs))
        kept, weight_mask = weights[np.ix_(part.inputs, part.outputs)], layer.weight_mask
        mask = None if weight_mask is None else weight_mask[np.ix_(part.inputs, part.outputs)]
    else:
        smaller = dataclasses.replace(operation, batch=len(part.rows), in_channels=len(part.inputs),
                                      out_channels=len(part.outputs), groups=part.groups)
        chosen = (part.outputs,) if grouped else np.ix_(part.outputs, part.inputs)
        kept, weight_mask = weights[chosen], layer.weight_mask
        mask = None if weight_mask is None else weight_mask[chosen]
    input_mask = layer.input_mask
    changes: dict[str, object] = {"operation": smaller, "weight_mask": mask}
    if input_mask is not None:
        changes["input_mask"] = input_mask[np.ix_(part.rows, part.inputs)]
    return systolic.run(layer.replace(**changes), single, tiling, inputs[np.ix_(part.rows, part.inputs)], kept)


def _add(counts: Ints, clocks: Sequence[Ints]) -> None:
    """Arrays start together and all wait for the last: what each spent by cause, in the mean over the arrays."""
    causes = list(CAUSES)
    last = max(int(mine[causes].sum()) for mine in clocks)
    for item in Count:
        total = sum(int(mine[item]) for mine in clocks)
        counts[item] += total // len(clocks) if item in CAUSES else total
    counts[Count.DENSE_MACS] -= sum(int(mine[Count.DENSE_MACS]) for mine in clocks)
    counts[Count.IMBALANCE] += last - int(counts[causes].sum())


def _exchange(layer: LayerTrace, plan: Plan, arrays: list[list[Part]], spec: Spec) -> list[int]:
    """Bytes that cross the link before and after, operand element by operand element."""
    operation = layer.operation
    plane_in = operation.in_h * operation.in_w if isinstance(operation, Conv2d) else 1
    plane_out = operation.out_h * operation.out_w if isinstance(operation, Conv2d) else 1
    sent: list[tuple[int, int]] = []  # (row, input) in the order sent
    left: list[tuple[int, int]] = []
    weights: list[tuple[int, int]] = []
    for parts in arrays:
        for part in parts:
            sent += [(row, i) for row in part.rows for i in part.inputs]
            left += [(row, o) for row in part.rows for o in part.outputs]
            per_output = len(part.inputs) // part.groups * operation.window
            weights += [(o, at) for o in part.outputs for at in range(per_output)]
    if spec.link_broadcast:
        sent = sorted(set(sent))
        if plan.division == "m":
            weights = sorted(set(weights))
    bits = len(sent) * plane_in * layer.input_bits
    if layer.weight_source != "parameter":
        bits += len(weights) * layer.weight_bits
    found = [-(-bits // 8)] if plan.scatter else []
    return [*found, -(-len(left) * plane_out * layer.output_bits // 8)] if plan.gather else found


def _link(size: int, spec: Spec) -> int:
    """Clock a message over the link."""
    if not size:
        return 0
    if spec.link_bytes_per_cycle == float("inf"):
        return spec.link_latency_cycles
    per_cycle, moved, cycles = Fraction(str(spec.link_bytes_per_cycle)), Fraction(0), 0
    while moved < size:
        moved += per_cycle
        cycles += 1
    return spec.link_latency_cycles + cycles
