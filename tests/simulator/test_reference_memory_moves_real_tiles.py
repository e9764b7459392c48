"""The twin's channel and buffers: bytes in order at an exact rate, halves that refuse what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.counts import Count
from simulator.hardware import Machine, Memory
from simulator.machines.systolic import Spec
from simulator.mapping import Tiling
from simulator.reference.buffers import Space
from simulator.reference.channel import Channel, Job
from simulator.reference.systolic import run
from simulator.testing import operands
from simulator.trace import LayerTrace
from simulator.workload import Gemm


def test_transfers_keep_their_order_and_take_whole_cycles() -> None:
    events: list[str] = []
    now = 0

    def job(name: str, size: int, is_load: bool, since: int) -> Job:
        return Job(size, is_load, lambda: now >= since, lambda: events.append(f"{name} begins {now}"),
                   lambda: events.append(f"{name} is there {now}"))

    # 5/2 bytes per cycle: 6 bytes take ceil(12/5) = 3 cycles; the load's data is there 4 cycles after its end, while
    # the channel goes on; the third may begin at once but waits behind the second, which may begin at 10.
    channel = Channel(5, 2, 4, [job("a", 6, True, 1), job("b", 5, False, 10), job("c", 1, True, 0)])
    while not channel.idle:
        channel.settle(now)
        channel.edge()
        now += 1
    assert events == ["a begins 1", "a is there 8", "b begins 10", "b is there 12", "c begins 12", "c is there 17"]


def test_a_space_refuses_what_does_not_fit() -> None:
    space = Space(10)
    space.take(6)
    with pytest.raises(ValueError, match="11 bytes in a buffer of 10"):
        space.take(5)


def test_cold_fill_and_store_of_one_tile() -> None:
    # 2 x 2 x 2 on a 2 x 2 array, 1 byte per cycle, latency 3, no bursts. Weights (4 bytes) [0, 4) and there at 7,
    # inputs [4, 8) and there at 11; the shift takes [7, 9) and the stream waits for the inputs: [11, 13).
    # E = 13 + 1 + 2 - 1 = 15; the outputs (4 bytes) leave in [15, 19).
    layer = LayerTrace("gemm", Gemm(2, 2, 2))
    memory = Memory(dram_bytes_per_cycle=1.0, dram_latency_cycles=3, dram_burst_bytes=1)
    inputs, weights = operands(layer, np.random.default_rng(0))
    result, output = run(layer, Machine("array", "systolic", Spec(2, 2), memory), Tiling(2, 2, 2), inputs, weights)
    np.testing.assert_array_equal(output, inputs @ weights)
    at = {name.name: int(count) for name, count in zip(Count, result.counts, strict=True)}
    assert (at["FILL"], at["COLD_FILL"], at["COMPUTE"], at["DRAIN"], at["STALL_OUTPUT"]) == (2, 9, 2, 2, 4)
    assert (at["WEIGHT_DRAM_READ_BYTES"], at["INPUT_DRAM_READ_BYTES"], at["OUTPUT_DRAM_WRITE_BYTES"]) == (4, 4, 4)


def test_partial_sums_go_out_and_come_back() -> None:
    # k is outermost: every output tile is left unfinished once and read back once, at 32 bits.
    layer = LayerTrace("gemm", Gemm(4, 4, 2))
    memory = Memory(dram_burst_bytes=1, psum_bits=32)
    inputs, weights = operands(layer, np.random.default_rng(1))
    machine, tiling = Machine("array", "systolic", Spec(2, 2), memory), Tiling(2, 2, 2, "kmn")
    result, output = run(layer, machine, tiling, inputs, weights)
    np.testing.assert_array_equal(output, inputs @ weights)
    assert result.counts[Count.PSUM_DRAM_WRITE_BYTES] == result.counts[Count.PSUM_DRAM_READ_BYTES] == 2 * 4 * 4
    assert result.counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 8


def test_an_illegal_tiling_is_refused() -> None:
    layer = LayerTrace("gemm", Gemm(4, 4, 2))
    machine = Machine("array", "systolic", Spec(2, 2), Memory(input_buffer_bytes=8))
    inputs, weights = operands(layer, np.random.default_rng(1))
    with pytest.raises(ValueError, match="not legal"):
        run(layer, machine, Tiling(4, 4, 2), inputs, weights)
