"""The static schedule of a layer: tiles in loop order, their folds, and the transfers in the order of the queue.

This is what a compiler would hand to the controller: who comes after whom and which tile is where, but no
cycle number (docs/model.md 1.2, 1.4 and the order of 1.5).  Read systolic.py for the clock that executes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..hardware import Machine
from ..mapping import Tiling
from ..trace import LayerTrace
from .cover import Placement, placements
from .operands import Bools, Operands


@dataclass(frozen=True, eq=False)
class Fold:
    """One filling of the array: the ranges of the GEMM that rows, columns and the stream stand for."""

    number: int
    step: int
    group: int
    rows: range
    cols: range
    stream: range
    first_of_step: bool
    last_of_step: bool
    placement: Placement | None = None  # element by element, where tiles or rows have their own n:m


@dataclass(frozen=True)
class Tile:
    """A rectangle of one operand; the ranges that an operand does not have are empty."""

    group: int
    m: range
    k: range
    n: range

    def input(self) -> Tile:
        """The input tile of this step."""
        return Tile(self.group, self.m, self.k, range(0))

    def weight(self) -> Tile:
        """The weight tile of this step."""
        return Tile(self.group, range(0), self.k, self.n)

    def output(self) -> Tile:
        """The output tile of this step."""
        return Tile(self.group, self.m, range(0), self.n)


@dataclass
class Load:
    """The visit of a tile in a buffer half: loaded for its first step, released after the stream of its last."""

    operand: str
    number: int
    tile: Tile
    last_step: int
    arrived: bool = False
    released: bool = False


@dataclass
class Occupancy:
    """The stay of an output tile in a half, over consecutive steps."""

    number: int
    tile: Tile
    returns: bool  # its partial sums come back from DRAM
    complete: bool = False  # it has seen its last k tile
    last_fold: Fold | None = None
    arrived: bool = False
    stored: bool = False


@dataclass(eq=False)
class Step:
    """One tile of the GEMM, its folds, and the visits it uses."""

    number: int
    tile: Tile
    folds: list[Fold]
    output: Occupancy
    weight: Load | None = None
    input: Load | None = None


@dataclass(frozen=True)
class Transfer:
    """An entry of the DRAM queue: what it moves; kind is weight, input, psum or store."""

    kind: str
    visit: Load | Occupancy


@dataclass
class Program:
    """Steps, folds and transfers of one layer."""

    steps: list[Step] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    loads: dict[str, list[Load]] = field(default_factory=lambda: {"weight": [], "input": []})
    outputs: list[Occupancy] = field(default_factory=list)
    skipped_a_fold: bool = False


def compile_program(operands: Operands, machine: Machine, tiling: Tiling) -> Program:
    """Lay out steps, folds and transfers.  Raises ValueError where the tiling cuts an output row unevenly."""
    program = Program()
    halves = 2 if machine.memory.output_double_buffered else 1
    visited: set[Tile] = set()
    for tile in _tiles(operands, tiling):
        previous = program.outputs[-1] if program.outputs else None
        folds, left_out = _folds(operands, machine, tile, len(program.steps), len(program.folds))
        program.skipped_a_fold |= left_out
        entered = previous is None or previous.tile != tile.output()
        if entered:
            program.outputs.append(Occupancy(len(program.outputs), tile.output(), tile.output() in visited))
            visited.add(tile.output())
        step = Step(len(program.steps), tile, folds, program.outputs[-1])
        step.output.last_fold = folds[-1] if folds else step.output.last_fold
        step.output.complete = tile.k.stop == operands.k
        program.steps.append(step)
        program.folds += folds
        if folds:
            step.weight = _visit(program, "weight", tile.weight(), step)
            step.input = _visit(program, "input", tile.input(), step)
        leaving = [Transfer("store", previous)] if entered and previous else []
        coming = [Transfer("psum", step.output)] if entered and step.output.returns else []
        program.transfers += leaving + coming if halves == 1 else coming + leaving
    program.transfers.append(Transfer("store", program.outputs[-1]))
    return program


def load_bits(load: Load, operands: Operands, layer: LayerTrace, machine: Machine, program: Program) -> tuple[int, int]:
    """(bits of the values, bits of the metadata) that a load brings."""
    if load.operand == "input":
        return input_box(operands, load.tile).size * layer.input_bits, 0
    held = executed_weights(load, operands, program, machine)
    values = int(held.sum())
    metadata = values * operands.metadata_bits
    if operands.covers:
        cover = operands.covers[load.tile.group]
        metadata = cover.metadata_bits(load.tile.k, load.tile.n, held, machine.array.cols)
    elif machine.array.skip_zero_blocks and layer.packed_weight is not None:
        metadata += -(-len(load.tile.k) // machine.array.rows) * -(-len(load.tile.n) // machine.array.cols)
    return values * layer.weight_bits, metadata


def executed_weights(load: Load, operands: Operands, program: Program, machine: Machine) -> Bools:
    """bool[k, n] of the whole group: the slots of a weight tile that its folds really use."""
    held = np.zeros((operands.k, operands.n), dtype=bool)
    if machine.array.dataflow != "ws":
        held[load.tile.k.start : load.tile.k.stop, load.tile.n.start : load.tile.n.stop] = True
        return held
    for fold in (fold for step in program.steps if step.weight is load for fold in step.folds):
        if fold.placement is None:
            held[fold.rows.start : fold.rows.stop, fold.cols.start : fold.cols.stop] = True
        else:
            row, col = np.nonzero(fold.placement.weight_row >= 0)
            held[fold.placement.weight_row[row, col], fold.placement.outputs[col]] = True
    return held


@dataclass(frozen=True, eq=False)
class Box:
    """The part of an input tensor that a brick reads: images, channels of the group, input rows and columns."""

    images: np.ndarray
    channels: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    @property
    def size(self) -> int:
        """Elements in the box."""
        return len(self.images) * len(self.channels) * len(self.rows) * len(self.cols)


def input_box(operands: Operands, tile: Tile) -> Box:
    """Every input row and column that the output rows and columns of the tile read, over whole kernels."""
    image, _, row, col = operands.address[:, tile.m.start : tile.m.stop]
    covered = np.concatenate([np.array(operands.bundle(k)) for k in tile.k])
    channels = covered // operands.shape.window
    span = np.arange(channels.min(), channels.max() + 1)
    return Box(np.unique(image), span, np.unique(row[row >= 0]), np.unique(col[col >= 0]))


def _visit(program: Program, operand: str, tile: Tile, step: Step) -> Load:
    """The load that brings a tile for this step; the last one still serves where the tile is the same."""
    loads = program.loads[operand]
    if not loads or loads[-1].tile != tile:
        loads.append(Load(operand, len(loads), tile, step.number))
        program.transfers.append(Transfer(operand, loads[-1]))
    loads[-1].last_step = step.number
    return loads[-1]


def _cut(axis: range, size: int) -> list[range]:
    return [range(start, min(start + size, axis.stop)) for start in range(axis.start, axis.stop, size)]


def _bricks(operands: Operands, tile_m: int) -> list[range]:
    """Tiles along m: parts of an output row, whole rows of one image, or whole images."""
    row, image = operands.shape.out_w, operands.shape.out_w * operands.shape.out_h
    whole = range(operands.m)
    if tile_m < row:
        return [part for line in _cut(whole, row) for part in _cut(line, tile_m)]
    if tile_m % row or (tile_m > image and tile_m % image and tile_m != operands.m):
        raise ValueError(f"tile_m = {tile_m} is neither part of an output row nor whole rows nor whole images")
    return [part for picture in _cut(whole, max(image, tile_m // image * image)) for part in _cut(picture, tile_m)]


def _tiles(operands: Operands, tiling: Tiling) -> list[Tile]:
    axes = {
        "m": _bricks(operands, tiling.tile_m),
        "k": _cut(range(operands.k), tiling.tile_k),
        "n": _cut(range(operands.n), tiling.tile_n),
    }
    outer, middle, inner = (axes[name] for name in tiling.order)
    tiles = []
    for group in range(len(operands.groups)):
        for first in outer:
            for second in middle:
                for third in inner:
                    at = dict(zip(tiling.order, (first, second, third), strict=True))
                    tiles.append(Tile(group, at["m"], at["k"], at["n"]))
    return tiles


def _folds(operands: Operands, machine: Machine, tile: Tile, step: int, number: int) -> tuple[list[Fold], bool]:
    """Folds of a tile, column folds outer and row folds inner, and whether a zero block was left out."""
    spec = machine.array
    if operands.covers:
        placed = placements(operands.groups[tile.group].weight, operands.covers[tile.group], tile.k, tile.n, spec)
        return [
            Fold(number + i, step, tile.group, range(len(held.fetched)), range(len(held.outputs)), tile.m,
                 first_of_step=i == 0, last_of_step=i == len(placed) - 1, placement=held)
            for i, held in enumerate(placed)
        ], False
    rows, cols, stream = {
        "ws": (tile.k, tile.n, tile.m), "os": (tile.m, tile.n, tile.k), "is": (tile.k, tile.m, tile.n),
    }[spec.dataflow]
    pairs = [(held_rows, held_cols) for held_cols in _cut(cols, spec.cols) for held_rows in _cut(rows, spec.rows)]
    kept = pairs
    if spec.skip_zero_blocks:
        weight = operands.groups[tile.group].weight
        kept = [(r, c) for r, c in pairs if weight[r.start : r.stop, c.start : c.stop].any()]
    folds = [
        Fold(number + i, step, tile.group, r, c, stream, first_of_step=i == 0, last_of_step=i == len(kept) - 1)
        for i, (r, c) in enumerate(kept)
    ]
    return folds, len(kept) < len(pairs)
