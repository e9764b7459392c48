"""The edges of what can be described, on every machine: the smallest layers, nothing to do, no room, huge products.

Each is run on every preset, with the preset's own memory and with an ideal one.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Machine, Trace, load_machine, preset_names, simulate
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.grouped import supports
from simulator.laws import broken_laws
from simulator.workload import Operation

SMALL: dict[str, Operation] = {
    "one product": Gemm(1, 1, 1),
    "k = 1": Gemm(5, 1, 7),
    "m = 1": Gemm(1, 9, 7),
    "n = 1": Gemm(6, 5, 1),
    "1x1 layer": Conv2d(1, 1, 1, 1, 1, 1),
    "1x1 kernel": Conv2d(3, 5, 4, 4, 1, 1),
    "one output": Conv2d(2, 3, 3, 3, 3, 3),
    "all of it padding": Conv2d(1, 2, 1, 1, 3, 3, padding_h=1, padding_w=1),
    "stride beyond the kernel": Conv2d(2, 2, 7, 7, 1, 1, stride_h=3, stride_w=5),
    "a channel each": Conv2d(4, 4, 3, 3, 3, 3, groups=4),
}


@pytest.fixture(params=preset_names())
def machine(request: pytest.FixtureRequest) -> Machine:
    return load_machine(request.param)


def both(machine: Machine) -> list[Machine]:
    """With its memory and without; every preset's array is larger than the SMALL layers."""
    return [machine, machine.replace(memory="ideal")]


def test_small_layers_keep_the_laws(machine: Machine) -> None:
    for name, operation in SMALL.items():
        for one in both(machine):
            if not supports(one, operation):
                with pytest.raises(InputError, match=one.model):
                    simulate_layer(LayerTrace(name, operation), one)
                continue
            assert broken_laws(LayerTrace(name, operation), one) == [], name
            counts = simulate_layer(LayerTrace(name, operation), one).total.counts
            assert counts[Count.DENSE_MACS] == operation.macs, name
            inside = 2 if name == "all of it padding" else operation.macs  # one tap of nine, for two filters
            assert counts[Count.USEFUL_MACS] in (inside, operation.macs), name  # not all machines multiply padding


def test_empty_masks_leave_no_product(machine: Machine) -> None:
    """No weight, no activation, neither: nothing useful, no energy of multipliers, and the laws hold."""
    for operation in (Gemm(6, 9, 7), Conv2d(3, 5, 6, 6, 3, 3, padding_h=1, padding_w=1)):
        if not supports(machine, operation):
            continue
        weight, inputs = (np.zeros(shape, dtype=bool) for shape in (operation.weight_shape, operation.input_shape))
        for layer in (LayerTrace("no weight", operation, weight),
                      LayerTrace("all-zero activations", operation, None, inputs),
                      LayerTrace("neither", operation, weight, inputs)):
            for one in both(machine):
                assert broken_laws(layer, one) == [], layer.name
                counts = simulate_layer(layer, one).total.counts
                assert counts[Count.USEFUL_MACS] == 0, layer.name


def test_buffers_too_small_for_any_tile_say_by_how_many_bytes(machine: Machine) -> None:
    """A byte for each operand: the message names layer, machine and bytes; those bytes added, it is not told again."""
    layer = LayerTrace("fc", Gemm(64, 512, 512), input_bits=16, weight_bits=16, output_bits=16)
    if machine.memory.memory == "ideal":
        assert machine.replace(input_buffer_bytes=1).memory.input_buffer_bytes == 1
        return
    sizes = {"input_buffer_bytes": 1, "weight_buffer_bytes": 1, "output_buffer_bytes": 1}
    if machine.memory.shared_buffer_bytes:
        sizes["shared_buffer_bytes"] = 1
    with pytest.raises(InputError, match=rf"layer 'fc' on {machine.name}: .*misses the buffers by \d+ bytes") as told:
        simulate_layer(layer, machine.replace(**sizes))
    found = re.search(r"misses the buffers by (\d+) bytes", str(told.value))
    assert found is not None
    missing = int(found[1])
    assert missing > 0
    assert simulate_layer(layer, machine.replace(**{name: 1 + missing for name in sizes})).cycles > 0


def test_products_beyond_31_bits_are_counted_exactly(machine: Machine) -> None:
    """2^31 products, of which a handful have a weight, so that machines that visit weights are quick."""
    operation: Operation = Conv2d(2**10, 2**11, 2**5, 2**5, 1, 1)
    if not supports(machine, operation):
        operation = Gemm(2**10, 2**10, 2**11)
    mask = np.zeros(operation.weight_shape, dtype=bool)
    mask[::256, ::256] = True
    for one in both(machine):
        counts = simulate_layer(LayerTrace("long", operation, mask), one).total.counts
        assert counts[Count.DENSE_MACS] == 2**31
        assert counts[Count.USEFUL_MACS] == 8 * 4 * 2**10
        assert (counts >= 0).all()


def test_huge_layers_are_counted_or_refused(machine: Machine) -> None:
    """2^50 products: exact where only sizes count, refused with a message where every weight would be visited."""
    for one in both(machine):
        try:
            report = simulate(Trace([LayerTrace("huge", Gemm(2**17, 2**17, 2**16))]), one, compare_dense=False)
        except InputError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert refused.startswith("layer 'huge'")
            continue
        counts = report.total.counts
        assert counts[Count.DENSE_MACS] == counts[Count.USEFUL_MACS] == 2**50
        assert (counts >= 0).all()
        assert report.total.cycles >= 2**50 // report.total.peak_macs_per_cycle - 1  # SCALE-Sim's last index


@pytest.mark.parametrize("shape", [(2**18, 2**17, 2**16), (2**21, 2**21, 2**21), (2**62, 2, 1), (1, 1, 2**63)])
def test_products_that_counters_would_not_survive_are_refused(shape: tuple[int, int, int]) -> None:
    """From 2^51 on, so that bits of every product still fit 63: workload.py says why."""
    with pytest.raises(InputError, match="expected"):
        Gemm(*shape)
    m, k, n = shape
    with pytest.raises(InputError, match="expected"):
        Conv2d(k, n, m, 1, 1, 1)
