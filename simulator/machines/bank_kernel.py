# mypy: allow-untyped-defs, allow-untyped-calls
"""How many edges the vectors of a stream take where the buffers have banks: docs/model.md section 1.9.

A vector's words fall into banks by their addresses; it takes as many edges as the busiest bank needs for its words.
What the time line makes of it is in systolic_kernel.py; reference/banks.py counts the same word by word.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel

# Indices into the vector of a layer's geometry (built by banks.geometry).
(IMAGES, OUT_H, OUT_W, STRIDE_H, STRIDE_W, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W, PADDING_H, PADDING_W, IN_H, IN_W,
 CHANNELS, LINE, INPUT_BANKS, WEIGHT_BANKS, OUTPUT_BANKS, PORTS, BY_ROW, ROWS, COLS, K, N, K_ROWS, KEPT, OF) = range(27)
GEOMETRY = 27


@kernel
def side_by_side(words, banks, g):
    """Edges for `words` neighbours of one row of a tensor; banks = 0: no conflicts."""
    if banks == 0:
        return 1
    busiest = words if g[BY_ROW] else (words + banks - 1) // banks
    return max(1, (busiest + g[PORTS] - 1) // g[PORTS])


@kernel
def above_each_other(words, banks, g):
    """Edges for `words` words of one column of a tensor with N columns."""
    if banks == 0:
        return 1
    step, rest = (1 if g[BY_ROW] else g[N]), banks
    while rest:
        step, rest = rest, step % rest
    reached = banks // step  # banks that multiples of the step fall into
    return max(1, ((words + reached - 1) // reached + g[PORTS] - 1) // g[PORTS])


@kernel
def count_word(g, hist, pixel, row):
    """Count the input of output pixel `pixel` and row `row` of k in its bank's entry of hist."""
    ox, rest = pixel % g[OUT_W], pixel // g[OUT_W]
    oy, image = rest % g[OUT_H], rest // g[OUT_H]
    kx, rest = row % g[KERNEL_W], row // g[KERNEL_W]
    ky, channel = rest % g[KERNEL_H], rest // g[KERNEL_H]
    y = oy * g[STRIDE_H] - g[PADDING_H] + ky * g[DILATION_H]
    x = ox * g[STRIDE_W] - g[PADDING_W] + kx * g[DILATION_W]
    if y < 0 or y >= g[IN_H] or x < 0 or x >= g[IN_W]:
        return
    address = ((image * g[CHANNELS] + channel) * g[IN_H] + y) * g[IN_W] + x
    hist[(address // g[LINE] if g[BY_ROW] else address) % g[INPUT_BANKS]] += 1


@kernel
def edges(hist, g):
    """Edges for the words that hist counts, which is emptied."""
    busiest = hist.max()
    hist[:] = 0
    return max(1, (busiest + g[PORTS] - 1) // g[PORTS])


@kernel
def last_width(g, last):
    """Columns of n in a fold: the whole width, or in the last fold what is left."""
    return g[N] - (g[N] - 1) // g[COLS] * g[COLS] if last else min(g[COLS], g[N])


@kernel
def weight_stationary(g, waits):
    """Fill waits[last, fold of k, pixel]: edges beyond one a vector that the pixels before `pixel` take together."""
    hist = np.zeros(max(1, g[INPUT_BANKS]), np.int64)
    for fold in range(waits.shape[1]):
        first, end = fold * g[ROWS], min(g[K], (fold + 1) * g[ROWS])
        low, high = first // g[KEPT] * g[OF], min(g[K_ROWS], (end + g[KEPT] - 1) // g[KEPT] * g[OF])
        for pixel in range(waits.shape[2] - 1):
            busy = 1
            if g[INPUT_BANKS]:
                for row in range(low, high):
                    count_word(g, hist, pixel, row)
                busy = edges(hist, g)
            for last in range(2):
                wide = side_by_side(last_width(g, last), g[OUTPUT_BANKS], g)
                waits[last, fold, pixel + 1] = waits[last, fold, pixel] + max(busy, wide) - 1


@kernel
def output_stationary(g, starts, ends, waits, anew):
    """Fill waits[last, fold of m, k]: edges beyond one that the rows of k before `k` take together.

    starts, ends: pixels of each fold of m.  anew[last, fold, k]: the edges beyond one of row k where a tile begins with
    it and fetches the inputs of its n:m group anew.
    """
    hist = np.zeros(max(1, g[INPUT_BANKS]), np.int64)
    for fold in range(waits.shape[1]):
        for row in range(g[K]):
            busy = 1
            if g[INPUT_BANKS]:
                group = row // g[KEPT] * g[OF]
                for pixel in range(starts[fold], ends[fold]):
                    for candidate in range(group, min(g[K_ROWS], group + g[OF])):
                        count_word(g, hist, pixel, candidate)
                busy = edges(hist, g)
            for last in range(2):
                wide = side_by_side(last_width(g, last), g[WEIGHT_BANKS], g)
                anew[last, fold, row] = max(busy, wide) - 1
                took = max(busy if row % g[KEPT] == 0 else 1, wide) - 1
                waits[last, fold, row + 1] = waits[last, fold, row] + took


@kernel
def input_stationary(g, rows, cols):
    """Edges of every vector of a fold that holds `rows` rows of k and `cols` pixels."""
    return max(above_each_other(rows, g[WEIGHT_BANKS], g), above_each_other(cols, g[OUTPUT_BANKS], g))
