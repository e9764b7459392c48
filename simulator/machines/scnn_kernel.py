"""SCNN's blocks, counted fast: how many products of a block meet in its fullest accumulator bank.

The bank of a product depends on the weight and on little of the activation: the low bits of its coordinates and, near
the border, which kernel rows and columns stay inside the plane.  Activations that agree in this are a *variant*; a
variant's bank counts over all blocks of weights are made once and added up 32 banks at a time.  docs/machines/scnn.md
is the text; scnn.py calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..jit import kernel

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Pair = tuple[int, int]

BANKS = 32  # the bank formula has five bits
OUTSIDE = 32  # in place of a bank: the product's output is not in the plane
CHUNK = 64  # blocks of weights whose bank counts are kept at a time: 2 KiB a variant, so that they stay in cache

# Indices into the totals.
BLOCKS, BUSY, PRODUCTS, INPUT_READS, WEIGHT_READS, TOTALS = range(6)


@kernel
def cartesian_products(inputs: Bytes, weights: Bytes, rows: Ints, cols: Ints, tap_phases: Ints, banks: Bytes,
                       strides: Pair, grid: Pair, multipliers: Pair, held: int, cycles: Ints, totals: Ints) -> None:
    """Fill cycles: int64[batch, channel groups, in_channels of a group], up to each barrier; add to totals.

    inputs: uint8[batch, in_channels, h, w].  weights: uint8[groups, in_channels of a group, kernel_h * kernel_w,
    out_channels of a group].  rows, cols: int64[h or w, 3], per position its element, phase and variant.  tap_phases:
    int64[kernel_h * kernel_w], the phase of every tap.  banks: uint8[row variants * column variants, taps * 8], the
    bank of a product by tap and k modulo 8, or OUTSIDE.  grid: elements (rows, cols); multipliers: (F, I); held:
    output channels at a time.
    """
    batch, _, height, width = inputs.shape
    groups, per_in, taps, per_out = weights.shape
    per_block_f, per_block_i = multipliers
    phases, places, none = strides[0] * strides[1], grid[0] * grid[1], len(banks)
    # Per image, phase and element: where its list of variants starts, and its activations.
    lists = np.empty(batch * (height * width + phases * places * per_block_i), dtype=np.int64)
    starts = np.empty((batch, phases, places + 1), dtype=np.int64)
    lengths = np.empty((batch, phases, places), dtype=np.int64)
    uses = np.empty((phases, none), dtype=np.int64)
    codes = np.empty(taps * min(held, per_out), dtype=np.uint64)  # unsigned: an index without a sign test
    ends = np.empty(phases + 1, dtype=np.int64)
    # Variant `none` fills up an element's last block; no product comes of it.
    counts = np.zeros((none + 1, CHUNK * BANKS), dtype=np.uint8)
    together = np.empty(CHUNK * BANKS, dtype=np.uint8)
    busy = np.empty((batch, places), dtype=np.int64)
    parts = -(-per_out // held)
    for group in range(groups):
        for channel in range(per_in):
            list_activations(inputs, group * per_in + channel, rows, cols, strides, grid, per_block_i, lists, starts,
                             lengths, uses, none)
            for part in range(parts):
                list_weights(weights[group, channel], part * held, min(per_out, (part + 1) * held), group * per_out,
                             tap_phases, codes, ends)
                busy[:] = 0
                for phase in range(phases):
                    here = ends[phase + 1] - ends[phase]
                    if here == 0:
                        continue
                    blocks = -(-here // per_block_f)
                    for first in range(0, blocks, CHUNK):
                        last = min(blocks, first + CHUNK)
                        low = ends[phase] + first * per_block_f
                        chunk = codes[low : min(ends[phase + 1], ends[phase] + last * per_block_f)]
                        for variant in range(none):
                            if uses[phase, variant]:
                                products = count_banks(chunk, banks[variant], per_block_f, counts[variant])
                                totals[PRODUCTS] += products * uses[phase, variant]
                        for image in range(batch):
                            for place in range(places):
                                busy[image, place] += block_cycles(
                                    counts, lists[starts[image, phase, place] : starts[image, phase, place + 1]],
                                    per_block_i, last - first, together)
                    for image in range(batch):
                        for place in range(places):
                            vectors = (starts[image, phase, place + 1] - starts[image, phase, place]) // per_block_i
                            totals[BLOCKS] += vectors * blocks
                            totals[INPUT_READS] += lengths[image, phase, place]
                            totals[WEIGHT_READS] += vectors * here
                for image in range(batch):
                    totals[BUSY] += busy[image].sum()
                    cycles[image, group * parts + part, channel] = busy[image].max()


@kernel
def list_activations(inputs: Bytes, channel: int, rows: Ints, cols: Ints, strides: Pair, grid: Pair, per_block: int,
                     lists: Ints, starts: Ints, lengths: Ints, uses: Ints, none: int) -> None:
    """Variants of one channel's nonzero activations, by image, phase and element; whole blocks, filled up with `none`.

    uses: int64[phases, variants], how many activations of each there are.
    """
    batch, _, height, width = inputs.shape
    across = cols[:, 2].max() + 1
    uses[:] = 0
    at = 0
    for image in range(batch):
        for phase in range(strides[0] * strides[1]):
            phase_x, phase_y = phase // strides[1], phase % strides[1]
            top = 0
            for row_place in range(grid[0]):
                bottom = top
                while bottom < height and rows[bottom, 0] == row_place:
                    bottom += 1
                left = 0
                for col_place in range(grid[1]):
                    right = left
                    while right < width and cols[right, 0] == col_place:
                        right += 1
                    place = row_place * grid[1] + col_place
                    begin = at
                    for x in range(top, bottom):
                        if rows[x, 1] != phase_x:
                            continue
                        for y in range(left, right):
                            if inputs[image, channel, x, y] and cols[y, 1] == phase_y:
                                lists[at] = rows[x, 2] * across + cols[y, 2]
                                uses[phase, lists[at]] += 1
                                at += 1
                    starts[image, phase, place] = begin
                    lengths[image, phase, place] = at - begin
                    while (at - begin) % per_block:
                        lists[at] = none
                        at += 1
                    left = right
                top = bottom
            starts[image, phase, grid[0] * grid[1]] = at


@kernel
def list_weights(weights: Bytes, first_k: int, last_k: int, offset_k: int, tap_phases: Ints, codes: NDArray[np.uint64],
                 ends: Ints) -> None:
    """Nonzero weights [taps, k] of one channel by phase, k fastest: tap * 8 + k modulo 8; ends: of those lists."""
    at = 0
    ends[0] = 0
    for phase in range(len(ends) - 1):
        for tap in range(len(tap_phases)):
            if tap_phases[tap] == phase:
                for k in range(first_k, last_k):
                    codes[at] = tap * 8 + ((offset_k + k) & 7)
                    at += weights[tap, k]  # a zero weight's code is written over
        ends[phase + 1] = at


@kernel
def count_banks(codes: NDArray[np.uint64], banks: Bytes, per_block: int, counts: Bytes) -> int:
    """Fill counts: uint8[blocks * 32], products of one activation by bank for every block of weights; their sum."""
    length = len(codes)
    counts[: -(-length // per_block) * BANKS] = 0
    products = item = 0
    base = np.uint64(0)
    while item < length:
        stop = min(item + per_block, length)
        while item < stop:
            bank = banks[codes[item]]
            if bank != OUTSIDE:
                counts[base + bank] += np.uint8(1)
                products += 1
            item += 1
        base += np.uint64(BANKS)
    return products


@kernel
def block_cycles(counts: Bytes, variants: Ints, per_block: int, blocks: int, together: Bytes) -> int:
    """Sum over an element's blocks of max(1, largest bank count); together: uint8 scratch.

    counts: uint8[variants, blocks * 32], bank counts of one activation; variants: of the element's activations.
    """
    total = 0
    if per_block == 4:
        for at in range(0, len(variants), 4):
            a, b = counts[variants[at]], counts[variants[at + 1]]
            c, d = counts[variants[at + 2]], counts[variants[at + 3]]
            for block in range(blocks):
                most = np.uint8(1)
                for bank in range(BANKS):
                    i = np.uint64(block * BANKS + bank)
                    # In this form (cast, unsigned index, `if` instead of max) it is one add per operand for all 32
                    # banks; in others the sums are widened to 64 bits and a block takes 50 times as long.
                    here = np.uint8(a[i] + b[i] + c[i] + d[i])
                    if here > most:
                        most = here
                total += int(most)
        return total
    for at in range(0, len(variants), per_block):
        together[: blocks * BANKS] = 0
        for item in range(at, at + per_block):
            row = counts[variants[item]]
            for j in range(blocks * BANKS):
                i = np.uint64(j)
                together[i] = np.uint8(together[i] + row[i])
        for block in range(blocks):
            most = np.uint8(1)
            for bank in range(BANKS):
                here = together[np.uint64(block * BANKS + bank)]
                if here > most:
                    most = here
            total += int(most)
    return total
