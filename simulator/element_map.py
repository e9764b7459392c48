"""Which processing element did how much of a layer: multiplications counted element by element.

The counts follow from the layer's real masks and from where docs/model.md sections 1.1, 1.2 and 1.4 place its products
in a systolic array; their sums are the report's.  Time is left out, and models without a grid of elements that keep
their part of the work.  Read element_map_scnn.py for SCNN's grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import element_map_scnn, grouped, precision
from .hardware import Machine
from .lowering import Physical, nonzero_inputs_per_row
from .report import LayerReport
from .trace import LayerTrace

Counts = NDArray[np.float64]
Bools = NDArray[np.bool_]
MODELS = ("systolic", "scnn")
MOST = 1 << 27  # of a layer's weights, or of its lowered inputs: they are placed one by one
PART = 1 << 22  # of a weight-stationary array's weights at a time


@dataclass(frozen=True, eq=False)
class ElementMap:
    """useful, slots: float64[rows, cols], multiplications of every element in a layer; each has so many `multipliers`.

    useful: both operands nonzero; slots: issued or gated, zeros included.  Whole numbers, but for a layer of which only
    the share of nonzero inputs is known: useful is then that share of the products with a weight, in every element.
    """

    useful: Counts
    slots: Counts
    cycles: int
    multipliers: int = 1

    @property
    def utilisation(self) -> Counts:
        """float64[rows, cols]: useful multiplications per multiplier and cycle of the layer."""
        return self.useful / max(1, self.cycles * self.multipliers)


def why_not(report: LayerReport, machine: Machine) -> str:
    """Why a layer has no map of elements, as the end of a sentence; "" where it has one."""
    if machine.model not in MODELS:
        return f"model {machine.model} counts its multipliers together, not element by element"
    if report.executed_as == "removed":
        return "no weight is left, and the machine leaves the layer out"
    if machine.type_rates and precision.rate(report.layer, machine) != 1:
        return "its operands' type has a rate of its own, and an element does several products in a cycle"
    if _most(_single(report.layer), machine) > MOST:
        return f"it has more than {MOST:,} operands to place"
    if machine.model == "systolic" and _physical(_single(report.layer), machine).cover is not None:
        return "tiles or rows have an n:m of their own, and their weights are packed anew for every tile"
    return ""


def element_map(report: LayerReport, machine: Machine) -> ElementMap:
    """Multiplications of every element of `machine` in a layer that it ran; only where `why_not` has nothing to say.

    Takes a matrix product of the layer's masks for an output-stationary array, sums of them for the others.
    """
    layer, spec = _single(report.layer), machine.array
    if machine.model == "scnn":
        made = element_map_scnn.products(layer, machine)
        return ElementMap(made, made, report.cycles, spec.multipliers_f * spec.multipliers_i)
    gemm = _physical(layer, machine)
    weights, rows = _weights(layer, gemm, spec.compact_channels)
    if spec.dataflow == "ws":
        useful, slots = _weight_stationary(layer, machine, gemm, weights, rows)
    else:
        useful, slots = _by_output_pixels(layer, report, machine, gemm, weights, rows)
    if layer.packed_input is None:
        useful *= layer.input_density
    return ElementMap(useful, slots, report.cycles)


def _single(layer: LayerTrace) -> LayerTrace:
    return grouped.on_planes(layer) if grouped.in_groups(layer.operation) else layer


def _most(layer: LayerTrace, machine: Machine) -> int:
    """Entries of the largest array that the map is made from."""
    weights, gemm = math.prod(layer.operation.weight_shape), layer.operation.gemm()
    if machine.model == "scnn":
        return max(weights, math.prod(layer.operation.input_shape) * layer.operation.window)
    if machine.array.dataflow == "ws":
        return weights
    return max(weights, gemm.m * gemm.k if layer.packed_input is not None else 8 * gemm.m)


def _physical(layer: LayerTrace, machine: Machine) -> Physical:
    from .machines import systolic

    return systolic.physical_gemm(layer, machine)


def _weights(layer: LayerTrace, gemm: Physical, compact: bool) -> tuple[Bools, list[tuple[int, NDArray[np.int64]]]]:
    """(bool[groups, k_rows, n], (group of the layer, its rows of k) of each) without the channels that are removed."""
    whole = layer.weight_matrix()
    every = np.arange(whole.shape[1])
    if not compact or layer.packed_weight is None:
        return whole, [(group, every) for group in range(len(whole))]
    if len(whole) > 1:
        live = np.flatnonzero(whole.any(axis=(1, 2)))
        return whole[live], [(int(group), every) for group in live]
    window = layer.operation.window
    rows = np.repeat(whole[0].reshape(-1, window, whole.shape[2]).any(axis=(1, 2)), window)
    return whole[:, rows][:, :, whole[0].any(axis=0)], [(0, np.flatnonzero(rows))]


def _weight_stationary(layer: LayerTrace, machine: Machine, gemm: Physical, weights: Bools,
                       rows: list[tuple[int, NDArray[np.int64]]]) -> tuple[Counts, Counts]:
    """An element holds a weight while all m inputs of its row of k pass by."""
    spec = machine.array
    inputs = None if layer.packed_input is None else nonzero_inputs_per_row(layer)
    useful, slots = np.zeros((spec.rows, spec.cols)), np.zeros((spec.rows, spec.cols))
    for mask, (group, k_rows) in zip(weights, rows, strict=True):
        passing = np.full(len(k_rows), gemm.m) if inputs is None else inputs[group, k_rows]
        step = spec.cols * max(1, PART // (spec.cols * len(mask)))
        for first in range(0, gemm.n, step):
            part = mask[:, first : first + step]
            products = part * passing[:, None]
            if gemm.slots_kept < gemm.slots_of:
                products = _compacted(products, part, gemm)
            useful += _over_folds(_over_folds(products, spec.rows).T, spec.cols).T
        executed = np.ones((gemm.k, gemm.n), dtype=bool)
        if spec.skip_zero_blocks and layer.packed_weight is not None:
            at_k, at_n = np.arange(0, gemm.k, spec.rows), np.arange(0, gemm.n, spec.cols)
            held = np.logical_or.reduceat(np.logical_or.reduceat(mask, at_k, axis=0), at_n, axis=1)
            executed = held[np.arange(gemm.k)[:, None] // spec.rows, np.arange(gemm.n) // spec.cols]
        slots += gemm.m * _over_folds(_over_folds(executed, spec.rows).T, spec.cols).T
    return useful, slots


def _compacted(products: NDArray[np.int64], mask: Bools, gemm: Physical) -> NDArray[np.int64]:
    """int64[k, n] of the slots that the rows of k are kept in: nonzeros and the first zeros, in order of row."""
    of, kept = gemm.slots_of, gemm.slots_kept
    filled = np.pad(mask, ((0, -len(mask) % of), (0, 0))).reshape(-1, of, mask.shape[1])
    chosen = np.sort(np.argsort(~filled, axis=1, kind="stable")[:, :kept], axis=1)
    source = (chosen + np.arange(len(filled))[:, None, None] * of).reshape(-1, mask.shape[1])[: gemm.k]
    return np.take_along_axis(products, source, axis=0)


def _by_output_pixels(layer: LayerTrace, report: LayerReport, machine: Machine, gemm: Physical, weights: Bools,
                      rows: list[tuple[int, NDArray[np.int64]]]) -> tuple[Counts, Counts]:
    """os: an element forms the sum of an output while its operands pass; is: it holds an input while weights pass."""
    from .machines import tiling_search
    from .machines.sparten import lowered_mask

    spec = machine.array
    problem = tiling_search.Problem.of(gemm, layer, machine)
    places = _places(gemm.m, problem.bricks(report.tiling.tile_m), problem.out_h, problem.out_w)
    outputs = spec.dataflow == "os"
    shape = (spec.rows, spec.cols) if outputs else (spec.cols, spec.rows)  # m first; turned at the end
    held_m, across = places % shape[0], gemm.n if outputs else gemm.k
    pixels, held = np.bincount(held_m, minlength=shape[0]), _over_folds(np.ones((across, 1)), shape[1])[:, 0]
    slots = np.outer(pixels, held) * (gemm.groups * (gemm.k if outputs else gemm.n))
    useful = np.zeros(shape)
    for mask, (group, k_rows) in zip(weights, rows, strict=True):
        # float32 holds these counts exactly up to 2**24 rows of k or columns of n, and products of it are fast.
        weight = mask.astype(np.float32)
        totals = weight.sum(axis=0 if outputs else 1)  # of an output's weights; of the weights that an input meets
        if layer.packed_input is None:
            useful += np.outer(pixels, _over_folds(totals[:, None], shape[1])[:, 0])
        else:
            inputs = lowered_mask(layer, group)[:, k_rows].astype(np.float32)
            products = inputs @ weight if outputs else inputs * totals
            np.add.at(useful, held_m, _over_folds(products.T, shape[1]).T)
    return (useful, slots) if outputs else (useful.T, slots.T)


def _places(m: int, brick: tuple[int, int, int], out_h: int, out_w: int) -> NDArray[np.int64]:
    """int64[m]: the place of every output pixel in its brick of (images, rows, columns); held extents begin there."""
    image, row, col = np.unravel_index(np.arange(m), (m // (out_h * out_w), out_h, out_w))
    images, rows, cols = brick
    return np.asarray((image % images * rows + row % rows) * cols + col % cols)


def _over_folds(products: NDArray[Any], held: int) -> Counts:
    """float64[held, ...]: sums over the folds of an array that holds `held` rows of `products` at a time."""
    padded = np.pad(products, ((0, -len(products) % held), (0, 0)))
    return np.asarray(padded.reshape(-1, held, products.shape[1]).sum(axis=0, dtype=np.float64))
