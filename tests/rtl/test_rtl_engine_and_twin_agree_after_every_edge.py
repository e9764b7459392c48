"""Three witnesses on the same tiles: our SystemVerilog under Verilator, the clocked twin and the fast engine.

Every column of every design is compared after every edge: whether it shows a result, and which.  At least 200 random
tiles per design and configuration, among them single vectors, ragged edges and 1 to 6 tiles back to back.
"""

import numpy as np
import pytest

from .cases import cases, modelled
from .machines import ARRAYS, Array, build, tiles_of, total, watch
from .verilated import need_verilator

TILES = 200


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_every_result_comes_after_the_same_edge_and_is_the_product(array):
    need_verilator()
    counts, lengths, ragged, executed_as = set(), set(), False, set()
    for number, (folds, case) in enumerate(cases(array, seed=1, least_tiles=TILES)):
        tiles = tiles_of(array, case.inputs, case.weights)
        rtl, model = watch(array, tiles), modelled(array, case)
        where = f"case {number}: {case.layer.operation}"
        executed_as.add(model.executed_as)
        np.testing.assert_array_equal(total(array, tiles, rtl), case.inputs @ case.weights, where)
        assert rtl.edges == model.engine_cycles == model.twin_cycles, where
        np.testing.assert_array_equal(rtl.valid, model.seen.valid, where)
        np.testing.assert_array_equal(rtl.result, model.seen.result, where)
        counts.add(folds)
        lengths.add(tiles.rows.shape[1])
        ragged |= any(place.stop % array.cols for _, place in tiles.places)
    compact = {f"n:{array.of} per tile", "dense"} if array.by_tile else {f"{array.keep}:{array.of}"}
    assert executed_as == (compact if array.of > 1 else {"dense"})
    assert counts == set(range(1, 7))
    assert {1, array.rows, max(1, array.rows - 1)} <= lengths
    assert ragged


@pytest.mark.parametrize("size", [2, 5, 8])
def test_the_rtl_takes_the_cycles_that_public_designs_were_measured_to_take(size):
    """One tile: 3S + M - 2 with one weight buffer; 2R + C + T - 2 with a serial drain; the double-buffered mesh."""
    need_verilator()
    rng = np.random.default_rng(size)

    def edges(array, m, k, n):
        return watch(array, tiles_of(array, rng.integers(-9, 9, (m, k)), rng.integers(-9, 9, (k, n)))).edges

    for streamed in (1, size, 3 * size):
        assert edges(Array("ws", size, size, weight_buffers=1), streamed, size, size) == 3 * size + streamed - 2
        serial = Array("os", size, size + 1, drain="serial")
        assert edges(serial, size, streamed, size + 1) == 2 * size + size + 1 + streamed - 2
    for tiles, streamed in [(1, 1), (3, size), (6, size)]:
        mesh = Array("ws", size, size, activation_hop=2, psum_hop=2, input_register=1)
        expected = size + size * (tiles - 1) + streamed + (2 * size - 1) * 2
        assert edges(mesh, streamed, size * tiles, size) == expected


def test_a_library_is_built_once(tmp_path, monkeypatch):
    need_verilator()
    array = ARRAYS[0]
    build(array.top, array.parameters)
    monkeypatch.setattr("subprocess.run", None)
    build(array.top, array.parameters)
