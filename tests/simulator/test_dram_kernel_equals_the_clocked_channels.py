"""Streams of transfers through drawn DRAM devices: kernel and clock-by-clock twin agree on every time and count."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import dram
from simulator.counts import Count
from simulator.hardware import Memory
from simulator.reference.channel import Job
from simulator.reference.dram import Dram
from simulator.testing import dram_memories

Transfer = tuple[int, int, int, bool]  # ready cycle, first burst, bursts, write
COUNTS = (Count.DRAM_ROW_HITS, Count.DRAM_ROW_MISSES, Count.DRAM_ROW_CONFLICTS, Count.DRAM_REFRESHES)


def fast(memory: Memory, transfers: list[Transfer]) -> tuple[list[int], dict[Count, int]]:
    from simulator import dram_kernel as kernel

    parameters, state = dram.arguments(memory)
    counts = np.zeros(len(Count), dtype=np.int64)
    ends = [int(kernel.transfer(parameters, state, *transfer, counts)) for transfer in transfers]
    return ends, {item: int(counts[item]) for item in COUNTS}


def slow(memory: Memory, transfers: list[Transfer]) -> tuple[list[int], dict[Count, int]]:
    burst, ends, now = memory.burst_bytes, [0] * len(transfers), 0

    def job(number: int, ready: int, first: int, bursts: int, write: bool) -> Job:
        def deliver() -> None:
            ends[number] = now

        return Job(bursts * burst, not write, lambda: now >= ready, lambda: None, deliver, first * burst)

    channels = Dram(memory, [job(number, *transfer) for number, transfer in enumerate(transfers)])
    while True:
        channels.settle(now)
        if channels.idle:
            return ends, channels.count()
        channels.edge()
        now += 1


@st.composite
def streams(draw: st.DrawFn) -> list[Transfer]:
    """Up to 8 transfers, some long, some over the same rows, some after a pause."""
    return draw(st.lists(st.tuples(
        st.one_of(st.integers(0, 60), st.integers(0, 600)), st.one_of(st.integers(0, 40), st.integers(0, 5000)),
        st.one_of(st.integers(1, 6), st.integers(1, 90)), st.booleans()), min_size=1, max_size=8))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(memory=dram_memories(latency=(0,)), transfers=streams())
def test_every_transfer_ends_in_the_same_cycle(memory: Memory, transfers: list[Transfer]) -> None:
    assert fast(memory, transfers) == slow(memory, transfers)
