"""A layer on a machine, whichever operations the machine's model has: the one door through which models are run.

A GEMM in groups (attention's products per head) is, number for number, a convolution in as many groups with 1x1
kernels on planes of m x 1 pixels, which models run as they run any other; one that has no convolution runs its groups
one after the other.  It leaves out all of time and traffic: read engine.py for what becomes of the counts, and
reference/grouped.py for the same on real operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from . import precision
from .counts import CAUSES
from .errors import InputError
from .hardware import Machine
from .machines import model
from .mapping import Tiling
from .report import LayerCounts
from .trace import LayerTrace
from .workload import Conv2d, Gemm, Operation


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer, a Gemm with groups included; InputError as the machine's model raises it."""
    if machine.type_rates and (factor := precision.rate(layer, machine)) != 1:
        return _at_rate(layer, machine, factor, tiling)
    engine = model(machine.model)
    if not in_groups(layer.operation):
        found: LayerCounts = engine.run(layer, machine, tiling)
        return found
    if supports(machine, as_convolution(layer.operation)):
        found = engine.run(on_planes(layer), machine, tiling)
        return found
    parts = list(one_by_one(layer))
    if tiling is not None:
        return _added([engine.run(part, machine, tiling) for part in parts])
    alone = [engine.run(part, machine) for part in parts]
    if len({part.tiling for part in alone}) == 1:
        return _added(alone)
    # A layer has one tiling: of those that the groups choose alone, the fastest that every group can take.
    tried: list[LayerCounts] = []
    refused: InputError | None = None
    for choice in dict.fromkeys(part.tiling for part in alone):
        try:
            tried.append(_added([engine.run(part, machine, choice) for part in parts]))
        except InputError as error:
            refused = error
    if not tried:
        assert refused is not None
        raise refused
    return min(tried, key=lambda total: int(total.counts[list(CAUSES)].sum()))


def _at_rate(layer: LayerTrace, machine: Machine, factor: Fraction, tiling: Tiling | None) -> LayerCounts:
    """The layer on an array that declares another rate for its operands' type."""
    if factor > 1:
        plain = machine.replace(type_rates=())
        found = run(precision.packed(layer, int(factor), machine), plain, tiling)
        counts = precision.unpacked_counts(found.counts, layer, int(factor))
    else:
        found = run(layer, precision.slower(machine, factor.denominator), tiling)
        counts = precision.stretched(found.counts, factor.denominator)
    return LayerCounts(counts, found.tiling, found.executed_as, found.formats)


def _added(parts: list[LayerCounts]) -> LayerCounts:
    """The groups' counts as one layer's; their tiling is that of a group that was not left out."""
    ran = next((part for part in parts if part.executed_as != "removed"), parts[0])
    counts = np.stack([part.counts for part in parts]).sum(axis=0)
    return LayerCounts(counts, ran.tiling, ran.executed_as, ran.formats)


def supports(machine: Machine, operation: Operation) -> bool:
    """Does the machine's model have the operation?  Models that lack one say so by `supports(operation)`."""
    asked = getattr(model(machine.model), "supports", None)
    return asked is None or bool(asked(operation))


def in_groups(operation: Operation) -> bool:
    """Is it a GEMM that is several products?"""
    return isinstance(operation, Gemm) and operation.groups > 1


def as_convolution(operation: Operation) -> Conv2d:
    """A GEMM as the grouped 1x1 convolution that does the same products in the same order.

    Planes are m x 1 and not 1 x 1 in a batch of m, so that a machine that spreads a plane over its elements has one.
    """
    assert isinstance(operation, Gemm)
    m, k, n, groups = operation.m, operation.k, operation.n, operation.groups
    return Conv2d(in_channels=groups * k, out_channels=groups * n, in_h=m, in_w=1, kernel_h=1, kernel_w=1,
                  groups=groups)


def on_planes(layer: LayerTrace) -> LayerTrace:
    """The layer with its GEMM in groups as a convolution, masks in the convolution's shapes."""
    shape = as_convolution(layer.operation)
    weight, inputs = layer.weight_mask, layer.input_mask
    changes: dict[str, object] = {"operation": shape}
    if weight is not None:
        changes["weight_mask"] = np.ascontiguousarray(weight.transpose(0, 2, 1)).reshape(shape.weight_shape)
    if inputs is not None:
        changes["input_mask"] = np.ascontiguousarray(inputs.transpose(0, 2, 1)).reshape(shape.input_shape)
    return layer.replace(**changes)


def one_by_one(layer: LayerTrace) -> Iterator[LayerTrace]:
    """The products of a GEMM in groups, a layer each."""
    weight, inputs = layer.weight_mask, layer.input_mask
    for group in range(layer.operation.groups):
        changes: dict[str, object] = {"operation": layer.operation.gemm()}
        if weight is not None:
            changes["weight_mask"] = weight[group]
        if inputs is not None:
            changes["input_mask"] = inputs[group]
        yield layer.replace(**changes)
