"""Layers in a row on several arrays: what stays where it was made does not cross the link."""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.machines import multi_array
from simulator.operators import Operator
from simulator.reference import multi_array as twin
from simulator.testing import operands, product


def several(**fields):
    return load_machine("multi_array", {
        "rows": 2, "cols": 2, "memory": "ideal", "arrays": 2, "link_bytes_per_cycle": 4.0, "link_latency_cycles": 10,
        **fields})


def fc(name, inputs, outputs, rows=1):
    """A fully connected layer that keeps the weights between features of one part; inputs, outputs: part of each."""
    mask = np.array(inputs)[:, None] == np.array(outputs)[None]
    return LayerTrace(name, Gemm(rows, *mask.shape), mask)


def exchanged(layers, edges, operators=None, **fields):
    """{layer: (scattered, gathered)} and the bytes over the link of each layer."""
    machine = several(**fields)
    trace = Trace(layers, edges, operators=operators)
    plans = multi_array.exchanges(trace, machine)
    done = simulate(trace, machine, compare_dense=False).layers
    return ({layer.name: (plans[layer.name].scatter, plans[layer.name].gather) for layer in layers
             if layer.name in plans}, [int(layer.total.counts[Count.LINK_BYTES]) for layer in done])


A, B = [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 0, 1]
CHAIN = [("a", "b"), ("b", "c")]


def chain():
    return [fc("a", B, A), fc("b", A, B), fc("c", B, A)]


def test_only_the_ends_of_a_chain_of_matching_blocks_exchange():
    flags, sizes = exchanged(chain(), CHAIN)
    assert flags == {"a": (True, False), "b": (False, False), "c": (False, True)}
    assert sizes == [8, 0, 8]


def test_without_edges_every_layer_exchanges():
    assert exchanged(chain(), []) == ({}, [16, 16, 16])


def test_a_partition_that_does_not_match_is_exchanged():
    layers = [fc("a", B, A), fc("b", B, B), fc("c", B, A)]
    flags, sizes = exchanged(layers, CHAIN)
    assert flags == {"a": (True, True), "b": (True, False), "c": (False, True)}
    assert sizes == [16, 8, 8]


def test_finer_blocks_follow_coarser_ones():
    # b has four parts of two features; those of 0 and 1 are inputs that array 0 holds
    quarters = [0, 1, 0, 1, 2, 3, 2, 3]
    flags, _ = exchanged([fc("a", B, A), fc("b", quarters, quarters)], [("a", "b")])
    assert flags == {"a": (True, False), "b": (False, True)}


def test_a_removed_output_may_be_anywhere():
    kept = fc("a", B, A)
    mask = kept.weight_mask
    mask[:, 3] = False
    flags, sizes = exchanged([kept.replace(weight_mask=mask), *chain()[1:]], CHAIN)
    assert flags["b"] == (False, False)
    assert sizes[0] == 8


def test_a_second_consumer_elsewhere_asks_for_the_gather():
    layers = [*chain(), fc("other", B, B)]
    flags, _ = exchanged(layers, [*CHAIN, ("a", "other")])
    assert flags["a"] == (True, True)
    assert flags["b"] == (False, False)
    assert flags["other"][0]


@pytest.mark.parametrize(("kind", "fusion", "stays"), [
    ("activation", "producer", True), ("normalisation", "weights", True), ("normalisation", "none", False),
    ("softmax", "none", False), ("unknown", "none", False)])
def test_operators_that_mix_features_ask_for_an_exchange(kind, fusion, stays):
    between = Operator("op", kind, kind, reads=8, writes=8, operations=8, after="a", fusion=fusion, producer="a"
                       if fusion != "none" else "")
    flags, _ = exchanged(chain(), CHAIN, [between])
    assert flags["b"][0] is not stays
    assert flags["c"][0] is False


def test_producers_that_are_added_up_must_be_held_alike():
    edges = [("a", "b"), ("other", "b")]
    assert exchanged([fc("a", B, A), fc("other", A, A), fc("b", A, B)], edges)[0]["b"][0] is False
    assert exchanged([fc("a", B, A), fc("other", A, B), fc("b", A, B)], edges)[0]["b"][0] is True


def test_a_flattened_image_keeps_its_channels_where_they_are():
    rng = np.random.default_rng(0)
    mask = np.zeros((4, 4, 3, 3), bool)
    mask[:2, 2:] = mask[2:, :2] = True
    conv = LayerTrace("conv", Conv2d(4, 4, 4, 4, 3, 3), mask)  # 4 channels of 2x2: 16 inputs, 4 of each channel
    behind = fc("fc", np.repeat([0, 0, 1, 1], 4), rng.permutation([0, 0, 1, 1]))
    flags, sizes = exchanged([conv, behind], [("conv", "fc")])
    assert flags == {"conv": (True, False), "fc": (False, True)}
    assert sizes == [4 * 16, 4]


def test_a_depthwise_convolution_follows_the_split_of_the_layer_before():
    point = LayerTrace("point", Conv2d(4, 8, 4, 4, 1, 1))
    depth = LayerTrace("depth", Conv2d(8, 8, 4, 4, 3, 3, padding_h=1, padding_w=1, groups=8))
    flags, sizes = exchanged([point, depth], [("point", "depth")], division="auto")
    assert flags == {"point": (True, False), "depth": (False, True)}
    assert sizes == [4 * 16, 8 * 16]


def test_rows_stay_on_their_array():
    layers = [LayerTrace(name, Gemm(64, 4, 4)) for name in "abc"]
    flags, sizes = exchanged(layers, CHAIN, division="m")
    assert flags == {"a": (True, False), "b": (False, False), "c": (False, True)}
    assert sizes == [256, 0, 256]


def test_twin_and_engine_agree_without_exchange():
    machine, layers = several(), chain()
    plans = multi_array.exchanges(Trace(layers, CHAIN), machine)
    for layer in layers:
        fast = multi_array.run(layer, machine, plans[layer.name])
        inputs, weights = operands(layer, np.random.default_rng(0))
        slow, output = twin.run(layer, machine, plans[layer.name], inputs, weights)
        np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
        assert fast.counts.tolist() == slow.counts.tolist()


def test_one_array_has_nothing_to_exchange():
    assert exchanged(chain(), CHAIN, arrays=1) == ({}, [0, 0, 0])


def test_pruned_in_parallel_comes_close_to_the_square_of_the_arrays():
    # Fully connected layers cut into P parts: each array has 1/P^2 of the weights of the whole.
    rng = np.random.default_rng(0)
    whole, cut = [], []
    sizes, parts = (256, 256, 256), 4
    owner = [rng.permutation(np.arange(size) % parts) for size in sizes]
    for name, before, after in (("a", 0, 1), ("b", 1, 2)):
        cut.append(fc(name, owner[before], owner[after]))
        whole.append(LayerTrace(name, cut[-1].operation))
    edges = [("a", "b")]
    link = {"link_latency_cycles": 0, "link_bytes_per_cycle": 64.0}
    machines = {number: load_machine("multi_array", {"arrays": number, **link}) for number in (1, parts)}
    cycles = {(name, number): simulate(Trace(layers, edges), machines[number]).cycles
              for name, layers in (("whole", whole), ("cut", cut)) for number in machines}
    assert parts**2 * 0.6 < cycles["whole", 1] / cycles["cut", parts] <= parts**2
    # The controls: parallel alone, and pruned alone, which one array cannot compact.
    assert parts * 0.6 < cycles["whole", 1] / cycles["whole", parts] <= parts
    assert cycles["cut", 1] == cycles["whole", 1]
