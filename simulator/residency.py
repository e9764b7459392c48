"""Layer to layer on chip: which outputs stay in their buffer until the last layer that reads them, where they fit.

A kept tensor occupies the output buffer (the shared scratchpad, where there is one) from the layer that makes it to the
last that reads it, and every layer meanwhile tiles for what is left; its stores and loads do not cross the channel, the
accesses on chip stay.  Left out: parts of a tensor, and tensors that operators of their own take to DRAM.  The text is
docs/networks.md; what a layer does with its buffers is its model's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import energy
from .errors import InputError
from .hardware import Machine
from .report import Kept, LayerReport
from .trace import LayerTrace, Trace
from .vector import DRAM_BYTES, how_run

Simulate = Callable[[LayerTrace, Machine], LayerReport]


@dataclass(frozen=True)
class _Tensor:
    """A layer's output by positions in the trace: made by `made`, read by `read`, of `size` bytes."""

    made: int
    read: tuple[int, ...]
    size: int

    @property
    def span(self) -> range:
        """Layers during which it is on chip."""
        return range(self.made, max(self.read) + 1)


def run(trace: Trace, machine: Machine, simulate: Simulate) -> tuple[list[LayerReport], list[Kept]]:
    """The layers with every tensor kept that fits and slows nothing down, tried in order of execution.

    A tensor is kept where the layers of its span still have a legal tiling, take no more cycles and move fewer bytes.
    """
    reports = [simulate(layer, machine) for layer in trace.layers]
    if machine.memory.memory == "ideal":
        return reports, []
    kept: list[_Tensor] = []
    said: list[Kept] = []
    for tensor in candidates(trace, machine):
        tried = _with(trace, machine, [*kept, tensor], tensor.span, simulate)
        if tried is None:
            continue
        before = [reports[index] for index in tensor.span]
        saved = _bytes(before) - _bytes(tried)
        if saved <= 0 or _cycles(tried) > _cycles(before):
            continue
        kept.append(tensor)
        for index, report in zip(tensor.span, tried, strict=True):
            reports[index] = report
        names = tuple(trace.layers[index].name for index in tensor.read)
        said.append(Kept(trace.layers[tensor.made].name, names, tensor.size, saved))
    return reports, said


def candidates(trace: Trace, machine: Machine) -> list[_Tensor]:
    """Outputs that go to other layers whole and as they are: through fused operators, or none."""
    position = {layer.name: index for index, layer in enumerate(trace.layers)}
    latest: dict[str, str] = {}
    readers: dict[str, list[str]] = {}
    for producer, consumer in trace.edges:
        readers.setdefault(producer, []).append(consumer)
        if position[producer] > position.get(latest.get(consumer, ""), -1):
            latest[consumer] = producer
    taken_away = {source for operator in trace.operators or () for source in operator.sources
                  if operator.producer != source or not _passes(operator.fusion, how_run(operator, machine))}
    found = []
    for name, consumers in sorted(readers.items(), key=lambda pair: position[pair[0]]):
        layer = trace.layers[position[name]]
        elements = math.prod(layer.operation.output_shape)
        reads = [trace.layers[position[consumer]] for consumer in consumers]
        whole = all(latest[one.name] == name and math.prod(one.operation.input_shape) == elements
                    and one.input_bits == layer.output_bits and position[one.name] > position[name] for one in reads)
        if whole and name not in taken_away:
            found.append(_Tensor(position[name], tuple(position[one.name] for one in reads),
                                 -(-elements * layer.output_bits // 8)))
    return found


def _passes(fusion: str, how: str) -> bool:
    """Does the tensor stay where it is through the operator?  One that is priced at zero does what its fusion says."""
    return how in ("fused", "folded") or (how == "none" and fusion != "none")


def _with(trace: Trace, machine: Machine, kept: Sequence[_Tensor], span: range,
          simulate: Simulate) -> list[LayerReport] | None:
    """The layers of a span with these tensors on chip; None where one of them does not fit."""
    found = []
    for index in span:
        variant = on_chip(machine, kept, index)
        if variant is None:
            return None
        try:
            found.append(_priced(simulate(trace.layers[index], variant), machine))
        except InputError:
            return None  # no tiling fits what is left: without the tensor there was one
    return found


def _priced(report: LayerReport, machine: Machine) -> LayerReport:
    """The layer with the energy of the buffers as they are: what is kept leaves less room, not a smaller memory."""
    total, numbers = report.total, (report.layer.weight_number, report.layer.input_number)
    picojoules = energy.energy_pj(total.counts, machine, total.bits, numbers)
    return dataclasses.replace(report, total=dataclasses.replace(total, energy_pj_by_component=picojoules))


def on_chip(machine: Machine, kept: Sequence[_Tensor], index: int) -> Machine | None:
    """The machine as layer `index` finds it, with less buffer and some transfers less; None where nothing is left."""
    there = sum(tensor.size for tensor in kept if index in tensor.span)
    memory = machine.memory
    name = "shared_buffer_bytes" if memory.shared_buffer_bytes else "output_buffer_bytes"
    left = getattr(memory, name) - there
    if left < 1:
        return None
    changes = {name: left, "inputs_on_chip": any(index in tensor.read for tensor in kept),
               "outputs_on_chip": any(index == tensor.made for tensor in kept)}
    return dataclasses.replace(machine, memory=dataclasses.replace(memory, **changes))


def _cycles(reports: Sequence[LayerReport]) -> int:
    return sum(report.cycles for report in reports)


def _bytes(reports: Sequence[LayerReport]) -> int:
    return sum(int(report.total.counts[item]) for report in reports for item in DRAM_BYTES)
