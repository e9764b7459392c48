"""An overlapped drain holds back a short fold behind a long one: a column's results leave one per edge."""

from __future__ import annotations

import numpy as np

from simulator.counts import CAUSES, Count
from simulator.hardware import Machine, Memory
from simulator.machines.systolic import Spec
from simulator.mapping import Tiling
from simulator.reference.systolic import run
from simulator.testing import operands
from simulator.trace import LayerTrace
from simulator.workload import Gemm


def test_a_fold_of_one_step_waits_for_the_drain_of_a_long_one() -> None:
    # R = 4, C = 1, k = 10 cut into 9 + 1, memory without delay:
    #   fold 0 streams in [0, 9); row 0 is done at 9, the bottom row at 12, and its column leaves at 12, 13, 14, 15;
    #   fold 1 streams one vector; its bottom row may be done at 16 at the earliest, so it streams in [12, 13)
    #   and its own four results are visible after 16, 17, 18 and 19: 20 edges, 10 of them streaming.
    layer = LayerTrace("gemm", Gemm(4, 10, 1))
    memory = Memory(dram_bytes_per_cycle=float("inf"), dram_latency_cycles=0)
    machine = Machine("array", "systolic", Spec(rows=4, cols=1, dataflow="os"), memory)
    inputs, weights = operands(layer, np.random.default_rng(0))
    result, output = run(layer, machine, Tiling(4, 9, 1), inputs, weights)
    np.testing.assert_array_equal(output, inputs @ weights)
    assert {cause.name: int(result.counts[cause]) for cause in CAUSES if result.counts[cause]} == {
        "COMPUTE": 10, "DRAIN": 10}
    # Each result enters the registers between its row and the bottom: 4 + 3 + 2 + 1, twice.
    assert result.counts[Count.PSUM_HOPS] == 20
