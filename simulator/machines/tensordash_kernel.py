# mypy: allow-untyped-defs, allow-untyped-calls
"""TensorDash's scheduler on words of bits: all rows of a tile at once, a field of `lanes` bits for each of them.

Bit i of a field is lane i; a pick by a shifted lane is a rotation inside every field.  Integers in, integers out; what
the times mean is tensordash.py's.  docs/machines/tensordash.md is the text.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from .sparten_kernel import popcount

ZERO, ONE = np.uint64(0), np.uint64(1)


@kernel
def rotated(x, turn):
    """Every field of x turned as turn = uint64[4] says: up by [0] under mask [1], or down by [2] under mask [3]."""
    return ((x << turn[0]) & turn[1]) | ((x >> turn[2]) & turn[3])


@kernel
def pick(near, far, free, levels, turns):
    """One cycle's picks beyond the first row: (rows +1 and +2 without what was picked, lanes that found nothing).

    near, far: effectual slots of rows +1 and +2; free: lanes whose own slot of row +0 holds nothing.  levels: lanes
    that choose at the same time; no two of one level can reach the same slot.  turns[s - 1], turns[s + 2]: rotations
    by s lanes up and down.
    """
    idle = free
    for level in range(len(levels)):
        if near | far == ZERO:
            break
        u = free & levels[level]
        if u == ZERO:
            continue
        idle ^= u
        t = u & near  # (+1, i)
        near ^= t
        u ^= t
        t = u & far  # (+2, i)
        far ^= t
        u ^= t
        t = u & rotated(near, turns[0])  # (+1, i-1): bit i-1 turned up by one
        near ^= rotated(t, turns[3])
        u ^= t
        t = u & rotated(near, turns[3])  # (+1, i+1)
        near ^= rotated(t, turns[0])
        u ^= t
        t = u & rotated(far, turns[1])  # (+2, i-2)
        far ^= rotated(t, turns[4])
        u ^= t
        t = u & rotated(far, turns[4])  # (+2, i+2)
        far ^= rotated(t, turns[1])
        u ^= t
        t = u & rotated(near, turns[2])  # (+1, i-3)
        near ^= rotated(t, turns[5])
        u ^= t
        idle |= u
    return near, far, idle


@kernel
def schedule(a, b, columns, valid, tops, lanes, depth, levels, turns, found):
    """Fill found[i, j] = (cycles, lane-cycles that are idle because the row is held back) of tile i on tile j.

    a: uint64[A, steps, words], fields of the rows of a tile; b: uint64[B, most columns, steps], one lane mask repeated
    in every field, ANDed with a; all ones where one side alone decides.  columns: int64[B], those that exist; valid:
    uint64[A, words], all lanes of rows that exist.  tops: the highest lane of every field.
    """
    many, steps, words = a.shape
    window = np.zeros((3, b.shape[1], words), np.uint64)
    held = np.zeros((b.shape[1], words), np.uint64)
    top = np.uint64(lanes - 1)
    rest = ~tops
    for i in range(many):
        for j in range(b.shape[0]):
            held[:] = ZERO
            at = cycles = waited = loaded = 0
            while at < steps:
                while loaded < at + depth:
                    slot = loaded % 3
                    for c in range(columns[j]):
                        for w in range(words):
                            window[slot, c, w] = a[i, loaded, w] & b[j, c, loaded] if loaded < steps else ZERO
                    loaded += 1
                first, second, third = at % 3, (at + 1) % 3, (at + 2) % 3
                left_near = left_far = ZERO
                for c in range(columns[j]):
                    for w in range(words):
                        far = window[third, c, w] if depth > 2 else ZERO
                        free = valid[i, w] & ~window[first, c, w]
                        near, far, idle = pick(window[second, c, w], far, free, levels, turns)
                        window[second, c, w] = near
                        window[first, c, w] = idle  # the row is done with; its place keeps the idle lanes
                        if depth > 2:
                            window[third, c, w] = far
                        left_near |= near
                        left_far |= far
                step = 1 if left_near != ZERO else (2 if depth == 2 or left_far != ZERO else 3)
                for c in range(columns[j]):
                    for w in range(words):
                        waited += popcount(window[first, c, w] & held[c, w])
                        if step == depth:
                            held[c, w] = ZERO
                        else:
                            # Rows whose next row is empty too could have gone on: all lanes of such fields.
                            x = window[second if step == 1 else third, c, w]
                            tip = ~(((x & rest) + rest) | x) & tops & valid[i, w]
                            held[c, w] = tip | (tip - (tip >> top))
                at += step
                cycles += 1
            found[i, j, 0] = cycles
            found[i, j, 1] = waited


@kernel
def run_cycles(times, starts, filter_blocks, pixel_blocks, tiles, cycles):
    """Fill cycles[run]: the busiest tile of each run of filter blocks; items are dealt to the tiles in turn.

    times: int64[groups, filter blocks or 1, pixel blocks or 1].  starts: first block of each run, then the end.
    """
    load = np.zeros(tiles, np.int64)
    for run in range(len(starts) - 1):
        load[:] = 0
        for block in range(starts[run], starts[run + 1]):
            group = block // filter_blocks
            f = block % filter_blocks if times.shape[1] > 1 else 0
            tile = block * pixel_blocks % tiles
            for p in range(pixel_blocks):
                load[tile] += times[group, f, p if times.shape[2] > 1 else 0]
                tile = tile + 1 if tile + 1 < tiles else 0
        cycles[run] = load.max()
