"""EIE: what a queue in front of each PE hides, drawn cycle by cycle, and what the machine refuses.

Filters are dealt to the PEs in turn; in the drawings `b` is the cycle in which an activation is broadcast and a digit
one in which a PE multiplies with that activation.
"""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate


def eie(**fields):
    return load_machine("eie", {"pes": 2, "index_bits": 0, **fields})


def causes(per_pe, inputs=None, **fields):
    """A layer in which PE p has per_pe[p][k] weights for activation k; one vector, all nonzero unless given."""
    most = max(max(row) for row in per_pe)
    weights = np.zeros((len(per_pe[0]), 2 * most), bool)
    for pe, row in enumerate(per_pe):
        for k, number in enumerate(row):
            weights[k, pe : pe + 2 * number : 2] = True
    inputs = np.ones((1, len(weights)), bool) if inputs is None else np.array(inputs, bool)
    layer = LayerTrace("fc", Gemm(len(inputs), *weights.shape), weights, inputs)
    return simulate(Trace([layer]), eie(**fields)).cycles_by_cause


UNEVEN = [[3, 1, 3, 1], [1, 3, 1, 3]]  # each PE has eight weights, taking turns


def test_a_queue_of_one_waits_for_the_slower_pe_at_every_activation():
    # bus   b...b...b...b...
    # PE 0  .000.1...222.3..
    # PE 1  .0...111.2...333
    assert causes(UNEVEN, queue_depth=1) == {"fill": 1, "compute": 8, "imbalance": 16 - 1 - 8}


def test_a_queue_of_two_lets_the_faster_pe_go_one_ahead():
    # bus   bb..bb...     activation 2 waits until both have done activation 0
    # PE 0  .00012223
    # PE 1  .01112333
    assert causes(UNEVEN, queue_depth=2) == {"fill": 1, "compute": 8}


def test_a_deeper_queue_hides_a_longer_lead():
    # bus   bb..b..b...
    # PE 0  .00011123..
    # PE 1  .01..222333
    late = [[3, 3, 1, 1], [1, 1, 3, 3]]
    assert causes(late, queue_depth=2) == {"fill": 1, "compute": 8, "imbalance": 2}
    assert causes(late, queue_depth=4) == {"fill": 1, "compute": 8}


def test_no_queue_hides_a_pe_with_more_work_in_all():
    assert causes([[2, 2, 2], [1, 1, 1]], queue_depth=100) == {"fill": 1, "compute": 5, "imbalance": 1}


def test_broadcasts_bound_the_time_where_columns_are_nearly_empty():
    # One weight in five activations: the bus needs five cycles, the last activation is dropped as it arrives.
    assert sum(causes([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).values()) == 5
    assert sum(causes([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).values()) == 6


def test_zero_activations_are_not_broadcast():
    assert causes(UNEVEN, inputs=[[1, 0, 0, 0]]) == {"fill": 1, "compute": 2, "imbalance": 1}
    assert causes(UNEVEN, inputs=[[0, 0, 0, 0]]) == {}
    # Vectors follow one another.
    assert sum(causes(UNEVEN, inputs=[[1, 0, 0, 0], [0, 1, 0, 0]]).values()) == 2 * 4


def test_more_queue_is_never_slower():
    rng = np.random.default_rng(3)
    layer = LayerTrace("fc", Gemm(3, 60, 40), rng.random((60, 40)) < 0.2, rng.random((3, 60)) < 0.4)
    cycles = [simulate(Trace([layer]), eie(pes=8, queue_depth=depth)).cycles for depth in (1, 2, 4, 8, 60)]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > cycles[-1]


def test_a_run_of_zeros_longer_than_the_index_stores_fillers_that_take_a_cycle():
    weights = np.zeros((1, 40), bool)
    weights[0, 39] = True
    layer = LayerTrace("fc", Gemm(1, 1, 40), weights)
    # 39 zeros: entries at rows 15 and 31 are fillers, 7 more zeros precede the weight; without an index limit none.
    for bits, fillers in ((4, 2), (0, 0), (6, 0), (2, 9)):
        report = simulate(Trace([layer]), eie(pes=1, index_bits=bits))
        assert report.cycles == 1 + fillers + 1
        assert report.to_dict()["total"]["gated_macs"] == fillers


def test_zeros_after_the_last_weight_of_a_column_need_no_fillers():
    weights = np.zeros((1, 40), bool)
    weights[0, 0] = True
    assert simulate(Trace([LayerTrace("fc", Gemm(1, 1, 40), weights)]), eie(pes=1, index_bits=1)).cycles == 2


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3)])
def test_more_pes_than_filters_leave_the_others_idle(operation):
    report = simulate(Trace([LayerTrace("fc", operation)]), eie(pes=64))
    assert report.cycles == operation.m * (operation.k + 1)
    assert report.to_dict()["total"]["useful_macs"] == operation.macs


def test_an_empty_mask_takes_no_time():
    layer = LayerTrace("fc", Gemm(2, 3, 4), np.zeros((3, 4), bool))
    assert simulate(Trace([layer]), eie()).cycles == 0


def test_a_convolution_is_refused_by_name():
    layer = LayerTrace("conv1", Conv2d(3, 8, 8, 8, 3, 3))
    with pytest.raises(InputError, match=r"layer 'conv1' on eie: a convolution; expected a fully connected layer"):
        simulate(Trace([layer]), eie())


def test_weights_that_fit_are_loaded_once_for_all_vectors():
    layer = LayerTrace("fc", Gemm(4, 16, 16))
    memory = {"memory": "channel", "dram_burst_bytes": 1}
    one, slabs = (simulate(Trace([layer]), eie(**memory, weight_buffer_bytes=size)).to_dict()["total"]
                  for size in (1024, 100))
    # 256 weights of a byte, 2 PEs' 17 pointers of 16 bits.
    assert one["dram_read_bytes"] == 256 + 68 + 4 * 16
    assert slabs["dram_read_bytes"] == 4 * (256 + 68) + 4 * 16


def test_buffers_too_small_for_a_column_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'fc' on eie: .*misses the buffers by \d+ bytes"):
        simulate(Trace([LayerTrace("fc", Gemm(1, 4, 400))]), eie(memory="channel", output_buffer_bytes=16))
