"""n:m covers by tile and by row: which N every k block of every output needs (docs/model.md 1.8).

A cover belongs to a `Physical` whose k is not compacted as a whole; counts of its folds are cover_kernel.py's.  Left
out: reordering of outputs, which the packing by row does not need.  Read systolic.py for the machine that runs it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..lowering import Physical

if TYPE_CHECKING:
    from .systolic import Spec

COVERS = ("layer", "tile", "row")


@dataclass(frozen=True, eq=False)
class Cover:
    """N of every block of `block` rows of k and every output: keep int64[groups, ceil(k/block), n], up to `of`.

    by_row: outputs of one tile may differ; else all outputs of a tile of the array's width have the same N.
    descriptor_bits: bits that tell a tile's (or a row's) N.
    """

    by_row: bool
    of: int
    block: int
    keep: NDArray[np.int64]
    descriptor_bits: int

    @property
    def parameters(self) -> tuple[bool, int, int, int, int, NDArray[np.int64]]:
        """The cover as cover_kernel.py takes it."""
        return self.by_row, self.of, self.block, self.index_bits, self.descriptor_bits, self.keep

    @property
    def index_bits(self) -> int:
        """Bits that tell which of `of` inputs a weight belongs to, where not all of them are kept."""
        return (self.of - 1).bit_length()

    @property
    def name(self) -> str:
        """What a report calls the structure that was exploited."""
        return f"n:{self.of} per {'row' if self.by_row else 'tile'}"


def covered(gemm: Physical, spec: Spec) -> Physical:
    """`gemm`, not compacted, with the cover that the machine asks for; itself where no tile or row would gain.

    A mask that keeps everything is no mask: a ragged last group of a dense layer is nothing to exploit.
    """
    if gemm.mask is None or not spec.nm or spec.nm_cover == "layer" or gemm.mask.all():
        return gemm
    from . import cover_kernel

    kept, of = patterns(spec.nm)
    levels = np.array(sorted({*kept, of}), dtype=np.int64)
    by_row = spec.nm_cover == "row"
    # In a block, the fewest slots that a group may take fill the array's rows once.
    block = of * (spec.rows if by_row else max(1, spec.rows // int(levels[0])))
    most = cover_kernel.most_per_block(gemm.mask, block, of)
    if not by_row:
        widest = np.maximum.reduceat(most, np.arange(0, gemm.n, spec.cols), axis=2)
        most = np.repeat(widest, spec.cols, axis=2)[:, :, : gemm.n]
    keep = np.ascontiguousarray(levels[np.searchsorted(levels, most)])
    if keep.min() == of:
        return gemm
    return dataclasses.replace(gemm, cover=Cover(by_row, of, block, keep, (len(levels) - 1).bit_length()))


def patterns(nm: tuple[str, ...]) -> tuple[list[int], int]:
    """(the n's, the m of the last) of patterns such as "2:4"; a cover by tile or row needs one m."""
    pairs = [text.split(":") for text in nm]
    return [int(pair[0]) for pair in pairs], int(pairs[-1][1])
