"""TensorDash: lanes of a dot product that take work from the next two rows, and from neighbours, instead of zeros.

A small crossbar and a fixed priority pack the effectual products of a window of rows into one cycle; all elements of
a tile move on together.  Left out: pipelines, the compression of outputs, and the choice of the scheduled side per
layer.  docs/machines/tensordash.md is the text, tensordash_kernel.py the scheduler, ../reference/tensordash.py the
twin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..errors import InputError, nearest
from ..hardware import Machine
from ..lowering import nonzero_inputs_per_row, useful_macs
from ..mapping import Tiling
from ..report import LayerCounts
from ..sparse_actions import SparseAction, skipped, stored_without_zeros
from ..trace import LayerTrace
from .filter_runs import Stored, fastest_runs, raw_input_words
from .limits import require_enumerable
from .lowered_rows import blocks_of_rows
from .spread import with_explicit_inputs

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
SIDES = ("input", "weight", "both")
STORAGE = ("dense", "bitmask")
SEARCH_DISTANCE = 5  # lanes of one level are this far apart: the reach of (+1, i-3) and (+2, i+2)
MOST_ITEMS = 1 << 28  # blocks of filters times blocks of output rows, looked at one by one


@dataclass(frozen=True)
class Spec:
    """The array; every field is explained in docs/machines/tensordash.md."""

    tiles: int
    rows: int
    cols: int
    lanes: int = 16
    staging_depth: int = 3
    sparse_side: str = "input"
    storage: str = "dense"

    @property
    def peak_macs_per_cycle(self) -> int:
        """Multipliers."""
        return self.tiles * self.rows * self.cols * self.lanes

    @property
    def cycle_offset(self) -> int:
        """Cycles are counted, not indexed."""
        return 0

    @property
    def compressed_inputs(self) -> bool:
        """Are zero inputs neither stored nor moved?"""
        return self.storage == "bitmask"

    @property
    def pixel_block(self) -> int:
        """Output rows that a tile works on at a time."""
        return self.cols if self.sparse_side == "weight" else self.rows

    @property
    def filter_block(self) -> int:
        """Filters that a tile works on at a time."""
        return self.rows if self.sparse_side == "weight" else self.cols

    @property
    def native_formats(self) -> dict[str, str]:
        """How operands are stored, off chip and in their buffers."""
        return {"weight": self.storage, "input": self.storage}

    @property
    def sparse_actions(self) -> tuple[SparseAction, ...]:
        """What is gated and skipped (sparse_actions.py)."""
        found = (skipped(self.sparse_side),) if self.sparse_side != "both" else (skipped("weight"), skipped("input"))
        if self.storage == "dense":
            return found
        return (*stored_without_zeros("weight"), *stored_without_zeros("input"), *found)

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ranges = {"tiles": (1, 2**16), "rows": (1, 2**10), "cols": (1, 2**10), "lanes": (1, 64),
                  "staging_depth": (2, 3)}
        found = [f"{name} = {getattr(self, name)}; expected an integer from {low} to {high}"
                 for name, (low, high) in ranges.items() if not low <= getattr(self, name) <= high]
        for name, known in (("sparse_side", SIDES), ("storage", STORAGE)):
            value = getattr(self, name)
            if value not in known:
                found.append(f"{name} = {value!r}; expected one of {', '.join(known)}; {nearest(value, known)}")
        return found


@dataclass(frozen=True, eq=False)
class Work:
    """Items (a block of filters on a block of output rows) and what they take, by group.

    times: int64[groups, filter blocks or 1, pixel blocks or 1], cycles of an item, 1 where they do not depend on that
    side.  waited: of the same shape, idle lane-cycles of rows that are held back, in every column.  filters, pixels:
    int64[blocks], how many there are in each block.
    """

    times: Ints
    waited: Ints
    filters: Ints
    pixels: Ints


def run(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None) -> LayerCounts:
    """Counts of one layer; raises InputError where no cut fits the buffers, saying by how many bytes."""
    require_enumerable(layer)
    gemm, spec = layer.operation.gemm(), machine.array
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[Count.DENSE_MACS] = layer.operation.macs
    chosen = Tiling(gemm.m, gemm.k, gemm.n)
    if not layer.weight_nnz:
        counts[Count.SKIPPED_MACS] = layer.operation.macs
        return LayerCounts(counts, chosen, "removed")
    items = -(-gemm.m // spec.pixel_block) * -(-gemm.n // spec.filter_block) * layer.operation.groups
    if items > MOST_ITEMS:
        raise InputError(f"{items} blocks of outputs", where=f"layer {layer.name!r}", expected=f"at most {MOST_ITEMS}",
                         fix="split the layer")
    explicit = with_explicit_inputs(layer)
    weights = layer.weight_matrix()
    work = measure(explicit, weights, spec)

    def cycles_of(starts: Ints) -> Ints:
        from . import tensordash_kernel as kernel

        cycles = np.zeros(len(starts), dtype=np.int64)
        ends = np.append(starts, layer.operation.groups * len(work.filters)).astype(np.int64)
        kernel.run_cycles(work.times, ends, len(work.filters), len(work.pixels), spec.tiles, cycles)
        return cycles

    starts = np.zeros(1, dtype=np.int64)
    if machine.memory.memory != "ideal":
        stored = _stored(explicit, weights, spec)
        chosen, starts, added = fastest_runs(explicit, machine, tiling, stored, cycles_of)
        counts += added
    _count(counts, explicit, weights, work, spec, int(cycles_of(starts).sum()))
    known = {"input": explicit.packed_input is not None, "weight": layer.packed_weight is not None}
    sparse = any(known[side] for side in known if spec.sparse_side in (side, "both"))
    return LayerCounts(counts, chosen, "unstructured" if sparse else "dense")


def measure(layer: LayerTrace, weights: Bools, spec: Spec) -> Work:
    """Schedule every block of the sparse side, or for "both" every pair of blocks.  weights: bool[groups, k, n]."""
    gemm, side = layer.operation.gemm(), spec.sparse_side
    filters, pixels = (_sizes(count, block) for count, block in ((gemm.n, spec.filter_block),
                                                                 (gemm.m, spec.pixel_block)))
    shape = (len(weights), 1 if side == "input" else len(filters), 1 if side == "weight" else len(pixels))
    found = np.zeros((*shape, 2), dtype=np.int64)
    ones = np.ones((1, 1, gemm.k), dtype=bool)
    for group, mask in enumerate(weights):
        padded = np.pad(mask.T, ((0, -gemm.n % spec.filter_block), (0, 0)))
        by_block = padded.reshape(len(filters), spec.filter_block, gemm.k)
        if side == "weight":
            found[group, :, 0] = _schedule(by_block, filters, ones, np.ones(1, dtype=np.int64), spec)[:, 0]
            continue
        for number, live in blocks_of_rows(layer, group, spec.pixel_block):
            here = pixels[number][: len(live)]
            other = (ones, np.ones(1, dtype=np.int64)) if side == "input" else (by_block, filters)
            found[group, :, number] = _schedule(live, here, *other, spec)
    return Work(np.ascontiguousarray(found[..., 0]), np.ascontiguousarray(found[..., 1]), filters, pixels)


def _sizes(count: int, block: int) -> Ints:
    return np.minimum(block, count - np.arange(0, count, block))


def _schedule(rows: Bools, rows_there: Ints, columns: Bools, columns_there: Ints, spec: Spec) -> Ints:
    """int64[blocks, other blocks, 2]: (cycles, held-back lane-cycles) of bool[blocks, rows, k] on [.., columns, k]."""
    from . import tensordash_kernel as kernel

    lanes, fields = spec.lanes, 64 // spec.lanes
    words = -(-spec.rows // fields)
    found = np.zeros((len(rows), len(columns), 2), dtype=np.int64)
    exist = np.arange(spec.rows) < rows_there[:, None]
    valid = np.repeat(exist[:, :, None], lanes, axis=2)[:, :, None]  # one step with every lane of the rows that exist
    kernel.schedule(_words(rows, lanes, fields), _repeated(columns, lanes, fields), columns_there.astype(np.int64),
                    np.ascontiguousarray(_packed(valid, fields)[:, 0].reshape(len(rows), words)),
                    _field_bits(1 << (lanes - 1), lanes), lanes, spec.staging_depth, levels(lanes), turns(lanes), found)
    return found


def levels(lanes: int) -> Words:
    """uint64[levels]: lanes that choose at the same time, one after the other, repeated in every field of a word."""
    free, masks = set(range(lanes)), []
    while free:
        first = min(free)
        chosen = [lane for lane in range(first, lanes, SEARCH_DISTANCE)
                  if lane == first or lane < lanes - SEARCH_DISTANCE + first]
        free -= set(chosen)
        masks.append(_field_bits(sum(1 << lane for lane in chosen), lanes))
    return np.array(masks, dtype=np.uint64)


def turns(lanes: int) -> Words:
    """uint64[6, 4]: rotations inside every field by 1, 2, 3 lanes up, then down: (up, mask, down, mask)."""
    table = []
    for distance in (1, 2, 3, -1, -2, -3):
        up = distance % lanes
        low = (1 << up) - 1
        table.append([up, _field_bits((1 << lanes) - 1 & ~low, lanes), (lanes - up) % lanes, _field_bits(low, lanes)])
    return np.array(table, dtype=np.uint64)


def _field_bits(bits: int, lanes: int) -> np.uint64:
    """The same bits in every field."""
    return np.uint64(sum(bits << (field * lanes) for field in range(64 // lanes)))


def _words(mask: Bools, lanes: int, fields: int) -> Words:
    """uint64[blocks, steps, words] of bool[blocks, rows, k]: row r in field r mod `fields` of word r // `fields`."""
    blocks, rows, k = mask.shape
    padded = np.pad(mask, ((0, 0), (0, 0), (0, -k % lanes)))
    return _packed(padded.reshape(blocks, rows, -1, lanes), fields)


def _packed(slots: Bools, fields: int) -> Words:
    """uint64[blocks, steps, words] of bool[blocks, rows, steps, lanes]."""
    blocks, rows, steps, lanes = slots.shape
    padded = np.pad(slots, ((0, 0), (0, -rows % fields), (0, 0), (0, 0)))
    by_word = padded.reshape(blocks, -1, fields, steps, lanes).transpose(0, 3, 1, 2, 4)
    bits = np.zeros((blocks, steps, by_word.shape[2], 64), dtype=bool)
    bits[..., : fields * lanes] = by_word.reshape(blocks, steps, -1, fields * lanes)
    return np.packbits(bits, axis=-1, bitorder="little").view("<u8").astype(np.uint64)[..., 0]


def _repeated(mask: Bools, lanes: int, fields: int) -> Words:
    """uint64[blocks, columns, steps] of bool[blocks, columns, k]: a column's lanes in every field."""
    blocks, columns, k = mask.shape
    padded = np.pad(mask, ((0, 0), (0, 0), (0, -k % lanes)))
    one = _packed(padded.reshape(blocks * columns, 1, -1, lanes), 1)[..., 0]
    total = np.zeros_like(one)
    for field in range(fields):
        total |= one << np.uint64(field * lanes)
    return np.ascontiguousarray(total.reshape(blocks, columns, -1))


def _count(counts: Ints, layer: LayerTrace, weights: Bools, work: Work, spec: Spec, cycles: int) -> None:
    """Add work, on-chip traffic and the causes: lane-cycles over the lanes of all tiles, whole cycles."""
    gemm, groups, peak = layer.operation.gemm(), layer.operation.groups, spec.peak_macs_per_cycle
    known = layer.packed_input is not None
    live = int(nonzero_inputs_per_row(layer).sum()) if known else gemm.m * gemm.k * groups
    kept = int(weights.sum())
    useful = useful_macs(layer, weights)
    issued = {"input": live * gemm.n, "weight": kept * gemm.m, "both": useful}[spec.sparse_side]
    filters, pixels = len(work.filters), len(work.pixels)
    # What depends on one side alone is the same for all blocks of the other.
    times = int(work.times.sum()) * (filters // work.times.shape[1]) * (pixels // work.times.shape[2])
    columns = {"input": gemm.n, "weight": gemm.m, "both": 1}[spec.sparse_side]
    waited = int(work.waited.sum()) * columns
    counts[Count.COMPUTE] = -(-issued // peak)
    counts[Count.FRAGMENTATION] = (times * (peak // spec.tiles) - issued - waited) // peak
    counts[Count.IMBALANCE] = cycles - counts[Count.COMPUTE] - counts[Count.FRAGMENTATION]
    counts[Count.USEFUL_MACS] = useful
    counts[Count.ISSUED_MACS] = issued
    counts[Count.SKIPPED_MACS] = layer.operation.macs - issued
    inputs, held = gemm.m * gemm.k * groups * filters, gemm.k * gemm.n * groups * pixels
    counts[Count.INPUT_HOPS], counts[Count.WEIGHT_HOPS] = inputs, held
    per_filter = work.filters if work.times.shape[1] > 1 else np.array([gemm.n])
    per_pixel = work.pixels if work.times.shape[2] > 1 else np.array([gemm.m])
    counts[Count.PSUM_HOPS] = (work.times * per_filter[:, None] * per_pixel).sum()
    counts[Count.OUTPUT_SRAM_WRITES] = gemm.m * gemm.n * groups
    packed_inputs, packed_weights = _bitmasks(layer, spec)
    counts[Count.INPUT_SRAM_READS] = live * filters if packed_inputs else inputs
    counts[Count.WEIGHT_SRAM_READS] = kept * pixels if packed_weights else held
    counts[Count.METADATA_SRAM_READ_BITS] = inputs * packed_inputs + held * packed_weights


def _bitmasks(layer: LayerTrace, spec: Spec) -> tuple[bool, bool]:
    """Are inputs, are weights stored as a bitmask and their nonzeros?"""
    packed = spec.storage == "bitmask"
    return packed and layer.packed_input is not None, packed and layer.packed_weight is not None


def _stored(layer: LayerTrace, weights: Bools, spec: Spec) -> Stored:
    """What lies in memory: whole tensors, or the nonzeros and a bit for every value."""
    gemm, block = layer.operation.gemm(), spec.filter_block
    packed_inputs, packed_weights = _bitmasks(layer, spec)
    starts = np.arange(0, gemm.n, block)
    values = np.broadcast_to(_sizes(gemm.n, block) * gemm.k, (len(weights), len(starts))).astype(np.int64)
    kept = np.add.reduceat(weights.sum(axis=1, dtype=np.int64), starts, axis=1)
    words, nonzeros = raw_input_words(layer)
    return Stored(block, kept if packed_weights else values, values * packed_weights,
                  nonzeros if packed_inputs else words, words * packed_inputs)
