"""HighLight: the pair of patterns that covers a mask, the cycles that follow from it, and corners.

The engine is also held to the twin on masks that are hierarchical by construction, which drawn layers seldom are.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.machines import highlight, reference
from simulator.mapping import Tiling
from simulator.structure import conforms, parse, project
from simulator.testing import machines, operands, product

ONE = {"rows": 1, "cols": 1, "lanes": 1, "memory": "ideal"}


def masks(*rows):
    """bool[rows, entries] from texts, "1" where a value is not zero."""
    return np.array([[letter == "1" for letter in row] for row in rows])


def hierarchical(rng, k, n, rank0, rank1):
    """bool[k, n]: of every size1 blocks keep1, of every size0 entries of these keep0; short edges as they come."""
    (keep0, size0), (keep1, size1) = rank0, rank1
    mask = np.zeros((k, n), bool)
    blocks = [np.arange(first, min(k, first + size0)) for first in range(0, k, size0)]
    for column in range(n):
        for first in range(0, len(blocks), size1):
            group = blocks[first : first + size1]
            for chosen in rng.permutation(len(group))[:keep1]:
                mask[rng.permutation(group[chosen])[:keep0], column] = True
    return mask


def report(operation, weights=None, inputs=None, density=None, **fields):
    layer = LayerTrace("layer", operation, weights, inputs, input_density=density)
    return simulate_layer(layer, load_machine("highlight", {**ONE, **fields}))


def test_an_output_takes_the_kept_share_of_both_ranks():
    # 1010 0000 0110 0000: of four blocks of four, two; in each, two. 16 rows of k are 4 slots on one multiplier.
    found = report(Gemm(1, 16, 1), masks("1010000001100000").T, rank0=["2:4"], rank1=["2:4", "4:4"])
    assert (found.executed_as, found.cycles_by_cause) == ("2:4 of 4x1 + 2:4", {"compute": 4})


@pytest.mark.parametrize("size0", [2, 3, 4])
@pytest.mark.parametrize("size1", [4, 5, 6, 7, 8])
def test_the_preset_runs_all_fifteen_densities_at_their_own_time(size0, size1):
    rng = np.random.default_rng(size0 * size1)
    k = 10080  # whole groups of every pair
    mask = hierarchical(rng, k, 8, (2, size0), (4, size1))
    found = simulate_layer(LayerTrace("gemm", Gemm(16, k, 8), mask), load_machine("highlight", {"memory": "ideal"}))
    # One tile of 16 x 8 outputs on 8 lanes: K * (4 / H1) * (2 / H0) / 8, and nothing waits.
    assert found.cycles_by_cause == {"compute": k // size0 // size1}
    outer = f"4:{size1} of {size0}x1" if size1 > 4 else ""
    inner = f"2:{size0}" if size0 > 2 else ""
    assert found.executed_as == (" + ".join(part for part in (outer, inner) if part) or "dense")
    # What was run is a structure that one can train, and the mask is one of it.
    assert found.executed_as == "dense" or conforms(mask, parse(found.executed_as))


def test_a_mask_that_was_projected_for_the_machine_runs_as_it():
    scores = np.random.default_rng(4).random((288, 6))
    mask = project(scores, parse("4:7 of 3x1 + 2:3"))
    machine = load_machine("highlight", {"memory": "ideal"})
    assert simulate_layer(LayerTrace("gemm", Gemm(4, 288, 6), mask), machine).executed_as == "4:7 of 3x1 + 2:3"


def test_one_block_too_many_costs_the_layer_its_outer_rank():
    rng = np.random.default_rng(0)
    mask = hierarchical(rng, 64, 4, (2, 4), (4, 8))
    before = report(Gemm(1, 64, 4), mask, rank0=["2:4"], rank1=["4:8", "4:6", "4:4"])
    empty = np.flatnonzero(~mask[:32, 0].reshape(8, 4).any(axis=1))[0]
    mask[empty * 4, 0] = True
    after = report(Gemm(1, 64, 4), mask, rank0=["2:4"], rank1=["4:8", "4:4"])
    assert (before.executed_as, before.cycles) == ("4:8 of 4x1 + 2:4", 4 * 16)
    assert (after.executed_as, after.cycles) == ("2:4", 4 * 32)


def test_a_pattern_that_no_rank_has_runs_dense():
    mask = masks("1110").T
    found = report(Gemm(1, 4, 1), mask, rank0=["2:4"], rank1=["4:4"])
    assert (found.executed_as, found.cycles) == ("dense", 4)
    assert found.total.counts[Count.GATED_MACS] == 1


def test_the_tighter_of_two_patterns_of_one_size_is_taken():
    assert report(Gemm(1, 4, 1), masks("0100").T, rank0=["2:4", "1:4"], rank1=["1:1"]).executed_as == "1:4"


def test_a_short_block_at_the_end_keeps_what_a_block_keeps():
    # Seven entries are a block of four and one of three, two slots each; six are four slots too, five are three.
    cycles = {k: report(Gemm(1, k, 1), (np.arange(k) % 4 < 1)[:, None], rank0=["2:4"], rank1=["4:4"]).cycles
              for k in (5, 6, 7, 8)}
    assert cycles == {5: 3, 6: 4, 7: 4, 8: 4}


def test_fewer_nonzeros_than_the_pair_gate():
    found = report(Gemm(3, 8, 1), masks("10000000").T, rank0=["2:4"], rank1=["1:1"])
    counts = found.total.counts
    assert found.cycles == 3 * 4
    assert (counts[Count.ISSUED_MACS], counts[Count.GATED_MACS], counts[Count.SKIPPED_MACS]) == (3, 9, 12)


def test_activations_gate_and_never_skip():
    mask = hierarchical(np.random.default_rng(1), 64, 8, (2, 4), (4, 8))
    full, half, none = (np.broadcast_to(np.arange(64) % 2 < kept, (16, 64)) for kept in (2, 1, 0))
    reports = [report(Gemm(16, 64, 8), mask, np.ascontiguousarray(inputs)) for inputs in (full, half, none)]
    assert len({found.cycles for found in reports}) == 1
    issued, gated = ([int(found.total.counts[item]) for found in reports]
                     for item in (Count.ISSUED_MACS, Count.GATED_MACS))
    assert issued[0] > issued[1] > issued[2] == 0
    assert {a + b for a, b in zip(issued, gated, strict=True)} == {16 * 8 * 16}
    energy = [found.energy_pj for found in reports]
    assert energy[0] > energy[1] > energy[2]


def test_a_density_gates_its_expected_share():
    found = report(Gemm(4, 16, 4), density=0.25)
    assert found.cycles == 256
    assert found.total.counts[Count.ISSUED_MACS] == 64


def test_lanes_and_outputs_at_the_edge_are_fragmentation():
    # 10 slots on 4 lanes are 3 cycles, for 3 rows on 2: two tiles of 1 column of 2. 30 slots on 16 multipliers are 2.
    found = report(Gemm(3, 10, 1), rows=2, cols=2, lanes=4)
    assert found.cycles_by_cause == {"compute": 2, "fragmentation": 4}


def test_ranks_run_along_k_or_along_the_channels():
    weights = np.zeros((2, 16, 3, 3), bool)
    weights[:, :4:2] = True  # along the channels, blocks 0 of four, with two of four in it
    convolution = Conv2d(16, 2, 5, 5, 3, 3)
    fields = {"rank0": ["2:4"], "rank1": ["1:4"]}
    assert report(convolution, weights, blocks_along="channel", **fields).executed_as == "1:4 of 4x1 + 2:4"
    assert report(convolution, weights, blocks_along="k", **fields).executed_as == "dense"


def test_both_ranks_store_a_coordinate():
    mask = hierarchical(np.random.default_rng(2), 64, 8, (2, 4), (4, 8))
    inputs = np.random.default_rng(3).random((16, 64)) < 0.5
    machine = load_machine("highlight", {"dram_burst_bytes": 1})
    total = simulate(Trace([LayerTrace("gemm", Gemm(16, 64, 8), mask, inputs)]), machine).to_dict()["total"]
    # A filter has 16 weights with 2 bits for the place in 4, and 8 blocks with 3 bits for the place in 8.
    assert total["metadata_bytes"] == 8 * (16 * 2 + 8 * 3) // 8
    assert total["dram_read_bytes"] == 8 * 16 + 56 + int(inputs.sum()) + 16 * 64 // 8


def test_inputs_can_be_kept_whole():
    inputs = np.zeros((4, 64), bool)
    mask = hierarchical(np.random.default_rng(2), 64, 8, (2, 4), (4, 8))
    fields = {"memory": "channel", "compressed_inputs": False}
    found = report(Gemm(4, 64, 8), mask, inputs, **fields)
    assert found.total.counts[Count.INPUT_DRAM_READ_BYTES] == 256
    assert found.total.counts[Count.INPUT_SRAM_READS] == 8 * 256  # for each of eight columns of outputs


def test_of_a_density_half_a_word_is_stored_whole():
    # Half of three words are two, with three bits: 19 bits.
    found = report(Gemm(1, 3, 1), density=0.5, memory="channel", dram_burst_bytes=1)
    assert found.total.counts[Count.INPUT_DRAM_READ_BYTES] == 3


def test_weights_come_again_for_every_chunk_where_k_is_cut():
    layer = LayerTrace("layer", Gemm(2, 8, 1))
    machine = load_machine("highlight", {**ONE, "memory": "channel"})
    for tiling, loads in ((Tiling(2, 8, 1), 1), (Tiling(1, 8, 1), 1), (Tiling(2, 4, 1), 1), (Tiling(1, 4, 1), 2)):
        assert highlight.run(layer, machine, tiling).counts[Count.WEIGHT_SRAM_WRITES] == 8 * loads


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), machine=machines("highlight"), seed=st.integers(0, 2**16))
def test_engine_equals_twin_on_hierarchical_masks(data, machine, seed):
    rng = np.random.default_rng(seed)
    k, n = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    rank0 = data.draw(st.sampled_from([(1, 2), (2, 3), (2, 4), (1, 4)]))
    rank1 = data.draw(st.sampled_from([(1, 2), (2, 3), (2, 4)]))
    names = {"rank0": [f"{a}:{b}" for a, b in (rank0,)], "rank1": [f"{a}:{b}" for a, b in (rank1,)]}
    layer = LayerTrace("drawn", Gemm(data.draw(st.integers(1, 3)), k, n), hierarchical(rng, k, n, rank0, rank1))
    machine = machine.replace(**names)
    try:
        fast = highlight.run(layer, machine)
    except InputError as error:
        if "misses the buffers by" not in str(error):
            raise
        reject()
    inputs, weights = operands(layer, rng)
    slow, output = reference("highlight").run(layer, machine, fast.tiling, inputs, weights)
    np.testing.assert_array_equal(output, product(layer.operation, inputs, weights))
    assert fast.executed_as == slow.executed_as
    assert {item.name: (a, b) for item, a, b in zip(Count, fast.counts, slow.counts, strict=True) if a != b} == {}


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_an_array_larger_than_the_layer_is_one_tile(operation):
    found = simulate_layer(LayerTrace("corner", operation), load_machine("highlight", {"memory": "ideal"}))
    assert found.total.counts[Count.ISSUED_MACS] == operation.macs
    assert found.cycles == -(-operation.gemm().k // 8)


def test_a_layer_without_weights_is_removed_and_zero_activations_gate_all():
    none = report(Gemm(3, 8, 3), np.zeros((8, 3), bool))
    assert (none.cycles, none.executed_as) == (0, "removed")
    zeros = report(Gemm(3, 8, 3), None, np.zeros((3, 8), bool))
    assert (zeros.cycles, zeros.total.counts[Count.ISSUED_MACS]) == (72, 0)


def test_wrong_ranks_are_refused():
    with pytest.raises(InputError, match="rank1 holds '5:4'"):
        load_machine("highlight", {"rank1": ["5:4"]})
    with pytest.raises(InputError, match="rank0 holds 'dense'"):
        load_machine("highlight", {"rank0": ["dense"], "lanes": 0})


def test_buffers_too_small_for_any_cut_are_refused_by_bytes():
    with pytest.raises(InputError, match=r"layer 'layer' on .*misses the buffers by \d+ bytes"):
        report(Gemm(4, 40, 40), memory="channel", shared_buffer_bytes=4)
