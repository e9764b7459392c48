"""A number without a source or a node is no number: such tables are refused, every mistake named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from simulator import InputError, Machine, energy
from simulator.counts import Count
from simulator.tables import NUMBERS, load_table, table_names

GOOD = """description = "test"
[sources]
lab = "measured on a bench"
[[register]]
bits = 8
pj = 0.1
node_nm = 28
voltage_v = 0.8
source = "lab"
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "table.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("old", "new", "words"), [
    ('source = "lab"\n', "", "register entry 1: 'source' is missing"),
    ("node_nm = 28\n", "", "register entry 1: 'node_nm' is missing"),
    ("voltage_v = 0.8\n", "", "register entry 1: no condition; expected one of voltage_v, cell, condition"),
    ("voltage_v = 0.8", 'condition = " "', "condition = ' '; expected a text"),
    ('"lab"', '"lap"', "source 'lap' is not in [sources]; did you mean 'lab'?"),
    ("pj = 0.1", "pj = -0.1", "pj = -0.1; expected a number above 0"),
    ("pj = 0.1", 'pj = "0.1"', "pj = '0.1'; expected a number above 0"),
    ("pj = 0.1", "nj = 0.1", "unknown field 'nj'"),
    ("[[register]]", "[[registers]]", "unknown component 'registers'; did you mean 'register'?"),
    ("[[register]]", "[register]", "expected [[register]]"),
    ("bits = 8", "bits = = 8", "not valid TOML"),
])
def test_a_bad_entry_is_named_with_its_file(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError) as error:
        load_table(path)
    assert words in str(error.value)
    assert path in str(error.value)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('source = "lab"\n', "") + '[[add]]\nbits = 8\nnode_nm = 28\nsource = "lab"\n'
    with pytest.raises(InputError) as error:
        load_table(written(tmp_path, text))
    assert "register entry 1: 'source' is missing" in str(error.value)
    assert "add entry 1: 'pj' is missing" in str(error.value)


def test_a_missing_component_names_table_and_component_and_is_never_a_default(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    machine = Machine("m", "systolic", SimpleNamespace(peak_macs_per_cycle=1, cycle_offset=0), energy_table=path)
    vector = np.zeros(len(Count), dtype=np.int64)
    vector[Count.PSUM_HOPS] = 2
    assert energy.energy_pj(vector, machine, (8, 8, 8, 32)) == {"registers": pytest.approx(0.8)}
    for event, component in ((Count.ISSUED_MACS, "mac"), (Count.GATED_MACS, "mac_gated"),
                             (Count.INPUT_SRAM_READS, "sram"), (Count.OUTPUT_DRAM_WRITE_BYTES, "dram")):
        short = vector.copy()
        short[event] = 1
        with pytest.raises(InputError, match=f"energy table 'table': no entry for component '{component}'"):
            energy.energy_pj(short, machine, (8, 8, 8, 32))


def test_every_shipped_number_has_a_source_a_node_and_a_known_component() -> None:
    for name in table_names():
        table = load_table(name)
        assert table.description
        assert set(table.entries) <= set(NUMBERS)
        for entries in table.entries.values():
            for entry in entries:
                assert len(entry.source) > 20
                assert 5 <= entry.node_nm <= 90
                assert len(entry.condition) > 5


def test_a_source_can_state_the_condition_of_all_its_entries(tmp_path: Path) -> None:
    said = '[conditions]\nlab = "0.9 V, 300 K"\n[[register]]'
    text = GOOD.replace("voltage_v = 0.8\n", "").replace("[[register]]", said)
    [entry] = load_table(written(tmp_path, text)).of("register")
    assert entry.condition == "0.9 V, 300 K"
    own = load_table(str(_copy(tmp_path, text.replace("bits = 8", 'bits = 8\ncell = "LPDDR4"'), "own")))
    assert own.of("register")[0].condition == "LPDDR4, 0.9 V, 300 K"
    with pytest.raises(InputError, match=r"condition lap = .*under the name of a source; did you mean 'lab'"):
        load_table(str(_copy(tmp_path, text.replace("lab = \"0.9", "lap = \"0.9"))))


def test_number_kinds_are_checked_and_belong_to_arithmetic_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="register entry 1: unknown field 'number'"):
        load_table(str(_copy(tmp_path, GOOD.replace("bits = 8", 'bits = 8\nnumber = "float"'))))
    misspelt = GOOD.replace("[[register]]", "[[add]]").replace("bits = 8", 'bits = 8\nnumber = "flaot"')
    with pytest.raises(InputError, match="number = 'flaot'; expected one of int, float, bfloat"):
        load_table(str(_copy(tmp_path, misspelt, "other")))


def _copy(tmp_path: Path, text: str, name: str = "copy") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path
