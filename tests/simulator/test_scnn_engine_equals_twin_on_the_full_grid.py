"""The preset, 8 x 8 elements of 4 x 4 multipliers: engine and twin agree on every counter, case by case."""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, LayerTrace, load_machine
from simulator.counts import CAUSES, Count
from simulator.machines import model, reference
from simulator.testing import operands, product

CASES = {
    "3x3 with padding": Conv2d(3, 12, 12, 12, 3, 3, padding_h=1, padding_w=1),
    "stride 2 with padding": Conv2d(2, 10, 13, 13, 3, 3, stride_h=2, stride_w=2, padding_h=1, padding_w=1),
    "stride 2 without padding": Conv2d(2, 10, 13, 11, 3, 3, stride_h=2, stride_w=2),
    "stride 4, large kernel": Conv2d(1, 6, 23, 23, 11, 11, stride_h=4, stride_w=4, padding_h=2, padding_w=2),
    "strides differ": Conv2d(2, 9, 10, 15, 3, 5, stride_h=1, stride_w=3, padding_h=0, padding_w=2),
    "odd plane": Conv2d(2, 9, 17, 9, 3, 3, padding_h=1, padding_w=1),
    "plane smaller than the grid": Conv2d(5, 33, 5, 3, 3, 3, padding_h=1, padding_w=1),
    "7x7": Conv2d(4, 20, 7, 7, 3, 3, padding_h=1, padding_w=1),
    "1x1": Conv2d(6, 40, 9, 9, 1, 1),
    "1x1 with more padding than kernel": Conv2d(2, 5, 4, 4, 1, 1, padding_h=1, padding_w=2),
    "kernel as large as the plane": Conv2d(3, 9, 6, 6, 6, 6),
    "batch": Conv2d(2, 9, 9, 9, 3, 3, batch=3, padding_h=1, padding_w=1),
    "groups": Conv2d(6, 12, 8, 8, 3, 3, padding_h=1, padding_w=1, groups=3),
    "depthwise": Conv2d(5, 5, 10, 10, 3, 3, padding_h=1, padding_w=1, groups=5),
    "dilation": Conv2d(2, 6, 12, 12, 3, 3, padding_h=2, padding_w=2, dilation_h=2, dilation_w=2),
    "gemm": Gemm(19, 11, 30),
    "one row": Gemm(1, 20, 40),
    "k = 1": Gemm(9, 1, 7),
}
# Few accumulators: some of these layers then need several channel groups.
MACHINES = {"preset": {}, "few accumulators and banks": {"accumulator_entries": 24, "accumulator_banks": 12},
            "three activations, five weights": {"multipliers_i": 3, "multipliers_f": 5, "pe_rows": 3, "pe_cols": 5}}


@pytest.mark.parametrize("fields", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", CASES)
def test_every_counter_is_equal(name, fields):
    rng = np.random.default_rng(len(name))
    operation = CASES[name]
    machine = load_machine("scnn", {"memory": "ideal", **fields})
    for weights, inputs in ((0.4, 0.5), (1.0, 1.0), (0.1, 0.9)):
        layer = LayerTrace(name, operation, rng.random(operation.weight_shape) < weights,
                           rng.random(operation.input_shape) < inputs)
        fast = model("scnn").run(layer, machine)
        values, filters = operands(layer, rng)
        slow, output = reference("scnn").run(layer, machine, fast.tiling, values, filters)
        np.testing.assert_array_equal(output, product(operation, values, filters))
        assert {c.name: int(fast.counts[c]) for c in Count} == {c.name: int(slow.counts[c]) for c in Count}
        assert fast.counts[list(CAUSES)].sum() > 0 or not fast.counts[Count.USEFUL_MACS]


@pytest.mark.parametrize("order", ["mkn", "mnk"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_split_of_the_channels_is_equal(channels, order):
    rng = np.random.default_rng(channels)
    operation = Conv2d(4, 12, 9, 9, 3, 3, batch=2, padding_h=1, padding_w=1)
    machine = load_machine("scnn", {"accumulator_entries": 20, "dram_bytes_per_cycle": 1.5, "dram_latency_cycles": 7,
                                    "dram_burst_bytes": 4})
    layer = LayerTrace("split", operation, rng.random(operation.weight_shape) < 0.4,
                       rng.random(operation.input_shape) < 0.6)
    searched = model("scnn").run(layer, machine)
    tiling = type(searched.tiling)(81, channels * 9, 5, order)
    fast = model("scnn").run(layer, machine, tiling)
    slow, _ = reference("scnn").run(layer, machine, tiling, *operands(layer, rng))
    assert {c.name: int(fast.counts[c]) for c in Count} == {c.name: int(slow.counts[c]) for c in Count}
    assert searched.counts[list(CAUSES)].sum() <= fast.counts[list(CAUSES)].sum()
