"""The clocked twin alone, with an ideal memory, takes the edges that public RTL was measured to take.

Closed forms: tiny-tpu (weight stationary, one weight buffer) 3S + M - 2; SCALE-Sim's example RTL (output stationary,
serial shift-out) 2R + C + T - 2; Gemmini's mesh S + S(G-1) + M + (2S-1)(L+1), kept weights and its request queue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.counts import CAUSES, Count
from simulator.hardware import Machine, Memory
from simulator.machines.systolic import Spec
from simulator.mapping import Tiling
from simulator.reference.systolic import run
from simulator.testing import operands
from simulator.trace import LayerTrace
from simulator.workload import Gemm


def counted(m: int, k: int, n: int, **array: Any) -> dict[Count, int]:
    """Counts of one dense GEMM; the product is checked on the way."""
    layer = LayerTrace("gemm", Gemm(m, k, n))
    inputs, weights = operands(layer, np.random.default_rng(m + k + n))
    machine = Machine("array", "systolic", Spec(**array), Memory(memory="ideal"))
    result, output = run(layer, machine, Tiling(m, k, n), inputs, weights)
    np.testing.assert_array_equal(output, inputs @ weights)
    return {name: int(count) for name, count in zip(Count, result.counts, strict=True)}


def edges(m: int, k: int, n: int, **array: Any) -> int:
    counts = counted(m, k, n, **array)
    return sum(counts[cause] for cause in CAUSES)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("streamed", [1, 4, 9])
def test_one_tile_with_one_weight_buffer(size: int, streamed: int) -> None:
    assert edges(streamed, size, size, rows=size, cols=size, weight_buffers=1) == 3 * size + streamed - 2
    assert edges(size, size, streamed, rows=size, cols=size, weight_buffers=1, dataflow="is") == 3 * size + streamed - 2


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (2, 5), (5, 2), (1, 3)])
@pytest.mark.parametrize("streamed", [1, 3, 8])
@pytest.mark.parametrize("drain", ["serial", "overlapped"])
def test_one_tile_output_stationary(rows: int, cols: int, streamed: int, drain: str) -> None:
    expected = 2 * rows + cols + streamed - 2
    assert edges(rows, streamed, cols, rows=rows, cols=cols, dataflow="os", drain=drain) == expected
    in_place = edges(rows, streamed, cols, rows=rows, cols=cols, dataflow="os", drain="in_place")
    assert in_place == streamed + rows - 1 + cols - 1


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("tiles", [1, 2, 4])
@pytest.mark.parametrize("streamed", [1, 3, 4])
def test_double_buffered_weights_over_several_tiles(extra: int, tiles: int, streamed: int) -> None:
    size = 4
    hops = {"activation_hop_registers": extra + 1, "psum_hop_registers": extra + 1, "input_register": 1}
    expected = size + size * (tiles - 1) + streamed + (2 * size - 1) * (extra + 1)
    assert edges(streamed, size * tiles, size, rows=size, cols=size, **hops) == expected


@pytest.mark.parametrize(("streamed", "expected"), [(6, 81), (5, 52)])
def test_a_full_request_queue_makes_short_requests_wait(streamed: int, expected: int) -> None:
    # S = 16: the load fires at 0 and five requests of one row at 16..20; the sixth waits until the first, done at
    # 16 + 1 + 31 = 48, has been popped, and fires at 49.
    found = edges(streamed, 16, 16, rows=16, cols=16, input_register=1, max_in_flight=6, rows_per_request=1)
    assert found == expected


def test_registers_lengthen_the_tail_and_nothing_else() -> None:
    plain = counted(5, 3, 2, rows=3, cols=2)
    slow = counted(5, 3, 2, rows=3, cols=2, multiplier_latency=2, input_register=1, output_register=1,
                   activation_hop_registers=3, psum_hop_registers=2)
    assert slow[Count.DRAIN] - plain[Count.DRAIN] == 2 + 1 + 1 + (2 - 1) * (3 - 1) + 3 * (2 - 1)
    assert {cause: slow[cause] for cause in CAUSES if cause != Count.DRAIN} == {
        cause: plain[cause] for cause in CAUSES if cause != Count.DRAIN}


def test_bias_enters_once() -> None:
    for flow in ("ws", "os", "is"):
        array = {"rows": 3, "cols": 2, "dataflow": flow}
        assert edges(7, 7, 7, **array, preload_bias=True) == edges(7, 7, 7, **array) + 3


def test_accumulator_latency_is_paid_at_the_end_of_a_fold() -> None:
    array = {"rows": 2, "cols": 2, "dataflow": "os"}
    assert edges(4, 5, 2, **array, drain="serial", accumulator_latency=3) == edges(4, 5, 2, **array, drain="serial") + 4
    assert edges(4, 5, 2, **array, accumulator_latency=3) == edges(4, 5, 2, **array) + 2
