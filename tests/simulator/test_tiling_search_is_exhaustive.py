"""The search by bounds finds what trying every candidate finds: fewest cycles, then fewest DRAM bytes."""

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings

from simulator import Conv2d, InputError, LayerTrace, load_machine
from simulator.counts import FIRST_CAUSE, Count
from simulator.machines import systolic, systolic_kernel, tiling_search
from simulator.mapping import LOOP_ORDERS, Tiling
from simulator.testing import layers, machines


def cost(problem, tiling):
    counts = np.zeros(len(Count), dtype=np.int64)
    systolic_kernel.timeline(problem.parameters(tiling), *problem.tiles(tiling), counts)
    return int(counts[FIRST_CAUSE:].sum()), int(counts[tiling_search.TRAFFIC].sum())


def try_everything(problem):
    """The best (cycles, bytes) over the whole ladder, or None if no candidate fits."""
    gemm, spec = problem.gemm, problem.machine.array
    block = gemm.cover.block if gemm.cover else spec.rows
    sizes = (tiling_search._brick_ladder(problem), tiling_search._ladder(gemm.k, block),
             tiling_search._ladder(gemm.n, spec.cols))
    legal = (Tiling(*tile, order) for tile in itertools.product(*sizes) for order in LOOP_ORDERS)
    return min((cost(problem, tiling) for tiling in legal if not problem.missing_bytes(tiling)), default=None)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(layer=layers(), machine=machines("systolic"))
def test_the_search_loses_to_no_candidate(layer, machine):
    gemm = systolic.physical_gemm(layer, machine)
    if gemm.removed or machine.memory.memory == "ideal":
        return
    problem = tiling_search.Problem.of(gemm, layer, machine)
    best = try_everything(problem)
    try:
        found = cost(problem, tiling_search.best(problem))
    except InputError:
        found = None
    assert found == best


NO_WAIT = ("tRP", "tRFC", "tREFI", "tCL", "tCWL", "tRCD", "tRCDW", "tRAS", "tRRD_S", "tRRD_L", "tFAW", "tCCD_L", "tRTP",
           "tWR", "tWTR_S", "tWTR_L", "tRTW")


def test_what_is_stored_in_no_bits_is_not_waited_for():
    """Zeros in run-length code need no bits: the bound of a candidate must not charge it a load's latency."""
    machine = load_machine("systolic_is", {
        "rows": 1, "cols": 1, "weight_buffers": 1, "drain": "overlapped", "compact_channels": False,
        "weight_format": "run_length", "input_format": "run_length", "psum_bits": 9, "memory": "dram",
        "dram": "ddr4_2400,clock_mhz=1000,bank_groups=1,banks_per_group=1,rows=4,burst_bytes=1,row_bytes=1,tBL=1,"
                "tCCD_S=0," + ",".join(f"{name}=0" for name in NO_WAIT),
        "dram_channels": 1, "dram_window": 1, "dram_latency_cycles": 7,
        "dram_address_mapping": "row:bank:group:column:channel",
        "input_buffer_bytes": 16, "weight_buffer_bytes": 16, "output_buffer_bytes": 16,
        "input_double_buffered": False, "weight_double_buffered": False, "output_double_buffered": False})
    layer = LayerTrace("zeros", Conv2d(1, 1, 1, 3, 1, 1), np.zeros((1, 1, 1, 1), dtype=bool), input_density=0.0,
                       weight_bits=1, input_bits=1, output_bits=1)
    problem = tiling_search.Problem.of(systolic.physical_gemm(layer, machine), layer, machine)
    assert cost(problem, tiling_search.best(problem)) == try_everything(problem)
