# mypy: allow-untyped-defs, allow-untyped-calls
"""The time line of a systolic array and its memory: docs/model.md sections 1.3 to 1.7, step by step.

One kernel visits the tiles in loop order and keeps a handful of times: when the channel is free, when each
operand's buffer halves are released, when the last fold started and ended.  Integers in, integers out;
how a tiling is chosen is in tiling_search.py.
"""

from __future__ import annotations

import numpy as np

from ..counts import Count
from ..dram_kernel import ON, REGION, moved
from ..jit import kernel
from .bank_kernel import input_stationary

# Indices into the parameter vector (built by tiling_search.Problem.parameters).
(ROWS, COLS, FLOW, ACT_HOP, PSUM_HOP, IN_REG, OUT_REG, TAIL, BUFFERS, DRAIN, BIAS, IN_FLIGHT, PER_REQUEST,
 HALVES_W, HALVES_I, HALVES_O, BW_BYTES, BW_CYCLES, LATENCY, BURST, WEIGHT_BITS, INPUT_BITS, OUTPUT_BITS, PSUM_BITS,
 META_BITS, SKIPS, OUTER, MIDDLE, GROUPS, COL_TILES, IDEAL, K_ROWS, WINDOW, KEPT, OF, TILE_K, K, TILE_N, N,
 COVER, STORED, INPUTS_STAY, OUTPUTS_STAY) = range(43)
PARAMETERS = 43
FOLD_COLUMNS = 8
NATIVE, DECODED_AHEAD, DECODED_BEHIND = 0, 1, 2  # STORED: how weights lie in DRAM and in their buffer

WS, OS, IS = 0, 1, 2
IN_PLACE, SERIAL, OVERLAPPED = 0, 1, 2
AXIS_M, AXIS_K, AXIS_N = 0, 1, 2

# The enum's values as plain integers: numba folds module constants.
_C = {item.name: int(item) for item in Count}
ISSUED, IN_HOPS, W_HOPS, P_HOPS = _C["ISSUED_MACS"], _C["INPUT_HOPS"], _C["WEIGHT_HOPS"], _C["PSUM_HOPS"]
I_READ, I_WRITE = _C["INPUT_SRAM_READS"], _C["INPUT_SRAM_WRITES"]
W_READ, W_WRITE = _C["WEIGHT_SRAM_READS"], _C["WEIGHT_SRAM_WRITES"]
O_READ, O_WRITE = _C["OUTPUT_SRAM_READS"], _C["OUTPUT_SRAM_WRITES"]
M_READ, M_WRITE = _C["METADATA_SRAM_READ_BITS"], _C["METADATA_SRAM_WRITE_BITS"]
D_INPUT, D_WEIGHT, D_PSUM = _C["INPUT_DRAM_READ_BYTES"], _C["WEIGHT_DRAM_READ_BYTES"], _C["PSUM_DRAM_READ_BYTES"]
D_OUT, D_PSUM_OUT, D_META = _C["OUTPUT_DRAM_WRITE_BYTES"], _C["PSUM_DRAM_WRITE_BYTES"], _C["METADATA_BYTES"]
COMPUTE, FILL, SHIFT, DRAIN_C, QUEUE, COLD = (_C[name] for name in
                                              ("COMPUTE", "FILL", "WEIGHT_SHIFT", "DRAIN", "QUEUE", "COLD_FILL"))
CONFLICT = _C["BANK_CONFLICT"]
STALL_W, STALL_I, STALL_P, STALL_O = (_C[f"STALL_{name}"] for name in ("WEIGHT", "INPUT", "PSUM", "OUTPUT"))


@kernel
def rounded(bits, burst):
    """Bytes that cross the channel for `bits`: whole bytes, then whole bursts."""
    size = (bits + 7) // 8
    return (size + burst - 1) // burst * burst


@kernel
def occupied(size, p):
    """Cycles that `size` bytes occupy the channel; no bandwidth limit is written as 0 bytes per cycle."""
    if p[BW_BYTES] == 0:
        return 0
    return (size * p[BW_CYCLES] + p[BW_BYTES] - 1) // p[BW_BYTES]


@kernel
def covered(first, last, p):
    """How many input rows of k the physical rows [first, last) need."""
    return min(p[K_ROWS], (last + p[KEPT] - 1) // p[KEPT] * p[OF]) - first // p[KEPT] * p[OF]


@kernel
def channel_range(ki, p):
    """[first, last) of the input channels that tile ki of k reads, whole."""
    first, last = ki * p[TILE_K], min(p[K], (ki + 1) * p[TILE_K])
    a = first // p[KEPT] * p[OF]
    b = min(p[K_ROWS], (last + p[KEPT] - 1) // p[KEPT] * p[OF])
    return a // p[WINDOW], (b - 1) // p[WINDOW] + 1


@kernel
def channels_touched(ki, p):
    """Input channels that tile ki of k reads, whole."""
    first, last = channel_range(ki, p)
    return last - first


@kernel
def input_bits(p, elements, spans, g, ki):
    """Bits of an input tile of `elements`; spans[group, k tile] = (bits, words) of all inputs of its channels."""
    if len(spans) == 0:
        return elements * p[INPUT_BITS]
    bits, words = spans[g if spans.shape[0] > 1 else 0, ki]
    # elements * bits / words, rounded up, where the product might pass 64 bits.
    return elements * (bits // words) + (elements * (bits % words) + words - 1) // words


@kernel
def count_folds(p, occupied_blocks, folds):
    """Fill folds[group, k tile, n tile] = (executed folds, weights in them, sum of columns, input rows covered,
    metadata bits of a cover by tile or row, results per vector, then two of a declared format: values stored, metadata
    bits).  cover_kernel.count_cover fills the first six, storage_kernel.weight_tiles the last two.

    occupied_blocks: bool[groups, ceil(k/R), ceil(n/C)] where zero blocks are skipped, else bool[1, 1, 1].
    Used by ws only: in the other dataflows no fold is ever left out and the step's sizes say it all.
    """
    rows, cols = p[ROWS], p[COLS]
    for g in range(folds.shape[0]):
        for ki in range(folds.shape[1]):
            for ni in range(folds.shape[2]):
                count = weights = sum_c = cover = 0
                n0, n1 = ni * p[TILE_N], min(p[N], (ni + 1) * p[TILE_N])
                k0, k1 = ki * p[TILE_K], min(p[K], (ki + 1) * p[TILE_K])
                for a in range(k0, k1, rows):
                    b = min(k1, a + rows)
                    height, need = b - a, covered(a, b, p)
                    if not p[SKIPS]:
                        blocks = (n1 - n0 + cols - 1) // cols
                        count += blocks
                        weights += height * (n1 - n0)
                        sum_c += n1 - n0
                        cover += need * blocks
                        continue
                    for c in range(n0, n1, cols):
                        if occupied_blocks[g, a // rows, c // cols]:
                            width = min(n1, c + cols) - c
                            count += 1
                            weights += height * width
                            sum_c += width
                            cover += need
                folds[g, ki, ni, 0] = count
                folds[g, ki, ni, 1] = weights
                folds[g, ki, ni, 2] = sum_c
                folds[g, ki, ni, 3] = cover
                folds[g, ki, ni, 5] = sum_c


@kernel
def timeline(p, d, state, banks, waits, anew, firsts,
             batch_sizes, row_out, row_in, col_out, col_in, first_writes, folds, spans, counts):
    """Add one layer's cycles, traffic and slots to `counts` (ISSUED_MACS holds all executed slots).

    d, state: as dram.arguments gives them; banks, waits, anew, firsts: as banks.tables does.
    batch_sizes: images per brick of m; row_out/row_in, col_out/col_in: output rows (columns) and distinct
    input rows (columns) per brick; first_writes[0]: output elements that are written at least once;
    folds: as count_folds fills it; spans: as input_bits reads it, empty where inputs are not compressed.
    """
    rows, cols, flow, tail, burst = p[ROWS], p[COLS], p[FLOW], p[TAIL], p[BURST]
    ideal = p[IDEAL] != 0
    tiles_m = len(batch_sizes) * len(row_out) * len(col_out)
    tiles_k, tiles_n = folds.shape[1], folds.shape[2]
    sizes = np.array([tiles_m, tiles_k, tiles_n])
    outer, middle = p[OUTER], p[MIDDLE]
    inner = 3 - outer - middle
    at = np.zeros(3, np.int64)
    visited = np.zeros(tiles_m * tiles_n, np.bool_)
    period = p[IN_FLIGHT] - 1  # a request waits for the one `period` before it
    done = np.zeros(max(period, 1), np.int64)
    request = 1  # number of the next one; request 0 is the first preload, which nobody has to wait for
    channel = 0
    # Where the tiles of each operand lie in the DRAM, in the order in which they first cross the channel.
    known = p[GROUPS] * tiles_m * tiles_n if d[ON] else 0
    at_w = np.full(p[GROUPS] * tiles_k * tiles_n if d[ON] else 0, -1, np.int64)
    at_i = np.full(p[GROUPS] * tiles_m * tiles_k if d[ON] else 0, -1, np.int64)
    at_o, at_p = np.full(known, -1, np.int64), np.full(known, -1, np.int64)
    following = np.arange(4) * d[REGION]
    held_w = held_i = held_o = -1
    # Release of the tile in use and of the one before it; end of the last store and of the one before it.
    used_w = used_w_before = used_i = used_i_before = stored = stored_before = 0
    started = False
    start = stream_end = 0  # of the last fold; its last result is visible at stream_end + tail
    out_ready = out_elements = ps = 0  # of the output tile in the array's hands; ps: arrival of its partial sums
    out_complete = False
    for g in range(p[GROUPS]):
        gf = g if folds.shape[0] > 1 else 0
        visited[:] = False
        for x in range(sizes[outer]):
            at[outer] = x
            for y in range(sizes[middle]):
                at[middle] = y
                for z in range(sizes[inner]):
                    at[inner] = z
                    mi, ki, ni = at[0], at[1], at[2]
                    xi = mi % len(col_out)
                    yi = mi // len(col_out) % len(row_out)
                    bi = mi // (len(col_out) * len(row_out))
                    m_t = batch_sizes[bi] * row_out[yi] * col_out[xi]
                    k_t = min(p[TILE_K], p[K] - ki * p[TILE_K])
                    n_t = min(p[TILE_N], p[N] - ni * p[TILE_N])

                    # --- the step's work: `count` folds that stream `streamed` vectors each
                    weights = folds[gf, ki, ni, 1] if flow == WS else k_t * n_t
                    if flow == WS:
                        count, streamed = folds[gf, ki, ni, 0], m_t
                    elif flow == OS:
                        count, streamed = ((m_t + rows - 1) // rows) * ((n_t + cols - 1) // cols), k_t
                    else:
                        count, streamed = ((k_t + rows - 1) // rows) * ((m_t + cols - 1) // cols), n_t
                    cover = covered(ki * p[TILE_K], ki * p[TILE_K] + k_t, p)
                    count_step(p, counts, count, m_t, k_t, n_t, cover, folds[gf, ki, ni])

                    # --- loads of the weight and input tiles
                    w = i = 0
                    new_w = count > 0 and (g * tiles_k + ki) * tiles_n + ni != held_w
                    new_i = count > 0 and (g * tiles_m + mi) * tiles_k + ki != held_i
                    new_o = (g * tiles_m + mi) * tiles_n + ni != held_o
                    if new_w:
                        held_w = (g * tiles_k + ki) * tiles_n + ni
                        if not ideal:
                            meta = weights * p[META_BITS]
                            if p[SKIPS]:
                                meta = ((k_t + rows - 1) // rows) * ((n_t + cols - 1) // cols)
                            if p[COVER]:
                                meta = folds[gf, ki, ni, 4]
                            values = weights
                            if p[STORED] != NATIVE:
                                values, meta = folds[gf, ki, ni, 6], folds[gf, ki, ni, 7]
                            size = rounded(values * p[WEIGHT_BITS] + meta, burst)
                            if size > 0:
                                begin = used_w if p[HALVES_W] == 1 else used_w_before
                                address = place(at_w, held_w, size, following, 0)
                                w = moved(d, state, channel, begin, occupied(size, p), address, size, False, counts)
                                channel = max(channel, w)
                                w += p[LATENCY]
                            counts[D_WEIGHT] += size
                            counts[D_META] += (meta + 7) // 8
                            if p[STORED] == DECODED_AHEAD:
                                values, meta = weights, 0
                            counts[W_WRITE] += values
                            counts[M_WRITE] += meta
                        used_w_before, used_w = used_w, 0
                    if new_i:
                        held_i = (g * tiles_m + mi) * tiles_k + ki
                        elements = batch_sizes[bi] * row_in[yi] * col_in[xi] * channels_touched(ki, p)
                        if not ideal and p[INPUTS_STAY]:
                            counts[I_WRITE] += elements  # from the outputs' buffer, without the channel
                        elif not ideal and elements > 0:
                            size = rounded(input_bits(p, elements, spans, g, ki), burst)
                            if size > 0:
                                begin = used_i if p[HALVES_I] == 1 else used_i_before
                                address = place(at_i, held_i, size, following, 1)
                                i = moved(d, state, channel, begin, occupied(size, p), address, size, False, counts)
                                channel = max(channel, i)
                                i += p[LATENCY]
                            counts[D_INPUT] += size
                            counts[I_WRITE] += elements
                        used_i_before, used_i = used_i, 0

                    # --- the output tile: the store that the last step left, the partial sums of this one
                    leaves = new_o and held_o >= 0
                    if leaves and p[HALVES_O] == 1:
                        end = store(p, d, state, at_o, at_p, following, held_o, counts, channel, out_ready,
                                    out_elements, out_complete)
                        stored_before, stored = stored, end
                        if not (out_complete and p[OUTPUTS_STAY]):
                            channel = max(channel, end)
                    if new_o:
                        ps = 0  # stays for the tile's later steps: one without folds may have asked for the sums
                    if new_o and visited[mi * tiles_n + ni] and not ideal:
                        size = rounded(m_t * n_t * p[PSUM_BITS], burst)
                        address = place(at_p, (g * tiles_m + mi) * tiles_n + ni, size, following, 3)
                        ps = moved(d, state, channel, stored, occupied(size, p), address, size, False, counts)
                        channel = max(channel, ps)
                        ps += p[LATENCY]
                        counts[D_PSUM] += size
                        counts[O_WRITE] += m_t * n_t
                    if leaves and p[HALVES_O] == 2:
                        end = store(p, d, state, at_o, at_p, following, held_o, counts, channel, out_ready,
                                    out_elements, out_complete)
                        stored_before, stored = stored, end
                        if not (out_complete and p[OUTPUTS_STAY]):
                            channel = max(channel, end)
                    free = 0
                    if new_o:
                        held_o = (g * tiles_m + mi) * tiles_n + ni
                        out_ready, out_elements = ps, m_t * n_t
                        free = stored if p[HALVES_O] == 1 else stored_before
                    out_complete = ki == tiles_k - 1
                    visited[mi * tiles_n + ni] = True

                    # --- the array: when can the step's first fold start, and what held it up?
                    if count == 0:
                        continue
                    head = streamed  # the first fold's stream, with its bank conflicts
                    if len(banks) > 1:
                        head += conflicts(p, banks, waits, anew, firsts[mi], ki, ni, 0, m_t, k_t, n_t)
                    stationary, other = (i, w) if flow == IS else (w, i)
                    if not started:
                        unstalled = p[BIAS] + (0 if flow == OS else rows)
                        loaded = stationary if flow == OS else unstalled + stationary
                        counts[FILL] += unstalled
                    else:
                        shift, drain = gap(p, stream_end - start, head)
                        unstalled = stream_end + shift + drain
                        counts[SHIFT] += shift
                        counts[DRAIN_C] += drain
                        if flow == OS:
                            loaded = stationary
                        else:
                            loaded = max(start if p[BUFFERS] == 2 else stream_end + tail, stationary) + rows
                    first = max(max(unstalled, loaded), max(max(other, ps), free))
                    if first > unstalled:
                        by_w, by_i = (other, loaded) if flow == IS else (loaded, other)
                        if not started:
                            cause = COLD
                        elif by_w == first:
                            cause = STALL_W
                        elif by_i == first:
                            cause = STALL_I
                        else:
                            cause = STALL_P if ps == first else STALL_O
                        counts[cause] += first - unstalled

                    # --- its folds, back to back
                    counts[COMPUTE] += count * streamed
                    if len(banks) > 1:
                        for fold in range(count):
                            length = head
                            if fold > 0:
                                length = streamed
                                length += conflicts(p, banks, waits, anew, firsts[mi], ki, ni, fold, m_t, k_t, n_t)
                                shift, drain = gap(p, stream_end - start, length)
                                counts[SHIFT] += shift
                                counts[DRAIN_C] += drain
                                first = stream_end + shift + drain
                            counts[CONFLICT] += length - streamed
                            start, stream_end = first, first + length
                    elif period < 1:
                        shift, drain = gap(p, streamed, streamed)
                        counts[SHIFT] += (count - 1) * shift
                        counts[DRAIN_C] += (count - 1) * drain
                        start = first + (count - 1) * (streamed + shift + drain)
                        stream_end = start + streamed
                    else:
                        for fold in range(count):
                            if fold > 0:
                                shift, drain = gap(p, stream_end - start, streamed)
                                counts[SHIFT] += shift
                                counts[DRAIN_C] += drain
                                first = stream_end + shift + drain
                            start = -1
                            left = streamed
                            while left > 0:
                                length = min(left, p[PER_REQUEST])
                                fire = first
                                if request > period:
                                    fire = max(first, done[request % period] + 1)
                                counts[QUEUE] += fire - first
                                done[request % period] = fire + length + tail
                                request += 1
                                if start < 0:
                                    start = fire
                                first = fire + length
                                left -= length
                            stream_end = first
                    started = True
                    used_w = used_i = stream_end
                    out_ready = max(out_ready, stream_end + tail)
    if not ideal:
        last = store(p, d, state, at_o, at_p, following, held_o, counts, channel, out_ready, out_elements, out_complete)
        channel = max(channel, last)
    end = 0
    if started:
        end = stream_end + tail
        counts[DRAIN_C] += tail
        counts[O_READ] -= first_writes[0]
    counts[STALL_O] += max(0, channel - end)


@kernel
def conflicts(p, banks, waits, anew, begin, ki, ni, fold, m_t, k_t, n_t):
    """Edges that the banks add to the stream of a step's fold; begin: the brick's first pixel or fold of m."""
    rows, cols = p[ROWS], p[COLS]
    inner = ((m_t if p[FLOW] == OS else k_t) + rows - 1) // rows
    row, col = fold % inner, fold // inner
    if p[FLOW] == IS:
        held_rows, held_cols = min(rows, k_t - row * rows), min(cols, m_t - col * cols)
        return n_t * (input_stationary(banks, held_rows, held_cols) - 1)
    last = 1 if ni * p[TILE_N] + (col + 1) * cols >= p[N] else 0
    first = ki * p[TILE_K]
    if p[FLOW] == WS:
        of_fold = waits[last, first // rows + row]
        return of_fold[begin + m_t] - of_fold[begin]
    of_fold = waits[last, begin + row]
    return of_fold[first + k_t] - of_fold[first + 1] + anew[last, begin + row, first]


@kernel
def gap(p, streamed, following):
    """Cycles between the end of a fold's stream and the next fold's start: (weight shift, drain).

    streamed: cycles of the fold's stream, waits for the queue included; following: cycles of the next one's.
    """
    if p[FLOW] == OS:
        # The next fold may not finish before this one's results have left the drain register, R edges later.
        return 0, max(p[ROWS] - following, 0) if p[DRAIN] == OVERLAPPED else p[TAIL]
    if p[BUFFERS] == 2:
        return max(p[ROWS] - streamed, 0), 0
    return p[ROWS], p[TAIL]


@kernel
def place(places, tile, size, following, operand):
    """Byte address of a tile of `size` bytes; a new one comes behind the operand's others."""
    if len(places) == 0:
        return 0
    if places[tile] < 0:
        places[tile] = following[operand]
        following[operand] += size
    return places[tile]


@kernel
def store(p, d, state, at_o, at_p, following, tile, counts, channel, ready, elements, complete):
    """Send an output tile to DRAM, or leave it on chip once it is complete; returns when it is there."""
    if p[IDEAL]:
        return channel
    if complete and p[OUTPUTS_STAY]:
        counts[O_READ] += elements
        return ready
    size = rounded(elements * (p[OUTPUT_BITS] if complete else p[PSUM_BITS]), p[BURST])
    counts[D_OUT if complete else D_PSUM_OUT] += size
    counts[O_READ] += elements
    address = place(at_o, tile, size, following, 2) if complete else place(at_p, tile, size, following, 3)
    return moved(d, state, channel, ready, occupied(size, p), address, size, True, counts)


@kernel
def count_step(p, counts, count, m_t, k_t, n_t, cover, folds):
    """Slots, register hops and buffer accesses of one step's folds (docs/model.md section 1.7).

    cover: input rows that the tile's k rows need; folds: this tile's row of count_folds.
    Reads of accumulating outputs are counted as one per write; the caller takes the first writes off.
    """
    rows = p[ROWS]
    across, triangle = p[COLS] * p[ACT_HOP] + p[IN_REG], rows * (rows + 1) // 2
    down_in, down_out = rows * p[PSUM_HOP] + p[IN_REG], rows * p[PSUM_HOP] + p[OUT_REG]
    if p[FLOW] == WS:
        weights, wide, results = folds[1], folds[2], folds[5]
        slots, inputs, weight_reads, writes = m_t * weights, m_t * folds[3], weights, m_t * results
        counts[IN_HOPS] += inputs * across
        counts[W_HOPS] += wide * triangle
        # Columns of one output add up below the array: every sum but its last moves on to the right.
        counts[P_HOPS] += m_t * (wide * rows * p[PSUM_HOP] + (wide - results) * p[ACT_HOP] + results * p[OUT_REG])
        counts[M_READ] += folds[4]
    elif p[FLOW] == OS:
        folds_m, folds_n = (m_t + rows - 1) // rows, (n_t + p[COLS] - 1) // p[COLS]
        slots, inputs, weight_reads, writes = m_t * k_t * n_t, m_t * cover * folds_n, k_t * n_t * folds_m, m_t * n_t
        counts[IN_HOPS] += inputs * across
        counts[W_HOPS] += n_t * k_t * folds_m * down_in
        # A result of row i leaves through R - i registers, its own included.
        rest = m_t % rows
        moves = 0 if p[DRAIN] == IN_PLACE else m_t // rows * triangle + rest * rows - rest * (rest - 1) // 2
        counts[P_HOPS] += n_t * (moves + m_t * p[OUT_REG])
    else:
        folds_k, folds_m = (k_t + rows - 1) // rows, (m_t + p[COLS] - 1) // p[COLS]
        slots, inputs, weight_reads, writes = m_t * k_t * n_t, k_t * m_t, k_t * n_t * folds_m, m_t * n_t * folds_k
        counts[IN_HOPS] += m_t * folds_k * triangle
        counts[W_HOPS] += n_t * k_t * folds_m * across
        counts[P_HOPS] += n_t * m_t * folds_k * down_out
    counts[ISSUED] += slots
    counts[I_READ] += inputs
    if p[STORED] == DECODED_BEHIND and count > 0:
        times = 1 if p[FLOW] == WS else weight_reads // (k_t * n_t)  # a tile that is read is read whole
        weight_reads = times * folds[6]
        counts[M_READ] += times * folds[7]
    counts[W_READ] += weight_reads
    counts[M_READ] += weight_reads * p[META_BITS]
    counts[O_WRITE] += writes
    counts[O_READ] += writes
