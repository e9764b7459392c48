"""Filter-kernel reordering: which filters run side by side, and in which order a filter's kernels run.

A pattern is a kernel's actual set of kept entries; kernels without any are removed.  Left out: moving the input
channels, which would have to be undone in the layer before.  formats.py stores the order ("fkw"),
machines/pattern_engine.py runs it.  Source: W. Niu et al., "PatDNN", ASPLOS 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Numbers = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class KernelOrder:
    """A mask as filters of kernels with patterns, and the order in which they run.

    filters: int64[out], the filters in order of execution.  patterns: bool[number, window], the patterns that occur,
    each once.  pattern: int8 or int32[out, in], which of them a kernel has, -1 where it is removed.  entries, runs:
    int64[out], kept weights of a filter and patterns that occur in it, by the filter's own number.
    """

    filters: Ints
    patterns: Bools
    pattern: Numbers
    entries: Ints
    runs: Ints

    def kernels(self, filter_: int) -> Ints:
        """Input channels of a filter's kept kernels as they run: by pattern, then by channel."""
        own = self.pattern[filter_]
        kept = np.flatnonzero(own >= 0)
        return kept[np.argsort(own[kept], kind="stable")]


def filter_kernel_order(mask: Bools, pattern_switch_cycles: int = 1) -> KernelOrder:
    """The order that leaves lanes the least to wait for one another and switches patterns least.

    mask: bool[out, in, ...], True where a weight is kept; the axes after the second are the kernel's.  Filters are
    sorted by their time, kept weights + patterns times `pattern_switch_cycles`, longest first, ties by number: among
    all ways to cut filters into groups of a size, consecutive ones of this order have the least sum of longest members.
    """
    patterns, pattern = kernel_patterns(mask)
    entries = mask.reshape(len(mask), -1).sum(axis=1, dtype=np.int64)
    runs = _distinct_per_row(pattern, len(patterns))
    return KernelOrder(np.argsort(-(entries + pattern_switch_cycles * runs), kind="stable"), patterns, pattern,
                       entries, runs)


def kernel_patterns(mask: Bools) -> tuple[Bools, Numbers]:
    """(patterns bool[number, window], pattern of each kernel [out, in] with -1 = removed) of bool[out, in, ...].

    Patterns are in descending order of their entries read as a binary number, first entry first.
    """
    out, channels = mask.shape[:2]
    kernels = mask.reshape(out * channels, -1)
    if kernels.shape[1] <= 16:  # a table of all codes is cheaper than sorting the kernels
        return _by_table(np.packbits(kernels, axis=1), kernels.shape[1], (out, channels))
    distinct, inverse = np.unique(np.packbits(kernels, axis=1), axis=0, return_inverse=True)
    patterns = np.unpackbits(distinct[::-1], axis=1, count=kernels.shape[1]).astype(bool)
    pattern = (len(distinct) - 1 - inverse.reshape(out, channels)).astype(np.int32)
    if not patterns[-1].any():  # removed kernels have the smallest code
        pattern[pattern == len(patterns) - 1] = -1
        patterns = patterns[:-1]
    return patterns, pattern


def runs_in_channel_order(pattern: Numbers) -> Ints:
    """int64[out]: runs of equal patterns among the kept kernels of each filter, taken by channel as they lie."""
    runs = np.zeros(len(pattern), dtype=np.int64)
    for rows in _chunks(pattern, 0):
        out, channels = np.nonzero(pattern[rows] >= 0)
        kept = pattern[rows][out, channels]
        begins = np.ones(len(kept), dtype=bool)
        begins[1:] = (kept[1:] != kept[:-1]) | (out[1:] != out[:-1])
        runs[rows] = np.bincount(out[begins], minlength=len(runs[rows]))
    return runs


def _by_table(codes: NDArray[np.uint8], window: int, shape: tuple[int, int]) -> tuple[Bools, Numbers]:
    width = codes.shape[1]
    numbers = codes.view(np.uint8 if width == 1 else np.dtype(">u2")).reshape(shape)
    occurs = np.zeros(1 << 8 * width, dtype=bool)
    for rows in _chunks(numbers, 0):
        occurs[numbers[rows]] = True
    occurs[0] = False
    found = np.flatnonzero(occurs)[::-1]
    # A layer may have 10^8 kernels of one entry: pattern numbers are as narrow as they can be.
    place = np.full(len(occurs), -1, dtype=np.int8 if len(found) < 128 else np.int32)
    place[found] = np.arange(len(found))
    entries = (found[:, None] >> np.arange(8 * width)[::-1]) & 1
    return entries[:, :window].astype(bool), place[numbers]


def _distinct_per_row(pattern: Numbers, number: int) -> Ints:
    """int64[out]: how many different patterns each filter has."""
    distinct = np.zeros(len(pattern), dtype=np.int64)
    for rows in _chunks(pattern, number):
        seen = np.zeros((len(distinct[rows]), number + 1), dtype=bool)  # the last place is that of removed kernels, -1
        seen[np.arange(len(seen))[:, None], pattern[rows]] = True
        distinct[rows] = seen[:, :-1].sum(axis=1)
    return distinct


def _chunks(pattern: NDArray[Any], extra: int) -> Iterator[slice]:
    """Rows a few million entries at a time, so that what is made of them stays small."""
    size = max(1, (1 << 22) // (pattern.shape[1] + extra))
    return (slice(start, start + size) for start in range(0, len(pattern), size))
