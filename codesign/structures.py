"""The torch projection of a sparsity structure: scores of a Linear or Conv2d weight in, a boolean mask out.

It makes exactly the mask that simulator.structure.project makes of the same scores: same units, same
count per group, same ties, the same float64 sums, because both add the entries of a unit by halves in one
fixed order.  What it leaves out: which layers, how much and when (budgets.py, schedules.py, pruner.py).

A weight [out, in] or [out, in/groups, kh, kw] is seen as [k, n] = weight.reshape(out, -1).T, so k runs over
(input channel, kernel row, kernel column), n over outputs, and one input channel is kh * kw rows of k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simulator import patterns
from simulator.errors import InputError
from simulator.structure import DENSE, Extent, Structure, of_one_layer, units_kept

SMALL_GROUP = 16
"""Groups up to this many units (n:m) are ranked by comparing all pairs, larger ones by sorting."""


def as_matrix(weight: Tensor) -> Tensor:
    """[out, ...] as the [k, n] that structures are defined on (a view where the weight is contiguous)."""
    return weight.reshape(weight.shape[0], -1).T


def window_of(shape: torch.Size | tuple[int, ...]) -> int:
    """Rows of k that belong to one input channel: kh * kw for a convolution, 1 for a Linear."""
    return math.prod(shape[2:])


def project(scores: Tensor, structure: str | Structure, density: float = 1.0, pool: str = "sum") -> Tensor:
    """The mask of `structure` that keeps the most score.

    scores: float[out, in] or float[out, in/groups, kh, kw], the importance of each weight.  density: the
    share of units kept where the structure fixes no count.  pool: a unit's score is the "sum" or the "max" of its
    entries'.  Returns bool of the same shape, True where kept: exactly `keep` units per group, or
    `units_kept(density, units)`, by score, ties by the lowest row-major [k, n] index.  Raises InputError for a density
    outside [0, 1] or a NaN score.
    """
    structure = of_one_layer(structure)
    if not 0.0 <= density <= 1.0:
        raise InputError(f"density {density}", where=f"structure {structure}", expected="a share in [0, 1]")
    if bool(torch.isnan(scores).any()):
        raise InputError(
            "a score is NaN", where=f"structure {structure}", expected="finite scores", fix="did training diverge?"
        )
    values = as_matrix(scores.detach())
    # single weights are compared as they are, which gives the order that float64 would
    if structure.unit != (1, 1) or structure.outer is not None or structure.library or values.dtype != torch.float32:
        values = values.double()
    mask = _project(values, structure, density, window_of(scores.shape), pool)
    return mask.T.reshape(scores.shape).contiguous()


def _project(values: Tensor, structure: Structure, density: float, window: int, pool: str) -> Tensor:
    """`project` on float64[k, n], or on float32 where units are single weights."""
    k, n = values.shape
    if structure == DENSE:
        return torch.ones_like(values, dtype=torch.bool)
    if structure.outer is not None:
        outer, inner = structure.split(density, window)
        there = _project(values, structure.outer, outer, window, pool)
        return there & _project(values.masked_fill(~there, -math.inf), structure.inner, inner, window, pool)
    if structure.library:
        return _best_patterns(values, structure.library, window)
    unit_k, unit_n = structure.unit_extent(k, n, window)
    units = _pool(values, unit_k, unit_n, pool)
    rows, cols = units.shape
    group_k, group_n = _extent(structure.group[0], rows, window), _extent(structure.group[1], cols, 1)
    if (group_k, group_n) == (rows, cols):
        keep = units_kept(density, rows * cols) if structure.keep is None else min(structure.keep, rows * cols)
        kept = keep_best(units.reshape(-1), keep).reshape(rows, cols)
    else:
        kept = _keep_in_groups(units, group_k, group_n, structure, density)
    if unit_k == unit_n == 1:
        return kept
    return kept.repeat_interleave(unit_k, 0).repeat_interleave(unit_n, 1)[:k, :n]


def pattern_scores(values: Tensor, library: tuple[int, ...]) -> Tensor:
    """float64[patterns, channels, n]: the summed score of each pattern in each kernel of float64[k, n]."""
    kernels = values.reshape(-1, patterns.WINDOW, values.shape[1])
    four = kernels[:, torch.from_numpy(patterns.table(library)).to(values.device)]  # [channels, patterns, 4, n]
    return ((four[:, :, 0] + four[:, :, 1]) + (four[:, :, 2] + four[:, :, 3])).transpose(0, 1)


def _best_patterns(values: Tensor, library: tuple[int, ...], window: int) -> Tensor:
    if window == 1:
        return torch.ones_like(values, dtype=torch.bool)
    if window != patterns.WINDOW:
        raise InputError(f"kernels of {window} entries", where="structure pattern", expected="3x3 kernels",
                         fix="name the 3x3 layers, or use another structure")
    places = torch.from_numpy(patterns.table(library)).to(values.device)
    kept = torch.zeros(len(library), patterns.WINDOW, dtype=torch.bool, device=values.device).scatter_(1, places, True)
    # argmax of torch promises no order among equals: the first best is asked for by name
    ranked = pattern_scores(values, library)
    first = (ranked == ranked.amax(0)).to(torch.uint8).cumsum(0).eq(0).sum(0)
    return kept[first].permute(0, 2, 1).reshape(values.shape)


def unit_scores(scores: Tensor, structure: Structure, pool: str = "sum") -> tuple[Tensor, Tensor]:
    """(score float64[units], number of weights int64[units]) of a weight's units, row-major in [k, n]."""
    values = as_matrix(scores.detach()).double()
    unit_k, unit_n = structure.unit_extent(values.shape[0], values.shape[1], window_of(scores.shape))
    sizes = _pool(torch.ones_like(values), unit_k, unit_n)
    return _pool(values, unit_k, unit_n, pool).reshape(-1), sizes.reshape(-1).long()


def wholly_pruned(scores: Tensor, structure: Structure) -> Tensor:
    """bool of the scores' shape: True in the units of `structure` whose every score is -inf."""
    values = as_matrix(scores.detach()).double()
    k, n = values.shape
    unit_k, unit_n = structure.unit_extent(k, n, window_of(scores.shape))
    units = torch.isneginf(_pool(values, unit_k, unit_n, "max"))
    return units.repeat_interleave(unit_k, 0).repeat_interleave(unit_n, 1)[:k, :n].T.reshape(scores.shape)


def keep_best(values: Tensor, keep: int) -> Tensor:
    """bool[units]: exactly `keep` of float[units], the largest, ties by the lowest index.

    Linear time: the threshold by selection, then as many of the entries equal to it as are still due.
    """
    total = values.numel()
    if keep >= total:
        return torch.ones_like(values, dtype=torch.bool)
    if keep <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = torch.kthvalue(values, total - keep + 1).values
    above, equal = values > threshold, values == threshold
    return above | (equal & (equal.cumsum(0) <= keep - above.sum()))


def _keep_in_groups(units: Tensor, group_k: int, group_n: int, structure: Structure, density: float) -> Tensor:
    rows, cols = units.shape
    padded = _pad(units, group_k, group_n, -math.inf)
    tall, wide = padded.shape[0] // group_k, padded.shape[1] // group_n
    grouped = padded.reshape(tall, group_k, wide, group_n).permute(0, 2, 1, 3).reshape(tall * wide, group_k * group_n)
    # how many units a group really has, by its place; the few sizes that occur are counted once
    real_k = (rows - group_k * torch.arange(tall)).clamp(max=group_k)
    real_n = (cols - group_n * torch.arange(wide)).clamp(max=group_n)
    real = torch.outer(real_k, real_n).reshape(-1)
    sizes, place = real.unique(return_inverse=True)
    counts = [units_kept(density, size) if structure.keep is None else min(structure.keep, size)
              for size in sizes.tolist()]
    budget = torch.tensor(counts)[place].to(units.device).reshape(-1, 1)
    slots = grouped.shape[1]
    index = torch.arange(slots, device=units.device)
    if slots <= SMALL_GROUP:
        # rank = how many units come first: a higher score, or an equal one with a lower index
        rank = torch.zeros_like(grouped, dtype=torch.int64)
        for other in range(slots):
            rival = grouped[:, other : other + 1]
            rank += torch.where(index > other, rival >= grouped, rival > grouped)
    else:
        order = torch.sort(-grouped, dim=1, stable=True).indices
        rank = torch.empty_like(order).scatter_(1, order, index.expand_as(order))
    kept = (rank < budget).reshape(tall, wide, group_k, group_n).permute(0, 2, 1, 3)
    return kept.reshape(tall * group_k, wide * group_n)[:rows, :cols]


def _pool(values: Tensor, unit_k: int, unit_n: int, pool: str = "sum") -> Tensor:
    """Score of each unit: [k, n] -> [ceil(k / unit_k), ceil(n / unit_n)]."""
    if unit_k == unit_n == 1:
        return values
    padded = _pad(values, unit_k, unit_n, 0.0 if pool == "sum" else -math.inf)
    rows, cols = padded.shape[0] // unit_k, padded.shape[1] // unit_n
    if pool == "max":
        return padded.reshape(rows, unit_k, cols, unit_n).amax((1, 3))
    return _sum_by_halves(_sum_by_halves(padded.reshape(rows, unit_k, cols, unit_n), 3), 1)


def _sum_by_halves(values: Tensor, axis: int) -> Tensor:
    """Sum over one axis in a fixed order: first half plus second half, an odd middle entry carried along.

    torch.sum and numpy.sum each choose their own order, and a tie in exact arithmetic would then fall
    differently on the two sides.
    """
    while (length := values.shape[axis]) > 1:
        half = length // 2
        folded = values.narrow(axis, 0, half) + values.narrow(axis, length - half, half)
        values = torch.cat([folded, values.narrow(axis, half, 1)], axis) if length % 2 else folded
    return values.squeeze(axis)


def _pad(values: Tensor, multiple_k: int, multiple_n: int, fill: float) -> Tensor:
    k, n = values.shape
    pad_k, pad_n = -k % multiple_k, -n % multiple_n
    return torch.nn.functional.pad(values, (0, pad_n, 0, pad_k), value=fill) if pad_k or pad_n else values


def _extent(extent: Extent, whole: int, window: int) -> int:
    if extent == "all":
        return whole
    return window if extent == "window" else int(extent)
