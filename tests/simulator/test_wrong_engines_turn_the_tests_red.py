# ruff: noqa: E501  a mutation is one line
"""One-line mutations of the engine: each must make it differ from the twin on some drawn layer.

The equality and law tests are only as good as the layers they draw; this test shows that those layers see every line
of the time line.  A mutated kernel is loaded as plain Python (same source, numba left out) and put in the engine's
place; a mutation whose text is no longer in the source is an error, not a pass.
"""

import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simulator.machines
from simulator import Conv2d, Gemm, LayerTrace, load_machine
from simulator.counts import Count
from simulator.machines import cover_kernel, reference, storage_kernel, systolic, systolic_kernel, tiling_search
from simulator.mapping import Tiling
from simulator.structure import cover, parse, project
from simulator.testing import layers, machines, operands, tilings

MUTATIONS = [
    # (what is wrong, the line's text, what it becomes)
    ("no fill", "unstalled = p[BIAS] + (0 if flow == OS else rows)", "unstalled = p[BIAS]"),
    ("one vector too many per fold", "stream_end = start + streamed", "stream_end = start + streamed + 1"),
    ("a gap too few between folds", "counts[SHIFT] += (count - 1) * shift", "counts[SHIFT] += count * shift"),
    ("short streams need no weight shift", "return max(p[ROWS] - streamed, 0), 0", "return 0, 0"),
    ("one weight buffer overlaps the drain", "return p[ROWS], p[TAIL]", "return p[ROWS], 0"),
    ("the drain register is free at once", "return 0, max(p[ROWS] - following, 0) if", "return 0, 0 if"),
    ("the drain waits for the wrong fold", "max(p[ROWS] - following, 0)", "max(p[ROWS] - streamed, 0)"),
    ("bursts round down", "return (size + burst - 1) // burst * burst", "return size // burst * burst"),
    ("the channel rounds down", "p[BW_CYCLES] + p[BW_BYTES] - 1) // p[BW_BYTES]", "p[BW_CYCLES]) // p[BW_BYTES]"),
    ("latency of weights is free", "                            w += p[LATENCY]", "                            w += 0"),
    ("latency of inputs is free", "                            i += p[LATENCY]", "                            i += 0"),
    ("latency of partial sums is free", "ps += p[LATENCY]", "ps += 0"),
    ("double buffers everywhere (weights)", "used_w if p[HALVES_W] == 1 else used_w_before", "used_w_before"),
    ("double buffers everywhere (inputs)", "used_i if p[HALVES_I] == 1 else used_i_before", "used_i_before"),
    ("the free half of the outputs is forgotten", "free = stored if p[HALVES_O] == 1 else stored_before", "free = 0"),
    ("partial sums are not read back from DRAM", "counts[D_PSUM] += size", "counts[D_PSUM] += 0"),
    ("partial sums leave at output width", "(p[OUTPUT_BITS] if complete else p[PSUM_BITS])", "p[OUTPUT_BITS]"),
    ("partial sums are not accumulated on chip", "counts[O_READ] += writes", "counts[O_READ] += 0"),
    ("the first write reads too", "counts[O_READ] -= first_writes[0]", "counts[O_READ] -= 0"),
    ("the last store is free", "counts[STALL_O] += max(0, channel - end)", "counts[STALL_O] += 0"),
    ("a store does not wait for its results", "return moved(d, state, channel, ready,", "return moved(d, state, channel, 0,"),
    ("metadata is free", "meta = weights * p[META_BITS]", "meta = 0"),
    ("compressed weights move dense", "values, meta = folds[gf, ki, ni, 6], folds[gf, ki, ni, 7]", "meta = folds[gf, ki, ni, 7]"),
    ("a decoder ahead of the buffer fills it with what DRAM holds", "values, meta = weights, 0", "pass"),
    ("a decoder behind the buffer reads a tile once a step", "times = 1 if p[FLOW] == WS else weight_reads // (k_t * n_t)", "times = 1"),
    ("compressed inputs move dense", "if len(spans) == 0:", "if True:"),
    ("shares of inputs round down", "(elements * (bits % words) + words - 1) // words", "elements * (bits % words) // words"),
    ("a tile of no bytes takes the latency", "                            if size > 0:\n", "                            if True:\n"),
    ("metadata of covers is free", "meta = folds[gf, ki, ni, 4]", "meta = 0"),
    ("metadata of covers is not read", "counts[M_READ] += folds[4]", "counts[M_READ] += 0"),
    ("columns of one output add up without registers", "(wide - results) * p[ACT_HOP]", "0"),
    ("the block bitmap is free", "meta = ((k_t + rows - 1) // rows) * ((n_t + cols - 1) // cols)", "meta = 0"),
    ("zero blocks are executed", "if occupied_blocks[g, a // rows, c // cols]:", "if True:"),
    ("edge folds hold a full width", "width = min(n1, c + cols) - c", "width = cols"),
    ("inputs are reloaded at every step", "+ ki != held_i", "+ ki != -5"),
    ("weights are never reloaded", "+ ni != held_w\n", "+ ni != held_w and held_w < 0\n"),
    ("n:m reads only the kept activations", "min(p[K_ROWS], (last + p[KEPT] - 1) // p[KEPT] * p[OF]) - first // p[KEPT] * p[OF]", "last - first"),
    ("a channel that a tile touches is forgotten", "return a // p[WINDOW], (b - 1) // p[WINDOW] + 1", "return a // p[WINDOW], (b - 1) // p[WINDOW]"),
    ("the queue holds one request more", "period = p[IN_FLIGHT] - 1", "period = p[IN_FLIGHT]"),
    ("a request may fire in the cycle of the result", "done[request % period] + 1)", "done[request % period])"),
    ("the preload is not in the queue", "request = 1  #", "request = 0  #"),
    ("is: stalls of weights and inputs are exchanged", "stationary, other = (i, w) if flow == IS else (w, i)", "stationary, other = w, i"),
    ("causes are exchanged", "cause = STALL_P if ps == first else STALL_O", "cause = STALL_O"),
    ("activation hops ignore the edge register", "across, triangle = p[COLS] * p[ACT_HOP] + p[IN_REG]", "across, triangle = p[COLS] * p[ACT_HOP]"),
    ("all results of a fold leave from the top row", "- rest * (rest - 1) // 2", "- 0"),
    ("weights are read once per row of folds in os", "k_t * n_t * folds_m, m_t * n_t\n", "k_t * n_t, m_t * n_t\n"),
]
COVER_MUTATIONS = [
    # of cover_kernel.py: n:m by tile and by row
    ("a block is judged by its last group", "max(most[g, first // block, column], seen[column])", "seen[column]"),
    ("groups straddle blocks", "for first in range(0, k, of):", "for first in range(0, k, of + 1):"),
    ("a ragged group has all its slots", "+ min(height % of, keep)", "+ (keep if height % of else 0)"),
    ("the descriptors of tiles are free", "                        tile[4] += descriptor_bits\n", "                        pass\n"),
    ("the descriptors of rows are free", "tile[4] += (n1 - n0) * descriptor_bits", "pass"),
    ("dense tiles carry indices", "if group > 1:", "if True:"),
    ("dense rows carry indices", "if kept < of:", "if True:"),
    ("a dense tile streams whole groups", "group = 1 if kept == of else of", "group = of"),
    ("a tile's fold fetches what it keeps", "min(height, (b + kept - 1) // kept * group) - a // kept * group", "b - a"),
    ("edge tiles hold a full width", "min(n1, c + p[COLS]) - c,", "p[COLS],"),
    ("an output in two folds leaves one result", "tile[5] += (at + kept - 1) // p[COLS] - at // p[COLS] + 1", "tile[5] += 1"),
    ("rows are not packed", "at += kept\n", "at += of\n"),
    ("folds of rows round down", "count = (at + p[COLS] - 1) // p[COLS]", "count = max(1, at // p[COLS])"),
    ("a fold of rows fetches its block once", "tile[3] += count * height", "tile[3] += height"),
]
STORAGE_MUTATIONS = [
    # of storage_kernel.py: compressed weights
    ("long runs are not cut", "entries += 1 + (run >> run_bits)", "entries += 1"),
    ("the longest run is one shorter", "(run >> run_bits)", "(run // ((1 << run_bits) - 1))"),
    ("runs do not begin anew", "                run = 0\n", "                pass\n"),
    ("the last offset is missing", "return (rows + 1) * index_bits(rows * cols + 1)", "return rows * index_bits(rows * cols + 1)"),
    ("offsets reach no further than an index", "(rows + 1) * index_bits(rows * cols + 1)", "(rows + 1) * index_bits(rows * cols)"),
    ("rows and columns are exchanged", "stored * index_bits(cols)\n", "stored * index_bits(rows)\n"),
    ("the bitmask is free", "return rows * cols\n", "return 0\n"),
    ("coordinates have one index", "stored * (index_bits(rows) + index_bits(cols))", "stored * index_bits(rows)"),
    ("zeros are stored", "if kind != 0 and len(mask):", "if False:"),
    ("edge tiles are whole", "n0, n1 = ni * n_size, min(n, (ni + 1) * n_size)", "n0, n1 = max(0, min(n, (ni + 1) * n_size) - n_size), min(n, (ni + 1) * n_size)"),
]
EXAMPLES = 250
# Corners that draws may miss: a reduction cut raggedly, spilled partial sums, a short queue, half-empty blocks.
CORNERS = [
    (Gemm(8, 9, 4), None, Tiling(8, 8, 4), {"dataflow": "os", "rows": 4, "cols": 2}),
    (Gemm(6, 9, 8), None, Tiling(3, 4, 4, "knm"), {"dataflow": "ws", "rows": 2, "cols": 2, "weight_double_buffered": False}),
    (Gemm(6, 9, 8), None, Tiling(3, 4, 4, "kmn"), {"dataflow": "is", "rows": 2, "cols": 2, "input_double_buffered": False}),
    (Gemm(6, 9, 8), None, Tiling(2, 9, 2, "mnk"), {"dataflow": "os", "rows": 2, "cols": 2, "output_double_buffered": False}),
    (Gemm(40, 3, 3), None, Tiling(40, 3, 3), {"dataflow": "ws", "rows": 3, "cols": 3, "max_in_flight": 2, "rows_per_request": 1}),
    (Gemm(7, 9, 7), "blocks", Tiling(7, 4, 4, "kmn"), {"dataflow": "ws", "rows": 2, "cols": 2, "skip_zero_blocks": True}),
    (Gemm(7, 11, 6), "2:4", Tiling(7, 4, 4), {"dataflow": "ws", "rows": 4, "cols": 2, "nm": ["2:4"], "activation_hop_registers": 2}),
    (Conv2d(3, 5, 5, 5, 3, 3, padding_h=1, padding_w=1), None, Tiling(10, 8, 4), {"dataflow": "ws", "rows": 4, "cols": 2}),
]
# Tiles and rows of one array whose weights need 1, 2, 3 and 4 of 4, with ragged blocks and outputs across folds.
CORNERS += [(Gemm(5, 19, 9), "mixed", Tiling(5, 19, 9), {"dataflow": "ws", "rows": 2, "cols": 4, "nm": ["1:4", "2:4"], **cover})
            for cover in ({"nm_cover": "tile"}, {"nm_cover": "row"}, {"nm_cover": "row", "weight_double_buffered": False})]
CORNERS += [(Gemm(5, 12, 9), "stored", Tiling(5, 8, 8, "nkm"), {"dataflow": flow, "rows": 4, "cols": 4, "input_format": inputs,
                                                                "weight_format": weights, "weight_decoder": decoder})
            for flow, weights, inputs, decoder in (("ws", "csr", "bitmask", "read"), ("os", "csc", "coordinate", "read"),
                                                   ("is", "rle 2", "rle 2", "load"), ("ws", "rle 1", "csr", "load"),
                                                   ("os", "bitmask", "auto", "load"), ("is", "coordinate", "native", "read"))]
SMALL = {"dram_bytes_per_cycle": 1.5, "dram_latency_cycles": 9, "dram_burst_bytes": 4, "compact_channels": False}


def corner(operation, kind, tiling, fields):
    mask = inputs = None
    if kind == "stored":
        mask, inputs = (np.random.default_rng(1).random(shape) < 0.2 for shape in (operation.weight_shape, operation.input_shape))
        inputs[:, :8] = False
    elif kind == "blocks":
        mask = cover(np.random.default_rng(1).random(operation.weight_shape) < 0.12, parse("block 2x2"))
    elif kind == "mixed":
        mask = np.random.default_rng(1).random(operation.weight_shape) < np.linspace(0.05, 0.95, operation.n)
        mask[-3:, -1] = True
    elif kind:
        mask = project(np.random.default_rng(1).random(operation.weight_shape), parse(kind))
    return LayerTrace("corner", operation, mask, inputs), load_machine("systolic_ws", {**SMALL, **fields}), tiling


@pytest.fixture(scope="module")
def drawn():
    """(layer, machine, tiling, the twin's counts) of many drawn layers, the same at every run."""
    cases = []

    def keep(layer, machine, tiling):
        inputs, weights = operands(layer, np.random.default_rng(0))
        twin, _ = reference("systolic").run(layer, machine, tiling, inputs, weights)
        cases.append((layer, machine, tiling, twin.counts))

    for row in CORNERS:
        keep(*corner(*row))

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def draw(data):
        layer, machine = data.draw(layers()), data.draw(machines("systolic"))
        keep(layer, machine, data.draw(tilings(layer, machine)))

    draw()
    return cases


def plain_kernel(*change: str, kernel: types.ModuleType = systolic_kernel) -> types.ModuleType:
    """A kernel file as plain Python, with one text replaced."""
    source = Path(kernel.__file__).read_text(encoding="utf-8")
    if change:
        assert source.count(change[0]) >= 1, f"the source no longer holds {change[0]!r}: mend the list of mutations"
        source = source.replace(change[0], change[1])
    source = source.replace("from ..jit import kernel\n", "kernel = lambda function: function\n")
    module = types.ModuleType(kernel.__name__)
    module.__package__ = "simulator.machines"
    exec(compile(source, "mutated", "exec"), module.__dict__)
    return module


def first_difference(module, cases, monkeypatch):
    """Index of the first case on which an engine with this kernel differs from the twin, or None."""
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(simulator.machines, name, module)
    monkeypatch.setattr(tiling_search, "kernel" if name == "systolic_kernel" else name, module, raising=False)
    for index, (layer, machine, tiling, expected) in enumerate(cases):
        with np.errstate(all="ignore"):
            if not np.array_equal(systolic.run(layer, machine, tiling).counts, expected):
                return index
    return None


def test_the_unchanged_kernel_agrees_everywhere(drawn, monkeypatch):
    assert len(drawn) >= EXAMPLES // 2
    assert first_difference(plain_kernel(), drawn, monkeypatch) is None


@pytest.mark.parametrize(("what", "text", "becomes"), MUTATIONS, ids=[row[0] for row in MUTATIONS])
def test_a_wrong_line_is_noticed(what, text, becomes, drawn, monkeypatch):
    assert first_difference(plain_kernel(text, becomes), drawn, monkeypatch) is not None, what


@pytest.mark.parametrize(("what", "text", "becomes"), COVER_MUTATIONS, ids=[row[0] for row in COVER_MUTATIONS])
def test_a_wrong_line_of_the_covers_is_noticed(what, text, becomes, drawn, monkeypatch):
    module = plain_kernel(text, becomes, kernel=cover_kernel)
    covered = [case for case in drawn if case[1].array.nm_cover != "layer"]
    assert first_difference(module, covered, monkeypatch) is not None, what


@pytest.mark.parametrize(("what", "text", "becomes"), STORAGE_MUTATIONS, ids=[row[0] for row in STORAGE_MUTATIONS])
def test_a_wrong_line_of_the_storage_is_noticed(what, text, becomes, drawn, monkeypatch):
    module = plain_kernel(text, becomes, kernel=storage_kernel)
    compressed = [case for case in drawn if case[1].memory.weight_format != "native"]
    assert first_difference(module, compressed, monkeypatch) is not None, what


def test_the_counts_see_all_causes(drawn):
    """Every count occurs in the drawn layers; one that never did could not be checked."""
    seen = np.max([case[3] for case in drawn], axis=0)
    elsewhere = ("VECTOR", "DRAM_", "LINK_")  # counts of the vector unit, of DRAM devices, of several arrays
    assert [item.name for item in Count
            if item <= Count.STALL_OUTPUT and not seen[item] and not item.name.startswith(elsewhere)] == []
