"""DRAM devices: a number without unit, condition or source is refused, and the shipped ones reach their peaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import InputError
from simulator.dram import DEVICES, bytes_per_cycle, device_names, entries, load_device

GOOD = (DEVICES / "ddr4_2400.toml").read_text()
FIRST = GOOD[: GOOD.index('name = "channels"')]


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_device(str(path))
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("old", "new", "words"), [
    ('unit = "MHz"\n', "", "unit = None; expected one of"),
    ('source = "dramsim3"\n', "", "source = None is not in [sources]"),
    ('source = "dramsim3"', 'source = "hearsay"', "source = 'hearsay' is not in [sources]"),
    ("value = 1200\n", "", "value = None; expected a number"),
    ("value = 1200\n", 'value = "1200"\n', "value = '1200'; expected a number"),
    ('name = "clock_mhz"', 'name = "clock_hz"', "unknown number 'clock_hz'; did you mean 'clock_mhz'?"),
])
def test_a_number_that_is_not_fully_sourced_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in FIRST
    assert words in refused(tmp_path, FIRST.replace(old, new) + GOOD[len(FIRST):])


def test_a_number_without_its_condition_is_refused(tmp_path: Path) -> None:
    assert "(tRCD): condition is missing" in refused(
        tmp_path, "\n".join(line for line in GOOD.split("\n") if line != 'condition = "speed bin -083E"'))


def test_missing_and_impossible_numbers_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, FIRST[: FIRST.rindex("[[number]]")])
    assert "tRCD is missing" in said and "tRFC is missing" in said
    assert "rows = 65535; expected a power of two" in refused(tmp_path, GOOD.replace("65536", "65535"))
    assert "tREFI = 436; expected 0 (no refresh) or more" in refused(tmp_path, GOOD.replace("9360", "436"))


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_number_says_where_it_comes_from(name: str) -> None:
    for number in entries(DEVICES / f"{name}.toml").values():
        assert len(number["condition"]) > 3
    device = load_device(name)
    assert device.tRCD + device.tCL + device.tBL > 0 and device.problems() == []


def test_the_peaks_are_those_of_the_standards() -> None:
    # At 1 GHz bytes per cycle are GB/s: 2400 MT/s x 8 bytes, 2 x 3200 MT/s x 2 bytes, 2 GT/s x 128 bytes.
    peaks = {name: float(bytes_per_cycle(load_device(name), load_device(name).channels, 1e9))
             for name in device_names()}
    assert peaks == {"ddr4_2400": 19.2, "hbm2": 256.0, "lpddr4_3200": 12.8}


def test_numbers_can_be_changed_by_name_and_misspellings_are_named() -> None:
    assert load_device("ddr4_2400,tRCD=20,tFAW=40").tRCD == 20
    with pytest.raises(InputError, match="did you mean 'tRAS'"):
        load_device("ddr4_2400,tRASS=20")
    with pytest.raises(InputError, match="did you mean 'ddr4_2400'"):
        load_device("ddr4_240")
    with pytest.raises(InputError, match="expected NAME=NUMBER"):
        load_device("ddr4_2400,tRCD")


def test_energies_follow_from_the_currents() -> None:
    # tRC = 55 clocks of 5/6 ns, tRAS = 39, tRP = 16; eight dies at 1.2 V, currents in mA over standby.
    energy = load_device("ddr4_2400").energy_pj()
    clock_ns = 1 / 1.2
    assert energy["activate"] == pytest.approx(8 * 1.2 * clock_ns * (48 * 55 - 43 * 39 - 34 * 16))
    assert energy["read"] == pytest.approx(8 * 1.2 * clock_ns * 4 * (135 - 43))
    assert load_device("hbm2").energy_pj() == {}
