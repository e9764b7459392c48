"""Blocks along the reduction, for machines that bound how many operands of a block are nonzero.

k is cut into runs, and a run into blocks of consecutive entries; a run is all of k or, with blocks along channels, the
channels at one position of the kernel.  Nothing here knows of time.  Read s2ta.py or highlight.py for a user.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ..trace import LayerTrace
from ..workload import Conv2d, Operation

Bools = NDArray[np.bool_]

AXES = ("k", "channel")
"""k: consecutive rows of the lowered weight, as the structure "n:m" means it; channel: across input channels."""


def parse_bound(text: str) -> tuple[int, int] | None:
    """(n, m) of a text "n:m" with 1 <= n <= m <= 64, or None for another text."""
    match = re.fullmatch(r"(\d{1,2}):(\d{1,2})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 64:
        return None
    return int(match[1]), int(match[2])


def run_shape(operation: Operation, along: str) -> tuple[int, int]:
    """(runs, entries of each) into which k is cut before it is cut into blocks."""
    k = operation.gemm().k
    return (operation.window, k // operation.window) if along == "channel" else (1, k)


def weight_runs(layer: LayerTrace, along: str) -> Bools:
    """bool[groups * runs, entries, n]: the weight mask of every run."""
    runs, length = run_shape(layer.operation, along)
    matrix = layer.weight_matrix()
    groups, _, n = matrix.shape
    # k runs over (channel, kernel position); a run along channels takes every kernel position for itself.
    by_run = matrix.reshape(groups, length, runs, n).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_run).reshape(groups * runs, length, n)


def most_weights(runs: Bools | None, length: int, size: int) -> int:
    """The most weights in any block of `size`, column by column; runs: weight_runs, or None where all are kept."""
    if runs is None:
        return min(length, size)
    from ..lowering_kernel import most_in_group

    return int(most_in_group(runs, size))


def in_blocks(length: int, kept: int, size: int) -> int:
    """Slots of a run of `length` in blocks of `size` with at most `kept` each; a short last block has what it has."""
    return length // size * kept + min(length % size, kept)


def most_activations(layer: LayerTrace, size: int, along: str) -> int:
    """The most nonzero activations in any block of `size` of any row of the lowered input; needs an input mask."""
    mask, op = layer.input_mask, layer.operation
    assert mask is not None
    if not isinstance(op, Conv2d):
        return _most(mask.reshape(-1, op.k).T, size)
    image = np.pad(mask, ((0, 0), (0, 0), (op.padding_h, op.padding_h), (op.padding_w, op.padding_w)))
    image = image.transpose(1, 0, 2, 3)
    taps = [image[:, :, y : y + (op.out_h - 1) * op.stride_h + 1 : op.stride_h,
                  x : x + (op.out_w - 1) * op.stride_w + 1 : op.stride_w]
            for y in range(0, op.kernel_h * op.dilation_h, op.dilation_h)
            for x in range(0, op.kernel_w * op.dilation_w, op.dilation_w)]
    per = op.in_channels // op.groups
    most = 0
    for first in range(0, op.in_channels, per):
        # A block of k touches few channels, so the lowered input of a whole group is never in memory at once.
        if along == "channel":
            blocks = [[(channel, tap) for channel in range(a, min(a + size, per))]
                      for tap in range(op.window) for a in range(0, per, size)]
        else:
            entries = [(row // op.window, row % op.window) for row in range(per * op.window)]
            blocks = [entries[a : a + size] for a in range(0, len(entries), size)]
        for block in blocks:
            live = np.zeros(taps[0].shape[1:], dtype=np.uint8)
            for channel, tap in block:
                live += taps[tap][first + channel]
            most = max(most, int(live.max()))
            if most == size:
                return most
    return most


def most_stored(layer: LayerTrace, size: int) -> int:
    """The most nonzeros in `size` consecutive channels of one group at any position of the raw input; needs a mask."""
    mask, op = layer.input_mask, layer.operation
    assert mask is not None
    if not isinstance(op, Conv2d):
        return _most(mask.reshape(-1, op.k).T, size)
    per = op.in_channels // op.groups
    groups = mask.transpose(1, 0, 2, 3).reshape(op.groups, per, -1)
    return max(_most(channels, size) for channels in groups)


def _most(rows: Bools, size: int) -> int:
    """The most True in any `size` consecutive rows of a column of bool[rows, columns]."""
    starts = np.arange(0, len(rows), size)
    return int(np.add.reduceat(rows, starts, axis=0, dtype=np.uint8).max())
