"""The time line of steps through double or single buffers and one DRAM channel: docs/model.md section 2.

One pass over the steps keeps a handful of times: when the channel is free, when each operand's halves are released,
when the last step ended.  What a step computes is the machine model's; read steps.py for the door to this kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .counts import Count
from .dram_kernel import REGION, moved
from .jit import kernel

Ints = NDArray[np.int64]

# Indices into the parameter vector (built by steps.play).
HALVES_W, HALVES_I, HALVES_O, BW_BYTES, BW_CYCLES, LATENCY, BURST = range(7)
PARAMETERS = 7

_C = {item.name: int(item) for item in Count}
D_WEIGHT, D_INPUT, D_OUT = _C["WEIGHT_DRAM_READ_BYTES"], _C["INPUT_DRAM_READ_BYTES"], _C["OUTPUT_DRAM_WRITE_BYTES"]
COLD, STALL_W, STALL_I, STALL_O = (_C[name] for name in ("COLD_FILL", "STALL_WEIGHT", "STALL_INPUT", "STALL_OUTPUT"))


@kernel
def rounded(size: int, burst: int) -> int:
    """Bytes that cross the channel for `size`: whole bursts."""
    return (size + burst - 1) // burst * burst


@kernel
def occupied(size: int, p: Ints) -> int:
    """Cycles that `size` bytes occupy the channel; no bandwidth limit is written as 0 bytes per cycle."""
    if p[BW_BYTES] == 0:
        return 0
    return int((size * p[BW_CYCLES] + p[BW_BYTES] - 1) // p[BW_BYTES])


@kernel
def timeline(p: Ints, d: Ints, state: Ints, weight: Ints, inputs: Ints, output: Ints, cycles: Ints,
             counts: Ints) -> None:
    """Add the stalls and the channel's bytes of all steps to `counts`.

    d, state: as dram.arguments gives them; loads and stores of an operand follow each other in its part of the DRAM.
    weight, inputs, output, cycles: int64[steps], bytes loaded, loaded and stored and cycles computed by each step.
    """
    channel = end = 0
    at_w, at_i, at_o = 0, d[REGION], 2 * d[REGION]
    has_w = has_i = False
    # Release of the tile in use and of the one before it; end of the last store and of the one before it.
    used_w = used_w_before = used_i = used_i_before = stored = stored_before = 0
    for s in range(len(cycles)):
        leaves = s > 0 and output[s - 1] > 0
        if leaves and p[HALVES_O] == 1:
            stored_before = stored
            size = rounded(output[s - 1], p[BURST])
            stored = moved(d, state, channel, end, occupied(size, p), at_o, size, True, counts)
            channel = max(channel, stored)
            at_o += size
        w = i = 0
        if weight[s] > 0:
            size = rounded(weight[s], p[BURST])
            ready = used_w if p[HALVES_W] == 1 else used_w_before
            w = moved(d, state, channel, ready, occupied(size, p), at_w, size, False, counts)
            channel = max(channel, w)
            w += p[LATENCY]
            at_w += size
            counts[D_WEIGHT] += size
            used_w_before = used_w
            has_w = True
        if inputs[s] > 0:
            size = rounded(inputs[s], p[BURST])
            ready = used_i if p[HALVES_I] == 1 else used_i_before
            i = moved(d, state, channel, ready, occupied(size, p), at_i, size, False, counts)
            channel = max(channel, i)
            i += p[LATENCY]
            at_i += size
            counts[D_INPUT] += size
            used_i_before = used_i
            has_i = True
        if leaves and p[HALVES_O] == 2:
            stored_before = stored
            size = rounded(output[s - 1], p[BURST])
            stored = moved(d, state, channel, end, occupied(size, p), at_o, size, True, counts)
            channel = max(channel, stored)
            at_o += size
        free = 0
        if leaves:
            free = stored if p[HALVES_O] == 1 else stored_before
        start = max(max(end, free), max(w, i))
        if start > end:
            if s == 0:
                cause = COLD
            elif w == start:
                cause = STALL_W
            elif i == start:
                cause = STALL_I
            else:
                cause = STALL_O
            counts[cause] += start - end
        end = start + cycles[s]
        # A half that never held a tile is free from the beginning.
        if has_w:
            used_w = end
        if has_i:
            used_i = end
        if output[s] > 0:
            counts[D_OUT] += rounded(output[s], p[BURST])
    if len(cycles) > 0 and output[-1] > 0:
        size = rounded(output[-1], p[BURST])
        channel = max(channel, moved(d, state, channel, end, occupied(size, p), at_o, size, True, counts))
    if channel > end:
        counts[STALL_O] += channel - end
