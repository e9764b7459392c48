# mypy: allow-untyped-defs, allow-untyped-calls
"""Transfers through DRAM channels, burst by burst: activates, precharges, columns, refreshes (docs/model.md section 3).

Per channel one pass in the order of the queue keeps, for each burst, when it was admitted, when its row was there and
when its column command went out; long runs of hits at a steady pace are taken in one step.  What a device is stands in
dram.py, the same clock by clock in reference/dram.py.
"""

from __future__ import annotations

from .counts import Count
from .jit import kernel

# Indices into the parameter vector (built by dram.arguments); times in clocks, shifts in bits of a burst's number.
(ON, CHANNELS, WINDOW, CLOCKS, CYCLES, BURST, REGION, CHANNEL_SHIFT, CHANNEL_BITS, GROUP_SHIFT, GROUPS, BANK_SHIFT,
 BANKS, ROW_SHIFT, ROWS, STRIPE, PERIOD, READ_BURST, WRITE_BURST, CCD_S, CCD_L, RCD_READ, RCD_WRITE, RP, RAS, RRD_S,
 RRD_L, FAW, READ_PRE, WRITE_PRE, WTR_S, WTR_L, RTW, REFI, RFC, G_COLUMN, G_WRITE, G_ACT, B_ROW, B_ACT, B_PRE, RING,
 SCRATCH, WIDTH) = range(44)
PARAMETERS = 44

# Columns of a channel's row of the state; arrays by group and bank follow, then the last WINDOW column times.
INDEX, ADMITTED, LAST, LAST_READ, LAST_WRITE, LAST_ACT, DUE, ACTS, FOUR_ACTS = range(9)
HEADER = 12
RELEASED = 0  # of the row after the last channel's: when the newest transfer was released, in cycles
BEFORE = -(1 << 60)  # long before the layer

_C = {item.name: int(item) for item in Count}
HITS, MISSES, CONFLICTS = _C["DRAM_ROW_HITS"], _C["DRAM_ROW_MISSES"], _C["DRAM_ROW_CONFLICTS"]
REFRESHES = _C["DRAM_REFRESHES"]


@kernel
def lay_out(d):
    """Fill in where each part of a channel's state begins."""
    at = HEADER
    for part in (G_COLUMN, G_WRITE, G_ACT):
        d[part] = at
        at += d[GROUPS]
    for part in (B_ROW, B_ACT, B_PRE):
        d[part] = at
        at += d[GROUPS] * d[BANKS]
    d[RING] = at
    d[SCRATCH] = at + d[WINDOW]
    d[WIDTH] = at + d[WINDOW] + d[PERIOD]


@kernel
def reset(d, s):
    """The state before a layer: every bank closed, nothing happened yet, the first refresh an interval away."""
    s[:] = BEFORE
    for c in range(d[CHANNELS]):
        s[c, INDEX] = 0
        s[c, ACTS] = 0
        s[c, DUE] = d[REFI]
        for bank in range(d[GROUPS] * d[BANKS]):
            s[c, d[B_ROW] + bank] = -1
    s[d[CHANNELS], RELEASED] = 0


@kernel
def moved(d, s, channel, ready, cycles, address, size, write, counts):
    """Cycle at which a transfer of `size` > 0 bytes (whole bursts) that may begin at `ready` has left the channel.

    Without a DRAM device: `cycles` after the channel is free.  With one: see transfer; `address` in bytes.
    """
    if d[ON] == 0:
        return max(channel, ready) + cycles
    return transfer(d, s, ready, address // d[BURST], size // d[BURST], write, counts)


@kernel
def transfer(d, s, ready, first, bursts, write, counts):
    """Cycle at which the last of `bursts` bursts from number `first` on has crossed the pins."""
    channels = d[CHANNELS]
    released = max(s[channels, RELEASED], ready)
    s[channels, RELEASED] = released
    clock = (released * d[CLOCKS] + d[CYCLES] - 1) // d[CYCLES]
    end = 0
    for c in range(channels):
        begin, stop = bursts_before(d, c, first), bursts_before(d, c, first + bursts)
        if begin < stop:
            end = max(end, stream(d, s[c], clock, begin, stop, write, counts))
    return (end * d[CYCLES] + d[CLOCKS] - 1) // d[CLOCKS]


@kernel
def bursts_before(d, c, number):
    """How many bursts below `number` lie in channel c, which is the next one's number within the channel."""
    block = d[CHANNEL_SHIFT] + d[CHANNEL_BITS]
    rest = (number & ((1 << block) - 1)) - (c << d[CHANNEL_SHIFT])
    return (number >> block << d[CHANNEL_SHIFT]) + min(max(rest, 0), 1 << d[CHANNEL_SHIFT])


@kernel
def stream(d, s, clock, begin, stop, write, counts):
    """Clock after the last data beat of a channel's bursts [begin, stop) of one transfer; s: the channel's state."""
    window = d[WINDOW]
    group_mask, bank_mask, row_mask = d[GROUPS] - 1, d[BANKS] - 1, d[ROWS] - 1
    period, stripe = d[PERIOD], d[STRIPE]
    rcd = d[RCD_WRITE] if write else d[RCD_READ]
    precharge = d[WRITE_PRE] if write else d[READ_PRE]
    hits = 0
    steady = begin  # from this burst of the stripe on nothing but the distance of columns was waited for
    y = begin
    while y < stop:
        if y % stripe == 0:
            steady = y
        if y - steady >= 2 * period and (y - steady) % period == 0 and window >= 2 * period:
            jumped = jump(d, s, min(stop, (y // stripe + 1) * stripe) - y, y, write, precharge)
            if jumped > 0:
                hits += jumped
                y += jumped
                continue
        group = (y >> d[GROUP_SHIFT]) & group_mask
        bank = group * d[BANKS] + ((y >> d[BANK_SHIFT]) & bank_mask)
        row = (y >> d[ROW_SHIFT]) & row_mask
        index = s[INDEX]

        # --- admission: in order, when a place in the window is free; a refresh that is due goes first
        admitted = max(s[ADMITTED], clock)
        if index >= window:
            admitted = max(admitted, s[d[RING] + index % window])
        if d[REFI] > 0 and admitted >= s[DUE]:
            admitted = max(admitted, refresh(d, s, admitted, counts))
        s[ADMITTED] = admitted

        # --- the row
        if s[d[B_ROW] + bank] == row:
            hits += 1
        else:
            act = max(admitted, max(s[LAST_ACT] + d[RRD_S], s[d[G_ACT] + group] + d[RRD_L]))
            act = max(act, s[FOUR_ACTS + s[ACTS] % 4] + d[FAW])
            if s[d[B_ROW] + bank] < 0:
                counts[MISSES] += 1
            else:
                counts[CONFLICTS] += 1
                act = max(act, max(admitted, max(s[d[B_PRE] + bank], s[d[B_ACT] + bank] + d[RAS])) + d[RP])
            s[LAST_ACT] = s[d[G_ACT] + group] = s[FOUR_ACTS + s[ACTS] % 4] = s[d[B_ACT] + bank] = act
            s[ACTS] += 1
            s[d[B_ROW] + bank] = row
            s[d[B_PRE] + bank] = BEFORE

        # --- the column command
        spaced = max(s[LAST] + d[CCD_S], s[d[G_COLUMN] + group] + d[CCD_L])
        column = max(spaced, max(admitted, s[d[B_ACT] + bank] + rcd))
        if write:
            column = max(column, s[LAST_READ] + d[RTW])
            s[LAST_WRITE] = s[d[G_WRITE] + group] = column
        else:
            column = max(column, max(s[LAST_WRITE] + d[WTR_S], s[d[G_WRITE] + group] + d[WTR_L]))
            s[LAST_READ] = column
        if column > spaced:
            steady = y + 1
        s[LAST] = s[d[G_COLUMN] + group] = s[d[RING] + index % window] = column
        s[d[B_PRE] + bank] = max(s[d[B_PRE] + bank], column + precharge)
        s[INDEX] = index + 1
        y += 1
    counts[HITS] += hits
    return s[LAST] + (d[WRITE_BURST] if write else d[READ_BURST])


@kernel
def refresh(d, s, now, counts):
    """Serve the refreshes that are due by `now`; the clock from which the channel admits requests again."""
    begin = max(s[DUE], s[LAST])
    for bank in range(d[GROUPS] * d[BANKS]):
        if s[d[B_ROW] + bank] >= 0:
            begin = max(begin, max(s[d[B_PRE] + bank], s[d[B_ACT] + bank] + d[RAS]))
            s[d[B_ROW] + bank] = -1
    took = d[RP] + d[RFC]
    end = begin + took
    s[DUE] += d[REFI]
    counts[REFRESHES] += 1
    while max(now, end) >= s[DUE]:
        begin = max(s[DUE], end)
        # From the first that begins on time on, the idle channel refreshes once an interval.
        number = 1 if begin > s[DUE] else max(1, (now - s[DUE]) // d[REFI] + 1)
        end = begin + (number - 1) * d[REFI] + took
        s[DUE] += number * d[REFI]
        counts[REFRESHES] += number
    return end


@kernel
def jump(d, s, left, y, write, precharge):
    """Take whole periods of row hits at once if the last two periods had the same pace; how many bursts were taken.

    `left` bursts of the stripe follow burst y - 1.  In the last two periods only the distances between columns were
    waited for, every row is open, and the last period repeats the one before it, shifted by the pace: so will the next,
    until the stripe or the refresh interval ends.
    """
    window, period, ring, index = d[WINDOW], d[PERIOD], d[RING], s[INDEX]
    if left < period:
        return 0
    pace = s[ring + (index - 1) % window] - s[ring + (index - 1 - period) % window]
    for back in range(2, period + 1):
        if s[ring + (index - back) % window] - s[ring + (index - back - period) % window] != pace:
            return 0
    periods = left // period
    if d[REFI] > 0:
        periods = min(periods, (s[DUE] - 1 - s[LAST]) // pace)
    if periods <= 0:
        return 0
    jumped = periods * period
    for i in range(period):
        s[d[SCRATCH] + i] = s[ring + (index - period + i) % window]
    for i in range(max(0, jumped - window), jumped):
        s[ring + (index + i) % window] = s[d[SCRATCH] + i % period] + pace * (1 + i // period)
    for i in range(period):
        column = s[d[SCRATCH] + i] + pace * periods
        group = ((y + i) >> d[GROUP_SHIFT]) & (d[GROUPS] - 1)
        bank = group * d[BANKS] + (((y + i) >> d[BANK_SHIFT]) & (d[BANKS] - 1))
        s[d[G_COLUMN] + group] = column
        if write:
            s[d[G_WRITE] + group] = column
        s[d[B_PRE] + bank] = max(s[d[B_PRE] + bank], column + precharge)
    s[LAST] = s[ring + (index + jumped - 1) % window]
    if write:
        s[LAST_WRITE] = s[LAST]
    else:
        s[LAST_READ] = s[LAST]
    s[INDEX] = index + jumped
    return jumped
