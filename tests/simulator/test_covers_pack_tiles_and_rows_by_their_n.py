"""n:m by layer, by tile and by row on hand-drawn masks, and the order of the three on random ones."""

import numpy as np
import pytest

from simulator import Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.machines import systolic
from simulator.structure import parse, project

ARRAY = {"memory": "ideal", "rows": 2, "cols": 4, "dataflow": "ws", "nm": ["1:4", "2:4"], "compact_channels": False}
T = 3  # streamed vectors


def run(mask, cover, **fields):
    machine = load_machine("systolic_ws", {**ARRAY, **fields, "nm_cover": cover})
    layer = LayerTrace("hand", Gemm(T, *mask.shape), np.asarray(mask, dtype=bool))
    return simulate(Trace([layer]), machine, compare_dense=False).layers[0]


def counts(report, *names):
    return tuple(int(report.total.counts[Count[name]]) for name in names)


def columns(*keeps, k=8):
    """bool[k, len(keeps)]: column j has the first keeps[j] rows of every 4."""
    return np.arange(k)[:, None] % 4 < np.array(keeps)


def test_a_row_takes_as_many_columns_as_its_n():
    # k = 8 is one block of H = 2 rows x 4.  Outputs A B C D with N = 1, 1, 2, 4 stand in 4-wide folds as
    #   A B C C | D D D D       2 folds; by tile and by layer D makes all of them dense: ceil(8 / 2) = 4 folds.
    mask = columns(1, 1, 2, 4)
    found = {cover: run(mask, cover) for cover in ("row", "tile", "layer")}
    assert {cover: counts(report, "COMPUTE")[0] // T for cover, report in found.items()} == {
        "row": 2, "tile": 4, "layer": 4}
    assert [found[cover].executed_as for cover in ("row", "tile", "layer")] == ["n:4 per row", "dense", "dense"]
    # 2 + 2 + 4 + 8 slots; both folds stream all 8 inputs of a vector; A, B, C, D leave one result each.
    assert counts(found["row"], "ISSUED_MACS", "WEIGHT_SRAM_READS", "INPUT_SRAM_READS", "OUTPUT_SRAM_WRITES") == (
        16 * T, 16, 2 * 8 * T, 4 * T)


def test_columns_of_one_output_add_up_below_the_array():
    # N = 3 counts as 4: outputs A B C take 4 + 2 + 4 columns: A A A A | B B C C | C C.  C leaves a result in two folds.
    report = run(columns(3, 2, 4), "row")
    assert counts(report, "COMPUTE", "OUTPUT_SRAM_WRITES", "OUTPUT_SRAM_READS") == (3 * T, 4 * T, T)
    # 10 columns of 2 rows each, and the sums that move on to the right: 3 of A, 1 of B, 1 and 1 of C.
    assert counts(report, "PSUM_HOPS") == ((10 * 2 + 6) * T,)
    registers = run(columns(3, 2, 4), "row", activation_hop_registers=3, psum_hop_registers=2, output_register=1)
    assert counts(registers, "PSUM_HOPS") == ((10 * 2 * 2 + 6 * 3 + 4) * T,)
    assert registers.cycles - report.cycles == 3 * 2 + 2 + 1  # two more per hop, one per row, the register


def test_a_tile_runs_at_the_n_of_its_densest_column():
    # H = 8; blocks of k: rows 0-7 at N = 1 (1 fold), rows 8-15 at N = 2 in one column (2 folds), rows 16-19 dense:
    # h = 4, v(4) = 4 (2 folds).  The layer as a whole is dense: ceil(20 / 2) = 10 folds.
    mask = np.vstack([columns(1, 1, 1, 1), columns(1, 2, 1, 1), columns(4, 1, 1, 1, k=4)])
    tile, layer = run(mask, "tile"), run(mask, "layer")
    assert counts(tile, "COMPUTE") == ((1 + 2 + 2) * T,)
    assert counts(layer, "COMPUTE") == (10 * T,)
    assert tile.executed_as == "n:4 per tile"
    # Slots: 2, 4 and 4 rows of 4 columns.  Inputs: 8 by lanes of 4 in one fold; two slots of a group share its lanes,
    # so 4 in each of two folds; then 2 in each of two.
    assert counts(tile, "ISSUED_MACS", "INPUT_SRAM_READS") == ((2 + 4 + 4) * 4 * T, (8 + 8 + 4) * T)


def test_descriptors_and_indices_are_metadata():
    # One weight tile over a channel.  By row: 4 descriptors of 2 bits (N is 1, 2 or 4) and 2-bit indices of the
    # 2 + 2 + 4 slots with N < 4: 24 bits.  By tile (one column less): N = 2 for the block, 4 slots a column.
    channel = {"memory": "channel", "dram_burst_bytes": 1}
    row = run(columns(1, 1, 2, 4), "row", **channel)
    assert counts(row, "METADATA_SRAM_WRITE_BITS", "METADATA_SRAM_READ_BITS", "METADATA_BYTES",
                  "WEIGHT_DRAM_READ_BYTES", "WEIGHT_SRAM_WRITES") == (24, 24, 3, 16 + 3, 16)
    tile = run(columns(1, 1, 2), "tile", **channel)
    assert counts(tile, "METADATA_SRAM_WRITE_BITS", "WEIGHT_DRAM_READ_BYTES") == (2 + 12 * 2, 12 + 4)


@pytest.mark.parametrize("cover", ["tile", "row"])
@pytest.mark.parametrize("k", [12, 13])  # the last group of 13 rows has one, which is no sparsity
def test_where_nothing_gains_the_layer_runs_dense(k, cover):
    full = np.ones((k, 5), dtype=bool)
    report = run(full, cover, memory="channel")
    assert report.executed_as == "dense"
    assert counts(report, "METADATA_BYTES") == (0,)
    assert report.cycles == run(full, "layer", memory="channel").cycles


def test_finer_covers_take_no_more_folds_and_conforming_layers_no_fewer():
    rng = np.random.default_rng(3)
    fields = {"rows": 8, "cols": 8, "nm": ["1:4", "2:4", "4:4"]}
    for density in (0.05, 0.1, 0.2):
        mask = rng.random((64, 48)) < density * rng.random((64, 48)) * 2
        row, tile, layer = (counts(run(mask, cover, **fields), "COMPUTE")[0] for cover in ("row", "tile", "layer"))
        assert row <= tile <= layer
        assert row < layer
    for pattern in ("1:4", "2:4"):
        mask = project(rng.random((64, 48)), parse(pattern))
        assert len({run(mask, cover, **fields).cycles for cover in ("row", "tile", "layer")}) == 1


def test_a_weight_tile_is_as_large_as_its_mask_makes_it():
    # Rows at N = 1: 8 slots and 8 x (8 + 2) bits + 4 descriptors of 2 bits: 11 bytes; dense 32 bytes.
    mask = columns(1, 1, 1, 1)
    fields = {"memory": "channel", "dram_burst_bytes": 1, "weight_buffer_bytes": 11}
    assert run(mask, "row", **fields).executed_as == "n:4 per row"
    with pytest.raises(InputError, match="misses the buffers by 1 bytes"):
        run(mask, "row", **{**fields, "weight_buffer_bytes": 10})


@pytest.mark.parametrize(("fields", "said"), [
    ({"nm_cover": "rows"}, "did you mean|expected one of layer, tile, row"),
    ({"nm_cover": "row", "nm": []}, "needs nm patterns"),
    ({"nm_cover": "tile", "dataflow": "os"}, "dataflow ws"),
    ({"nm_cover": "row", "nm": ["1:2", "1:4"]}, "patterns of one m"),
])
def test_what_a_cover_needs(fields, said):
    with pytest.raises(InputError, match=said):
        load_machine("systolic_ws", {**ARRAY, **fields})


def test_the_preset_runs_unstructured_weights_faster_than_the_coarser_covers():
    mask = np.random.default_rng(0).random((512, 256)) < 0.05
    layer = LayerTrace("95 % unstructured", Gemm(256, 512, 256), mask)
    cycles = {cover: simulate(Trace([layer]), load_machine("vegeta", {"nm_cover": cover, "memory": "ideal"})).cycles
              for cover in ("row", "tile", "layer")}
    assert cycles["row"] < 0.6 * cycles["tile"] <= 0.6 * cycles["layer"]
    physical = systolic.physical_gemm(layer, load_machine("vegeta"))
    assert physical.cover is not None
    assert set(np.unique(physical.cover.keep)) <= {1, 2, 4}
