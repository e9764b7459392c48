"""A sparsity structure is data: which weights live or die together, and how many of them live.

On a weight seen as [k, n] (k the reduction) a structure has a *unit* (entries kept or dropped together),
a *group* (units that compete for one budget) and a *keep* rule (a count per group, or the fraction that
a schedule asks for).  One projection, one cover and one conformance check serve all structures; how a
machine exploits them is in machines/.

The text forms are what users write: "dense", "unstructured", "2:4", "block 16x16", "channel", "filter",
"kernel".  A convolution's weight is [k, n] = weight.reshape(out, -1).T, so that k runs over (input
channel, kernel row, kernel column); `window` is the number of k rows of one input channel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, nearest

Extent = int | str
"""An extent along k or n: a count, "window" (one input channel's rows of k) or "all"."""


@dataclass(frozen=True)
class Structure:
    """unit: (k, n) extents kept together; group: extents, in units, that share a budget; keep: units per group."""

    name: str
    unit: tuple[Extent, Extent] = (1, 1)
    group: tuple[Extent, Extent] = ("all", "all")
    keep: int | None = None  # None: the fraction that the schedule asks for

    def __str__(self) -> str:
        return self.name

    @property
    def fixed_density(self) -> float | None:
        """The density that the structure itself fixes (0.5 for 2:4), or None where a schedule sets it."""
        if self.name == "dense":
            return 1.0
        if self.keep is None:
            return None
        slots = self.group[0]
        assert isinstance(slots, int)  # a counted group has a counted extent
        return self.keep / slots

    def unit_extent(self, k: int, n: int, window: int) -> tuple[int, int]:
        """(rows of k, columns of n) of one unit on a weight [k, n]."""
        return _extent(self.unit[0], k, window), _extent(self.unit[1], n, 1)


DENSE = Structure("dense")
UNSTRUCTURED = Structure("unstructured")
CHANNEL = Structure("channel", unit=("window", "all"))
FILTER = Structure("filter", unit=("all", 1))
KERNEL = Structure("kernel", unit=("window", 1))

NAMED = {structure.name: structure for structure in (DENSE, UNSTRUCTURED, CHANNEL, FILTER, KERNEL)}


def n_of_m(n: int, m: int) -> Structure:
    """At most `n` nonzeros in every `m` consecutive entries along k, each column for itself."""
    if not 1 <= n <= m:
        raise InputError(f"{n}:{m}", where="structure", expected="n:m with 1 <= n <= m")
    return Structure(f"{n}:{m}", unit=(1, 1), group=(m, 1), keep=n)


def block(rows: int, cols: int) -> Structure:
    """Blocks of `rows` along k by `cols` along n, kept or dropped whole."""
    if rows < 1 or cols < 1:
        raise InputError(f"block {rows}x{cols}", where="structure", expected="block sizes of at least 1")
    return Structure(f"block {rows}x{cols}", unit=(rows, cols))


def parse(text: str | Structure) -> Structure:
    """The structure that a text names; a Structure passes through.  Raises InputError for an unknown text."""
    if isinstance(text, Structure):
        return text
    words = " ".join(str(text).split()).lower()
    if words in NAMED:
        return NAMED[words]
    if match := re.fullmatch(r"(\d+):(\d+)", words):
        return n_of_m(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"block ?(\d+)(?:x(\d+))?", words):
        return block(int(match[1]), int(match[2] or match[1]))
    raise InputError(
        f"unknown structure {text!r}", where="structure",
        expected='"dense", "unstructured", "N:M", "block RxC", "channel", "filter" or "kernel"',
        fix=nearest(words, [*NAMED, "2:4", "1:4", "block 16x16"]),
    )


def units_kept(density: float, units: int) -> int:
    """How many of `units` a density keeps: rounded to nearest, halves up, at least 1 unless the density is 0."""
    # A decimal density such as 0.15 is meant exactly; in binary 0.15 * 10 is 1.5 or 1.4999... by luck.
    exact = Fraction(str(float(density))) * units
    kept = int(exact + Fraction(1, 2))
    return min(units, max(kept, 1 if density > 0 else 0))


def project(
    scores: NDArray[np.floating], structure: Structure, density: float = 1.0, window: int = 1
) -> NDArray[np.bool_]:
    """The mask of `structure` that keeps the most score.

    scores: float[k, n], the importance of each weight.  density: share of units kept where the structure
    fixes no count.  Returns bool[k, n], True where kept: in every group exactly `keep` units, or
    `units_kept(density, units)`, by summed score, ties by the lowest row-major index.  Ragged edges are
    padded: a unit that sticks out competes with the entries it has, a unit wholly outside never wins.
    Raises InputError for a density outside [0, 1] or a score that is not a number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 0.0 <= density <= 1.0:
        raise InputError(f"density {density}", where=f"structure {structure}", expected="a share in [0, 1]")
    if np.isnan(values).any():
        raise InputError("a score is NaN", where=f"structure {structure}", expected="finite scores",
                         fix="did training diverge?")
    if structure.name == "dense":
        return np.ones(values.shape, dtype=bool)
    k, n = values.shape
    unit_k, unit_n = structure.unit_extent(k, n, window)
    pooled = _pool(values, unit_k, unit_n, np.add)
    rows, cols = pooled.shape
    group_k, group_n = _extent(structure.group[0], rows, 1), _extent(structure.group[1], cols, 1)
    kept = np.zeros((rows, cols), dtype=bool)
    grouped, real = _groups(pooled, group_k, group_n, -np.inf)
    order = np.argsort(-grouped, axis=1, kind="stable")
    budget = np.array([
        min(structure.keep, int(r)) if structure.keep is not None else units_kept(density, int(r)) for r in real
    ])
    chosen = np.zeros(grouped.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(grouped.shape[1])[None, :] < budget[:, None], axis=1)
    kept = _ungroup(chosen, rows, cols, group_k, group_n)
    return _expand(kept, unit_k, unit_n, k, n)


def cover(mask: NDArray[np.bool_], structure: Structure, window: int = 1) -> NDArray[np.bool_]:
    """The smallest union of whole units that contains `mask` (bool[k, n])."""
    k, n = mask.shape
    unit_k, unit_n = structure.unit_extent(k, n, window)
    return _expand(_pool(mask, unit_k, unit_n, np.logical_or), unit_k, unit_n, k, n)


def conforms(mask: NDArray[np.bool_], structure: Structure, window: int = 1) -> bool:
    """True if every unit of `mask` (bool[k, n]) is whole or empty and no group keeps more than its count."""
    if structure.name == "dense":
        return bool(mask.all())
    if not np.array_equal(cover(mask, structure, window), mask):
        return False
    if structure.keep is None:
        return True
    k, n = mask.shape
    unit_k, unit_n = structure.unit_extent(k, n, window)
    units = _pool(mask, unit_k, unit_n, np.logical_or)
    grouped, _ = _groups(units, _extent(structure.group[0], units.shape[0], 1),
                         _extent(structure.group[1], units.shape[1], 1), False)
    return int(grouped.sum(axis=1).max(initial=0)) <= structure.keep


def _extent(extent: Extent, whole: int, window: int) -> int:
    if extent == "all":
        return whole
    return window if extent == "window" else int(extent)


def _pool(values: NDArray[Any], unit_k: int, unit_n: int, combine: np.ufunc) -> NDArray[Any]:
    """Combine the entries of each unit: [k, n] -> [ceil(k/unit_k), ceil(n/unit_n)]."""
    if unit_k == unit_n == 1:
        return values
    padded = _pad(values, unit_k, unit_n, 0)
    rows, cols = padded.shape[0] // unit_k, padded.shape[1] // unit_n
    return _fold(_fold(padded.reshape(rows, unit_k, cols, unit_n), 3, combine), 1, combine)


def _fold(values: NDArray[Any], axis: int, combine: np.ufunc) -> NDArray[Any]:
    """Combine one axis by halves, an odd middle entry carried along.

    Not `combine.reduce`: its order of additions depends on the memory layout, and the torch projection
    must make the same float sums to break the same ties.
    """
    values = np.moveaxis(values, axis, 0)
    while (length := len(values)) > 1:
        half = length // 2
        folded = combine(values[:half], values[length - half:])
        values = np.concatenate([folded, values[half:half + 1]]) if length % 2 else folded
    return np.asarray(values[0])


def _expand(units: NDArray[Any], unit_k: int, unit_n: int, k: int, n: int) -> NDArray[Any]:
    return np.ascontiguousarray(units.repeat(unit_k, axis=0).repeat(unit_n, axis=1)[:k, :n])


def _pad(values: NDArray[Any], multiple_k: int, multiple_n: int, fill: float | bool) -> NDArray[Any]:
    k, n = values.shape
    pad = ((0, -k % multiple_k), (0, -n % multiple_n))
    return np.pad(values, pad, constant_values=fill) if pad != ((0, 0), (0, 0)) else values


def _groups(
    units: NDArray[Any], group_k: int, group_n: int, fill: float | bool
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Units as [groups, units per group], row-major inside a group, and how many of each are not padding."""
    padded = _pad(units, group_k, group_n, fill)
    gr, gc = padded.shape[0] // group_k, padded.shape[1] // group_n
    grouped = padded.reshape(gr, group_k, gc, group_n).transpose(0, 2, 1, 3).reshape(gr * gc, group_k * group_n)
    tall = np.minimum(group_k, units.shape[0] - np.arange(gr) * group_k)
    wide = np.minimum(group_n, units.shape[1] - np.arange(gc) * group_n)
    return grouped, np.outer(tall, wide).reshape(-1).astype(np.int64)


def _ungroup(grouped: NDArray[Any], rows: int, cols: int, group_k: int, group_n: int) -> NDArray[Any]:
    gr, gc = -(-rows // group_k), -(-cols // group_n)
    units = grouped.reshape(gr, gc, group_k, group_n).transpose(0, 2, 1, 3)
    return units.reshape(gr * group_k, gc * group_n)[:rows, :cols]
