# ruff: noqa: E501  a mutation is one line
"""One-line mutations of the SystemVerilog: each must make the comparison with the clocked twin fail.

A comparison that no fault can fail proves nothing.  The text of a mutation must stand exactly once in its file, so that a
change of the RTL cannot empty the list unseen.
"""

from functools import lru_cache

import numpy as np
import pytest

from .cases import cases, modelled
from .machines import SLOW, Array, build, tiles_of, watch
from .verilated import need_verilator

TILES = 30
WS, WS_SLOW, WS_ONE, NM = Array("ws", 4, 3), Array("ws", 3, 5, **SLOW), Array("ws", 3, 4, weight_buffers=1), Array("ws", 4, 3, keep=2, of=4)
SERIAL, OVERLAPPED, OS_SLOW = Array("os", 4, 3, drain="serial"), Array("os", 3, 4), Array("os", 5, 2, **SLOW)

MUTATIONS = [
    # (what is wrong, array, file, the text, what it becomes)
    ("a tile does not wait for its last row of words", WS, "stationary_sequencer.sv", "load_tile > stream_tile ||", "load_tile >= stream_tile ||"),
    ("the shadow load waits for the end of the stream", WS, "stationary_sequencer.sv", "begun = stream_tile + 32'(stream)", "begun = stream_tile"),
    ("one weight buffer is loaded while the array works", WS_ONE, "stationary_sequencer.sv", ": completed_now >= load_tile", ": begun >= load_tile"),
    ("one weight buffer is loaded an edge late", WS_ONE, "stationary_sequencer.sv", ": completed_now >= load_tile", ": completed >= load_tile"),
    ("words of the other bank move down", WS, "stationary_pe.sv", "displaced = bank_in ?", "displaced = !bank_in ?"),
    ("the stream always meets the first bank", WS, "stationary_pe.sv", "held = tag_in[0] ?", "held = 1'b0 ?"),
    ("products lose their sign", WS, "stationary_pe.sv", "32'(ready)", "32'(unsigned'(ready))"),
    ("the index is ignored", NM, "stationary_pe.sv", "row_in[32'(index)*8+:8]", "row_in[7:0]"),
    ("rows of one group see different inputs", NM, "stationary_array.sv", "row_operand[r/N*M+i]", "row_operand[(r/N*M+i+r%N)%(ROWS/N*M)]"),
    ("one multiplier register too many", WS_SLOW, "stationary_pe.sv", ".DEPTH(MULTIPLIER_LATENCY)", ".DEPTH(MULTIPLIER_LATENCY + 1)"),
    ("rows are skewed by the wrong hop", WS_SLOW, "stationary_array.sv", "r * PSUM_HOP + INPUT_REGISTER", "r * ACTIVATION_HOP + INPUT_REGISTER"),
    ("the output register is forgotten", WS_SLOW, "stationary_array.sv", "MULTIPLIER_LATENCY + PSUM_HOP + OUTPUT_REGISTER", "MULTIPLIER_LATENCY + PSUM_HOP"),
    ("sums are never cleared", OVERLAPPED, "accumulating_pe.sv", "(first ? 32'sd0 : accumulator)", "accumulator"),
    ("the accumulator has a register too many", OS_SLOW, "accumulating_pe.sv", "ACCUMULATOR_LATENCY - 1", "ACCUMULATOR_LATENCY"),
    ("the drain register is free an edge early", OVERLAPPED, "accumulating_sequencer.sv", "idle + length >= ROWS", "idle + length >= ROWS - 1"),
    ("the serial drain costs an edge more", SERIAL, "accumulating_sequencer.sv", ": completed_now == stream_tile", ": completed == stream_tile"),
    ("the drain starts before the operand has left", OS_SLOW, "drain_column.sv", ".DEPTH(PSUM_HOP - 1)", ".DEPTH(0)"),
    ("a row drains twice", OVERLAPPED, "drain_column.sv", "$signed(position) < r", "$signed(position) <= r"),
    ("a finished total takes the wrong place", OS_SLOW, "overlapped_drain_cell.sv", "take && i == left", "take && i == used"),
    ("the serial drain does not shift", SERIAL, "serial_drain_cell.sv", "load ? total : above", "load ? total : head"),
]


@lru_cache
def expectations(array):
    """(tiles, what the twin shows) of some cases; the mutations of one array share them."""
    return [(tiles_of(array, case.inputs, case.weights), modelled(array, case).seen)
            for _, case in cases(array, seed=2, least_tiles=TILES)]


def differs(array, library):
    """Whether any of some tiles tells this RTL from the twin."""
    for tiles, expected in expectations(array):
        rtl = watch(array, tiles, library=library)
        if rtl.edges != expected.edges or not np.array_equal(rtl.valid, expected.valid):
            return True
        if not np.array_equal(rtl.result, expected.result):
            return True
    return False


@pytest.mark.parametrize(("what", "array", "file", "text", "becomes"), MUTATIONS, ids=[row[0] for row in MUTATIONS])
def test_a_wrong_line_is_noticed(what, array, file, text, becomes):
    need_verilator()
    assert differs(array, build(array.top, array.parameters, (file, text, becomes))), what


@pytest.mark.parametrize("array", [WS, WS_SLOW, WS_ONE, NM, SERIAL, OVERLAPPED, OS_SLOW], ids=str)
def test_the_right_lines_are_not(array):
    need_verilator()
    assert not differs(array, build(array.top, array.parameters))
