"""The laws themselves: each sentence is said of a report that was bent to break it, and of no honest one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simulator import Gemm, LayerTrace, load_machine
from simulator.counts import Count
from simulator.engine import simulate_layer
from simulator.laws import _of_one_report, broken_laws
from simulator.report import LayerReport

# One bank, no latencies: bursts of 1 byte, one clock long and three apart, at the array's own clock.
NO_WAIT = ("tCCD_L", "tRP", "tRFC", "tREFI", "tCL", "tCWL", "tRCD", "tRCDW", "tRAS", "tRRD_S", "tRRD_L", "tFAW", "tRTP",
           "tWR", "tWTR_S", "tWTR_L", "tRTW")
SPACED = ("ddr4_2400,clock_mhz=1000,bank_groups=1,banks_per_group=1,rows=4,burst_bytes=1,row_bytes=1,tBL=1,tCCD_S=3,"
          + ",".join(f"{name}=0" for name in NO_WAIT))


def bent(report: LayerReport, **changes: int) -> LayerReport:
    """The report with some counts increased."""
    counts = report.total.counts.copy()
    for name, more in changes.items():
        counts[Count[name.upper()]] += more
    return dataclasses.replace(report, total=dataclasses.replace(report.total, counts=counts))


@pytest.mark.parametrize(("change", "sentence"), [
    ({"halo": -1}, "is negative"),
    ({"issued_macs": 1}, "issued + gated + skipped"),
    ({"dense_macs": 1, "issued_macs": 1}, "the operation has"),
    ({"useful_macs": 1000}, "exceed issued"),
    ({"input_dram_read_bytes": 10**6}, "bytes in"),
    ({"input_dram_read_bytes": -10}, "distinct words"),
    ({"weight_dram_read_bytes": -10}, "weights"),
    ({"output_dram_write_bytes": -10}, "outputs"),
    ({"cold_fill": -200}, "slots in"),
])
def test_a_bent_report_is_told(change: dict[str, int], sentence: str) -> None:
    machine = load_machine("systolic_ws", {"rows": 4, "cols": 4, "dram_burst_bytes": 1})
    report = simulate_layer(LayerTrace("small", Gemm(8, 4, 12)), machine)
    assert list(_of_one_report(report, machine)) == []
    assert any(sentence in broken for broken in _of_one_report(bent(report, **change), machine))


def test_the_last_burst_of_a_group_is_not_waited_for_longer_than_it_lasts() -> None:
    """Two groups of 7 bursts, columns in clocks 0, 3, ... 18, data over at 19: 38 cycles, where the pace says 42."""
    machine = load_machine("eie", {
        "pes": 1, "queue_depth": 1, "memory": "dram", "dram": SPACED, "dram_channels": 1, "dram_latency_cycles": 0,
        "input_buffer_bytes": 16, "weight_buffer_bytes": 16, "output_buffer_bytes": 16, "clock_hz": 1e9,
        "input_double_buffered": False, "weight_double_buffered": False, "output_double_buffered": False})
    layer = LayerTrace("drawn", Gemm(1, 1, 1, groups=2), weight_bits=4)
    report = simulate_layer(layer, machine)
    traffic = report.total.to_dict()["dram_read_bytes"] + report.total.to_dict()["dram_write_bytes"]
    assert report.cycles == 2 * (3 * (traffic // 2 - 1) + 1)
    assert broken_laws(layer, machine) == []
    more = bent(report, weight_dram_read_bytes=1)
    assert [broken for broken in _of_one_report(more, machine) if "bytes in" in broken]
    assert np.array_equal(report.total.counts, simulate_layer(layer, machine).total.counts)
