"""What an array does per cycle with operands of other types, where its description declares it.

`type_rates = ["int4:2", "fp32:1/4"]`: a multiplier makes two products of 4 bits, of neighbours along the reduction, and
takes four cycles for one of fp32; types that are not named run at the array's own rate.  Left out: arrays that split
along other axes, and packed operands on machines that skip zeros.  Read grouped.py for where it is applied.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .counts import CAUSES, Count
from .errors import InputError
from .hardware import Machine
from .number_types import MOST_BITS, multiplied_as, parse_type, type_name
from .trace import LayerTrace
from .workload import Conv2d, Operation

PER_OPERAND = (Count.INPUT_HOPS, Count.WEIGHT_HOPS, Count.INPUT_SRAM_READS, Count.INPUT_SRAM_WRITES,
               Count.WEIGHT_SRAM_READS, Count.WEIGHT_SRAM_WRITES)


def rates(declared: tuple[str, ...]) -> dict[str, Fraction]:
    """{type: products of one multiplier per cycle}; InputError for an entry that is no "type:N" or "type:1/N"."""
    found: dict[str, Fraction] = {}
    for text in declared:
        name, _, rate = text.partition(":")
        bits, number = parse_type(name, f"type_rates entry {text!r}")
        try:
            value = Fraction(rate)
        except (ValueError, ZeroDivisionError):
            value = Fraction(0)
        if value <= 0 or 1 not in (value.numerator, value.denominator) or max(value.as_integer_ratio()) > 64:
            raise InputError(f"type_rates entry {text!r}", where="machine", expected='"type:N" or "type:1/N", N to 64')
        found[type_name(bits, number)] = value
    return found


def rate(layer: LayerTrace, machine: Machine) -> Fraction:
    """Products per multiplier and cycle for the layer's operands: by the wider of the two."""
    if not machine.type_rates:
        return Fraction(1)
    weight, inputs = multiplied_as((layer.weight_bits, layer.weight_number), (layer.input_bits, layer.input_number))
    return rates(machine.type_rates).get(type_name(*max(weight, inputs)), Fraction(1))


def peak_macs_per_cycle(layer: LayerTrace, machine: Machine) -> int:
    """Multiply-accumulates per cycle at the layer's types; a slower type leaves the array's own peak."""
    return int(machine.array.peak_macs_per_cycle * max(Fraction(1), rate(layer, machine)))


def packed(layer: LayerTrace, factor: int, machine: Machine) -> LayerTrace:
    """The layer with `factor` neighbours of the reduction as one operand: channels of a convolution, k of a GEMM.

    An operand is nonzero if one of its parts is; the last one of an axis may be partly empty.  Raises InputError where
    the machine looks at single zeros or the operand is wider than 64 bits.
    """
    where = f"layer {layer.name!r} on {machine.name}"
    array = machine.array
    if machine.model != "systolic" or array.nm or array.skip_zero_blocks or array.gating != "none":
        raise InputError(f"type_rates above 1 for {rate(layer, machine)} products", where=where,
                         expected="a dense systolic array", fix="leave the type out of type_rates")
    if max(layer.weight_bits, layer.input_bits) * factor > MOST_BITS:
        raise InputError(f"{factor} operands of {max(layer.weight_bits, layer.input_bits)} bits", where=where,
                         expected=f"at most {MOST_BITS} bits together", fix="declare a lower rate")
    op = layer.operation
    if isinstance(op, Conv2d):
        per_group = -(-(op.in_channels // op.groups) // factor)
        smaller: Operation = dataclasses.replace(op, in_channels=per_group * op.groups)
    else:
        smaller = dataclasses.replace(op, k=-(-op.k // factor))
    weight, inputs = layer.weight_mask, layer.input_mask
    if weight is not None:
        weight = _any_of(weight, 1 if isinstance(op, Conv2d) else -2, factor)
    if inputs is not None:
        if isinstance(op, Conv2d):
            grouped = inputs.reshape(op.batch, op.groups, -1, op.in_h, op.in_w)
            inputs = _any_of(grouped, 2, factor).reshape(smaller.input_shape)
        else:
            inputs = _any_of(inputs, -1, factor)
    return layer.replace(operation=smaller, weight_mask=weight, input_mask=inputs, structure=None,
                         weight_bits=layer.weight_bits * factor, input_bits=layer.input_bits * factor,
                         weight_number="int", input_number="int")


def unpacked_counts(counts: NDArray[np.int64], layer: LayerTrace, factor: int) -> NDArray[np.int64]:
    """Counts of the packed layer, in products and operands of the layer itself."""
    from .lowering import useful_macs  # not before it is needed: `import simulator` stays light

    counts = counts.copy()
    counts[list(PER_OPERAND)] *= factor
    useful, dense = useful_macs(layer), layer.operation.macs
    skipped = min(int(counts[Count.SKIPPED_MACS]) * factor, dense - useful)
    counts[Count.DENSE_MACS], counts[Count.USEFUL_MACS], counts[Count.SKIPPED_MACS] = dense, useful, skipped
    counts[Count.ISSUED_MACS] = dense - skipped
    return counts


def slower(machine: Machine, cycles: int) -> Machine:
    """The machine as an array that steps every `cycles` clocks sees it: the memory is that much faster."""
    if machine.memory.memory == "dram":
        raise InputError("type_rates below 1 with memory = 'dram'", where=f"machine {machine.name!r}",
                         expected="memory = 'channel' or 'ideal'", fix="DRAM timing has a clock of its own")
    memory = machine.memory
    limited = memory.dram_bytes_per_cycle != float("inf")
    wide = float(Fraction(str(memory.dram_bytes_per_cycle)) * cycles) if limited else memory.dram_bytes_per_cycle
    link = {}
    if hasattr(machine.array, "link_bytes_per_cycle"):  # of several arrays, and that much faster too
        link = {"link_bytes_per_cycle": machine.array.link_bytes_per_cycle * cycles,
                "link_latency_cycles": -(-machine.array.link_latency_cycles // cycles)}
    return machine.replace(dram_bytes_per_cycle=wide, dram_latency_cycles=-(-memory.dram_latency_cycles // cycles),
                           type_rates=(), **link)


def stretched(counts: NDArray[np.int64], cycles: int) -> NDArray[np.int64]:
    """Counts with every step of the array as so many clocks."""
    counts = counts.copy()
    counts[list(CAUSES)] *= cycles
    return counts


def _any_of(mask: NDArray[np.bool_], axis: int, factor: int) -> NDArray[np.bool_]:
    """Is one of `factor` neighbours along the axis nonzero?  The last run may be shorter."""
    moved = np.moveaxis(mask, axis, 0)
    padded = np.pad(moved, [(0, -len(moved) % factor)] + [(0, 0)] * (moved.ndim - 1))
    together = np.asarray(padded.reshape(-1, factor, *moved.shape[1:]).any(axis=1))
    return np.ascontiguousarray(np.moveaxis(together, 0, axis))
