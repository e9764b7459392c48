"""From a layer with masks to the GEMM that an array runs: lowering, removed channels, n:m compaction.

docs/model.md section 1.1 is the text; nothing here knows of time.  The result, a `Physical`, keeps the
geometry of the convolution so that tiles can count the distinct input words they touch.  Read
machines/systolic.py next.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .structure import parse
from .trace import LayerTrace
from .workload import Conv2d, Gemm, Operation

if TYPE_CHECKING:
    from .machines.cover import Cover


@dataclass(frozen=True, eq=False)
class Physical:
    """The GEMM of one group as the array runs it, and what is needed to count its words.

    m, k, n: physical sizes (k counts kept slots); k_rows: input rows that k stands for; n of every m rows
    are kept (`slots_kept`, `slots_of`; 1, 1 = dense).  mask: bool[groups, k_rows, n] or None = dense.
    useful_macs and dense_macs count the whole layer, all groups, before any removal.  cover: the n:m of every tile or
    row, where the machine chooses it so; k is then not compacted.
    """

    operation: Operation
    m: int
    k: int
    n: int
    k_rows: int
    groups: int
    slots_kept: int
    slots_of: int
    mask: NDArray[np.bool_] | None
    useful_macs: int
    dense_macs: int
    removed: bool = False  # no weight is left, and the machine leaves such a layer out
    cover: Cover | None = None

    def rows_covered(self, first: int, last: int) -> tuple[int, int]:
        """Rows [a, b) of k_rows that the physical rows [first, last) stand for."""
        return (first // self.slots_kept * self.slots_of,
                min(self.k_rows, -(-last // self.slots_kept) * self.slots_of))


def lower(layer: LayerTrace, *, compact_channels: bool, nm: tuple[str, ...]) -> Physical:
    """The physical GEMM of `layer` on a machine that removes empty channels and exploits the n:m patterns `nm`."""
    operation, mask = layer.operation, None
    whole = None if layer.packed_weight is None else layer.weight_matrix()
    if whole is not None:
        mask = whole
        if compact_channels:
            operation, mask = _without_empty_channels(operation, mask)
    gemm = operation.gemm()
    removed = compact_channels and mask is not None and not mask.any()
    kept, of = (1, 1) if mask is None else _tightest_pattern(mask, nm)
    k = gemm.k // of * kept + min(gemm.k % of, kept)
    return Physical(operation, gemm.m, k, gemm.n, gemm.k, operation.groups, kept, of, mask,
                    useful_macs(layer, whole), layer.operation.macs, removed)


def useful_macs(layer: LayerTrace, weights: NDArray[np.bool_] | None = None) -> int:
    """Products of the layer with both operands nonzero (padding counts as zero once an input mask is known).

    weights: layer.weight_matrix() where the caller has it already.
    """
    gemm = layer.operation.gemm()
    if layer.packed_weight is None:
        per_row = np.full((layer.operation.groups, gemm.k), gemm.n, dtype=np.int64)
    else:
        from .lowering_kernel import nonzeros_per_row

        per_row = nonzeros_per_row(layer.weight_matrix() if weights is None else weights)
    if layer.packed_input is not None:
        # Python integers through object arrays would be slow; the door check of workload.py bounds the sum.
        return int((per_row * nonzero_inputs_per_row(layer)).sum())
    products = gemm.m * int(per_row.sum())
    return products if layer.input_density == 1.0 else math.floor(layer.input_density * products + 0.5)


def nonzero_inputs_per_row(layer: LayerTrace) -> NDArray[np.int64]:
    """int64[groups, k]: over all rows of m, how many entries of each k row of the lowered input are nonzero."""
    mask, op = layer.input_mask, layer.operation
    assert mask is not None
    if isinstance(op, Gemm):
        return np.asarray(mask.sum(axis=-2, dtype=np.int64).reshape(op.groups, op.k))
    padded = np.pad(mask, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    counts = np.empty((op.in_channels, op.kernel_h, op.kernel_w), dtype=np.int64)
    for r in range(op.kernel_h):
        for s in range(op.kernel_w):
            y, x = r * op.dilation_h, s * op.dilation_w
            seen = padded[:, :, y : y + (op.out_h - 1) * op.stride_h + 1 : op.stride_h,
                          x : x + (op.out_w - 1) * op.stride_w + 1 : op.stride_w]
            counts[:, r, s] = seen.sum(axis=(0, 2, 3))
    return counts.reshape(op.groups, -1)


def _without_empty_channels(operation: Operation, mask: NDArray[np.bool_]) -> tuple[Operation, NDArray[np.bool_]]:
    """The smaller operation and its mask bool[groups, k, n]; one empty channel and filter stay if nothing is left."""
    groups, k, n = mask.shape
    if groups > 1:
        live = _at_least_one(np.asarray(mask.any(axis=(1, 2))))
        if live.all():
            return operation, mask
        assert isinstance(operation, Conv2d)
        left = int(live.sum())
        smaller = dataclasses.replace(operation, groups=left, in_channels=operation.in_channels // groups * left,
                                      out_channels=operation.out_channels // groups * left)
        return smaller, np.ascontiguousarray(mask[live])
    window = operation.window
    channels = _at_least_one(mask[0].reshape(k // window, window, n).any(axis=(1, 2)))
    filters = _at_least_one(mask[0].any(axis=0))
    if channels.all() and filters.all():
        return operation, mask
    kept = np.ascontiguousarray(mask[:, np.repeat(channels, window)][:, :, filters])
    rows, columns = int(channels.sum()), int(filters.sum())
    if isinstance(operation, Gemm):
        return Gemm(operation.m, rows, columns), kept
    return dataclasses.replace(operation, in_channels=rows, out_channels=columns), kept


def _at_least_one(live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not live.any():
        live = live.copy()
        live[0] = True
    return live


def _tightest_pattern(mask: NDArray[np.bool_], nm: tuple[str, ...]) -> tuple[int, int]:
    """(n, m) of the first pattern, by n/m then m, to which every group of the mask conforms; (1, 1) if none."""
    if not nm:
        return 1, 1
    from .lowering_kernel import most_in_group

    patterns = [parse(text) for text in nm]
    pairs = sorted(((p.keep or 1, int(p.group[0])) for p in patterns), key=lambda pair: (pair[0] / pair[1], pair[1]))
    for kept, of in pairs:
        if kept == of:
            break
        if most_in_group(mask, of) <= kept:
            return kept, of
    return 1, 1
