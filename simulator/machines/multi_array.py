"""Several identical systolic arrays, each with its own buffers, on one link: Partition Pruning's machine.

A layer is divided by the components of its mask, by outputs or by rows; the slowest array and the exchange over the
link decide.  Left out: overlap of exchange and computation, switches inside the link.  docs/machines/multi_array.md is
the text, multi_array_division.py the division, multi_array_exchange.py which layers need no exchange.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..counts import CAUSES, Count
from ..errors import InputError
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace, Trace
from . import multi_array_division as division
from . import systolic
from .limits import require_enumerable
from .multi_array_division import Division, Piece
from .multi_array_memory import with_part_of_memory

Ints = NDArray[np.int64]
DIVISIONS = ("auto", "components", "n", "m")


@dataclass(frozen=True)
class Spec(systolic.Spec):
    """One array's fields (docs/model.md, section 1), and how many of them there are on which link.

    It inherits only because a machine's TOML is flat: `one` is the array, and systolic.py never sees this class.
    """

    arrays: int = 1
    division: str = "auto"
    link_bytes_per_cycle: float = 16.0
    link_latency_cycles: int = 100
    link_broadcast: bool = True
    shared_dram: bool = False

    @property
    def one(self) -> systolic.Spec:
        """The array itself."""
        return systolic.Spec(**{item.name: getattr(self, item.name) for item in dataclasses.fields(systolic.Spec)})

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers of all arrays."""
        return self.arrays * self.rows * self.cols

    @property
    def memories(self) -> int:
        """DRAM channels: one for each array, or one that they share."""
        return 1 if self.shared_dram else self.arrays

    @property
    def outputs_leave(self) -> str:
        """Why outputs cannot stay on chip for the layers that read them."""
        return "arrays hand outputs over by their link"

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What the energy leaves out."""
        return ("the bytes that cross the link between arrays are counted and not priced",) if self.arrays > 1 else ()

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = self.one.problems()
        if not 1 <= self.arrays <= 2**12:
            found.append(f"arrays = {self.arrays}; expected an integer from 1 to {2**12}")
        if self.division not in DIVISIONS:
            found.append(f"division = {self.division!r}; expected one of {', '.join(DIVISIONS)}")
        if not self.link_bytes_per_cycle > 0:
            found.append(f"link_bytes_per_cycle = {self.link_bytes_per_cycle}; expected more than 0 (inf = no limit)")
        if not 0 <= self.link_latency_cycles <= 2**40:
            found.append(f"link_latency_cycles = {self.link_latency_cycles}; expected an integer from 0 to {2**40}")
        if self.convention != "pytorch":
            found.append(f"convention = {self.convention!r}; expected pytorch: cycles of several arrays are counted")
        return found


@dataclass(frozen=True)
class Plan(Tiling):
    """How a layer is divided and tiled; tile sizes are those of the slowest array's first piece.

    tilings: for every array a tiling for each of its pieces.  scatter, gather: do inputs come and outputs leave over
    the link?  placement: the array of each component.
    """

    division: str = "n"
    tilings: tuple[tuple[Tiling, ...], ...] = ()
    placement: tuple[int, ...] = ()
    scatter: bool = True
    gather: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**super().to_dict(), "division": self.division, "scatter": self.scatter, "gather": self.gather,
                "arrays": [[tiling.to_dict() for tiling in tilings] for tilings in self.tilings]}


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; the division and each piece's tiling are searched unless a Plan is given.

    With one array the machine is the systolic array.  Raises InputError where no division (or not the given one) has
    pieces that fit the buffers, saying by how many bytes.
    """
    spec: Spec = machine.array
    if spec.arrays == 1:
        return systolic.run(layer, one_array(machine, 1), tiling)
    require_enumerable(layer)
    if not layer.weight_nnz:
        gemm, counts = layer.operation.gemm(), np.zeros(len(Count), dtype=np.int64)
        counts[Count.DENSE_MACS] = counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed")
    kept = division.connections(layer)
    parts = division.components(layer, kept)
    if isinstance(tiling, Plan):
        divided = _divide(tiling.division, layer, kept, parts, spec, tiling.placement)
        return run_division(layer, machine, divided, tiling)
    if tiling is not None:
        raise InputError("a tiling without a division", where=f"layer {layer.name!r} on {machine.name}",
                         expected="a Plan, such as an earlier run of the layer returned")
    kinds = [spec.division] if spec.division != "auto" else ["components", "n", "m"]
    if len(parts) == 1 and len(kinds) > 1:
        kinds.remove("components")
    return fastest(layer, machine, [_divide(kind, layer, kept, parts, spec) for kind in kinds])


def fastest(layer: LayerTrace, machine: Machine, divisions: Sequence[Division], *, scatter: bool = True) -> LayerCounts:
    """The fastest of the divisions, of equals the first; InputError where none fits the buffers."""
    best: LayerCounts | None = None
    refused: InputError | None = None
    for one in divisions:
        try:
            found = run_division(layer, machine, one, scatter=scatter)
        except InputError as error:
            refused = refused or error
            continue
        if best is None or cycles_of(found.counts) < cycles_of(best.counts):
            best = found
    if best is None:
        assert refused is not None
        raise refused
    return best


def cycles_of(counts: Ints) -> int:
    """All cycles of a counts vector."""
    return int(counts[list(CAUSES)].sum())


def one_array(machine: Machine, sharers: int) -> Machine:
    """One of the arrays as a machine of its own, with the part of the DRAM that it has beside other busy ones."""
    single = dataclasses.replace(machine, model="systolic", array=machine.array.one)
    return with_part_of_memory(single, sharers) if machine.array.shared_dram else single


def run_division(layer: LayerTrace, machine: Machine, divided: Division, plan: Plan | None = None, *,
                 scatter: bool = True) -> LayerCounts:
    """Counts of a layer divided so, tiled by the plan or by search."""
    spec: Spec = machine.array
    single = one_array(machine, divided.busy)
    runner = _Pieces(layer, single)
    done: list[list[LayerCounts]] = []
    for index, pieces in enumerate(divided.arrays):
        done.append(runner.run(pieces, None if plan is None else plan.tilings[index]))
    counts, slowest = _add(done, layer)
    scatter, gather = (scatter, True) if plan is None else (plan.scatter, plan.gather)
    for size in exchanged_bytes(layer, divided, spec, scatter=scatter, gather=gather):
        counts[Count.LINK_BYTES] += size
        counts[Count.EXCHANGE] += link_cycles(size, spec)
    first = done[slowest][0].tiling
    chosen = plan or Plan(first.tile_m, first.tile_k, first.tile_n, first.order, divided.kind,
                          tuple(tuple(part.tiling for part in parts) for parts in done), divided.placement,
                          scatter, gather)
    return LayerCounts(counts, chosen, _executed_as(divided, done), _formats(done))


def _formats(done: Sequence[Sequence[LayerCounts]]) -> dict[str, str]:
    """Formats of the pieces, all that occur; each piece has its own smallest where the memory declares "auto"."""
    found: dict[str, dict[str, None]] = {}
    for part in itertools.chain.from_iterable(done):
        for operand, name in part.formats.items():
            found.setdefault(operand, {})[name] = None
    return {operand: ", ".join(names) for operand, names in found.items()}


class _Pieces:
    """Runs pieces of one layer; pieces that are alike and have no mask are run once."""

    def __init__(self, layer: LayerTrace, machine: Machine) -> None:
        self.layer, self.machine = layer, machine
        self.weight, self.inputs = layer.weight_mask, layer.input_mask
        self.known: dict[Hashable, LayerCounts] = {}

    def run(self, pieces: Sequence[Piece], tilings: Sequence[Tiling] | None) -> list[LayerCounts]:
        """The pieces of an array one after the other, or as one layer where that is not slower."""
        if not pieces:
            return []
        whole = division.merged(self.layer.operation, pieces)
        if tilings is not None:
            own = [whole] if len(tilings) == 1 else pieces
            return [self._one(piece, tiling) for piece, tiling in zip(own, tilings, strict=True)]
        if len(pieces) == 1 or self.layer.operation.groups > 1:
            return [self._one(whole)]
        try:
            apart = [self._one(piece) for piece in pieces]
            together = [self._one(whole)]
        except InputError:
            # One layer needs the larger buffers; where it alone does not fit, the pieces do.
            return [self._one(piece) for piece in pieces]
        return together if _sum(together) <= _sum(apart) else apart

    def _one(self, piece: Piece, tiling: Tiling | None = None) -> LayerCounts:
        layer = division.sub_layer(self.layer, piece, self.weight, self.inputs)
        if self.weight is not None or self.inputs is not None:
            return systolic.run(layer, self.machine, tiling)
        key = (layer.operation, tiling)
        if key not in self.known:
            self.known[key] = systolic.run(layer, self.machine, tiling)
        return self.known[key]


def _sum(parts: Sequence[LayerCounts]) -> int:
    return sum(cycles_of(part.counts) for part in parts)


def _divide(kind: str, layer: LayerTrace, kept: NDArray[np.bool_], parts: Sequence[Piece], spec: Spec,
            placement: tuple[int, ...] = ()) -> Division:
    if kind == "components":
        return division.by_components(layer, parts, spec.arrays, placement or None)
    if kind == "n":
        return division.by_outputs(layer, kept, spec.arrays, spec.compact_channels)
    return division.by_rows(layer, spec.arrays)


def _add(done: Sequence[Sequence[LayerCounts]], layer: LayerTrace) -> tuple[Ints, int]:
    """(counts of all arrays, the slowest one): cycles by cause are the mean over the arrays, the rest is imbalance."""
    arrays = np.array([np.sum([part.counts for part in parts], axis=0) if parts else np.zeros(len(Count))
                       for parts in done], dtype=np.int64)
    counts: Ints = arrays.sum(axis=0)
    cycles = arrays[:, list(CAUSES)].sum(axis=1)
    slowest = int(cycles.argmax())
    counts[list(CAUSES)] //= len(done)
    counts[Count.IMBALANCE] += int(cycles[slowest]) - cycles_of(counts)
    counts[Count.DENSE_MACS] = layer.operation.macs
    counts[Count.SKIPPED_MACS] = layer.operation.macs - int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS])
    return counts, slowest


def exchanged_bytes(layer: LayerTrace, divided: Division, spec: Spec, *, scatter: bool, gather: bool) -> Iterator[int]:
    """Bytes of the input scatter, then of the output gather; what several arrays need crosses a broadcasting link once.

    A weight that is an activation (attention's) is scattered with the inputs; other weights lie with their arrays.
    """
    operation = layer.operation
    in_pixels, out_pixels = division.pixels_of(operation)
    mine = [piece for pieces in divided.arrays for piece in pieces]
    if scatter:
        if divided.kind == "n" and spec.link_broadcast and mine:
            elements = len(np.unique(np.concatenate([piece.inputs for piece in mine]))) * mine[0].rows
        else:
            elements = sum(len(piece.inputs) * piece.rows for piece in mine)
        bits = elements * in_pixels * layer.input_bits
        if layer.weight_source != "parameter":
            sizes = [len(piece.inputs) * len(piece.outputs) // piece.groups * operation.window for piece in mine]
            bits += (sizes[0] if divided.kind == "m" and spec.link_broadcast else sum(sizes)) * layer.weight_bits
        yield -(-bits // 8)
    if gather:
        yield -(-sum(len(piece.outputs) * piece.rows for piece in mine) * out_pixels * layer.output_bits // 8)


def link_cycles(size: int, spec: Spec) -> int:
    """Cycles of one exchange of `size` bytes: the latency once, then the bytes; an exchange of nothing takes none."""
    if not size:
        return 0
    if math.isinf(spec.link_bytes_per_cycle):
        return spec.link_latency_cycles
    # Decimal text, as dram_bytes_per_cycle: 12.8 bytes per cycle is 64/5.
    return spec.link_latency_cycles + math.ceil(size / Fraction(str(spec.link_bytes_per_cycle)))


def _executed_as(divided: Division, done: Sequence[Sequence[LayerCounts]]) -> str:
    """Such as `4 components`, `split n`, and after a comma what the first array that exploits a structure exploits."""
    text = f"{len(divided.placement)} components" if divided.kind == "components" else f"split {divided.kind}"
    found = [part.executed_as for parts in done for part in parts if part.executed_as not in ("dense", "removed")]
    return f"{text}, {found[0]}" if found else text


def divided_by(layer: LayerTrace, plan: Plan, spec: Spec) -> Division:
    """The division that a plan names."""
    kept = division.connections(layer)
    return _divide(plan.division, layer, kept, division.components(layer, kept), spec, plan.placement)


def exchanges(trace: Trace, machine: Machine) -> dict[str, Plan]:
    """How to run the layers that have edges, by name: where inputs are and outputs stay in place, without an exchange.

    To be given to `run` as the tiling.  See multi_array_exchange.py.
    """
    from .multi_array_exchange import plans

    return plans(trace, machine)
