"""Energy is the table's price of every event, worked out by hand here; what the table lacks is an error or is said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from simulator import InputError, Machine, energy
from simulator.counts import Count
from simulator.hardware import Memory
from simulator.tables import table_names

BITS = (8, 8, 8, 32)


def machine(table: str = "cacti_45nm", **memory: object) -> Machine:
    array = SimpleNamespace(peak_macs_per_cycle=256, cycle_offset=0)
    return Machine("test", "systolic", array, Memory(**memory), energy_table=table)  # type: ignore[arg-type]


def counts(**events: int) -> np.ndarray:
    vector = np.zeros(len(Count), dtype=np.int64)
    for name, number in events.items():
        vector[Count[name]] = number
    return vector


def price(table: str, bits: tuple[int, int, int, int] = BITS, **events: int) -> dict[str, float]:
    return energy.energy_pj(counts(**events), machine(table), bits)


def test_no_events_cost_nothing_and_have_no_component() -> None:
    assert price("cacti_45nm", USEFUL_MACS=5, DENSE_MACS=9, SKIPPED_MACS=4, COMPUTE=100) == {}


def test_each_event_is_priced_by_its_own_entry() -> None:
    assert price("cacti_45nm", ISSUED_MACS=1000) == {"mac": pytest.approx(1150)}
    assert price("cacti_45nm", GATED_MACS=1000) == {"mac_gated": pytest.approx(18)}
    # a hop of an 8-bit operand is one 8-bit latch, of a 32-bit partial sum four
    assert price("cacti_45nm", INPUT_HOPS=10, WEIGHT_HOPS=10, PSUM_HOPS=5) == {"registers": pytest.approx(40 * 0.072)}
    # 64 KB: 25.87 pJ per 64-bit read, 19.65 per write; elements of 8 bits, partial sums of 32
    assert price("cacti_45nm", INPUT_SRAM_READS=80, INPUT_SRAM_WRITES=8) == {
        "input_sram": pytest.approx(10 * 25.87 + 19.65)}
    assert price("cacti_45nm", WEIGHT_SRAM_READS=8) == {"weight_sram": pytest.approx(25.87)}
    assert price("cacti_45nm", OUTPUT_SRAM_READS=2, OUTPUT_SRAM_WRITES=4) == {
        "output_sram": pytest.approx(25.87 + 2 * 19.65)}
    assert price("cacti_45nm", METADATA_SRAM_READ_BITS=64, METADATA_SRAM_WRITE_BITS=32) == {
        "metadata": pytest.approx(25.87 + 19.65 / 2)}
    assert price("cacti_45nm", INPUT_DRAM_READ_BYTES=1, WEIGHT_DRAM_READ_BYTES=2, PSUM_DRAM_READ_BYTES=3,
                 OUTPUT_DRAM_WRITE_BYTES=4, PSUM_DRAM_WRITE_BYTES=5, METADATA_BYTES=1) == {
                     "dram": pytest.approx(15 * 64)}


def test_components_keep_one_order() -> None:
    everything = energy.energy_pj(np.full(len(Count), 7, dtype=np.int64), machine(), BITS)
    assert tuple(everything) == energy.COMPONENTS


def test_energy_is_additive_over_layers() -> None:
    a, b = counts(ISSUED_MACS=3, PSUM_HOPS=7), counts(ISSUED_MACS=5, INPUT_SRAM_READS=11)
    apart = [sum(energy.energy_pj(one, machine(), BITS).values()) for one in (a, b)]
    assert sum(energy.energy_pj(a + b, machine(), BITS).values()) == pytest.approx(sum(apart))


def test_a_horowitz_mac_is_a_multiply_and_an_add_at_the_partial_sums_width() -> None:
    assert price("horowitz_45nm", ISSUED_MACS=10) == {"mac": pytest.approx(10 * (0.2 + 0.1))}
    assert price("horowitz_45nm", (8, 8, 8, 16), ISSUED_MACS=10) == {"mac": pytest.approx(10 * (0.2 + 0.05))}
    # no 16-bit multiply: log-log between 8 and 32 bits gives the geometric mean
    assert price("horowitz_45nm", (16, 16, 16, 32), ISSUED_MACS=1) == {"mac": pytest.approx((0.2 * 3.1) ** 0.5 + 0.1)}
    # outside the table in proportion to the product of the widths
    assert price("horowitz_45nm", (4, 8, 8, 32), ISSUED_MACS=1) == {"mac": pytest.approx(0.1 + 0.1)}
    assert any("others are derived" in note for note in energy.notes(machine("horowitz_45nm")))


def test_dram_is_the_middle_of_horowitzs_range_and_it_says_so() -> None:
    assert price("horowitz_45nm", INPUT_DRAM_READ_BYTES=8) == {"dram": pytest.approx((1300 + 2600) / 2)}
    assert any("1300 to 2600" in note and "1950" in note for note in energy.notes(machine("horowitz_45nm")))


def test_accelergys_scratchpads_are_priced_by_their_own_word() -> None:
    pads = {"input_buffer_bytes": 192, "weight_buffer_bytes": 448, "output_buffer_bytes": 102400}
    priced = energy.energy_pj(counts(INPUT_SRAM_READS=1, WEIGHT_SRAM_WRITES=2, OUTPUT_SRAM_READS=2),
                              machine("accelergy_45nm", **pads), BITS)
    assert priced == {"input_sram": pytest.approx(0.47678), "weight_sram": pytest.approx(1.13063),
                      "output_sram": pytest.approx(49.1739)}
    assert price("accelergy_45nm", (16, 16, 16, 32), ISSUED_MACS=1, GATED_MACS=1) == {
        "mac": pytest.approx(2.20035), "mac_gated": pytest.approx(0.06595)}


def test_capacities_between_entries_lie_on_the_log_log_line() -> None:
    # half way, in log, from 64 KB (25.87 pJ) to 128 KB (32.29 pJ)
    between = energy.energy_pj(counts(INPUT_SRAM_READS=8), machine(input_buffer_bytes=int(65536 * 2**0.5)), BITS)
    assert between["input_sram"] == pytest.approx((25.87 * 32.29) ** 0.5, rel=1e-5)


def test_a_small_buffer_is_extrapolated_downwards_and_said() -> None:
    small = machine(input_buffer_bytes=1024)
    cost = energy.energy_pj(counts(INPUT_SRAM_READS=8), small, BITS)["input_sram"]
    assert 0.5 < cost < 6.14  # below the smallest entry, 8 KB; least-squares slope of the table is about 0.53
    assert cost == pytest.approx(6.14 / 8**0.53, rel=0.05)
    said = [note for note in energy.notes(small) if "extrapolated" in note]
    assert said == ["SRAM energy of the input buffer (1 KB) is extrapolated: cacti_45nm has 8 to 2048 KB"]
    assert not any("extrapolated" in note for note in energy.notes(machine()))


def test_more_capacity_never_costs_less_per_read() -> None:
    for table in table_names():
        if table == "accelergy_45nm":
            continue  # four unlike memories: its 448-byte scratchpad costs less per bit than the 192-byte one
        costs = [energy.energy_pj(counts(INPUT_SRAM_READS=8), machine(table, input_buffer_bytes=2**power), BITS)
                 ["input_sram"] for power in range(8, 24)]
        assert costs == sorted(costs), table


def test_a_shared_scratchpad_prices_all_three_operands() -> None:
    shared = machine(shared_buffer_bytes=8192, input_buffer_bytes=1024)
    priced = energy.energy_pj(counts(INPUT_SRAM_READS=8, WEIGHT_SRAM_READS=8, OUTPUT_SRAM_READS=2), shared, BITS)
    assert list(priced.values()) == [pytest.approx(6.14)] * 3


def test_every_table_prices_every_component_and_says_there_is_no_leakage() -> None:
    assert {"horowitz_45nm", "cacti_45nm", "cacti_32nm", "cacti_22nm", "accelergy_45nm"} <= set(table_names())
    for table in table_names():
        priced = energy.energy_pj(np.full(len(Count), 1000, dtype=np.int64), machine(table), BITS)
        assert tuple(priced) == energy.COMPONENTS
        assert min(priced.values()) > 0
        assert "no leakage" in energy.notes(machine(table))[0]


def test_borrowed_entries_are_said_with_their_owner() -> None:
    for table in ("horowitz_45nm", "cacti_22nm"):
        said = [note for note in energy.notes(machine(table)) if "borrowed" in note]
        assert len(said) == 2
        assert all("Accelergy" in note for note in said)


def test_an_accumulator_of_another_width_is_said() -> None:
    assert any("psum_bits = 24" in note for note in energy.notes(machine(psum_bits=24)))
    assert not any("psum_bits" in note for note in energy.notes(machine()))


def test_an_unknown_table_names_the_machine_and_the_nearest_table() -> None:
    with pytest.raises(InputError, match=r"machine 'test': .*'cacti_45mn'.*did you mean 'cacti_45nm'"):
        energy.notes(machine("cacti_45mn"))
