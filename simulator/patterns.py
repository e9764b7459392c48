"""Patterns: which 4 of the 9 entries of a 3x3 kernel are kept, by their rank among all 126 such sets.

ClickTrain gives every kernel one pattern out of a small library; its published libraries are FIXED, and
`most_chosen` makes one from importance scores.  What is left out: kernels of other sizes, and which
kernels are removed whole (structure "kernel").  Read structure.py for how "kernel + pattern 4" composes.

A rank counts from 1 through the lexicographic list of the C(9, 5) sets of removed positions, positions
numbered row by row: the numbering of ClickTrain's released configurations (arXiv 2011.10170).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

WINDOW = 9
ENTRIES = 4
SETS = tuple(combinations(range(WINDOW), WINDOW - ENTRIES))


def rank_of(rows: str) -> int:
    """The rank of a pattern drawn as three rows of 0 and 1, 1 = kept: "000/011/011"."""
    drawn = rows.replace("/", "")
    if len(drawn) != WINDOW or set(drawn) - {"0", "1"} or drawn.count("1") != ENTRIES:
        raise InputError(f"pattern {rows!r}", where="pattern", expected="three rows of three, four of them 1")
    return SETS.index(tuple(place for place in range(WINDOW) if drawn[place] == "0")) + 1


def drawn(rank: int) -> str:
    """A pattern as three rows of 0 and 1, 1 = kept."""
    kept = entries(rank)
    return "/".join("".join("1" if 3 * row + col in kept else "0" for col in range(3)) for row in range(3))


def entries(rank: int) -> tuple[int, ...]:
    """The four kept positions, 0 to 8 row by row, ascending.  Raises InputError for a rank outside 1..126."""
    if not 1 <= rank <= len(SETS):
        raise InputError(f"pattern #{rank}", where="pattern", expected=f"a rank from 1 to {len(SETS)}")
    removed = SETS[rank - 1]
    return tuple(place for place in range(WINDOW) if place not in removed)


# The constants of the authors' released code, top row first.
_FOUR = ("000/011/011", "000/110/110", "011/011/000", "110/110/000")
_EIGHT = (*_FOUR, "000/001/111", "000/111/010", "010/011/010", "010/110/010")
_TWELVE = (*_EIGHT, "111/010/000", "000/100/111", "111/100/000", "000/101/011")
FIXED = {len(library): tuple(rank_of(rows) for rows in library) for library in (_FOUR, _EIGHT, _TWELVE)}
"""Libraries of 4, 8 and 12 patterns as released."""


@lru_cache(maxsize=64)
def table(library: tuple[int, ...]) -> NDArray[np.int64]:
    """int64[patterns, 4]: kept positions of each pattern."""
    return np.array([entries(rank) for rank in library], dtype=np.int64)


def scores(values: NDArray[np.floating], library: Sequence[int], window: int) -> NDArray[np.float64]:
    """float64[patterns, channels, n]: the summed score of each pattern in each kernel of values[k, n].

    Added as (a + b) + (c + d), the order of the torch projection, so that both break the same ties.  Raises
    InputError for a kernel that is not 3x3.
    """
    if window != WINDOW:
        raise InputError(f"kernels of {window} entries", where="structure pattern", expected="3x3 kernels",
                         fix="name the 3x3 layers, or use another structure")
    kernels = np.asarray(values, dtype=np.float64).reshape(-1, WINDOW, values.shape[1])
    four = kernels[:, table(tuple(library))]  # [channels, patterns, 4, n]
    summed = (four[:, :, 0] + four[:, :, 1]) + (four[:, :, 2] + four[:, :, 3])
    return np.asarray(summed.transpose(1, 0, 2))


def best(values: NDArray[np.floating], library: Sequence[int], window: int) -> NDArray[np.bool_]:
    """bool[k, n]: each kernel keeps its best pattern, ties by the library's order; 1x1 kernels stay whole."""
    if window == 1:
        return np.ones(values.shape, dtype=bool)
    chosen = scores(values, library, window).argmax(axis=0)  # [channels, n]
    kept = np.zeros((len(library), WINDOW), dtype=bool)
    np.put_along_axis(kept, table(tuple(library)), True, axis=1)
    return np.ascontiguousarray(kept[chosen].transpose(0, 2, 1).reshape(values.shape))


def fit(mask: NDArray[np.bool_], library: Sequence[int], window: int) -> bool:
    """True where no kernel of mask[k, n] has an entry outside every pattern of the library; 1x1 kernels always fit."""
    if window == 1:
        return True
    if window != WINDOW:
        return False
    nonzeros = mask.reshape(-1, WINDOW, mask.shape[1]).sum(axis=1)
    return bool((scores(mask.astype(np.float64), library, window) == nonzeros).any(axis=0).all())


def most_chosen(values: NDArray[np.floating], size: int, window: int = WINDOW) -> tuple[int, ...]:
    """The `size` patterns, of all 126, that most kernels of values[k, n] would choose; ties by rank, in rank order.

    The abstract of ClickTrain speaks of patterns generated during training and the released code has their result
    only; counting each kernel's best of all 126 is our reading.
    """
    if not 1 <= size <= len(SETS):
        raise InputError(f"a library of {size} patterns", where="pattern", expected=f"1 to {len(SETS)}")
    return library_of(votes(values, window), size)


def votes(values: NDArray[np.floating], window: int = WINDOW) -> NDArray[np.int64]:
    """int64[126]: how many kernels of values[k, n] have each pattern as their best."""
    everything = tuple(range(1, len(SETS) + 1))
    return np.bincount(scores(values, everything, window).argmax(axis=0).reshape(-1), minlength=len(SETS))


def library_of(counted: NDArray[np.int64], size: int) -> tuple[int, ...]:
    """The `size` patterns with most votes (summed over layers by the caller), in rank order."""
    return tuple(sorted(int(rank) + 1 for rank in np.argsort(-counted, kind="stable")[:size]))
