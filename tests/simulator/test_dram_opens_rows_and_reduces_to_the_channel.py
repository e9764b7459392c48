"""DRAM by hand: rows that are open, closed or in the way, refreshes, turnarounds; and the channel as its limit case."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from simulator import InputError, LayerTrace, Machine, Trace, dram, load_machine, simulate
from simulator.counts import Count
from simulator.hardware import Memory
from simulator.machines import MACHINES, model
from simulator.testing import channel_memories, layers_for, machines
from simulator.workload import Gemm

DRAM = [Count.DRAM_ROW_HITS, Count.DRAM_ROW_MISSES, Count.DRAM_ROW_CONFLICTS, Count.DRAM_REFRESHES]
NOTHING = ",".join(f"{name}=0" for name in (
    "tCL", "tCWL", "tRCD", "tRCDW", "tRP", "tRAS", "tRRD_S", "tRRD_L", "tFAW", "tCCD_S", "tCCD_L", "tRTP", "tWR",
    "tWTR_S", "tWTR_L", "tRTW", "tREFI", "tRFC"))
# One bank of four-byte bursts, two to a row, a burst in two clocks; the DRAM's clock is the array's.
SMALL = ("ddr4_2400,clock_mhz=1000,bank_groups=1,banks_per_group=1,rows=1024,row_bytes=8,burst_bytes=4,"
         f"{NOTHING},tBL=2")


def ends(transfers: list[tuple[int, int, int, bool]], numbers: str, **fields: object) -> tuple[list[int], list[int]]:
    """([end of each (ready, first burst, bursts, write)], [hits, misses, conflicts, refreshes])."""
    from simulator import dram_kernel as kernel

    memory = Memory(memory="dram", dram=f"{SMALL}{numbers}", **fields)  # type: ignore[arg-type]
    counts = np.zeros(len(Count), dtype=np.int64)
    parameters, state = dram.arguments(memory)
    out = [int(kernel.transfer(parameters, state, *transfer, counts)) for transfer in transfers]
    return out, counts[DRAM].tolist()


def test_the_first_burst_of_a_row_pays_the_activate_and_the_others_hit() -> None:
    # activate at 0, read at 5, data in [8, 10); the second burst's read two clocks later, data in [10, 12)
    assert ends([(0, 0, 2, False)], ",tRCD=5,tCL=3") == ([12], [1, 1, 0, 0])


def test_another_row_of_the_same_bank_is_precharged_first() -> None:
    # row 0: activate 0, reads 5 and 7; precharge at max(0 + tRAS, 7 + tRTP) = 9, activate 13, reads 18 and 20: end 22
    assert ends([(0, 0, 4, False)], ",tRCD=5,tRP=4,tRTP=2,tRAS=6") == ([22], [2, 1, 1, 0])
    assert ends([(0, 0, 4, False)], ",tRCD=5,tRP=4,tRTP=2,tRAS=30") == ([30 + 4 + 5 + 4], [2, 1, 1, 0])


def test_the_next_bank_is_opened_while_the_first_one_sends() -> None:
    # two banks: row 0 of bank 1 is activated at tRRD = 1, long before the bus is free: no gap, reads 5, 7, 9, 11
    banks = ",banks_per_group=2,tRCD=5,tRRD_S=1"
    assert ends([(0, 0, 4, False)], banks) == ([13], [2, 2, 0, 0])
    # a controller that looks at one request alone opens it when the request before has gone, at 7: reads 5, 7, 12, 14
    assert ends([(0, 0, 4, False)], banks, dram_window=1) == ([16], [2, 2, 0, 0])


def test_five_activates_wait_for_the_window_of_four() -> None:
    # a burst to a row; activates at 0, 1, 2, 3 and, with tFAW = 20, at 20
    device = ",banks_per_group=8,row_bytes=4,tRRD_S=1,tBL=1,tFAW=20"
    assert ends([(0, 0, 5, False)], device) == ([21], [0, 5, 0, 0])


def test_bank_groups_give_full_speed_when_bursts_alternate_between_them() -> None:
    device = ",bank_groups=2,row_bytes=32,tCCD_S=2,tCCD_L=3"
    assert ends([(0, 0, 8, False)], device)[0] == [16]
    assert ends([(0, 0, 8, False)], device, dram_address_mapping="row:bank:group:column:channel")[0] == [7 * 3 + 2]


def test_a_turn_of_the_bus_waits() -> None:
    # a write at 0, its data until 2, then tWTR = 6; the read at 8 ends at 10; back: tRTW = 5 from 8, ends at 15
    turns = [(0, 0, 1, True), (0, 0, 1, False), (0, 0, 1, True)]
    assert ends(turns, ",tWTR_S=6,tRTW=5")[0] == [2, 10, 15]


def test_a_refresh_closes_every_row_and_holds_up_what_comes() -> None:
    # due at 10: precharge 1 and refresh 6, until 17; the read at 12 waits, opens its row again
    assert ends([(0, 0, 1, False), (12, 0, 1, False)], ",tREFI=10,tRFC=6,tRP=1")[0] == [2, 19]
    # three intervals of idleness refresh three times and cost nothing
    assert ends([(0, 0, 1, False), (38, 0, 1, False)], ",tREFI=10,tRFC=6,tRP=1") == ([2, 40], [0, 2, 0, 3])


def test_two_clocks_meet_at_whole_edges() -> None:
    # 400 MHz beside 1 GHz: clock 1 is at 2.5 cycles. Ready at 1: starts at clock 1, two clocks of data: 7.5, seen at 8.
    assert ends([(1, 0, 1, False)], ",clock_mhz=400")[0] == [8]


def test_the_window_of_transfers_is_in_order() -> None:
    assert ends([(50, 0, 1, False), (0, 2, 1, False)], "")[0] == [52, 54]


@pytest.mark.parametrize("name", MACHINES)
def test_without_rows_and_refresh_dram_is_the_channel_exactly(name: str) -> None:
    """One bank, every timing but the burst's zero, one clock: every count of every machine is the simple channel's."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(layers_for(name), machines(name), channel_memories())
    def check(layer: LayerTrace, drawn: Machine, memory: Memory) -> None:
        if memory.dram_bytes_per_cycle == float("inf"):
            memory = dataclasses.replace(memory, dram_bytes_per_cycle=2.0)
        if getattr(drawn.array, "shared_dram", False):  # a part of it is a device with a slower clock: not one clock
            drawn = dataclasses.replace(drawn, array=dataclasses.replace(drawn.array, shared_dram=False))
        pace = Fraction(str(memory.dram_bytes_per_cycle))
        burst = pace.numerator * memory.dram_burst_bytes
        channel = dataclasses.replace(memory, dram_burst_bytes=burst)
        clocks = burst * pace.denominator // pace.numerator
        device = f"{SMALL},burst_bytes={burst},row_bytes={8 * burst},tBL={clocks}"
        limit = dataclasses.replace(channel, memory="dram", dram=device)
        assert limit.bandwidth() == channel.bandwidth()
        try:
            simple = model(name).run(layer, dataclasses.replace(drawn, memory=channel))
        except InputError:
            assume(False)
        rows = model(name).run(layer, dataclasses.replace(drawn, memory=limit), simple.tiling)
        without = rows.counts.copy()
        without[DRAM] = 0
        assert without.tolist() == simple.counts.tolist()

    check()


def test_a_report_says_what_the_rows_did_and_what_they_cost() -> None:
    trace = Trace([LayerTrace("gemm", Gemm(64, 256, 256))])
    machine = load_machine("systolic_ws", {"memory": "dram"})
    report = simulate(trace, machine)
    out = report.to_dict()["total"]
    bursts = out["dram_row_hits"] + out["dram_row_misses"] + out["dram_row_conflicts"]
    assert bursts * 64 == out["dram_read_bytes"] + out["dram_write_bytes"]
    energy = dram.load_device("ddr4_2400").energy_pj()
    activates = out["dram_row_misses"] + out["dram_row_conflicts"]
    assert report.total.energy_pj_by_component["dram_activate"] == pytest.approx(activates * energy["activate"])
    assert any("currents" in note for note in report.notes)
    # A device without currents keeps the table's price, in which activations are averaged in.
    other = simulate(trace, machine.replace(dram="lpddr4_3200")).total
    assert "dram_activate" not in other.energy_pj_by_component


def test_what_cannot_be_is_refused_with_its_field() -> None:
    for fields, words in (
        ({"dram": "ddr4"}, "did you mean"), ({"dram_window": 3}, "dram_window = 3; expected a power of two"),
        ({"dram_channels": 3}, "dram_channels = 3"), ({"dram_address_mapping": "row:bank"}, "expected the five"),
        ({"clock_hz": 1.0000001e9}, "fewer digits"),
    ):
        with pytest.raises(InputError, match=words):
            load_machine("systolic_ws", {"memory": "dram", **fields})
