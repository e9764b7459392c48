"""The accesses of a layer, cycle by cycle, sum to what the engine counts, and a window is a part of the whole."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, InputError, LayerTrace, Machine, load_machine
from simulator.access_trace import COLUMNS, access_trace
from simulator.counts import FIRST_CAUSE, Count
from simulator.machines import model
from simulator.testing import banked_systolic, layers, memories, systolic_specs

KINDS = {
    ("sram", "input", False): [Count.INPUT_SRAM_READS], ("sram", "input", True): [Count.INPUT_SRAM_WRITES],
    ("sram", "weight", False): [Count.WEIGHT_SRAM_READS], ("sram", "weight", True): [Count.WEIGHT_SRAM_WRITES],
    ("sram", "output", False): [Count.OUTPUT_SRAM_READS], ("sram", "output", True): [Count.OUTPUT_SRAM_WRITES],
    ("dram", "input", False): [Count.INPUT_DRAM_READ_BYTES], ("dram", "weight", False): [Count.WEIGHT_DRAM_READ_BYTES],
    ("dram", "psum", False): [Count.PSUM_DRAM_READ_BYTES], ("dram", "psum", True): [Count.PSUM_DRAM_WRITE_BYTES],
    ("dram", "output", True): [Count.OUTPUT_DRAM_WRITE_BYTES],
}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers(), st.one_of(banked_systolic(), st.builds(
    lambda array, memory: Machine("drawn", "systolic", array, memory), systolic_specs(), memories())))
def test_sums_over_a_layer_are_the_engines_counts(layer: LayerTrace, machine: Machine) -> None:
    try:
        counts = model("systolic").run(layer, machine).counts
    except InputError:
        reject()
    trace = access_trace(layer, machine)
    assert {kind: trace.total(*kind) for kind in KINDS} == {kind: int(counts[items].sum())
                                                            for kind, items in KINDS.items()}
    assert trace.cycles == counts[FIRST_CAUSE:].sum()
    assert (np.diff(trace.table[:, 0]) >= 0).all()


def test_the_first_cycles_of_a_gemm_by_hand() -> None:
    # 2x2 array, one tile, no memory: weights of k = 1 then k = 0 (they shift down), then inputs row by row.
    machine = load_machine("systolic_ws", {"rows": 2, "cols": 2, "memory": "ideal"})
    trace = access_trace(LayerTrace("gemm", Gemm(3, 2, 2)), machine, first=0, stop=4)
    seen = [tuple(row) for row in trace.table[:, :4].tolist()]
    rows_of_k = {cycle: sorted(at for c, _, operand, at in seen if c == cycle and operand == 0) for cycle in (0, 1)}
    assert rows_of_k == {0: [1, 3], 1: [0, 2]}
    assert [at for cycle, _, operand, at in seen if operand == 1] == [0, 1, 2, 3]
    assert trace.cycles == 4


def test_a_window_is_the_same_part_of_the_whole_and_padding_has_no_address() -> None:
    machine = load_machine("systolic_ws", {"rows": 4, "cols": 4})
    layer = LayerTrace("conv", Conv2d(2, 4, 5, 5, 3, 3, padding_h=1, padding_w=1))
    whole = access_trace(layer, machine).table
    part = access_trace(layer, machine, first=120, stop=160).table
    inside = (whole[:, 0] >= 120) & (whole[:, 0] < 160)
    assert inside.sum() > 100 and np.array_equal(part, whole[inside])
    reads = whole[(whole[:, 2] == 1) & (whole[:, 1] == 0) & (whole[:, 4] == 0)]
    assert reads[:, 3].min() == -1 and reads[:, 3].max() == 2 * 5 * 5 - 1


def test_the_files_hold_the_table(tmp_path: Path) -> None:
    trace = access_trace(LayerTrace("gemm", Gemm(3, 2, 2)), load_machine("systolic_os", {"memory": "dram"}))
    trace.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as stored:
        assert np.array_equal(np.stack([stored[name] for name in COLUMNS], axis=1), trace.table)
    trace.save(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(COLUMNS) and len(rows) == len(trace.table) + 1
    assert [int(row[0]) for row in rows[1:]] == trace.table[:, 0].tolist()
    assert {row[4] for row in rows[1:]} == {"R", "W"} and {row[1] for row in rows[1:]} == {"sram", "dram"}
    with pytest.raises(InputError, match=r"named \.csv or \.npz"):
        trace.save(tmp_path / "a.txt")


def test_what_cannot_be_traced_is_refused() -> None:
    machine = load_machine("systolic_ws")
    with pytest.raises(InputError, match="expected 0 <= first < stop"):
        access_trace(LayerTrace("gemm", Gemm(3, 2, 2)), machine, first=5, stop=5)
    with pytest.raises(InputError, match="expected model systolic"):
        access_trace(LayerTrace("gemm", Gemm(3, 2, 2)), load_machine("sigma"))
    with pytest.raises(InputError, match="a tensor of"):
        access_trace(LayerTrace("gemm", Gemm(2**13, 2**13, 1)), machine)
