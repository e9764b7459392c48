"""TensorDash: which slots a lane reaches, who chooses first, and what elements lose that move on together.

Slots are drawn row by row (a row is `lanes` consecutive k); `#` is an effectual slot, `.` a zero.
"""

import types
from pathlib import Path

import numpy as np
import pytest

import simulator.machines
from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.machines import reference, tensordash, tensordash_kernel
from simulator.mapping import Tiling
from simulator.testing import operands, product


def dash(**fields):
    one = {"tiles": 1, "rows": 1, "cols": 1, "lanes": 16, "memory": "ideal"}
    return load_machine("tensordash", {**one, **fields})


def causes(inputs, weights=None, **fields):
    """inputs: [m, k] of 0 and 1; weights [k, n] or one dense filter."""
    inputs = np.array(inputs, dtype=bool)
    weights = np.ones((inputs.shape[1], 1), bool) if weights is None else np.array(weights, dtype=bool)
    operation = Gemm(*inputs.shape, weights.shape[1])
    return simulate(Trace([LayerTrace("gemm", operation, weights, inputs)]), dash(**fields)).cycles_by_cause


def cycles(rows, **fields):
    """One dot product, its rows given one after the other."""
    return sum(causes([np.concatenate(rows)], **fields).values())


def by_name(counts):
    return {item.name: int(counts[item]) for item in Count}


def row(*lanes, size=16):
    return np.isin(np.arange(size), np.array(lanes) % size)


FULL = np.ones(16, bool)
NONE = np.zeros(16, bool)


@pytest.mark.parametrize("free", [0, 1, 2, 7, 13, 14, 15])
@pytest.mark.parametrize("slot", range(16))
def test_a_free_lane_reaches_four_slots_of_the_next_row_and_three_of_the_one_after(free, slot):
    # Row 0 is full but for one lane; the only other slot is taken along if that lane reaches it.
    first = ~row(free)
    assert cycles([first, row(slot)]) == (1 if (slot - free) % 16 in (0, 15, 1, 13) else 2)
    assert cycles([first, NONE, row(slot)]) == (1 if (slot - free) % 16 in (0, 14, 2) else 2)
    assert cycles([first, row(slot)], staging_depth=2) == (1 if (slot - free) % 16 in (0, 15, 1, 13) else 2)
    assert cycles([first, NONE, row(slot)], staging_depth=2) == 2


def test_lanes_choose_in_six_levels():
    levels = [[lane for lane in range(16) if int(level) >> lane & 1] for level in tensordash.levels(16)]
    assert levels == [[0, 5, 10], [1, 6, 11], [2, 7, 12], [3, 8, 13], [4, 9, 14], [15]]


@pytest.mark.parametrize("lanes", range(1, 65))
def test_no_two_lanes_of_a_level_reach_the_same_slot(lanes):
    seen = []
    for level in tensordash.levels(lanes):
        chosen = [lane for lane in range(lanes) if int(level) >> lane & 1]
        slots = [{(ahead, (lane + aside) % lanes) for ahead, aside in (
            (0, 0), (1, 0), (2, 0), (1, -1), (1, 1), (2, -2), (2, 2), (1, -3))} for lane in chosen]
        assert len(set().union(*slots)) == sum(map(len, slots))
        seen += chosen
    assert sorted(seen) == list(range(lanes))


def test_a_lane_takes_what_comes_first_even_where_another_needs_it():
    # Lanes 0 and 1 are free.  Lane 0 chooses first and takes slot 0 of row 1; lane 1 could only have had that one.
    #   row 0  ..##############
    #   row 1  #..............#   slot 15 was lane 0's other choice, and stays for a second cycle
    assert cycles([~row(0, 1), row(0, 15)]) == 2
    assert cycles([~row(0, 1), row(1, 15)]) == 1


def test_the_next_row_goes_before_the_one_after():
    # Lane 3 is free for one cycle only: it takes (+1, 3), then row 2 is left for a cycle of its own.
    assert cycles([~row(3), row(3), row(3)]) == 2
    # Lane 3 prefers (+2, 3) to (+1, 2): row 1 is left and holds the window back.
    assert cycles([~row(3), row(2), row(3), FULL]) == 3


def test_dense_rows_take_a_cycle_each_and_empty_ones_a_third():
    assert causes([np.ones(16 * 7)]) == {"compute": 7}
    assert cycles([NONE] * 7) == 3
    assert cycles([NONE] * 7, staging_depth=2) == 4
    assert cycles([NONE] * 3 + [FULL]) == 2


def test_a_reduction_that_ends_inside_a_row_leaves_lanes_empty():
    assert causes([np.ones(17)]) == {"compute": 2}
    assert causes(np.ones((3, 17))) == {"compute": 4, "fragmentation": 2}


def test_rows_of_a_tile_move_on_together():
    # Row 0 of the tile is dense, row 1 empty: from its second cycle on row 1 is held back.  6 cycles of 32 lanes,
    # 96 products, 16 lanes empty, 80 waiting.
    inputs = np.zeros((2, 96))
    inputs[0] = 1
    assert causes(inputs, rows=2) == {"compute": 3, "imbalance": 3}
    # In tiles of their own they wait only at the end: 2 cycles of the empty one, whose 32 lanes nothing held back.
    assert causes(inputs, tiles=2) == {"compute": 3, "imbalance": 2, "fragmentation": 1}


def test_elements_without_an_output_are_fragmentation():
    assert causes(np.ones((1, 64)), rows=4, cols=4) == {"compute": 1, "fragmentation": 3}


def test_blocks_are_dealt_to_the_tiles_in_turn():
    # Rows 0 and 2 are dense, 1 and 3 empty: tile 0 has both dense ones.
    inputs = np.zeros((4, 48))
    inputs[::2] = 1
    assert sum(causes(inputs, tiles=2).values()) == 6
    assert sum(causes(inputs[[0, 1, 3, 2]], tiles=2).values()) == 4


def test_the_side_that_is_scheduled_decides():
    inputs, weights = np.zeros((1, 96)), np.zeros((96, 1))
    inputs[0, ::2], weights[1::2, 0] = 1, 1
    # Even and odd k never meet; alone, each side has half the slots: two rows fit a cycle.
    total = {side: sum(causes(inputs, weights, sparse_side=side).values()) for side in tensordash.SIDES}
    assert total == {"input": 3, "weight": 3, "both": 2}


def test_one_sided_schedules_issue_products_with_zeros_of_the_other_side():
    inputs, weights = np.ones((2, 32), bool), np.zeros((32, 2), bool)
    inputs[:, :8], weights[::2] = False, True
    layer = LayerTrace("gemm", Gemm(2, 32, 2), weights, inputs)
    for side, issued in (("input", 24 * 4), ("weight", 16 * 4), ("both", 12 * 4)):
        total = simulate(Trace([layer]), dash(sparse_side=side)).to_dict()["total"]
        assert (total["issued_macs"], total["useful_macs"]) == (issued, 12 * 4)
        assert total["skipped_macs"] == 128 - issued


def test_rows_of_the_tile_are_the_scheduled_side():
    # Three filters of very different density on four rows: they move on together where weights are scheduled.
    weights = np.zeros((96, 3))
    weights[:, 0] = 1
    inputs = np.ones((1, 96))
    assert sum(causes(inputs, weights, sparse_side="weight", rows=3).values()) == 6
    assert sum(causes(inputs, weights, sparse_side="weight", cols=3).values()) == 6 + 2 + 2
    assert sum(causes(inputs, weights, sparse_side="both", cols=3).values()) == 6


@pytest.mark.parametrize("side", tensordash.SIDES)
@pytest.mark.parametrize("depth", [2, 3])
def test_engine_equals_twin_on_longer_streams(side, depth):
    rng = np.random.default_rng(depth)
    for rows, cols, lanes, density in ((4, 4, 16, 0.3), (5, 2, 16, 0.6), (3, 2, 33, 0.5), (2, 2, 64, 0.2)):
        shape = Gemm(9, 330, 5)
        layer = LayerTrace("gemm", shape, rng.random((330, 5)) < 0.7, rng.random((9, 330)) < density)
        machine = dash(tiles=2, rows=rows, cols=cols, lanes=lanes, staging_depth=depth, sparse_side=side)
        fast = tensordash.run(layer, machine)
        inputs, weights = operands(layer, rng)
        slow, output = reference("tensordash").run(layer, machine, fast.tiling, inputs, weights)
        assert by_name(fast.counts) == by_name(slow.counts)
        np.testing.assert_array_equal(output, product(shape, inputs, weights))


def test_no_layer_is_faster_than_the_window_is_deep():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.5, 0.9, 1.0):
        found = sum(causes(rng.random((8, 960)) < density, rows=4).values())
        assert 2 * 60 / 3 <= found <= 2 * 60


def test_empty_masks_and_zero_activations():
    full, none = np.ones((3, 40), bool), np.zeros((40, 3), bool)
    assert causes(full, none) == {}
    # Zeros of the inputs are passed over three rows at a time; nothing is multiplied.
    assert causes(~full, ~none) == {"fragmentation": 9}


@pytest.mark.parametrize("operation", [Gemm(1, 1, 1), Gemm(1, 9, 3), Gemm(5, 1, 3), Conv2d(1, 1, 1, 1, 1, 1)])
def test_an_array_larger_than_the_layer_takes_a_cycle(operation):
    machine = load_machine("tensordash", {"memory": "ideal"})
    report = simulate(Trace([LayerTrace("corner", operation)]), machine)
    assert report.cycles == 1
    assert report.to_dict()["total"]["useful_macs"] == operation.macs


def test_a_dense_layer_of_many_blocks_equals_its_closed_form():
    layer = LayerTrace("conv", Conv2d(64, 64, 56, 56, 3, 3, padding_h=1, padding_w=1))
    report = simulate(Trace([layer]), load_machine("tensordash", {"memory": "ideal"}))
    # 784 blocks of pixels times 16 of filters over 16 tiles, 36 rows of 16 lanes each: no loss.
    assert report.cycles_by_cause == {"compute": 784 * 36}


def test_dense_storage_moves_zeros_and_a_bitmask_does_not():
    weights, inputs = np.zeros((64, 8), bool), np.zeros((16, 64), bool)
    weights[::4], inputs[:, ::2] = True, True
    layer = LayerTrace("gemm", Gemm(16, 64, 8), weights, inputs)
    found = {}
    for storage in tensordash.STORAGE:
        machine = dash(memory="channel", dram_burst_bytes=1, storage=storage)
        found[storage] = simulate(Trace([layer]), machine).to_dict()["total"]
    assert found["dense"]["dram_read_bytes"] == 64 * 8 + 16 * 64
    assert found["dense"]["metadata_bytes"] == 0
    assert found["bitmask"]["dram_read_bytes"] == 128 + 64 * 8 // 8 + 512 + 16 * 64 // 8
    assert found["bitmask"]["metadata_bytes"] == 64
    assert found["dense"]["dram_write_bytes"] == found["bitmask"]["dram_write_bytes"] == 16 * 8


def test_runs_of_filters_are_cut_for_the_buffers():
    layer = LayerTrace("conv", Conv2d(64, 64, 28, 28, 3, 3, padding_h=1, padding_w=1))
    machines = [dash(memory="channel", tiles=4, rows=4, cols=4, weight_buffer_bytes=size) for size in (1048576, 1024)]
    assert simulate(Trace([layer]), machines[0]).cycles <= simulate(Trace([layer]), machines[1]).cycles
    # Four runs of 16 filters bring every weight once, and inputs of their own once a run.
    found = tensordash.run(layer, machines[0], Tiling(392, 576, 16)).counts
    assert found[Count.WEIGHT_SRAM_WRITES] == 64 * 576
    assert found[Count.INPUT_SRAM_WRITES] == 4 * 64 * 28 * 28
    with pytest.raises(InputError, match="tile_n = 6; expected a multiple of 4, or 64 and more"):
        tensordash.run(layer, machines[0], Tiling(392, 576, 6))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"layer 'gemm' on .*misses the buffers by \d+ bytes"):
        simulate(Trace([LayerTrace("gemm", Gemm(4, 40, 40))]), dash(memory="channel", shared_buffer_bytes=8))
    with pytest.raises(InputError, match="weight"):
        dash(sparse_side="weights")
    with pytest.raises(InputError, match=r"staging_depth = 4; expected an integer from 2 to 3"):
        dash(staging_depth=4)


MUTATIONS = [
    ("a lane never looks past its own slot of row +1", "t = u & far  # (+2, i)", "t = u & ZERO"),
    ("all lanes look down", "near ^= rotated(t, turns[0])", "near ^= t"),
    ("the far neighbours are out of reach", "t = u & rotated(far, turns[1])", "t = u & ZERO"),
    ("(+1, i-3) is out of reach", "t = u & rotated(near, turns[2])", "t = u & ZERO"),
    ("all lanes choose at once", "u = free & levels[level]", "u = free"),
    ("the window moves by one row", "step = 1 if left_near != ZERO", "step = 1 if True"),
    ("the third row is not waited for", "(2 if depth == 2 or left_far != ZERO else 3)", "3"),
    ("nobody is held back", "held[c, w] = tip | (tip - (tip >> top))", "held[c, w] = ZERO"),
    ("who is held back once is so for ever", "if step == depth:\n                            held[c, w] = ZERO",
     "if step == depth:\n                            pass"),
    ("columns that do not exist wait too", "for c in range(columns[j]):", "for c in range(b.shape[1]):"),
    ("tiles are dealt anew for every block", "tile = block * pixel_blocks % tiles", "tile = 0"),
    ("all blocks go to one tile", "tile = tile + 1 if tile + 1 < tiles else 0", "tile = tile"),
]


def plain(*change):
    """tensordash_kernel.py as plain Python, with one text replaced."""
    source = Path(tensordash_kernel.__file__).read_text(encoding="utf-8")
    if change:
        assert change[0] in source, f"the source no longer holds {change[0]!r}: mend the list of mutations"
        source = source.replace(*change)
    source = source.replace("from ..jit import kernel\n", "kernel = lambda function: function\n")
    module = types.ModuleType("simulator.machines.tensordash_kernel")
    module.__package__ = "simulator.machines"
    exec(compile(source, "mutated", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def drawn():
    """(layer, machine, the twin's counts) of streams long enough for every line to matter, the same at every run."""
    rng = np.random.default_rng(7)
    cases = []
    for index in range(30):
        lanes, side = (4, 7, 8, 16)[index % 4], tensordash.SIDES[index % 3]
        layer = LayerTrace("gemm", Gemm(5, 12 * lanes + 1, 5), rng.random((12 * lanes + 1, 5)) < rng.choice([0.2, 0.6]),
                           rng.random((5, 12 * lanes + 1)) < rng.choice([0.1, 0.3, 0.6]))
        machine = dash(tiles=2, rows=3, cols=2, lanes=lanes, staging_depth=2 + (index % 5 > 0), sparse_side=side)
        fast = tensordash.run(layer, machine)
        twin, _ = reference("tensordash").run(layer, machine, fast.tiling, *operands(layer, rng))
        cases.append((layer, machine, twin.counts))
    return cases


def differs(module, drawn, monkeypatch):
    monkeypatch.setattr(simulator.machines, "tensordash_kernel", module)
    with np.errstate(over="ignore"):
        return any(not np.array_equal(tensordash.run(layer, machine).counts, twin) for layer, machine, twin in drawn)


def test_the_unchanged_kernel_agrees(drawn, monkeypatch):
    assert not differs(plain(), drawn, monkeypatch)


@pytest.mark.parametrize(("what", "text", "becomes"), MUTATIONS, ids=[entry[0] for entry in MUTATIONS])
def test_a_wrong_line_is_noticed(what, text, becomes, drawn, monkeypatch):
    assert differs(plain(text, becomes), drawn, monkeypatch), what
