"""simulate(trace, machine) -> Report: the page to read first.

Each layer goes to the machine's model, which returns counts; energy.py prices the counts; vector.py adds the
operators between the layers and coverage.py says what of the network was priced.  Layers run one after the other,
each from DRAM to DRAM; what that leaves out is in docs/model.md and docs/networks.md.  Read machines/systolic.py next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from . import area, energy, grouped, precision, residency, vector
from .counts import Count
from .coverage import coverage
from .hardware import Machine, Memory
from .machines import model
from .mapping import Tiling
from .report import Kept, LayerReport, OperatorReport, Report, Total, sram_bytes
from .trace import LayerTrace, Trace


def simulate(trace: Trace, machine: Machine, *, compare_dense: bool = True) -> Report:
    """Cycles, traffic and energy of `trace` on `machine`.

    With `compare_dense` the same network with every weight kept is simulated too, for `report.speedup`.
    Raises InputError where a layer cannot run on the machine, naming the layer.
    """
    known: dict[Hashable, LayerReport] = {}
    layers, kept = _layers(trace, machine, known)
    operators = vector.run(trace.operators or (), layers, machine)
    total, dense = add_totals([*layers, *operators], machine), None
    if compare_dense:
        beside, _ = _layers(trace.dense(), machine, known)
        dense = add_totals([*beside, *vector.run(trace.operators or (), beside, machine)], machine)
    notes = energy.notes(machine)
    return Report(machine, layers, total, dense, area.area_mm2(machine), notes, operators,
                  coverage(trace, operators), kept)


def _layers(trace: Trace, machine: Machine,
            known: dict[Hashable, LayerReport]) -> tuple[list[LayerReport], list[Kept]]:
    """Every layer, and the outputs that stayed on chip between them."""
    if machine.memory.keep_outputs_on_chip:
        variants: dict[Memory, dict[Hashable, LayerReport]] = {}
        return residency.run(trace, machine, lambda layer, on: _simulate_once(
            layer, on, variants.setdefault(on.memory, {}), None))
    plans = _plans(trace, machine)
    return [_simulate_once(layer, machine, known, plans.get(layer.name)) for layer in trace.layers], []


def _plans(trace: Trace, machine: Machine) -> Mapping[str, Tiling]:
    """How to run layers that find their inputs where the layer before left them; {} for most models."""
    exchanges = getattr(model(machine.model), "exchanges", None)
    return exchanges(trace, machine) if exchanges else {}


def _simulate_once(layer: LayerTrace, machine: Machine, known: dict[Hashable, LayerReport],
                   tiling: Tiling | None) -> LayerReport:
    """One layer, or what is `known` of a layer like it: networks repeat their shapes."""
    if layer.packed_weight is not None or layer.packed_input is not None or tiling is not None:
        return simulate_layer(layer, machine, tiling)
    key = (layer.operation, layer.input_density, layer.weight_type, layer.input_type, layer.output_type)
    if key not in known:
        known[key] = simulate_layer(layer, machine)
    return dataclasses.replace(known[key], layer=layer)


def simulate_layer(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerReport:
    """One layer on one machine; the tiling is the model's choice unless one is given."""
    result = grouped.run(layer, machine, tiling)
    if result.executed_as != "removed":
        result.counts[Count.STARTUP] += machine.vector.layer_startup_cycles
    numbers = (layer.weight_number, layer.input_number)
    bits = (layer.weight_bits, layer.input_bits, layer.output_bits, machine.memory.psum_bits)
    total = Total(
        counts=result.counts,
        peak_macs_per_cycle=precision.peak_macs_per_cycle(layer, machine),
        bits=bits,
        sram_bytes=sram_bytes(result.counts, bits),
        energy_pj_by_component=energy.energy_pj(result.counts, machine, bits, numbers),
        clock_hz=machine.clock_hz,
        cycle_offset=machine.array.cycle_offset,
    )
    native = getattr(machine.array, "native_formats", {"weight": "dense", "input": "dense"})
    return LayerReport(layer, total, result.tiling, result.executed_as, {**native, **result.formats})


def add_totals(parts: Sequence[LayerReport | OperatorReport], machine: Machine) -> Total:
    """The sum over layers and operators of every count and every picojoule."""
    totals = [part.total for part in parts]
    components: dict[str, float] = {}
    for total in totals:
        for name, picojoules in total.energy_pj_by_component.items():
            components[name] = components.get(name, 0.0) + picojoules
    widest = tuple(max(total.bits[i] for total in totals) for i in range(4))
    return Total(
        counts=np.sum([total.counts for total in totals], axis=0, dtype=np.int64),
        peak_macs_per_cycle=max(total.peak_macs_per_cycle for total in totals),
        bits=(widest[0], widest[1], widest[2], widest[3]),
        sram_bytes=(sum(t.sram_bytes[0] for t in totals), sum(t.sram_bytes[1] for t in totals)),
        energy_pj_by_component=components,
        clock_hz=machine.clock_hz,
        cycle_offset=sum(total.cycle_offset for total in totals),
    )
