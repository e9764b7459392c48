"""Three witnesses on the same sparse tiles: our SystemVerilog under Verilator, the twin and the fast engine.

In every cycle every multiplier, bank, unit and wait of the RTL is compared with the twin's; cycles, where they went and
the products with the engine's; the sums that stay in the RTL with the integer product.  200 random cases for every
design and configuration, with masks from empty to full.
"""

from functools import lru_cache

import numpy as np
import pytest

from simulator import Gemm, LayerTrace

from . import cartesian, inner_join, lanes
from .sparse import difference, modelled, record, sparse_library
from .verilated import need_verilator

CASES = 200
DESIGNS = [pytest.param(design, config, id=str(config)) for design, configs in (
    (lanes, lanes.LANES), (inner_join, inner_join.CLUSTERS), (cartesian, cartesian.GRIDS)) for config in configs]


def watched(design, config, case):
    """What the RTL did with a case."""
    return record(sparse_library(config.top, config.parameters), config.slots, config.units,
                  design.memories(config, case), design.places(config))


@pytest.mark.parametrize(("design", "config"), DESIGNS)
def test_every_unit_does_the_same_in_every_cycle(design, config):
    need_verilator()
    rng = np.random.default_rng(1)
    densities, busy, idle, stalled = set(), 0, 0, 0
    for number in range(CASES):
        case = design.draw(config, rng)
        where = f"case {number}: {case.layer.operation}"
        rtl, (twin, output) = watched(design, config, case), design.twin_trace(config, case)
        assert difference(rtl, twin) is None, f"{where}: {difference(rtl, twin)}"
        np.testing.assert_array_equal(output, case.product, where)
        np.testing.assert_array_equal(design.output_of(config, case, rtl), case.product, where)
        cycles, counts = modelled(case.layer, config.machine)
        assert rtl.cycles == cycles, where
        for item, expected in design.causes(config, rtl).items():
            assert counts[item] == expected, f"{where}: {item.name}"
        densities.add(round(np.count_nonzero(case.inputs) / case.inputs.size, 1))
        busy, idle, stalled = busy + rtl.busy.sum(), idle + (rtl.busy == 0).sum(), stalled + rtl.stall.sum()
    assert {0.0, 0.1, 0.3, 0.5, 0.8, 1.0} <= densities
    assert busy
    if config.units > 1:
        assert idle
    if config.f * config.i > 1 if design is cartesian else config.units > 1:
        assert stalled


@lru_cache
def lane_cases(config):
    """Cases of one lane."""
    rng = np.random.default_rng(2)
    return [lanes.draw(config, rng) for _ in range(20)]


@pytest.mark.parametrize("config", [config for config in lanes.LANES if config.units == 1], ids=str)
def test_a_lane_takes_the_nonzero_weights_of_each_nonzero_activation(config):
    """Sum over nonzero activations of ceil(nonzero weights of the column / SIMD), block of filters by block."""
    need_verilator()
    for case in lane_cases(config):
        size = lanes.block_size(config, case.weights.shape[1])
        blocks = [case.weights[:, first : first + size] for first in range(0, case.weights.shape[1], size)]
        expected = sum(int(((case.inputs != 0) @ -(-np.count_nonzero(block, axis=1) // config.simd)).sum())
                       for block in blocks)
        assert watched(lanes, config, case).cycles == expected


def test_a_chunk_takes_its_slowest_unit_and_at_least_one_cycle():
    need_verilator()
    config, rng = inner_join.Cluster(4, 8), np.random.default_rng(3)
    for _ in range(20):
        case = inner_join.draw(config, rng)
        cycles = 0
        for row in case.inputs:
            for first in range(0, case.weights.shape[1], config.units):
                for k in range(0, len(row), config.chunk):
                    joined = (row[k : k + config.chunk, None] != 0) & (
                        case.weights[k : k + config.chunk, first : first + config.units] != 0)
                    cycles += max(1, int(joined.sum(axis=0).max()))
        assert watched(inner_join, config, case).cycles == cycles


def test_products_of_one_bank_take_a_cycle_each_and_of_different_banks_one_together():
    """Six weights of one pixel: outputs k = 0..5 lie in banks 0, 1, 2, 3, 16 and 17; modulo 8 two pairs meet."""
    need_verilator()
    for banks, cycles in ((32, 1), (8, 2), (1, 6)):
        config = cartesian.Grid(1, 1, 6, 1, banks=banks, entries=16)
        case = cartesian.Case(cartesian.Conv2d(1, 6, 1, 1, 1, 1), np.full((1, 1, 1, 1), 3), np.ones((6, 1, 1, 1), int))
        rtl = watched(cartesian, config, case)
        assert rtl.cycles == cycles
        assert rtl.stall.sum() == cycles - 1


def test_a_layer_with_nothing_to_multiply_is_done_at_once_or_broadcasts_its_chunks():
    need_verilator()
    layer = LayerTrace("zeros", Gemm(2, 5, 3), np.ones((5, 3), dtype=bool), np.zeros((2, 5), dtype=bool))
    zeros, ones = np.zeros((2, 5), dtype=np.int64), np.ones((5, 3), dtype=np.int64)
    lane = lanes.LANES[0]
    assert watched(lanes, lane, lanes.Case(zeros, ones)).cycles == modelled(layer, lane.machine)[0] == 0
    cluster = inner_join.Cluster(4, 8)
    assert watched(inner_join, cluster, inner_join.Case(zeros, ones)).cycles == 2
    assert modelled(layer, cluster.machine)[0] == 2  # one chunk at either position
