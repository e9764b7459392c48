"""The zeros of a lowered input, a run of output rows at a time, so that no layer needs its whole matrix at once.

Output row p of a convolution sees the input under its kernel, k in the order (channel, kernel row, kernel column);
padding is zero.  A layer without a mask has no zeros: its rows are all alike, and callers look at two of them.
Nothing here knows of time; read tensordash.py for a user.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace
from ..workload import Gemm

Bools = NDArray[np.bool_]
MOST_ENTRIES = 1 << 24  # of the lowered mask at a time: 16 MiB


def lowered_rows(layer: LayerTrace, group: int, block: int) -> Iterator[tuple[int, Bools]]:
    """(first output row, bool[rows, k]) of consecutive output rows of one group, starting at multiples of `block`."""
    gemm, mask, op = layer.operation.gemm(), layer.input_mask, layer.operation
    assert mask is not None
    step = max(1, MOST_ENTRIES // gemm.k // block) * block
    if isinstance(op, Gemm):
        for first in range(0, gemm.m, step):
            yield first, np.ascontiguousarray(mask[first : first + step])
        return
    per = op.in_channels // op.groups
    own = mask[:, group * per : (group + 1) * per]
    padded = np.pad(own, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    image, channel, row, col = padded.strides
    shape = (op.batch, op.out_h, op.out_w, per, op.kernel_h, op.kernel_w)
    strides = (image, row * op.stride_h, col * op.stride_w, channel, row * op.dilation_h, col * op.dilation_w)
    windows = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    for first in range(0, gemm.m, step):
        last = min(gemm.m, first + step)
        lines = np.arange(first // op.out_w, -(-last // op.out_w))
        seen = windows[lines // op.out_h, lines % op.out_h].reshape(-1, gemm.k)
        yield first, seen[first - int(lines[0]) * op.out_w :][: last - first]


def blocks_of_rows(layer: LayerTrace, group: int, block: int) -> Iterator[tuple[NDArray[np.int64], Bools]]:
    """(numbers of blocks of `block` output rows, what stands for them: bool[blocks or 1, block, k]).

    Rows beyond the last are False.  Where no mask is known one full block stands for all full ones.
    """
    gemm = layer.operation.gemm()
    if layer.packed_input is not None:
        for first, rows in lowered_rows(layer, group, block):
            padded = np.pad(rows, ((0, -len(rows) % block), (0, 0)))
            number = first // block + np.arange(len(padded) // block)
            yield number, padded.reshape(-1, block, gemm.k)
        return
    full, rest = divmod(gemm.m, block)
    for number, size in ((np.arange(full), block), (np.array([full]), rest)):
        if size and len(number):
            yield number, np.broadcast_to((np.arange(block) < size)[:, None], (1, block, gemm.k))
