# mypy: allow-untyped-defs, allow-untyped-calls
"""Capacities and lower bounds of all candidate tilings at once.

A bound is what no time line can beat: the array's own time plus the first loads and the last store, or all
bytes over the channel.  It is proved by the search being compared with the exhaustive one in tests; the
exact cost is systolic_kernel.timeline.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from .systolic_kernel import (
    AXIS_K,
    AXIS_M,
    AXIS_N,
    BIAS,
    BW_BYTES,
    BW_CYCLES,
    COLS,
    FLOW,
    GROUPS,
    HALVES_I,
    HALVES_O,
    HALVES_W,
    INPUT_BITS,
    INPUTS_STAY,
    IS,
    LATENCY,
    META_BITS,
    OS,
    OUTPUT_BITS,
    OUTPUTS_STAY,
    PSUM_BITS,
    ROWS,
    SKIPS,
    TAIL,
    TILE_K,
    TILE_N,
    WEIGHT_BITS,
    WS,
    K,
    N,
    channels_touched,
    gap,
)

# Columns of a brick row: how m is cut, in numbers that do not depend on k and n.
(B_TOTAL, B_TILES, B_LARGEST, B_WORDS, B_MOST_WORDS, B_FOLD_TIME, B_ROW_FOLDS, B_COL_FOLDS, B_SMALLEST,
 B_FIRST_WORDS, B_LAST) = range(11)
BRICK = 11

# Loop orders as in mapping.LOOP_ORDERS, outermost first.
_ORDERS = np.array([[AXIS_M, AXIS_N, AXIS_K], [AXIS_N, AXIS_M, AXIS_K], [AXIS_M, AXIS_K, AXIS_N],
                    [AXIS_K, AXIS_M, AXIS_N], [AXIS_N, AXIS_K, AXIS_M], [AXIS_K, AXIS_N, AXIS_M]])


@kernel
def occupied(size, p):
    """Whole cycles that `size` bytes take at the peak, rounded down: a DRAM with a clock of its own knows no cycles."""
    return 0 if p[BW_BYTES] == 0 else size * p[BW_CYCLES] // p[BW_BYTES]


@kernel
def brick_row(p, batch, times, row_out, row_in, col_out, col_in):
    """Summary of the bricks of one tile_m: count, sizes, words touched, streams and folds along m (int64[BRICK]).

    batch, times: the two sizes that a brick has along the images, and how often each occurs.
    """
    row = np.zeros(BRICK, np.int64)
    row[B_SMALLEST] = np.int64(2) ** 62
    rows, cols = p[ROWS], p[COLS]
    for b in range(len(batch)):
        if times[b] == 0:
            continue
        for y in range(len(row_out)):
            for x in range(len(col_out)):
                size = batch[b] * row_out[y] * col_out[x]
                words = batch[b] * row_in[y] * col_in[x]
                row[B_TILES] += times[b]
                row[B_LARGEST] = max(row[B_LARGEST], size)
                row[B_SMALLEST] = min(row[B_SMALLEST], size)
                row[B_TOTAL] += times[b] * size
                row[B_LAST] = size
                row[B_WORDS] += times[b] * words
                row[B_FOLD_TIME] += times[b] * fold_time(p, size)
                row[B_ROW_FOLDS] += times[b] * ((size + rows - 1) // rows)
                row[B_COL_FOLDS] += times[b] * ((size + cols - 1) // cols)
    row[B_FIRST_WORDS] = batch[0] * row_in[0] * col_in[0]
    # The largest count of words is that of a brick of the first row and column, or of the inner ones.
    row[B_MOST_WORDS] = batch[0] * row_in.max() * col_in.max()
    return row


@kernel
def fold_time(p, streamed):
    """Cycles from one fold's start to the next's when nothing stalls."""
    shift, drain = gap(p, streamed, streamed)
    return streamed + shift + drain


@kernel
def channel_span(p):
    """(most, sum) of the input channels that the tiles of k touch."""
    most = total = 0
    for ki in range((p[K] + p[TILE_K] - 1) // p[TILE_K]):
        touched = channels_touched(ki, p)
        most = max(most, touched)
        total += touched
    return most, total


@kernel
def weight_tile(p):
    """Bits of (the largest, the first) weight tile where all tiles of a size are alike."""
    tile_k, tile_n = p[TILE_K], p[TILE_N]
    first = min(tile_k, p[K]) * min(tile_n, p[N]) * (p[WEIGHT_BITS] + p[META_BITS])
    meta = tile_k * tile_n * p[META_BITS]
    if p[SKIPS]:
        meta = ((tile_k + p[ROWS] - 1) // p[ROWS]) * ((tile_n + p[COLS] - 1) // p[COLS])
    return tile_k * tile_n * p[WEIGHT_BITS] + meta, first


@kernel
def capacities(p, brick, most_channels, weight_bits, need):
    """Buffer bytes of inputs, weights and outputs, double buffering included, into need[3].

    weight_bits: of the largest weight tile.
    """
    tile_k, tile_n = p[TILE_K], p[TILE_N]
    tiles_k, tiles_n = (p[K] + tile_k - 1) // tile_k, (p[N] + tile_n - 1) // tile_n
    need[0] = (brick[B_MOST_WORDS] * most_channels * p[INPUT_BITS] + 7) // 8
    need[1] = (weight_bits + 7) // 8
    need[2] = (brick[B_LARGEST] * tile_n * p[PSUM_BITS] + 7) // 8
    if brick[B_TILES] * tiles_k * p[GROUPS] > 1:
        need[0] *= p[HALVES_I]
    if tiles_k * tiles_n * p[GROUPS] > 1:
        need[1] *= p[HALVES_W]
    if brick[B_TILES] * tiles_n * p[GROUPS] > 1:
        need[2] *= p[HALVES_O]


@kernel
def missing(need, room):
    """Bytes by which `need` passes the buffers; room[3] > 0 is one scratchpad for all."""
    if room[3] > 0:
        return max(0, need[0] + need[1] + need[2] - room[3])
    return max(0, need[0] - room[0]) + max(0, need[1] - room[1]) + max(0, need[2] - room[2])


@kernel
def visits(order, tiles, absent):
    """How often each tile of an operand is loaned: trips of the loop that it does not depend on, if that loop is
    outside a loop that it depends on and that has more than one trip."""
    seen = False
    for position in range(3):
        axis = order[position]
        if axis == absent:
            seen = True
        elif seen and tiles[axis] > 1:
            return tiles[absent]
    return 1


@kernel
def candidates(base, bricks, k_sizes, n_sizes, room, live, stored, spans, found):
    """Fill found[i] = (bound cycles, bound bytes, m index, k index, n index, rank) for every legal candidate.

    live: (executed folds, bits of their weights, are blocks skipped); stored: the same and the tiles' sizes for each
    pair of k and n sizes, or empty (Problem.stored); spans: of the inputs, for each k size, or empty (Problem.spans).
    Returns (count, fewest missing bytes).
    """
    live = live.copy()
    native = np.zeros(4, np.int64)
    count, least = 0, np.int64(2) ** 62
    p = base.copy()
    need, tiles = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for k_at in range(len(k_sizes)):
        p[TILE_K] = k_sizes[k_at]
        most, total = channel_span(p)
        tiles[AXIS_K] = (p[K] + p[TILE_K] - 1) // p[TILE_K]
        for n_at in range(len(n_sizes)):
            p[TILE_N] = n_sizes[n_at]
            tiles[AXIS_N] = (p[N] + p[TILE_N] - 1) // p[TILE_N]
            weights, first = weight_tile(p)
            if len(stored):
                weights, first = stored[k_at, n_at, 0], stored[k_at, n_at, 1]
                live[0], live[1] = stored[k_at, n_at, 2], stored[k_at, n_at, 3]
            for m_at in range(len(bricks)):
                brick = bricks[m_at]
                capacities(p, brick, most, weights, need)
                lacks = missing(need, room)
                least = min(least, lacks)
                if lacks > 0:
                    continue
                tiles[AXIS_M] = brick[B_TILES]
                span = spans[k_at] if len(spans) else native
                array = array_time(p, brick, tiles, live, first, span)
                for rank in range(len(_ORDERS)):
                    if not canonical(rank, tiles):
                        continue
                    size = traffic(p, brick, tiles, total, live, span, _ORDERS[rank])
                    channel = 0
                    if p[BW_BYTES] > 0:
                        channel = size * p[BW_CYCLES] // p[BW_BYTES]
                    found[count, 0] = max(array, channel)
                    found[count, 1] = size
                    found[count, 2], found[count, 3], found[count, 4] = m_at, k_at, n_at
                    found[count, 5] = ((m_at * len(k_sizes) + k_at) * len(n_sizes) + n_at) * len(_ORDERS) + rank
                    count += 1
    return count, least


@kernel
def canonical(rank, tiles):
    """False if an earlier order visits the tiles in the same sequence: loops of one trip can stand anywhere."""
    for earlier in range(rank):
        same = True
        a = b = 0
        while True:
            while a < 3 and tiles[_ORDERS[rank, a]] == 1:
                a += 1
            while b < 3 and tiles[_ORDERS[earlier, b]] == 1:
                b += 1
            if a == 3 or b == 3:
                break
            if _ORDERS[rank, a] != _ORDERS[earlier, b]:
                same = False
                break
            a += 1
            b += 1
        if same:
            return False
    return True


@kernel
def share(part, total, whole):
    """part * total / whole, rounded down, where the product might pass 64 bits."""
    return part * (total // whole) + part * (total % whole) // whole if whole else 0


@kernel
def array_time(p, brick, tiles, live, first_bits, span):
    """The array's own time with the transfers that nothing can hide: the first loads and the last store."""
    rows, cols = p[ROWS], p[COLS]
    if live[0] == 0:
        return 0
    if p[FLOW] == WS:
        busy, shortest = live[0] * brick[B_FOLD_TIME], brick[B_SMALLEST]
    elif p[FLOW] == OS:
        per_k, shortest = 0, p[K]
        for ki in range(tiles[AXIS_K]):
            length = min(p[TILE_K], p[K] - ki * p[TILE_K])
            shortest = min(shortest, length)
            per_k += fold_time(p, length)
        busy = p[GROUPS] * brick[B_ROW_FOLDS] * ((p[N] + cols - 1) // cols) * per_k
    else:
        per_n, shortest = 0, p[N]
        for ni in range(tiles[AXIS_N]):
            length = min(p[TILE_N], p[N] - ni * p[TILE_N])
            shortest = min(shortest, length)
            per_n += fold_time(p, length)
        busy = p[GROUPS] * brick[B_COL_FOLDS] * ((p[K] + rows - 1) // rows) * per_n
    # After the last fold there is no gap to the next, but the tail; the longest gap is the shortest stream's.
    busy += p[TAIL] - (fold_time(p, shortest) - shortest)
    shift = 0 if p[FLOW] == OS else rows
    if live[2]:
        return busy + p[BIAS] + shift + p[LATENCY]
    weights = occupied((first_bits + 7) // 8, p)
    first_input = brick[B_FIRST_WORDS] * channels_touched(0, p)
    input_bits = share(first_input, span[1], span[2]) if span[3] else first_input * p[INPUT_BITS]
    # What a format stores in no bits at all is not loaded, and its latency is not waited for.
    weights_at = weights + p[LATENCY] if first_bits > 0 else 0
    inputs_at = weights + occupied((input_bits + 7) // 8, p) + p[LATENCY] if input_bits > 0 else 0
    if p[INPUTS_STAY]:
        stationary = 0 if p[FLOW] == IS else weights_at
        start = max(p[BIAS] + shift + (stationary if shift else 0), weights_at)
    else:
        stationary = inputs_at if p[FLOW] == IS else weights_at
        start = max(p[BIAS] + shift + (stationary if shift else 0), max(weights_at, inputs_at))
    if p[OUTPUTS_STAY]:
        return busy + start
    last_n = p[N] - (tiles[AXIS_N] - 1) * p[TILE_N]
    return busy + start + occupied((brick[B_LAST] * last_n * p[OUTPUT_BITS] + 7) // 8, p)


@kernel
def traffic(p, brick, tiles, channels, live, span, order):
    """Bytes that must cross the channel, before rounding to bursts."""
    weights = live[1] // 8 * visits(order, tiles, AXIS_M)
    inputs = 0
    if live[2] == 0 and not p[INPUTS_STAY]:  # where blocks are skipped an input tile may never be needed
        bits = p[GROUPS] * brick[B_WORDS] * channels * p[INPUT_BITS]
        if span[3]:
            bits = share(brick[B_WORDS], span[0], span[3])
        inputs = bits // 8 * visits(order, tiles, AXIS_N)
    outputs = p[GROUPS] * brick[B_TOTAL] * p[N]
    spilled = 2 * (visits(order, tiles, AXIS_K) - 1) * outputs * p[PSUM_BITS]
    finished = 0 if p[OUTPUTS_STAY] else outputs * p[OUTPUT_BITS]
    return weights + inputs + (finished + spilled) // 8
