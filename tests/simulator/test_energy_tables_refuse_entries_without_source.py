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
source = "lab"
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "table.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("old", "new", "words"), [
    ('source = "lab"\n', "", "register entry 1: 'source' is missing"),
    ("node_nm = 28\n", "", "register entry 1: 'node_nm' is missing"),
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
                assert entry.voltage_v or entry.cell or "Accelergy" in entry.source or "Aladdin" in entry.source \
                    or "Horowitz" in entry.source
