"""A sparsity structure is data: which weights live or die together, and how many of them live.

On a weight seen as [k, n] (k the reduction) a structure has a *unit* (entries kept or dropped together),
a *group* (units that compete for one budget) and a *keep* rule (a count per group, or the fraction that
a schedule asks for).  One projection, one cover and one conformance check serve all structures; how a
machine exploits them is in machines/.

The text forms are what users write (FORMS lists them all): "2:4", "block 16x16", "channel", "kernel + pattern 4".
"A + B" is B inside what A keeps, so that hierarchical n:m, kernels with windows and kernels with patterns are
compositions.  A convolution's weight is [k, n] = weight.reshape(out, -1).T, so that k runs over (input channel,
kernel row, kernel column); `window` is the number of k rows of one input channel.  Read patterns.py for the
libraries of window masks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import partition, patterns
from .errors import InputError, nearest

Extent = int | str
"""An extent along k or n: a count, "window" (one input channel's rows of k) or "all"."""

FORMS = {
    "dense": "every weight is kept",
    "unstructured": "single weights, ranked over the layer",
    "N:M": "at most N of every M consecutive weights along k",
    "N:M of RxC": "at most N of every M consecutive blocks of R along k by C along n; C is the vector of vector n:m",
    "block RxC": "blocks of R along k by C along n, ranked over the layer",
    "bank B": "bank-balanced: the same count in every B consecutive weights along k",
    "channel": "input channels",
    "filter": "output channels",
    "kernel": "kernels (one input and one output channel), ranked over the layer",
    "ck": "kernels, the same number in every filter",
    "window": "weights inside each kernel, the same number in every kernel",
    "window K": "K weights inside each kernel",
    "pattern K": "each 3x3 kernel has one of ClickTrain's K (4, 8 or 12) patterns of 4 weights",
    "pattern #A#B...": "the same with a library of one's own, by the ranks of the patterns among all 126",
    "partition P": "P independent parts, block-diagonal under a permutation; made for a chain of layers at once",
    "A + B": "B inside what A keeps",
}
"""What users may write, and what it means."""


@dataclass(frozen=True)
class Structure:
    """unit: (k, n) extents kept together; group: extents, in units, that share a budget; keep: units per group.

    library: ranks of the window patterns of which each kernel has one (patterns.py).  parts: of a partition, which a
    layer has together with its neighbours (partition.py).  outer: the structure that is
    applied first, inside which the rest of the fields choose.
    """

    name: str
    unit: tuple[Extent, Extent] = (1, 1)
    group: tuple[Extent, Extent] = ("all", "all")
    keep: int | None = None  # None: the fraction that the schedule asks for
    library: tuple[int, ...] = ()
    parts: int = 0
    outer: Structure | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def inner(self) -> Structure:
        """The structure without what is outside of it; itself where nothing is."""
        return self if self.outer is None else replace(self, name=self.name.rsplit(" + ", 1)[1], outer=None)

    @property
    def is_plain_n_of_m(self) -> bool:
        """True for "N:M" of single weights, what an n:m array has."""
        counted = self.keep is not None and isinstance(self.group[0], int)
        return counted and self.unit == (1, 1) and self.outer is None

    @property
    def ranks_over_layer(self) -> bool:
        """True where all units of a layer compete in one ranking, so that those of several layers can."""
        counted = self.keep is not None or self.library or self.parts or self.outer is not None
        return not counted and self.group == ("all", "all")

    @property
    def fixed_density(self) -> float | None:
        """The density that the structure itself fixes (0.5 for 2:4), or None where a schedule sets it.

        Windows and patterns are counted on 3x3 kernels; density_on knows the others.
        """
        return self.density_on(9)

    def density_on(self, window: int) -> float | None:
        """The density fixed on kernels of `window` entries: a 1x1 kernel has no part to remove."""
        if self.name == "dense":
            return 1.0
        own: float | None = None
        if self.library:
            own = 1.0 if window == 1 else patterns.ENTRIES / patterns.WINDOW
        elif self.parts:
            own = 1.0 / self.parts  # where P divides both sides of the layer
        elif self.group[0] == "window" and window == 1:
            own = 1.0
        elif self.keep is not None:
            slots = _extent(self.group[0], 0, window)
            own = min(self.keep, slots) / slots
        if self.outer is None or own is None:
            return own
        outer = self.outer.density_on(window)
        return None if outer is None else outer * own

    def largest_density(self, window: int) -> float:
        """What the parts that fix their own density keep: no mask of the structure keeps more."""
        parts = (self.inner, self.outer) if self.outer is not None else (self,)
        fixed = [part.density_on(window) for part in parts if part is not None]
        return math.prod(density for density in fixed if density is not None)

    def prunes(self, window: int) -> bool:
        """True where kernels of `window` entries can lose something: 1x1 kernels have no part, patterns are for 3x3."""
        if any(part.library for part in (self, self.outer) if part is not None) and window not in (1, patterns.WINDOW):
            return False
        return self.density_on(window) is None or self.largest_density(window) < 1.0

    def split(self, density: float, window: int) -> tuple[float, float]:
        """(outer density, inner density) of a composition that is to keep `density`; a free part takes what is left.

        Two free parts share equally: each keeps the square root.  More than `largest_density` is that.
        Raises InputError where the parts cut through each other, so that their densities do not multiply.
        """
        if self.outer is None:
            return 1.0, density
        self.check_parts_nest(window)
        outer, inner = self.outer.density_on(window), self.inner.density_on(window)
        if outer is None and inner is None:
            return density**0.5, density**0.5
        left = min(1.0, density / self.largest_density(window))
        return left if outer is None else outer, left if inner is None else inner

    def check_parts_nest(self, window: int) -> None:
        """Raises InputError where a group that the inner part counts over crosses from one outer unit into the next.

        Such a group has already lost some of its weights when its turn comes; how many the layer keeps is then a matter
        of luck.  Each part of a nested composition decides about whole units of the other.
        """
        if self.outer is None or self.outer.parts or self.inner.density_on(window) == 1.0:
            return  # whole, a chain's business (`of_one_layer`), or 1x1 kernels, which have no part to remove
        group = ("window", 1) if self.library else self.group
        for count, unit, outer in zip(group, self.unit, self.outer.unit, strict=True):
            if not _within(count, unit, outer, window):
                raise InputError(f"{str(self.inner)!r} inside {str(self.outer)!r}", where=f"structure {str(self)!r}",
                                 expected=f"groups of {str(self.inner)!r} that lie within units of {str(self.outer)!r}",
                                 fix='such as "block 4x4 + 2:4", "filter + 2:4", "kernel + pattern 4", "ck + window"')
        self.outer.check_parts_nest(window)

    def unit_extent(self, k: int, n: int, window: int) -> tuple[int, int]:
        """(rows of k, columns of n) of one unit on a weight [k, n]."""
        return _extent(self.unit[0], k, window), _extent(self.unit[1], n, 1)


DENSE = Structure("dense")
UNSTRUCTURED = Structure("unstructured")
CHANNEL = Structure("channel", unit=("window", "all"))
FILTER = Structure("filter", unit=("all", 1))
KERNEL = Structure("kernel", unit=("window", 1))
CK = Structure("ck", unit=("window", 1), group=("all", 1))
WINDOW = Structure("window", group=("window", 1))

NAMED = {structure.name: structure for structure in (DENSE, UNSTRUCTURED, CHANNEL, FILTER, KERNEL, CK, WINDOW)}


def n_of_m(n: int, m: int, rows: int = 1, cols: int = 1) -> Structure:
    """At most `n` in every `m` consecutive blocks of `rows` along k by `cols` along n, each column for itself.

    Blocks of 1x1 are the plain n:m; of 1xV vector n:m, where V outputs share a pattern; of Rx1 the outer rank of a
    hierarchical n:m.
    """
    if not 1 <= n <= m or rows < 1 or cols < 1:
        raise InputError(f"{n}:{m} of {rows}x{cols}", where="structure", expected="n:m with 1 <= n <= m, blocks of "
                         "at least 1x1")
    name = f"{n}:{m}" if rows == cols == 1 else f"{n}:{m} of {rows}x{cols}"
    return Structure(name, unit=(rows, cols), group=(m, 1), keep=n)


def pattern(library: Sequence[int]) -> Structure:
    """Each 3x3 kernel keeps the entries of one pattern of the library, given by ranks (patterns.py)."""
    ranks = tuple(library)
    for rank in ranks:
        patterns.entries(rank)  # raises for a rank that is none
    if not ranks or len(set(ranks)) != len(ranks):
        raise InputError(f"library {list(ranks)}", where="structure pattern", expected="at least one rank, none twice")
    short = next((f"pattern {size}" for size, known in patterns.FIXED.items() if known == ranks), None)
    return Structure(short or "pattern " + "".join(f"#{rank}" for rank in ranks), library=ranks)


def compose(outer: Structure, inner: Structure) -> Structure:
    """`inner` inside what `outer` keeps.  Raises InputError where either is dense or a partition, or has a part outside
    already."""
    if DENSE in (outer, inner) or inner.outer is not None or inner.parts:
        raise InputError(f"{outer} + {inner}", where="structure", expected="two structures that remove something")
    return replace(inner, name=f"{outer.name} + {inner.name}", outer=outer)


def block(rows: int, cols: int) -> Structure:
    """Blocks of `rows` along k by `cols` along n, kept or dropped whole."""
    if rows < 1 or cols < 1:
        raise InputError(f"block {rows}x{cols}", where="structure", expected="block sizes of at least 1")
    return Structure(f"block {rows}x{cols}", unit=(rows, cols))


def parse(text: str | Structure) -> Structure:
    """The structure that a text names (FORMS); a Structure passes through.  Raises InputError for an unknown text."""
    if isinstance(text, Structure):
        return text
    words = " ".join(str(text).split()).lower()
    if words in NAMED:
        return NAMED[words]
    if "+" in words:
        first, _, rest = words.rpartition("+")
        return compose(parse(first), parse(rest))
    if match := re.fullmatch(r"(\d+):(\d+)(?: of (\d+)x(\d+))?", words):
        return n_of_m(int(match[1]), int(match[2]), int(match[3] or 1), int(match[4] or 1))
    if match := re.fullmatch(r"block ?(\d+)(?:x(\d+))?", words):
        return block(int(match[1]), int(match[2] or match[1]))
    if (match := re.fullmatch(r"(bank|window) ?(\d+)", words)) and int(match[2]):
        size = int(match[2])
        return Structure(words, group=(size, 1)) if match[1] == "bank" else replace(WINDOW, name=words, keep=size)
    if (match := re.fullmatch(r"pattern ?(\d+)", words)) and int(match[1]) in patterns.FIXED:
        return pattern(patterns.FIXED[int(match[1])])
    if (match := re.fullmatch(r"partition ?(\d+)", words)) and int(match[1]):
        return Structure(f"partition {int(match[1])}", parts=int(match[1]))
    if match := re.fullmatch(r"pattern ?((?:#\d+)+)", words):
        return pattern([int(rank) for rank in match[1].strip("#").split("#")])
    raise InputError(
        f"unknown structure {text!r}", where="structure", expected=", ".join(f'"{form}"' for form in FORMS),
        fix=nearest(words, [*NAMED, "2:4", "1:4", "block 16x16", "bank 32", "window 4", "pattern 4", "partition 4"]),
    )


POOLS: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum}
"""How the scores of a unit's entries become its own."""


@lru_cache(maxsize=4096)
def units_kept(density: float, units: int) -> int:
    """How many of `units` a density keeps: rounded to nearest, halves up, at least 1 unless the density is 0."""
    # A decimal density such as 0.15 is meant exactly; in binary 0.15 * 10 is 1.5 or 1.4999... by luck.
    exact = Fraction(str(float(density))) * units
    kept = int(exact + Fraction(1, 2))
    return min(units, max(kept, 1 if density > 0 else 0))


def project(
    scores: NDArray[np.floating], structure: Structure, density: float = 1.0, window: int = 1, pool: str = "sum"
) -> NDArray[np.bool_]:
    """The mask of `structure` that keeps the most score.

    scores: float[k, n], the importance of each weight.  density: share of units kept where the structure
    fixes no count.  pool: a unit's score is the "sum" or the "max" of its entries' (a pattern's is their sum).
    Returns bool[k, n], True where kept: in every group exactly `keep` units, or
    `units_kept(density, units)`, by score, ties by the lowest row-major index.  Ragged edges are
    padded: a unit that sticks out competes with the entries it has, a unit wholly outside never wins.  Of "A + B" A
    chooses first, B among what A kept.
    Raises InputError for a density outside [0, 1], a score that is not a number, and a partition.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 0.0 <= density <= 1.0:
        raise InputError(f"density {density}", where=f"structure {structure}", expected="a share in [0, 1]")
    if np.isnan(values).any():
        raise InputError("a score is NaN", where=f"structure {structure}", expected="finite scores",
                         fix="did training diverge?")
    if structure.name == "dense":
        return np.ones(values.shape, dtype=bool)
    of_one_layer(structure)
    if structure.outer is not None:
        outer_density, inner_density = structure.split(density, window)
        there = project(values, structure.outer, outer_density, window, pool)
        return there & project(np.where(there, values, -np.inf), structure.inner, inner_density, window, pool)
    k, n = values.shape
    if structure.library:
        return patterns.best(values, structure.library, window)
    unit_k, unit_n = structure.unit_extent(k, n, window)
    pooled = _pool(values, unit_k, unit_n, POOLS[pool])
    rows, cols = pooled.shape
    group_k, group_n = _extent(structure.group[0], rows, window), _extent(structure.group[1], cols, 1)
    grouped, real = _groups(pooled, group_k, group_n, -np.inf)
    order = np.argsort(-grouped, axis=1, kind="stable")
    budget = np.array([
        min(structure.keep, int(r)) if structure.keep is not None else units_kept(density, int(r)) for r in real
    ])
    chosen = np.zeros(grouped.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(grouped.shape[1])[None, :] < budget[:, None], axis=1)
    kept = _ungroup(chosen, rows, cols, group_k, group_n)
    return _expand(kept, unit_k, unit_n, k, n)


def of_one_layer(structure: str | Structure) -> Structure:
    """The structure, where one layer's scores suffice to make its mask.  Raises InputError for a partition."""
    structure = parse(structure)
    if structure.parts:
        raise InputError(f"{structure} of one layer", where="structure", fix='use [recipe] name = "partition"',
                         expected="a chain of layers: how a layer's inputs are divided, the layer before decides")
    return structure


def cover(mask: NDArray[np.bool_], structure: Structure, window: int = 1) -> NDArray[np.bool_]:
    """The smallest union of whole units that contains `mask` (bool[k, n])."""
    k, n = mask.shape
    unit_k, unit_n = structure.unit_extent(k, n, window)
    return _expand(_pool(mask, unit_k, unit_n, np.logical_or), unit_k, unit_n, k, n)


def conforms(mask: NDArray[np.bool_], structure: Structure, window: int = 1) -> bool:
    """True if every unit of `mask` (bool[k, n]) is whole or empty and no group keeps more than its count.

    Groups without a count of their own ("ck", "window", "bank B") must all keep the same, ragged ones at most that; a
    kernel with a pattern has no entry outside of it; a partition is told by partition.py.
    """
    if structure.name == "dense":
        return bool(mask.all())
    inside = np.ones_like(mask)
    if structure.outer is not None:
        inside = cover(mask, structure.outer, window)
        if not conforms(inside, structure.outer, window):
            return False
        structure = structure.inner
    if structure.library:
        return patterns.fit(mask, structure.library, window)
    if structure.parts:
        return partition.fits(mask, structure.parts, window)
    if not np.array_equal(cover(mask, structure, window) & inside, mask):
        return False
    if structure.keep is None and structure.group == ("all", "all"):
        return True
    k, n = mask.shape
    unit_k, unit_n = structure.unit_extent(k, n, window)
    units = _pool(mask, unit_k, unit_n, np.logical_or)
    extents = _extent(structure.group[0], units.shape[0], window), _extent(structure.group[1], units.shape[1], 1)
    grouped, real = _groups(units, *extents, False)
    found = grouped.sum(axis=1)
    if structure.keep is not None:
        return int(found.max(initial=0)) <= structure.keep
    there = _groups(_pool(inside, unit_k, unit_n, np.logical_or), *extents, False)[0].any(axis=1)
    found, real = found[there], real[there]
    whole = found[real == real.max(initial=0)]
    return not len(whole) or bool((whole == whole[0]).all() and (found <= whole[0]).all())


def _within(count: Extent, unit: Extent, outer: Extent, window: int) -> bool:
    """Whether groups of `count` units, along one axis, never cross from one unit of `outer` extent to the next."""
    if outer == "all" or "all" in (count, unit):
        return outer == "all"
    return _extent(outer, 0, window) % (_extent(count, 0, window) * _extent(unit, 0, window)) == 0


def _extent(extent: Extent, whole: int, window: int) -> int:
    if extent == "all":
        return whole
    return window if extent == "window" else int(extent)


def _pool(values: NDArray[Any], unit_k: int, unit_n: int, combine: np.ufunc) -> NDArray[Any]:
    """Combine the entries of each unit: [k, n] -> [ceil(k/unit_k), ceil(n/unit_n)]."""
    if unit_k == unit_n == 1:
        return values
    padded = _pad(values, unit_k, unit_n, -np.inf if combine is np.maximum else 0)
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
