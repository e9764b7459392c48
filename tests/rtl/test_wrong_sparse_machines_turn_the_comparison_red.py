# ruff: noqa: E501  a mutation is one line
"""One-line mutations of the sparse SystemVerilog, of the twins and of the engines: each must turn the comparison red.

The three witnesses are compared as in test_sparse_rtl_engine_and_twin_agree_in_every_cycle.py, on fewer cases.  The text of
a mutation must stand exactly once in its file, so that a change cannot empty the list unseen.
"""

import types
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import simulator.machines
from simulator.machines import eyeriss_v2, scnn, scnn_kernel, sparten, sparten_kernel
from simulator.reference import eyeriss_v2 as eyeriss_v2_twin
from simulator.reference import scnn as scnn_twin
from simulator.reference import sparten as sparten_twin

from . import cartesian, inner_join, lanes
from .cartesian import Grid
from .inner_join import Cluster
from .lanes import Lanes
from .sparse import difference, modelled, record, sparse_library
from .verilated import need_verilator

CASES = 40
SIMD, ROWS = (lanes, Lanes(1, 1, 1, simd=3, psum_entries=7)), (lanes, Lanes(1, 1, 3, simd=1, psum_entries=3))
UNITS, PAIRS = (inner_join, Cluster(4, 8)), (inner_join, Cluster(3, 16, "gb_s"))
EIGHT, ALL_BANKS, TWO = (cartesian, Grid(1, 1, 2, 3, banks=8, entries=128)), (cartesian, Grid(1, 1, 2, 2, banks=32, entries=64)), (cartesian, Grid(2, 1, 2, 2, banks=8, entries=64))

RTL = [
    # (what is wrong, design and configuration, file, the text, what it becomes)
    ("an activation without weights takes a cycle", SIMD, "zero_skipping_lane.sv", "start[c+1] != start[c] ? live", "1'b1 ? live"),
    ("values are addressed by what is useful, not by what is stored", SIMD, "zero_skipping_lane.sv", "prefix (.mask(live)", "prefix (.mask(useful)"),
    ("a full last group of weights costs a cycle more", SIMD, "zero_skipping_lane.sv", "through + SIMD >= count", "through + SIMD > count"),
    ("a lane runs into the next column's weights", SIMD, "zero_skipping_lane.sv", "through + s < count", "through + s <= count"),
    ("weights lose their sign", SIMD, "zero_skipping_lane.sv", "32'($signed(entry[s][7:0]))", "32'(entry[s][7:0])"),
    ("pixels are added up", SIMD, "zero_skipping_lane.sv", "tile * PIXELS + position % PIXELS", "tile * PIXELS"),
    ("lanes do not wait for each other", ROWS, "zero_skipping_lanes.sv", "work[u] && tile[u] == current", "work[u]"),
    ("a wait is not shown", ROWS, "zero_skipping_lanes.sv", "run && !done && !busy[u]", "run && !done && !work[u]"),
    ("sums are overwritten", ROWS, "accumulators.sv", "(begun[place[p]] ? sum[place[p]] : 0) + value[p]", "value[p]"),
    ("sums begin with what was there", ROWS, "accumulators.sv", "begun[place[p]] ? sum[place[p]] : 0", "sum[place[p]]"),
    ("the highest bit comes first", UNITS, "first_set.sv", "!found && mask[i]", "mask[i]"),
    ("the bit itself counts as below", UNITS, "ones_below.sv", "if (i < index)", "if (i <= index)"),
    ("the broadcast mask is ignored", UNITS, "inner_join_unit.sv", "fresh ? mask & masks[f]", "fresh ? masks[f]"),
    ("the filter's mask is ignored", UNITS, "inner_join_unit.sv", "fresh ? mask & masks[f]", "fresh ? mask"),
    ("a unit is spent a cycle late", UNITS, "inner_join_unit.sv", "spent = rest == 0", "spent = left == 0"),
    ("sums are cleared all through the first chunk", PAIRS, "inner_join_unit.sv", "fresh && first_chunk ? 0", "first_chunk ? 0"),
    ("sums of the last item are kept", UNITS, "inner_join_unit.sv", "fresh && first_chunk ? 0", "1'b0 ? 0"),
    ("a unit without a filter shows a sum", UNITS, "inner_join_unit.sv", "work && leave && last_chunk && present[f]", "work && leave && last_chunk"),
    ("both filters of a unit use the first one's weights", PAIRS, "inner_join_unit.sv", "weight[index/CHUNK]", "weight[0]"),
    ("the broadcast goes on when the first unit is spent", UNITS, "inner_join_cluster.sv", "if (!spent[u]) leave = 0", "if (u == 0 && !spent[u]) leave = 0"),
    ("a unit without filters counts as waiting", UNITS, "inner_join_cluster.sv", "member[u] && any", "any"),
    ("packed activations are not read again", UNITS, "inner_join_cluster.sv", "base <= new_filters ? 0 : base + ones", "base <= base + ones"),
    ("the next filter's weights begin at the last one's", UNITS, "inner_join_filter.sv", "new_position && !new_filters ? filter_base", "new_position ? filter_base"),
    ("another position does not return to the filter's weights", UNITS, "inner_join_filter.sv", "new_position && !new_filters ? filter_base : base + ones", "base + ones"),
    ("chunks of masks overlap", PAIRS, "mask_memory.sv", "row * BYTES + b", "row + b"),
    ("a full block costs a cycle more", EIGHT, "cartesian_lists.sv", "weights_done + F >= weight_count", "weights_done + F > weight_count"),
    ("activations run fastest", EIGHT, "cartesian_lists.sv", "if (last_weights) activations_done", "activations_done"),
    ("a block takes activations of the next list", EIGHT, "cartesian_lists.sv", "activations_done + i < activation_count && ", ""),
    ("products outside the plane are kept", EIGHT, "cartesian_lists.sv", "x[P] < outputs_x && y[P]", "y[P]"),
    ("lists are not held", EIGHT, "cartesian_element.sv", ".accept(enable && !held)", ".accept(enable)"),
    ("a bank takes what is offered again", EIGHT, "cartesian_element.sv", "begun ? waiting[p] : offered[p]", "offered[p]"),
    ("a product goes to every bank", EIGHT, "cartesian_element.sv", "left[p] && bank[p] == b", "left[p]"),
    ("rows and columns of the sums are exchanged", EIGHT, "cartesian_element.sv", "* outputs_x + x[index]) * outputs_y", "* outputs_y + x[index]) * outputs_x"),
    ("the top bit of a bank forgets y", ALL_BANKS, "accumulator_bank_of.sv", "k[2] ^ x[1] ^ y[1]", "k[2] ^ x[1]"),
    ("x and y are exchanged in the bank", ALL_BANKS, "accumulator_bank_of.sv", "x[0], y[0], k[1:0]", "y[0], x[0], k[1:0]"),
    ("elements do not wait at the barrier", TWO, "cartesian_grid.sv", "work[u] && channel[u] == current", "work[u]"),
    ("elements wait after every phase", TWO, "cartesian_grid.sv", "job[u] / phases", "job[u]"),
]
TWINS = [
    # (what is wrong, design and configuration, module, the text, what it becomes)
    ("one weight a cycle", SIMD, eyeriss_v2_twin, "self.left[:simd], self.left[simd:]", "self.left[:1], self.left[1:]"),
    ("an activation without weights takes a cycle", SIMD, eyeriss_v2_twin, "if live[group][m, k] and kept[k]]", "if live[group][m, k]]"),
    ("zero activations are visited", ROWS, eyeriss_v2_twin, "if live[group][m, k] and kept[k]]", "if kept[k]]"),
    ("the last activation comes first", ROWS, eyeriss_v2_twin, "self.waiting.pop(0)", "self.waiting.pop()"),
    ("the last match comes first", UNITS, sparten_twin, "n, k = queue.pop(0)", "n, k = queue.pop()"),
    ("zero weights match", UNITS, sparten_twin, "for k in live if group.operands.weights[k, n] != 0]", "for k in live]"),
    ("the broadcast goes on when any unit is spent", UNITS, sparten_twin, "not any(self.queues) and", "not all(self.queues) and"),
    ("a chunk without a match counts as waiting", UNITS, sparten_twin, "self.matched = any(queues)", "self.matched = True"),
    ("chunks are one longer", PAIRS, sparten_twin, "(self.chunk + 1) * spec.chunk", "(self.chunk + 1) * spec.chunk + 1"),
    ("the top bit of a bank forgets y", ALL_BANKS, scnn_twin, " ^ (y >> 1 & 1)", ""),
    ("a bank takes its last product first", EIGHT, scnn_twin, "element.waiting[bank].pop(0)", "element.waiting[bank].pop()"),
    ("a product beyond the last row is kept", EIGHT, scnn_twin, "0 <= product[1] < self.shape.out_h", "0 <= product[1] <= self.shape.out_h"),
    ("a held list is not shown", EIGHT, scnn_twin, "held=bool(element.waiting)", "held=False"),
    ("a block holds one weight", EIGHT, scnn_twin, "range(0, len(theirs), spec.multipliers_f)", "range(0, len(theirs), 1)"),
]
ENGINES = [
    ("a last group of weights that is not full is free", SIMD, eyeriss_v2, "-(-work.kept // spec.simd)", "work.kept // spec.simd"),
    ("a pass takes its fastest lane", ROWS, eyeriss_v2, "times.max(axis=(1, 2))", "times.min(axis=(1, 2))"),
    ("a broadcast waits for the last unit, not the slowest", UNITS, sparten_kernel, "most = max(most, matches[u])", "most = matches[u]"),
    ("a chunk without a match is free", UNITS, sparten_kernel, "most = 1", "most = 0"),
    ("the middle filter is forgotten", PAIRS, sparten, "slots[: len(order) - half, 0] = order[: len(order) - half]", "slots[: half, 0] = order[: half]"),
    ("densest filters share a unit", PAIRS, sparten, "order[::-1][:half]", "order[len(order) - half :]"),
    ("the top bit of a bank forgets y", ALL_BANKS, scnn, "(k >> 2) ^ (x >> 1 & 1) ^ (y >> 1 & 1)", "(k >> 2) ^ (x >> 1 & 1)"),
    ("elements do not wait: their times add up", TWO, scnn_kernel, "channel] = busy[image].max()", "channel] = busy[image].sum()"),
    ("a block that is not full is free", EIGHT, scnn_kernel, "blocks = -(-here // per_block_f)", "blocks = here // per_block_f"),
]


@lru_cache
def expectations(pair):
    """(case, what the right RTL did) of some cases; the mutations of one configuration share them."""
    design, config = pair
    rng = np.random.default_rng(4)
    drawn = [design.draw(config, rng) for _ in range(CASES)]
    return [(case, watched(pair, case, None)) for case in drawn]


def watched(pair, case, mutation):
    """What the RTL, with one line changed, did with a case."""
    design, config = pair
    return record(sparse_library(config.top, config.parameters, mutation), config.slots, config.units,
                  design.memories(config, case), design.places(config))


def changed(module, text="", becomes=""):
    """A module of the simulator with one text replaced; kernels become plain Python, as they are without numba."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    if text:
        assert source.count(text) == 1, f"{module.__name__} holds {text!r} {source.count(text)} times: mend the list"
    source = source.replace(text, becomes) if text else source
    source = source.replace("from ..jit import kernel\n", "kernel = lambda function: function\n")
    made = types.ModuleType(module.__name__)
    made.__package__ = module.__package__
    exec(compile(source, "mutated", "exec"), made.__dict__)
    return made


def engine_differs(pair, engine):
    """Whether cycles, causes or products of any case tell this engine from the RTL."""
    design, config = pair
    for case, rtl in expectations(pair):
        with np.errstate(all="ignore"):
            cycles, counts = modelled(case.layer, config.machine, engine.run)
        if cycles != rtl.cycles or any(counts[item] != n for item, n in design.causes(config, rtl).items()):
            return True
    return False


def twin_differs(pair, twin):
    """Whether any case tells this twin from the RTL."""
    design, config = pair
    for case, rtl in expectations(pair):
        try:
            trace, output = design.twin_trace(config, case, twin.run)
        except (AssertionError, IndexError, ValueError):
            return True  # what it did has no place in the machine
        if difference(rtl, trace) is not None or not np.array_equal(output, case.product):
            return True
    return False


def put_in_place(module, text, becomes, monkeypatch):
    """The engine with the text changed, in the module itself or in its kernel."""
    mutated = changed(module, text, becomes)
    name = module.__name__.rpartition(".")[2]
    if not name.endswith("_kernel"):
        return mutated
    monkeypatch.setattr(simulator.machines, name, mutated)
    return {"scnn_kernel": scnn, "sparten_kernel": sparten}[name]


@pytest.mark.parametrize(("what", "pair", "file", "text", "becomes"), RTL, ids=[f"{row[2]}: {row[0]}" for row in RTL])
def test_a_wrong_line_of_rtl_is_noticed(what, pair, file, text, becomes):
    need_verilator()
    assert any(difference(watched(pair, case, (file, text, becomes)), rtl) for case, rtl in expectations(pair)), what


@pytest.mark.parametrize(("what", "pair", "module", "text", "becomes"), TWINS, ids=[row[0] for row in TWINS])
def test_a_wrong_line_of_a_twin_is_noticed(what, pair, module, text, becomes):
    need_verilator()
    assert twin_differs(pair, changed(module, text, becomes)), what


@pytest.mark.parametrize(("what", "pair", "module", "text", "becomes"), ENGINES, ids=[row[0] for row in ENGINES])
def test_a_wrong_line_of_an_engine_is_noticed(what, pair, module, text, becomes, monkeypatch):
    need_verilator()
    assert engine_differs(pair, put_in_place(module, text, becomes, monkeypatch)), what


@pytest.mark.parametrize("pair", [SIMD, ROWS, UNITS, PAIRS, EIGHT, ALL_BANKS, TWO], ids=lambda pair: str(pair[1]))
def test_the_right_lines_are_not(pair, monkeypatch):
    need_verilator()
    twin, engine, kernel = {lanes: (eyeriss_v2_twin, eyeriss_v2, None), inner_join: (sparten_twin, sparten, sparten_kernel),
                            cartesian: (scnn_twin, scnn, scnn_kernel)}[pair[0]]
    assert not twin_differs(pair, changed(twin))
    assert not engine_differs(pair, changed(engine))
    if kernel is not None:
        assert not engine_differs(pair, put_in_place(kernel, "", "", monkeypatch))
