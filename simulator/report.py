"""What a simulation says: cycles by cause, work, traffic and energy, per layer and in total.

Counts come from a machine model, picojoules from energy.py; this file only names, sums and divides them.
Nothing here is measured or estimated anew.  Read energy.py for where the joules come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import CAUSES, Count
from .coverage import Coverage
from .hardware import Machine
from .mapping import Tiling
from .operators import Operator
from .sparse_actions import actions_of
from .trace import LayerTrace

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """What a machine model returns for one layer: the counts, the tiling used and how the mask was exploited."""

    counts: Counts
    tiling: Tiling
    executed_as: str  # the structure that the machine exploited: "dense", "2:4", "block 16x16", ...
    formats: Mapping[str, str] = field(default_factory=dict)  # of "weight" and "input" off chip, where one was declared


@dataclass(frozen=True, eq=False)
class Total:
    """Totals of a layer or a network: everything the JSON form calls T."""

    counts: Counts
    peak_macs_per_cycle: int
    bits: tuple[int, int, int, int]  # of weight, input, output, partial sum; the widest where layers differ
    sram_bytes: tuple[int, int]
    energy_pj_by_component: Mapping[str, float]
    clock_hz: float
    cycle_offset: int = 0  # SCALE-Sim reports the last cycle's index, one less than the count

    @property
    def cycles(self) -> int:
        """Clock cycles, stalls included."""
        return int(self.counts[list(CAUSES)].sum()) + self.cycle_offset

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles by what they were spent on; the values sum to `cycles`, causes that did not occur are left out."""
        parts = {cause.name.lower(): int(self.counts[cause]) for cause in CAUSES if self.counts[cause]}
        if self.cycle_offset:
            last = "drain" if "drain" in parts else next(reversed(parts), "drain")
            parts[last] = parts.get(last, 0) + self.cycle_offset
        return parts

    @property
    def energy_pj(self) -> float:
        """Energy in picojoules."""
        return float(sum(self.energy_pj_by_component.values()))

    @property
    def latency_s(self) -> float:
        """Seconds at the machine's clock."""
        return self.cycles / self.clock_hz

    @property
    def utilisation(self) -> float:
        """Useful multiply-accumulates over what the multipliers could have done in the same cycles."""
        # In clock edges: SCALE-Sim's index of the last cycle would let a full array pass 100 %.
        slots = (self.cycles - self.cycle_offset) * self.peak_macs_per_cycle
        return int(self.counts[Count.USEFUL_MACS]) / slots if slots else 0.0

    def to_dict(self) -> dict[str, Any]:
        """T of the JSON interface."""
        at = self.counts
        return {
            "cycles": self.cycles,
            "cycles_by_cause": self.cycles_by_cause,
            "useful_macs": int(at[Count.USEFUL_MACS]),
            "issued_macs": int(at[Count.ISSUED_MACS]),
            "gated_macs": int(at[Count.GATED_MACS]),
            "skipped_macs": int(at[Count.SKIPPED_MACS]),
            "dense_macs": int(at[Count.DENSE_MACS]),
            "vector_operations": int(at[Count.VECTOR_OPERATIONS]),
            "utilisation": self.utilisation,
            "sram_read_bytes": self.sram_bytes[0],
            "sram_write_bytes": self.sram_bytes[1],
            "dram_read_bytes": int(at[Count.INPUT_DRAM_READ_BYTES] + at[Count.WEIGHT_DRAM_READ_BYTES]
                                   + at[Count.PSUM_DRAM_READ_BYTES]),
            "dram_write_bytes": int(at[Count.OUTPUT_DRAM_WRITE_BYTES] + at[Count.PSUM_DRAM_WRITE_BYTES]),
            "metadata_bytes": int(at[Count.METADATA_BYTES]),
            "link_bytes": int(at[Count.LINK_BYTES]),
            **{name.lower(): int(at[Count[name]]) for name in (
                "DRAM_ROW_HITS", "DRAM_ROW_MISSES", "DRAM_ROW_CONFLICTS", "DRAM_REFRESHES")},
            "energy_pj": self.energy_pj,
            "energy_pj_by_component": dict(self.energy_pj_by_component),
            "latency_s": self.latency_s,
        }


def sram_bytes(counts: Counts, bits: tuple[int, int, int, int]) -> tuple[int, int]:
    """(read, written) bytes on chip; partial sums have their own width, metadata is in bits already."""
    weight, inputs, _, psum = bits
    read = (int(counts[Count.INPUT_SRAM_READS]) * inputs + int(counts[Count.WEIGHT_SRAM_READS]) * weight
            + int(counts[Count.OUTPUT_SRAM_READS]) * psum + int(counts[Count.METADATA_SRAM_READ_BITS]))
    written = (int(counts[Count.INPUT_SRAM_WRITES]) * inputs + int(counts[Count.WEIGHT_SRAM_WRITES]) * weight
               + int(counts[Count.OUTPUT_SRAM_WRITES]) * psum + int(counts[Count.METADATA_SRAM_WRITE_BITS]))
    return -(-read // 8), -(-written // 8)


@dataclass(frozen=True, eq=False)
class LayerReport:
    """One layer on one machine."""

    layer: LayerTrace
    total: Total
    tiling: Tiling
    executed_as: str
    formats: Mapping[str, str] = field(default_factory=dict)  # in which "weight" and "input" are stored off chip

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    @property
    def cycles(self) -> int:
        """Clock cycles, stalls included."""
        return self.total.cycles

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles by cause; they sum to `cycles`."""
        return self.total.cycles_by_cause

    @property
    def energy_pj(self) -> float:
        """Energy in picojoules."""
        return self.total.energy_pj

    def to_dict(self) -> dict[str, Any]:
        """A layer of the JSON interface."""
        gemm = self.layer.operation.gemm()
        return {
            "name": self.name, "op": self.layer.operation.kind, "m": gemm.m, "k": gemm.k, "n": gemm.n,
            "groups": self.layer.operation.groups, "weight_source": self.layer.weight_source,
            "structure": self.layer.structure,
            "executed_as": self.executed_as, "formats": dict(self.formats), "weight_density": self.layer.weight_density,
            "input_density": self.layer.input_density, "tiling": self.tiling.to_dict(),
            "total": self.total.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class OperatorReport:
    """One operator that is not a GEMM on one machine.

    how: "fused" into its layer, "own" (by itself, from DRAM to DRAM), "folded" into weights beforehand, or "none": not
    priced.  The total of a fused one is what it adds to its layer's time and traffic.
    """

    operator: Operator
    total: Total
    how: str

    @property
    def priced(self) -> bool:
        """Does the machine's cost include it?"""
        return self.how != "none"

    def to_dict(self) -> dict[str, Any]:
        """An operator of the JSON interface."""
        names = ("name", "operator", "kind", "after", "reads", "writes", "operations", "bits")
        return {name: getattr(self.operator, name) for name in names} | {
            "how": self.how, "total": self.total.to_dict()}


@dataclass(frozen=True)
class Kept:
    """A layer's output that stayed on chip for the layers that read it, and the DRAM bytes that this saved."""

    producer: str
    consumers: tuple[str, ...]
    bytes: int
    dram_bytes_saved: int


@dataclass(frozen=True, eq=False)
class Report:
    """A network on one machine, beside the same network dense on the same machine where it was asked for."""

    machine: Machine
    layers: Sequence[LayerReport]
    total: Total
    dense: Total | None = None
    area_mm2: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    operators: Sequence[OperatorReport] = ()
    coverage: Coverage | None = None
    kept_on_chip: Sequence[Kept] = ()

    @property
    def cycles(self) -> int:
        """Clock cycles of all layers, one after the other."""
        return self.total.cycles

    @property
    def energy_pj(self) -> float:
        """Energy of all layers in picojoules."""
        return self.total.energy_pj

    @property
    def cycles_by_cause(self) -> dict[str, int]:
        """Cycles by cause over all layers; they sum to `cycles`."""
        return self.total.cycles_by_cause

    @property
    def cost(self) -> Cost:
        """All that selection sees."""
        return Cost(self.total.latency_s, self.energy_pj * 1e-12, self.area_mm2)

    @property
    def speedup(self) -> float | None:
        """Dense cycles over these cycles."""
        return self.dense.cycles / self.cycles if self.dense is not None and self.cycles else None

    @property
    def energy_ratio(self) -> float | None:
        """Dense energy over this energy."""
        return self.dense.energy_pj / self.energy_pj if self.dense is not None and self.energy_pj else None

    def to_dict(self) -> dict[str, Any]:
        """One machine of the JSON interface."""
        return {
            "machine": self.machine.name,
            "clock_hz": self.machine.clock_hz,
            "total": self.total.to_dict(),
            "dense": None if self.dense is None else self.dense.to_dict(),
            "speedup": self.speedup,
            "energy_ratio": self.energy_ratio,
            "area_mm2": self.area_mm2,
            "notes": list(self.notes),
            "sparse_actions": [dataclasses.asdict(one) for one in actions_of(self.machine.array)],
            "coverage": None if self.coverage is None else self.coverage.to_dict(),
            "kept_on_chip": [dataclasses.asdict(one) for one in self.kept_on_chip],
            "layers": [layer.to_dict() for layer in self.layers],
            "operators": [operator.to_dict() for operator in self.operators],
        }


@dataclass(frozen=True)
class Cost:
    """Latency, energy and area: what a choice is judged by."""

    latency_s: float
    energy_j: float
    area_mm2: float | None
