"""Files that are no store, damaged or of another schema give one message and keep their bytes."""

import sqlite3
import sys
from contextlib import closing

import pytest

from simulator import InputError
from sweeps import store
from sweeps.task import Row

ROWS = [Row(f"{number:064x}", "net", "m", {"rows": number, "nm": ["2:4"]}, {"cycles": number, "x": 0.1 * number})
        for number in range(300)]


@pytest.fixture
def filled(tmp_path):
    path = tmp_path / "filled.db"
    with store.open_store(path, "code") as db:
        assert store.append(db, ROWS) == 300
    return path


def _refused(path, match, code="code"):
    before = path.read_bytes()
    with pytest.raises(InputError, match=match), store.open_store(path, code) as db:
        list(store.rows(db))
    assert path.read_bytes() == before


def test_a_text_file(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("these are notes " * 400)
    _refused(path, r"notes.db: is not an undamaged SQLite file.*it was left as it is")


def test_another_database(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    _refused(path, r"is a database, but no store of Espalier")


def test_another_schema(filled):
    with closing(sqlite3.connect(filled)) as db:
        db.execute("PRAGMA user_version = 7")
    _refused(filled, r"store schema 7; expected schema 1; use the version of espalier that wrote it")


def test_other_code(filled):
    _refused(filled, r"computed by other code.*give another --out", code="newer")


def test_a_truncated_file(filled):
    filled.write_bytes(filled.read_bytes()[:-5000])
    _refused(filled, r"is not an undamaged SQLite file")


def test_a_flipped_bit_in_a_row(filled):
    data = bytearray(filled.read_bytes())
    at = data.index(b'"cycles":123')
    data[at + 9] ^= 1
    filled.write_bytes(bytes(data))
    _refused(filled, r"the checksum of row 0000")


def test_a_missing_store(tmp_path):
    with pytest.raises(InputError, match=r"no such store.*espalier sweep run"):
        store.export_rows(tmp_path / "gone.db")
    with pytest.raises(InputError, match=r"no folder"), store.open_store(tmp_path / "no" / "a.db", "code"):
        pass


def test_rows_are_never_overwritten(filled):
    with store.open_store(filled, "code") as db:
        assert store.append(db, [Row(ROWS[5].task_id, "net", "m", {}, {"cycles": -1})]) == 0
        assert [row.metrics for row in store.rows(db)] == [row.metrics for row in ROWS]


def test_a_half_made_store_is_made_again(tmp_path):
    (tmp_path / "a.db.part").write_bytes(b"left by a kill")
    (tmp_path / "a.db").touch()
    with store.open_store(tmp_path / "a.db", "code") as db:
        assert store.append(db, ROWS[:1]) == 1


def test_merge_refuses_contradictions_and_other_code(filled, tmp_path):
    with store.open_store(tmp_path / "liar.db", "code") as db:
        store.append(db, [Row(ROWS[5].task_id, "net", "m", {"rows": 5}, {"cycles": -1})])
    with store.open_store(tmp_path / "old.db", "older") as db:
        store.append(db, ROWS[:2])
    with pytest.raises(InputError, match=r"liar.db: two different results for task 000000000000"):
        store.merge(tmp_path / "out.db", [filled, tmp_path / "liar.db"])
    with pytest.raises(InputError, match=r"old.db: its rows were computed by other code"):
        store.merge(tmp_path / "out2.db", [filled, tmp_path / "old.db"])


def test_csv_has_a_line_per_row_in_the_order_of_ids(filled, tmp_path):
    lines = store.export(filled, tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "task_id,workload,machine,status,error,nm,rows,cycles,x"
    assert lines[4] == f'{3:064x},net,m,ok,,"[""2:4""]",3,3,0.30000000000000004'
    assert len(lines) == 301


def test_parquet_round_trips_or_says_what_to_install(filled, tmp_path, monkeypatch):
    try:
        from pyarrow import parquet
    except ImportError:
        parquet = None
    if parquet is not None:
        table = parquet.read_table(store.export(filled, tmp_path / "out.parquet")).to_pydict()
        assert table["cycles"] == list(range(300))
        assert table["x"] == [0.1 * number for number in range(300)]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*pip install pyarrow"):
        store.export(filled, tmp_path / "out.parquet")


def test_another_ending_is_refused(filled, tmp_path):
    with pytest.raises(InputError, match=r"export to 'out.xlsx'; expected a file ending in .csv or .parquet"):
        store.export(filled, tmp_path / "out.xlsx")
