"""Which layers of a network need no exchange: an array already holds what it needs of the layer before.

Pure functions over a trace's edges; the operators between two layers are taken to work on each feature for itself
unless the trace says otherwise.  Left out: choosing an earlier layer's division for the sake of a later one.  Read
multi_array.py for what a Plan does to a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hardware import Machine
from ..report import LayerCounts
from ..trace import LayerTrace, Trace
from ..workload import Gemm
from . import multi_array_division as division
from .multi_array import Plan, Spec, cycles_of, divided_by, run, run_division
from .multi_array_division import Division

Ints = NDArray[np.int64]
MIXES_FEATURES = ("softmax", "unknown")


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Where a layer's outputs are: the array of each feature (-1 = removed), or with `rows` all features of rows."""

    owner: Ints
    rows: int = 0

    @classmethod
    def after(cls, divided: Division, layer: LayerTrace) -> Held:
        """Where a division leaves the outputs."""
        owner = np.full(division.features_out(layer.operation), -1, dtype=np.int64)
        if divided.kind == "m":
            return cls(owner, division.rows_of(layer.operation))
        for array, pieces in enumerate(divided.arrays):
            for piece in pieces:
                owner[piece.outputs] = array
        return cls(owner)


def plans(trace: Trace, machine: Machine) -> dict[str, Plan]:
    """The Plan of every layer that has an edge, in trace order; {} with one array.

    A layer runs where its inputs are if that is faster than its own best division behind a scatter; then it has no
    scatter.  A layer has no gather if it has consumers and none of them has a scatter.
    """
    spec: Spec = machine.array
    if spec.arrays == 1:
        return {}
    sources: dict[str, list[LayerTrace]] = {}
    consumers: dict[str, list[str]] = {}
    by_name = {layer.name: layer for layer in trace.layers}
    for producer, consumer in dict.fromkeys(trace.edges):
        sources.setdefault(consumer, []).append(by_name[producer])
        consumers.setdefault(producer, []).append(consumer)
    held: dict[str, Held] = {}
    chosen: dict[str, Plan] = {}
    known: dict[Hashable, LayerCounts] = {}
    for layer in trace.layers:
        # Products of activations in groups (attention's) are run by grouped.py.
        apart = layer.name not in sources and layer.name not in consumers
        if apart or (isinstance(layer.operation, Gemm) and layer.operation.groups > 1):
            continue
        found = _alone(layer, machine, known)
        before = sources.get(layer.name, [])
        if before and all(source.name in held for source in before) and not _mixed(trace, before, layer):
            found = _where_inputs_are(layer, machine, [held[source.name] for source in before], found)
        if isinstance(found.tiling, Plan):
            chosen[layer.name] = found.tiling
            if layer.weight_source == "parameter":
                held[layer.name] = Held.after(divided_by(layer, found.tiling, spec), layer)
    for name, plan in chosen.items():
        after = consumers.get(name, [])
        if after and all(one in chosen and not chosen[one].scatter for one in after):
            chosen[name] = dataclasses.replace(plan, gather=False)
    return chosen


def _alone(layer: LayerTrace, machine: Machine, known: dict[Hashable, LayerCounts]) -> LayerCounts:
    if layer.packed_weight is not None or layer.packed_input is not None:
        return run(layer, machine)
    key = (layer.operation, layer.input_density, layer.weight_type, layer.input_type, layer.output_type,
           layer.weight_source)
    if key not in known:
        known[key] = run(layer, machine)
    return known[key]


def _mixed(trace: Trace, sources: Sequence[LayerTrace], layer: LayerTrace) -> bool:
    """Does an operator between the layers need several features at once, or is the weight an activation as well?"""
    if layer.weight_source != "parameter":
        return True
    names = [one.name for one in trace.layers]
    between = set(names[min(names.index(source.name) for source in sources) : names.index(layer.name)])
    return any(one.after in between and (one.kind in MIXES_FEATURES
                                         or (one.kind == "normalisation" and one.fusion != "weights"))
               for one in trace.operators or ())


def _where_inputs_are(layer: LayerTrace, machine: Machine, held: Sequence[Held], found: LayerCounts) -> LayerCounts:
    """The layer without a scatter where that is possible and faster than `found`."""
    for divided in _in_place(layer, machine.array, held):
        try:
            resident = run_division(layer, machine, divided, scatter=False)
        except InputError:  # does not fit the buffers of the arrays that hold the inputs
            continue
        if cycles_of(resident.counts) < cycles_of(found.counts):
            found = resident
    return found


def _in_place(layer: LayerTrace, spec: Spec, held: Sequence[Held]) -> Iterator[Division]:
    """Divisions in which every array reads only what it holds."""
    if all(one.rows for one in held):
        if {one.rows for one in held} == {division.rows_of(layer.operation)} and spec.division in ("auto", "m"):
            yield division.by_rows(layer, spec.arrays)
        return
    owner = _owner_of_inputs(layer, held)
    if owner is None or spec.division not in ("auto", "components"):
        return
    parts = division.components(layer, division.connections(layer))
    placement = []
    for part in parts:
        arrays = np.unique(owner[part.inputs])
        arrays = arrays[arrays >= 0]
        if len(arrays) > 1:
            return
        placement.append(int(arrays[0]) if len(arrays) else 0)
    if parts:
        yield division.by_components(layer, parts, spec.arrays, tuple(placement))


def _owner_of_inputs(layer: LayerTrace, held: Sequence[Held]) -> Ints | None:
    """int64[inputs]: the array that holds each, -1 = nobody computed it; None where the layers do not match.

    Behind a flattened image every channel is as many inputs, in order; several producers are added up.
    """
    inputs = division.features_in(layer.operation)
    owner = np.full(inputs, -1, dtype=np.int64)
    for one in held:
        if one.rows or inputs % len(one.owner) or (inputs != len(one.owner) and len(held) > 1):
            return None
        mine = np.repeat(one.owner, inputs // len(one.owner))
        if ((owner >= 0) & (mine >= 0) & (owner != mine)).any():
            return None
        owner = np.maximum(owner, mine)
    return owner
