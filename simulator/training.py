"""training_iteration(trace, machine) -> TrainingReport: what one step of training costs, phase by phase.

Forward products, input gradients, weight gradients, the optimiser's traffic and the mask's, each as the machine runs it
with the masks of that phase.  Left out: operators that are not products (in either direction), the loss, and overlap of
one phase with another.  Read training_layers.py for the products, training_state.py for the traffic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from . import energy
from .engine import simulate_layer
from .errors import InputError, nearest
from .hardware import Machine
from .number_types import type_name
from .report import LayerReport, Total
from .trace import LayerTrace, Trace
from .training_layers import input_gradient, weight_gradient
from .training_state import Updates, mask_update_bits, moved, optimiser_bits
from .workload import Conv2d, Gemm

PHASES = ("forward", "input_gradient", "weight_gradient", "optimiser", "mask_update")
ITERATION = PHASES[:-1]  # a mask update is an event of its own, every mask_interval iterations


@dataclass(frozen=True, eq=False)
class LayerTraining:
    """One layer: its cost by phase (phases that it does not have are left out) and the products that were run."""

    name: str
    phases: Mapping[str, Total]
    products: Mapping[str, Sequence[LayerReport]]

    def to_dict(self) -> dict[str, Any]:
        """The layer in the report's JSON form."""
        return {
            "name": self.name,
            "phases": {phase: total.to_dict() for phase, total in self.phases.items()},
            "products": {phase: [_product(report) for report in reports] for phase, reports in self.products.items()},
        }


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """One iteration on one machine.  An update of the mask is charged to an iteration by 1 / mask_interval."""

    machine: Machine
    layers: Sequence[LayerTraining]
    updates: Updates
    instances: int  # of the trace, all of which run forward
    backward_instances: int
    notes: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def phases(self) -> dict[str, Total]:
        """The sum over the layers, by phase; "mask_update" is a whole update."""
        found: dict[str, Total] = {}
        for phase in PHASES:
            totals = [layer.phases[phase] for layer in self.layers if phase in layer.phases]
            if totals:
                found[phase] = sum_totals(totals)
        return found

    @property
    def cycles(self) -> float:
        """Cycles of an iteration, with its share of a mask update."""
        return self._per_iteration(lambda total: total.cycles)

    @property
    def seconds(self) -> float:
        """Seconds of an iteration at the machine's clock."""
        return self.cycles / self.machine.clock_hz

    @property
    def energy_j(self) -> float:
        """Joules of an iteration."""
        return self._per_iteration(lambda total: total.energy_pj) * 1e-12

    def _per_iteration(self, value: Callable[[Total], float]) -> float:
        always = math.fsum(value(total) for phase, total in self.phases.items() if phase in ITERATION)
        update = self.phases.get("mask_update")
        return always + (value(update) / self.updates.mask_interval if update is not None else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """One machine of the JSON form of `espalier simulate --training`."""
        return {
            "machine": self.machine.name,
            "clock_hz": self.machine.clock_hz,
            "instances": self.instances,
            "backward_instances": self.backward_instances,
            "updates": dataclasses.asdict(self.updates),
            "iteration": {"cycles": self.cycles, "seconds": self.seconds, "energy_j": self.energy_j},
            "phases": {phase: total.to_dict() for phase, total in self.phases.items()},
            "notes": list(self.notes),
            "layers": [layer.to_dict() for layer in self.layers],
        }


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """Stretches of training that run one after the other: (report of one iteration, how many of them).

    A filter that looks at every instance and the network that trains on few of them are two stretches of equal length.
    """

    parts: Sequence[tuple[TrainingReport, float]]

    @property
    def seconds(self) -> float:
        """Seconds of all iterations."""
        return math.fsum(report.seconds * times for report, times in self.parts)

    @property
    def energy_j(self) -> float:
        """Joules of all iterations."""
        return math.fsum(report.energy_j * times for report, times in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Totals and parts."""
        return {"seconds": self.seconds, "energy_j": self.energy_j,
                "parts": [{"iterations": times, **report.to_dict()} for report, times in self.parts]}


def training_iteration(
    trace: Trace,
    machine: Machine,
    updates: Updates | None = None,
    *,
    strided: str = "phases",
    error_type: str = "",
    gradient_type: str = "",
    backward_instances: int | None = None,
    drop_empty_errors: bool = True,
    phases: Sequence[str] = PHASES,
) -> TrainingReport:
    """What one iteration of training on `trace` costs on `machine`.

    The trace is of the mini-batch: masks of weights, activations and error maps as they are in that step.  updates: the
    optimiser and the mask's schedule.  strided: how the input gradient of a strided convolution is run, see
    training_layers.py.  error_type: number type of the error maps ("" = that of the outputs they belong to);
    gradient_type: of the weight gradients as they leave the array ("" = that of the partial sums).
    backward_instances: the first so many instances run backward too, the others forward only.  drop_empty_errors:
    filters whose error map is zero in the whole batch take no part in the backward pass.  phases: those to charge, such
    as ("forward",) for instances that are only looked at.  Raises InputError where the machine cannot run a phase of a
    layer, naming both.
    """
    whole = instances(trace)
    backward = whole if backward_instances is None else backward_instances
    if not 0 <= backward <= whole:
        raise InputError(f"backward_instances = {backward}", where="training", expected=f"0 to {whole}, the batch")
    for phase in phases:
        if phase not in PHASES:
            raise InputError(f"phase {phase!r}", where="training", expected=f"one of {', '.join(PHASES)}",
                             fix=nearest(phase, PHASES))
    plan = _Plan(machine, without_static_patterns(machine), updates or Updates(), strided, error_type, gradient_type,
                 drop_empty_errors, tuple(phases), first_layers(trace))
    layers = [_layer(layer, first_instances(layer, backward, whole) if backward else None, plan)
              for layer in trace.layers]
    return TrainingReport(machine, layers, plan.updates, whole, backward, _notes(plan))


@dataclass(frozen=True, eq=False)
class _Plan:
    """One iteration's settings, and what is known of products that were simulated already."""

    machine: Machine
    dynamic: Machine  # the same for operands that only exist at run time
    updates: Updates
    strided: str
    error_type: str
    gradient_type: str
    drop_empty: bool
    phases: tuple[str, ...]
    first: frozenset[str]
    known: dict[Hashable, LayerReport] = field(default_factory=dict)

    @property
    def compacts(self) -> bool:
        """Are empty channels and filters not there at all?  True of machines that skip single zeros."""
        return bool(getattr(self.machine.array, "compact_channels", True))


def _layer(layer: LayerTrace, backward: LayerTrace | None, plan: _Plan) -> LayerTraining:
    """One layer: `layer` runs forward, `backward` (the instances that do; None without any) backward."""
    products: dict[str, list[LayerReport]] = {}
    if "forward" in plan.phases:
        products["forward"] = [_run([layer], plan.machine, "forward", plan)]
    if backward is None:
        return LayerTraining(layer.name, _totals(products), products)
    if "input_gradient" in plan.phases and layer.name not in plan.first:
        pieces = input_gradient(backward, plan.strided, drop_empty=plan.drop_empty, error_type=plan.error_type)
        on = plan.machine if layer.has_parameters else plan.dynamic
        products["input_gradient"] = [_run([piece], on, "input gradient", plan) for piece in pieces]
    if "weight_gradient" in plan.phases:
        products["weight_gradient"] = _weight_gradient(backward, plan, plan.compacts)
    totals = _totals(products)
    if layer.has_parameters:
        totals |= _state_traffic(backward, plan, totals.get("weight_gradient"))
    return LayerTraining(layer.name, totals, products)


def _weight_gradient(layer: LayerTrace, plan: _Plan, live_only: bool) -> list[LayerReport]:
    forms = weight_gradient(layer, _gradient_type(layer, plan), live_only=live_only, drop_empty=plan.drop_empty,
                            error_type=plan.error_type)
    return [_run(forms, plan.dynamic, "weight gradient", plan)] if forms else []


def _state_traffic(layer: LayerTrace, plan: _Plan, gradient: Total | None) -> dict[str, Total]:
    """What the optimiser and an update of the mask move."""
    found: dict[str, Total] = {}
    updates, bits = plan.updates, (layer.weight_bits, layer.input_bits, layer.output_bits)
    gradient_type = _gradient_type(layer, plan)
    if "optimiser" in plan.phases:
        found["optimiser"] = moved(*optimiser_bits(layer, updates, gradient_type, plan.compacts), plan.machine, bits)
    if "mask_update" in plan.phases and updates.mask_interval and layer.packed_weight is not None:
        found["mask_update"] = moved(*mask_update_bits(layer, updates, gradient_type), plan.machine, bits)
        if updates.mask_score == "gradient" and gradient is not None:
            # That step computes the gradient of every weight instead of that of live channels and filters.
            every = _weight_gradient(layer, plan, False)
            found["mask_update"] = _plus_difference(found["mask_update"], every[0].total, gradient)
    return found


def _run(forms: Sequence[LayerTrace], machine: Machine, phase: str, plan: _Plan) -> LayerReport:
    """The form with the fewest cycles, of equals the one that takes less energy, of those that the machine can run."""
    found: list[LayerReport] = []
    refused: InputError | None = None
    for layer in forms:
        key = (layer.operation, layer.input_density, layer.weight_type, layer.input_type, layer.output_type,
               machine is plan.dynamic)
        try:
            if layer.packed_weight is not None or layer.packed_input is not None:
                found.append(simulate_layer(layer, machine))
                continue
            if key not in plan.known:
                plan.known[key] = simulate_layer(layer, machine)
            found.append(dataclasses.replace(plan.known[key], layer=layer))
        except InputError as error:
            refused = refused or error
    if not found:
        assert refused is not None
        raise InputError(f"{machine.name} cannot run the {phase} of layer {forms[0].name.split(', ')[0]!r} ({refused})",
                         where="training", expected="a machine that runs every phase",
                         fix="choose another machine, or leave the phase out")
    return min(found, key=lambda report: (report.cycles, report.energy_pj))


def sum_totals(totals: Iterable[Total]) -> Total:
    """The sum of costs on one machine; bits are the widest."""
    items = list(totals)
    components: dict[str, float] = {}
    for total in items:
        for name, picojoules in total.energy_pj_by_component.items():
            components[name] = components.get(name, 0.0) + picojoules
    bits = tuple(max(total.bits[i] for total in items) for i in range(4))
    return dataclasses.replace(
        items[0], peak_macs_per_cycle=max(total.peak_macs_per_cycle for total in items),
        counts=np.sum([total.counts for total in items], axis=0, dtype=np.int64),
        bits=(bits[0], bits[1], bits[2], bits[3]),
        sram_bytes=(sum(total.sram_bytes[0] for total in items), sum(total.sram_bytes[1] for total in items)),
        energy_pj_by_component=components, cycle_offset=sum(total.cycle_offset for total in items))


def _plus_difference(base: Total, more: Total, less: Total) -> Total:
    """base + more - less, or base where `more` is not more."""
    if more.cycles <= less.cycles:
        return base
    parts = {name: base.energy_pj_by_component.get(name, 0.0) + more.energy_pj_by_component.get(name, 0.0)
             - less.energy_pj_by_component.get(name, 0.0)
             for name in {**base.energy_pj_by_component, **more.energy_pj_by_component, **less.energy_pj_by_component}}
    return dataclasses.replace(
        base, counts=base.counts + more.counts - less.counts, energy_pj_by_component=parts,
        sram_bytes=(base.sram_bytes[0] + more.sram_bytes[0] - less.sram_bytes[0],
                    base.sram_bytes[1] + more.sram_bytes[1] - less.sram_bytes[1]))


def without_static_patterns(machine: Machine) -> Machine:
    """The machine as error maps and activations see it in the place of weights: no n:m, zero blocks, removed channels.

    Those are packed ahead of time, and these operands are a moment old.  What a training method leaves out by gathering
    is not among a layer's operands at all (training_layers.py).
    """
    off: dict[str, Any] = {"nm": (), "skip_zero_blocks": False, "compact_channels": False}
    changes = {name: value for name, value in off.items() if getattr(machine.array, name, value) != value}
    return machine.replace(**changes) if changes else machine


def first_layers(trace: Trace) -> frozenset[str]:
    """Layers whose input is the network's: those without a producer, or the first one where no edges are known."""
    if not trace.edges:
        return frozenset({trace.layers[0].name})
    fed = {consumer for _, consumer in trace.edges}
    return frozenset(layer.name for layer in trace.layers) - fed


def instances(trace: Trace) -> int:
    """The batch of a trace: that of its convolutions; without any, the fewest rows that a layer with weights has."""
    batches = {layer.operation.batch for layer in trace.layers if isinstance(layer.operation, Conv2d)}
    if len(batches) > 1:
        raise InputError(f"convolutions of batches {', '.join(map(str, sorted(batches)))}", where="training trace",
                         expected="one batch")
    rows = [layer.operation.m for layer in trace.layers if isinstance(layer.operation, Gemm)]
    return batches.pop() if batches else min(rows)


def first_instances(layer: LayerTrace, count: int, of: int) -> LayerTrace:
    """The layer as `count` of its `of` instances run it; InputError where its rows do not divide among them."""
    if count == of:
        return layer
    op, inputs, errors = layer.operation, layer.input_mask, layer.error_mask
    if isinstance(op, Conv2d):
        smaller: Conv2d | Gemm = dataclasses.replace(op, batch=count)
        rows = count
    else:
        held = op.m if op.groups == 1 else op.groups
        if held % of:
            raise InputError(f"{held} rows for {of} instances", where=f"layer {layer.name!r}",
                             expected="as many rows for each")
        rows = held // of * count
        smaller = dataclasses.replace(op, **{"m" if op.groups == 1 else "groups": rows})
    changes: dict[str, Any] = {"operation": smaller}
    if inputs is not None:
        changes["input_mask"] = inputs[:rows].reshape(smaller.input_shape)
    if errors is not None:
        changes["error_mask"] = errors[:rows].reshape(smaller.output_shape)
    if not layer.has_parameters and (second := layer.weight_mask) is not None and op.groups > 1:
        changes["weight_mask"] = second[:rows].reshape(smaller.weight_shape)
    return layer.replace(**changes)


def _gradient_type(layer: LayerTrace, plan: _Plan) -> str:
    """A weight's gradient leaves as it was summed; that of an activation has the type of error maps."""
    if not layer.has_parameters:
        return plan.error_type or layer.weight_type
    integers = layer.input_number == layer.output_number == "int"
    return plan.gradient_type or type_name(plan.machine.memory.psum_bits, "int" if integers else "float")


def _totals(products: Mapping[str, Sequence[LayerReport]]) -> dict[str, Total]:
    return {phase: sum_totals(report.total for report in reports) for phase, reports in products.items() if reports}


def _product(report: LayerReport) -> dict[str, Any]:
    """A product in the JSON form; its cost is in the phase."""
    row = report.to_dict()
    return {key: value for key, value in row.items() if key != "total"} | {
        "cycles": report.cycles, "energy_pj": report.energy_pj}


def _notes(plan: _Plan) -> tuple[str, ...]:
    said = [*energy.notes(plan.machine),
            "training: operators that are not products are left out, forward and backward; so is the arithmetic of the "
            "optimiser and of mask updates, whose DRAM traffic is charged"]
    if getattr(plan.machine.array, "nm", ()) or getattr(plan.machine.array, "skip_zero_blocks", False):
        said.append("weight gradients run without n:m patterns and zero blocks: error maps cannot be packed ahead of "
                    "time")
    if plan.machine.memory.memory == "ideal":
        said.append("ideal memory: optimiser and mask updates move nothing and take no time")
    return tuple(said)
