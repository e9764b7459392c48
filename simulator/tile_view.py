"""The first tile of a layer, small enough to watch: a GEMM cut from it, stepped by the clocked twin, cycle by cycle.

The tile has at most two fillings of an 8 x 8 array, memory is ideal, and what is seen is the twin's registers.
Machines other than the systolic model are left out.  Read reference/watched.py for what is in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import grouped
from .errors import InputError
from .hardware import Machine
from .reference.watched import Film, film, numbers
from .trace import LayerTrace
from .workload import Gemm

MOST = 8


@dataclass(frozen=True, eq=False)
class TileView:
    """The GEMM that is shown and its frames.  origin: (m, k, n) of its first element in its layer; layer: its name."""

    layer: str
    machine: Machine
    gemm: LayerTrace
    origin: tuple[int, int, int]
    film: Film

    @property
    def cycles(self) -> int:
        """One per frame."""
        return len(self.film.frames)


def tile_view(layer: LayerTrace, machine: Machine) -> TileView:
    """The first tile of `layer` on `machine`, on an array of at most 8 x 8 elements.

    Raises InputError for another model than systolic, and where the layer does not run.
    """
    if machine.model != "systolic":
        raise InputError(f"a view of a tile on model {machine.model!r}", where=f"machine {machine.name!r}",
                         expected="model systolic, whose array is stepped element by element",
                         fix="choose one of the systolic machines (espalier machines)")
    found = grouped.run(layer, machine)
    if found.executed_as == "removed":
        raise InputError("has no weight left, and the machine leaves it out", where=f"layer {layer.name!r}",
                         expected="a layer that runs")
    spec = machine.array
    rows, cols = min(spec.rows, MOST), min(spec.cols, MOST)
    kept, of = 1, 1
    if ":" in found.executed_as and " " not in found.executed_as:
        kept, of = (int(part) for part in found.executed_as.split(":"))
    small = machine.replace(
        rows=rows, cols=cols, memory="ideal", layer_startup_cycles=0, compact_channels=False,
        nm=spec.nm if spec.nm_cover != "layer" else (found.executed_as,) if of > 1 else ())
    cover = of if of > 1 else max([1, *(int(text.partition(":")[2]) for text in small.array.nm)])
    per_k = of / kept if of > 1 else cover
    sizes = {"ws": (MOST, 2 * rows * per_k, cols), "os": (2 * rows, MOST * per_k, cols),
             "is": (cols, 2 * rows, MOST)}[spec.dataflow]
    weights, inputs = _matrices(layer, spec.compact_channels)
    limits = (found.tiling.tile_m, -(-found.tiling.tile_k * of // kept), found.tiling.tile_n)
    m, k, n = (min(int(size), limit, whole)
               for size, limit, whole in zip(sizes, limits, (inputs.shape[0], *weights.shape), strict=True))
    # Where pruning left the first weights empty, the first part that holds any.
    first_k, first_n = next(((a, b) for a in range(0, weights.shape[0], k) for b in range(0, weights.shape[1], n)
                             if weights[a : a + k, b : b + n].any()), (0, 0))
    part_w = weights[first_k : first_k + k, first_n : first_n + n]
    part_i = inputs[:m, first_k : first_k + k]
    gemm = LayerTrace(layer.name, Gemm(m, part_w.shape[0], part_w.shape[1]),
                      None if layer.packed_weight is None else part_w,
                      None if layer.packed_input is None else part_i)
    return TileView(layer.name, machine, gemm, (0, first_k, first_n),
                    film(gemm, small, numbers(part_i), numbers(part_w)))


def _matrices(layer: LayerTrace, compact: bool) -> tuple[np.ndarray, np.ndarray]:
    """(bool[k, n], bool[rows of m, k]) of the first group that has weights, without the channels that are removed."""
    from .machines.sparten import lowered_mask

    if grouped.in_groups(layer.operation):
        layer = grouped.on_planes(layer)
    gemm, group = layer.operation.gemm(), 0
    weights = np.broadcast_to(np.True_, (gemm.k, gemm.n))  # nothing that is large is made of a dense layer
    if layer.packed_weight is not None:
        matrices = layer.weight_matrix()
        group = int(np.argmax(matrices.any(axis=(1, 2))))
        weights = matrices[group]
    if layer.packed_input is None:
        inputs = np.ones((min(2 * MOST, layer.operation.gemm().m), len(weights)), dtype=bool)
    else:
        inputs = lowered_mask(layer, group)
    if compact and layer.operation.groups == 1 and layer.packed_weight is not None:
        window = layer.operation.window
        rows = np.repeat(weights.reshape(-1, window, weights.shape[1]).any(axis=(1, 2)), window)
        return weights[rows][:, weights.any(axis=0)], inputs[:, rows]
    return weights, inputs
