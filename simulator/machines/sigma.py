"""SIGMA: flexible dot products over packed nonzero weights, with streamed activations.

Stationary nonzeros fill the multipliers whatever their shape, one pass after the other; a distribution network brings
each streamed value to all multipliers that want it and a reduction tree adds any run of neighbours.  Left out:
conflicts in the two networks, packing of the streamed operand.  docs/machines/sigma.md is the text,
../reference/sigma.py the twin, sigma_kernel.py the packing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError
from ..hardware import Machine
from ..lowering import nonzero_inputs_per_row, useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, gated, skipped, stored_without_zeros
from ..steps import Steps, missing_bytes, play
from ..trace import LayerTrace
from ..workload import Gemm
from .limits import require_enumerable

Ints = NDArray[np.int64]
STALLS = (Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_OUTPUT)
MOST_STEPS = 1 << 18  # the search over chunks tries no finer cut of a layer than this unless nothing else fits
NO_MORE_STEPS = 1 << 22  # and none beyond this at all: it would take gigabytes


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/sigma.md."""

    multipliers: int
    load_bandwidth: int
    stream_bandwidth: int
    row_packing: str = "split"
    two_sided: bool = True
    pipeline_registers: int = 4

    @property
    def outputs_leave(self) -> str:
        """Why outputs cannot stay on chip for the layers that read them."""
        return "partial sums cross the channel with the operands"

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers."""
        return self.multipliers

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """The zeros of the streamed operand are neither stored nor moved."""
        return self.two_sided

    @property
    def load_cycles(self) -> int:
        """Cycles in which all multipliers are given a stationary value, ceil(multipliers / load_bandwidth)."""
        return -(-self.multipliers // self.load_bandwidth)

    @property
    def tail_cycles(self) -> int:
        """From the last multiplication of a pass to its result: ceil(log2(multipliers)) + pipeline_registers."""
        return (self.multipliers - 1).bit_length() + self.pipeline_registers

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": "bitmask", "input": "bitmask" if self.two_sided else "dense"}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        found = (*stored_without_zeros("weight"), skipped("weight"))
        if not self.two_sided:
            return found
        return *found, *stored_without_zeros("input"), skipped("input", "row of k"), gated("input")

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        least = {"multipliers": 1, "load_bandwidth": 1, "stream_bandwidth": 1, "pipeline_registers": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) <= 2**20:
                found.append(f"{name} = {getattr(self, name)}; expected an integer from {low} to {2**20}")
        if self.row_packing not in ("whole", "split"):
            found.append(f"row_packing = {self.row_packing!r}; expected whole or split")
        return found


@dataclass(frozen=True, eq=False)
class Passes:
    """What every pass of a layer holds; each field int64[passes].

    filled: useful weights.  distinct: different k among them.  nonzeros: inputs streamed that are stored.  segments:
    rows or parts of rows.  continued: 1 where the first of them began in the pass before.  stored: weights read from
    storage.  bitmap_rows: rows whose bitmap is read.  finished: rows whose outputs are complete.  group: whose it is.
    """

    filled: Ints
    distinct: Ints
    nonzeros: Ints
    segments: Ints
    continued: Ints
    stored: Ints
    bitmap_rows: Ints
    finished: Ints
    group: Ints


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; `tiling.tile_m` streamed vectors reach the buffers together (searched where None).

    Raises InputError where no cut of the stream fits the buffers, saying by how many bytes, and for a layer of more
    than 2^28 weights or inputs.
    """
    require_enumerable(layer)
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    passes = pack(layer, spec)
    if not len(passes.filled):
        # No weight meets an input: the outputs are known to be zero.
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, Tiling(gemm.m, gemm.k, gemm.n), "removed")
    _count_time(counts, passes, gemm.m, spec)
    _count_work(counts, passes, layer, spec)
    rows = gemm.m
    if machine.memory.memory != "ideal":
        rows, added = _with_memory(passes, layer, machine, None if tiling is None else tiling.tile_m)
        counts += added
        counts[Count.WEIGHT_SRAM_WRITES] = passes.stored.sum()
        chunks = -(-gemm.m // rows)
        _count_buffer_fills(counts, passes, layer, spec, chunks)
    sparse = layer.packed_weight is not None or _inputs_compressed(layer, spec)
    return LayerCounts(counts, Tiling(rows, gemm.k, gemm.n), "unstructured" if sparse else "dense")


def streamed_per_row(layer: LayerTrace) -> Ints:
    """int64[groups, k]: nonzeros streamed for each k over all vectors; with only a density d, floor(d m + 1/2)."""
    gemm, groups = layer.operation.gemm(), layer.operation.groups
    if layer.packed_input is not None:
        return nonzero_inputs_per_row(layer)
    return np.full((groups, gemm.k), math.floor(layer.input_density * gemm.m + 0.5), dtype=np.int64)


def pack(layer: LayerTrace, spec: Spec) -> Passes:
    """The passes of all groups, one after the other."""
    from . import sigma_kernel as kernel

    gemm, groups = layer.operation.gemm(), layer.operation.groups
    weights = np.ascontiguousarray(layer.weight_matrix().transpose(0, 2, 1))
    nonzeros = np.full((groups, gemm.k), gemm.m, dtype=np.int64)
    occurs = np.ones((groups, gemm.k), dtype=bool)
    if spec.two_sided:
        nonzeros = np.ascontiguousarray(streamed_per_row(layer), dtype=np.int64)
        if layer.packed_input is not None:  # a density says nothing of which k are empty: all occur
            occurs = nonzeros > 0
    most = groups * 2 + 2 * -(-layer.weight_nnz // spec.multipliers)
    if most > NO_MORE_STEPS:
        raise InputError(f"up to {most} passes", where=f"layer {layer.name!r}", expected=f"at most {NO_MORE_STEPS}",
                         fix="give the machine more multipliers or split the layer")
    table = np.zeros((most, kernel.COLUMNS), dtype=np.int64)
    used = kernel.pack(weights, nonzeros, occurs, spec.multipliers, spec.row_packing == "whole", table)
    return Passes(*(np.ascontiguousarray(column) for column in table[:used].T))


def stream_cycles(passes: Passes, m: int, spec: Spec) -> Ints:
    """int64[passes]: cycles in which the vectors of a pass stream, m * ceil(distinct k / stream_bandwidth)."""
    return m * -(-passes.distinct // spec.stream_bandwidth)


def _count_time(counts: Ints, passes: Passes, m: int, spec: Spec) -> None:
    number = len(passes.filled)
    stream = stream_cycles(passes, m, spec)
    # Empty multipliers lose their share of the stream, whole cycles.
    lost = stream * (spec.multipliers - passes.filled) // spec.multipliers
    counts[Count.FILL] = spec.load_cycles
    counts[Count.WEIGHT_SHIFT] = (number - 1) * spec.load_cycles
    counts[Count.COMPUTE] = (stream - lost).sum()
    counts[Count.FRAGMENTATION] = lost.sum()
    counts[Count.DRAIN] = number * spec.tail_cycles


def _count_work(counts: Ints, passes: Passes, layer: LayerTrace, spec: Spec) -> None:
    gemm = layer.operation.gemm()
    useful, filled = useful_macs(layer), int(passes.filled.sum())
    slots = gemm.m * filled
    counts[Count.USEFUL_MACS] = useful
    counts[Count.ISSUED_MACS] = useful if spec.two_sided else slots
    counts[Count.GATED_MACS] = slots - useful if spec.two_sided else 0
    counts[Count.SKIPPED_MACS] = layer.operation.macs - slots
    segments, continued = int(passes.segments.sum()), int(passes.continued.sum())
    counts[Count.WEIGHT_HOPS] = counts[Count.WEIGHT_SRAM_READS] = filled
    counts[Count.INPUT_HOPS] = slots
    # A tree that adds s products has s of them and s - 1 sums in its registers.
    counts[Count.PSUM_HOPS] = gemm.m * (2 * filled - segments)
    counts[Count.INPUT_SRAM_READS] = passes.nonzeros.sum()
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * segments
    counts[Count.OUTPUT_SRAM_READS] = gemm.m * continued
    bitmap = int(passes.bitmap_rows.sum()) * gemm.k if layer.packed_weight is not None else 0
    if _inputs_compressed(layer, spec):
        bitmap += sum(_input_words(layer)[0])
    counts[Count.METADATA_SRAM_READ_BITS] = bitmap


def _inputs_compressed(layer: LayerTrace, spec: Spec) -> bool:
    """Are inputs kept as nonzeros and a bitmap?  Not where nothing is known to be zero."""
    return spec.two_sided and (layer.packed_input is not None or layer.input_density < 1.0)


def _input_words(layer: LayerTrace) -> tuple[list[int], list[int]]:
    """Per group: (input words, nonzero ones) of the channels that a weight of the group reads."""
    operation, groups = layer.operation, layer.operation.groups
    gemm = operation.gemm()
    read = layer.weight_matrix().reshape(groups, gemm.k // operation.window, operation.window, gemm.n).any(axis=(2, 3))
    if isinstance(operation, Gemm):
        words = operation.m
    else:
        words = operation.batch * operation.in_h * operation.in_w
    if layer.input_mask is None:
        per_channel = np.full(read.shape, math.floor(layer.input_density * words + 0.5), dtype=np.int64)
    else:
        axes = 0 if isinstance(operation, Gemm) else (0, 2, 3)
        per_channel = layer.input_mask.sum(axis=axes, dtype=np.int64).reshape(read.shape)
    return (read.sum(axis=1) * words).tolist(), (per_channel * read).sum(axis=1).tolist()


def _input_bytes(layer: LayerTrace, spec: Spec) -> Ints:
    """int64[groups]: bytes of the input as it is stored, bitmap included."""
    words, nonzeros = _input_words(layer)
    compressed = _inputs_compressed(layer, spec)
    bits = [kept * layer.input_bits + size if compressed else size * layer.input_bits
            for size, kept in zip(words, nonzeros, strict=True)]
    return np.array([-(-size // 8) for size in bits], dtype=np.int64)


def _count_buffer_fills(counts: Ints, passes: Passes, layer: LayerTrace, spec: Spec, chunks: int) -> None:
    """Elements that loads write into the buffers and stores read from them."""
    words, nonzeros = _input_words(layer)
    per_group = np.array(nonzeros if _inputs_compressed(layer, spec) else words, dtype=np.int64)
    bitmap = np.array(words if _inputs_compressed(layer, spec) else [0] * len(words), dtype=np.int64)
    visits = np.bincount(passes.group, minlength=len(words))
    visits = np.minimum(visits, 1) if chunks == 1 else visits
    gemm = layer.operation.gemm()
    counts[Count.INPUT_SRAM_WRITES] = (per_group * visits).sum()
    rows = int(passes.bitmap_rows.sum()) * gemm.k if layer.packed_weight is not None else 0
    counts[Count.METADATA_SRAM_WRITE_BITS] = rows + (bitmap * visits).sum()
    counts[Count.OUTPUT_SRAM_READS] += gemm.m * passes.finished.sum()


def _with_memory(passes: Passes, layer: LayerTrace, machine: Machine, given: int | None) -> tuple[int, Ints]:
    """(streamed vectors per chunk, what the memory adds): the fastest cut, of equals the coarsest."""
    m = layer.operation.gemm().m
    best: tuple[int, int, Ints] | None = None
    refused: InputError | None = None
    ladder = sorted({m, *(4**power for power in range(m.bit_length() // 2 + 1) if 4**power < m)})
    for chunks in ladder if given is None else [-(-m // given)]:
        if best is not None and chunks * len(passes.filled) > MOST_STEPS:
            break
        rows = -(-m // chunks) if given is None else given
        if chunks * len(passes.filled) > NO_MORE_STEPS:
            refused = refused or InputError(f"no cut of up to {NO_MORE_STEPS} steps fits the buffers",
                                            fix="enlarge the buffers or split the layer")
            break
        if best is not None and _least_stalls(passes, layer, machine, chunks) >= best[0]:
            continue
        steps = layer_steps(passes, layer, machine, rows)
        if given is None and chunks < m and missing_bytes(steps, machine.memory):
            continue
        try:
            added = play(steps, machine.memory)
        except InputError as error:
            refused = error
            continue
        stalls = int(added[list(STALLS)].sum())
        if best is None or stalls < best[0]:
            best = (stalls, rows, added)
    if best is None:
        raise InputError(str(refused), where=f"layer {layer.name!r} on {machine.name}")
    return best[1], best[2]


def _least_stalls(passes: Passes, layer: LayerTrace, machine: Machine, chunks: int) -> int:
    """A bound that no time line of this cut beats: what the channel needs for inputs alone, beyond the array's time."""
    moved, per = machine.memory.bandwidth()
    if not moved or chunks == 1:
        return 0
    spec: Spec = machine.array
    inputs = int(_input_bytes(layer, spec)[passes.group].sum())
    array = int(stream_cycles(passes, layer.operation.gemm().m, spec).sum())
    array += len(passes.filled) * (spec.load_cycles + spec.tail_cycles)
    return inputs * per // moved - array


def layer_steps(passes: Passes, layer: LayerTrace, machine: Machine, rows: int) -> Steps:
    """A step per pass and chunk of `rows` streamed vectors; before it, one per further multiplier fill of weights."""
    spec: Spec = machine.array
    gemm, number = layer.operation.gemm(), len(passes.filled)
    starts = np.arange(0, gemm.m, rows)
    ends = np.minimum(starts + rows, gemm.m)
    size, chunks = ends - starts, len(starts)
    metadata = (passes.bitmap_rows * gemm.k if layer.packed_weight is not None else 0 * passes.filled)
    metadata_bytes = -(-metadata // 8)
    weight_bytes = -(-passes.stored * layer.weight_bits // 8) + metadata_bytes
    total = _input_bytes(layer, spec)[passes.group]
    inputs = total[:, None] * ends // gemm.m - total[:, None] * starts // gemm.m
    outputs = -(-passes.finished[:, None] * size * layer.output_bits // 8)
    psum = -(-size * machine.memory.psum_bits // 8)
    held = np.maximum(outputs, -(-passes.segments[:, None] * size * machine.memory.psum_bits // 8))
    if chunks == 1:
        # The whole input stays for the passes of its group, and the sums of a divided row stay on chip.
        inputs[1:][passes.group[1:] == passes.group[:-1]] = 0
    else:
        inputs += passes.continued[:, None] * psum
        outputs += np.append(passes.continued[1:], 0)[:, None] * psum
        held = np.maximum(held, outputs)
    cycles = (stream_cycles(passes, 1, spec)[:, None] * size).astype(np.int64)
    cycles[:, 0] += spec.load_cycles
    cycles[:, -1] += spec.tail_cycles
    weights, meta = np.zeros((2, number, chunks), dtype=np.int64)
    fill = -(-spec.multipliers * layer.weight_bits // 8)
    pieces = np.maximum(1, -(-weight_bytes // fill))
    # The last piece comes with the first chunk; those before it are loads without computation.
    weights[:, 0] = weight_bytes - (pieces - 1) * fill
    meta[:, 0] = metadata_bytes
    flat = [array.reshape(-1) for array in (weights, inputs, outputs, cycles, meta, held)]
    before = np.repeat(np.arange(number) * chunks, pieces - 1)
    weights, inputs, outputs, cycles, meta, held = (
        np.insert(array, before, value) for array, value in zip(flat, (fill, 0, 0, 0, 0, 0), strict=True))
    return Steps(weights, inputs, outputs, cycles, meta, held)
