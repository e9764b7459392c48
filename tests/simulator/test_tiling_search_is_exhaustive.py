"""The search by bounds finds what trying every candidate finds: fewest cycles, then fewest DRAM bytes."""

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings

from simulator import InputError
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
