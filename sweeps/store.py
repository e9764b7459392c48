"""Results in one SQLite file: append-only rows keyed by task id.

One process writes (WAL, so that others may read meanwhile); what was committed survives SIGKILL.  When a
row was computed, where and by whom is left out: equal tasks give equal files of exported rows.  Read
run.py next.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from simulator import InputError

from .task import COLUMNS, Row, Value, canonical

SCHEMA = 1
APPLICATION_ID = 0x45535031  # "ESP1": says in the file's header whose it is
CREATE = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE results (
    task_id TEXT PRIMARY KEY, workload TEXT NOT NULL, machine TEXT NOT NULL, axes TEXT NOT NULL,
    metrics TEXT NOT NULL, error TEXT, checksum INTEGER NOT NULL
) WITHOUT ROWID;
"""
FIELDS = "task_id, workload, machine, axes, metrics, error"


@contextmanager
def open_store(path: str | Path, code: str) -> Iterator[sqlite3.Connection]:
    """The store at `path` for writing, made where there is none; `code` is task.code_version's.

    Raises InputError for a file that is no store, is damaged, has another schema or holds rows of other
    code; such a file is left as it is.
    """
    target = Path(path)
    if target.exists() and target.stat().st_size > 0:
        with read_store(target):
            pass
    else:
        _create(target, code)
    with _explained(path), closing(sqlite3.connect(target, timeout=30)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        # With WAL, NORMAL loses nothing when the process dies; only a power cut can take the last commits.
        db.execute("PRAGMA synchronous = NORMAL")
        found = read_meta(db).get("code")
        if found != code:
            raise InputError("its rows were computed by other code, or other energy tables", where=str(path),
                             expected=f"code {code[:12]}, found {str(found)[:12]}",
                             fix="give another --out, or use the version of espalier that wrote it")
        yield db


def _create(target: Path, code: str) -> None:
    """An empty store, made beside its place and moved there whole: a kill leaves no half-made store behind."""
    if not target.parent.is_dir():
        raise InputError(f"no folder {str(target.parent)!r}", where=str(target),
                         expected="a folder to write the store in")
    partial = target.with_name(target.name + ".part")
    with _explained(target):
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(partial)) as db:
            db.executescript(f"{CREATE} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};")
            write_meta(db, "code", code)
        partial.replace(target)


@contextmanager
def read_store(path: str | Path) -> Iterator[sqlite3.Connection]:
    """The store at `path` for reading; InputError for a missing, foreign, damaged or otherwise versioned file."""
    target = Path(path)
    if not target.is_file():
        raise InputError("no such store", where=str(path), expected="a file written by `espalier sweep run`")
    with _explained(path), closing(sqlite3.connect(f"{target.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        if owner != APPLICATION_ID:
            raise InputError("is a database, but no store of Espalier", where=str(path),
                             expected="a file written by `espalier sweep run`")
        if schema != SCHEMA:
            raise InputError(f"store schema {schema}", where=str(path), expected=f"schema {SCHEMA}",
                             fix="use the version of espalier that wrote it")
        # This walks the pages; a flipped bit inside a row's text is found by the row's own checksum in rows().
        faults = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if faults != "ok":
            raise _damaged(path, faults)
        yield db


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise InputError(f"cannot be read or written ({error})", where=str(path),
                         expected="a store in a folder that can be written, on a disk with room") from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: str | Path, why: str) -> InputError:
    return InputError(f"is not an undamaged SQLite file ({why})", where=str(path), expected="a store of Espalier",
                      fix="it was left as it is; copy it again, or give another --out")


def read_meta(db: sqlite3.Connection) -> dict[str, str]:
    """All of the store's key and value texts."""
    return dict(db.execute("SELECT key, value FROM meta"))


def write_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    """Set one of the store's texts."""
    with db:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def task_ids(db: sqlite3.Connection) -> set[str]:
    """Ids of all rows that are there."""
    return {task_id for (task_id,) in db.execute("SELECT task_id FROM results")}


def append(db: sqlite3.Connection, rows: Iterable[Row]) -> int:
    """Commit `rows` in one transaction; a row that is there stays as it is.  Returns how many were new."""
    before = db.total_changes
    with db:
        db.executemany(
            f"INSERT OR IGNORE INTO results ({FIELDS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*texts, _checksum(texts)) for texts in map(_texts, rows)),
        )
    return db.total_changes - before


def _texts(row: Row) -> tuple[str | None, ...]:
    return (row.task_id, row.workload, row.machine, canonical(dict(row.axes)), canonical(dict(row.metrics)), row.error)


def _checksum(texts: Sequence[str | None]) -> int:
    return zlib.crc32(json.dumps(texts).encode())


def rows(db: sqlite3.Connection) -> Iterator[Row]:
    """Every row in the order of its task id; InputError for one whose content does not match its checksum."""
    for *texts, checksum in db.execute(f"SELECT {FIELDS}, checksum FROM results ORDER BY task_id"):
        if _checksum(texts) != checksum:
            file = db.execute("PRAGMA database_list").fetchone()[2]
            raise _damaged(file, f"the checksum of row {str(texts[0])[:12]} does not match its content")
        task_id, workload, machine, axes, metrics, error = texts
        yield Row(task_id, workload, machine, json.loads(axes), json.loads(metrics), error)


def flat(row: Row) -> dict[str, Value]:
    """A row as one table line: COLUMNS, then its axes (lists as JSON text), then its metrics."""
    axes = {key: canonical(value) if isinstance(value, (list, tuple)) else value for key, value in row.axes.items()}
    status = "ok" if row.error is None else "failed"
    return {"task_id": row.task_id, "workload": row.workload, "machine": row.machine, "status": status,
            "error": row.error, **axes, **row.metrics}


def columns(db: sqlite3.Connection) -> list[str]:
    """Names of all columns of the exported table: COLUMNS, all axes sorted, all metrics sorted."""
    axes: set[str] = set()
    metrics: set[str] = set()
    for row in rows(db):
        axes.update(row.axes)
        metrics.update(row.metrics)
    return [*COLUMNS, *sorted(axes), *sorted(metrics - axes)]


def merge(out: str | Path, inputs: Sequence[str | Path]) -> int:
    """Put the rows of all `inputs` into `out` (made or added to); returns how many rows it then has.

    Raises InputError for an input that is no store, was written by other code, or has another result for
    a task that is there already.
    """
    if not inputs:
        raise InputError("nothing to merge", where="sweep merge", expected="at least one input store")
    kept: dict[str, str] = {}
    for path in inputs:
        with read_store(path) as source:
            kept.setdefault("code", read_meta(source)["code"])
    with open_store(out, kept["code"]) as target:
        for path in inputs:
            with read_store(path) as source, _explained(path):
                meta = read_meta(source)
                if meta["code"] != kept["code"]:
                    raise InputError("its rows were computed by other code than the first input's", where=str(path),
                                     expected=f"code {kept['code'][:12]}, found {meta['code'][:12]}")
                incoming = list(rows(source))
                _require_agreement(target, incoming, path)
                append(target, incoming)
                if "study" in meta and "study" not in read_meta(target):
                    write_meta(target, "study", meta["study"])
        return len(task_ids(target))


def _require_agreement(target: sqlite3.Connection, incoming: Sequence[Row], path: str | Path) -> None:
    present = {row.task_id: row for row in rows(target)}
    for row in incoming:
        other = present.get(row.task_id)
        if other is not None and (other.metrics, other.error) != (row.metrics, row.error):
            raise InputError(f"two different results for task {row.task_id[:12]}", where=str(path),
                             expected="equal results of equal tasks",
                             fix="find out which computer computes differently")


def export_rows(db_path: str | Path) -> bytes:
    """All rows as CSV in the order of their task ids: equal results give equal bytes."""
    with read_store(db_path) as db:
        names = columns(db)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in rows(db):
            line = flat(row)
            writer.writerow([line.get(name) for name in names])
    return text.getvalue().encode()


def export(db_path: str | Path, file: str | Path) -> Path:
    """Write all rows to `file`, .csv or .parquet (which needs pyarrow), and return its path."""
    target = Path(file)
    if target.suffix == ".csv":
        data = export_rows(db_path)
        write_whole(target, data)
    elif target.suffix == ".parquet":
        _export_parquet(db_path, target)
    else:
        raise InputError(f"export to {target.name!r}", where="sweep export",
                         expected="a file ending in .csv or .parquet")
    return target


def write_whole(target: Path, data: bytes) -> None:
    """The file appears whole or not at all; InputError where it cannot be written."""
    partial = target.with_name(target.name + ".part")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(target),
                         expected="a folder that can be written, on a disk with room") from None


def _export_parquet(db_path: str | Path, target: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError("writing parquet needs pyarrow, which is not installed", where="sweep export",
                         expected="pyarrow", fix="pip install pyarrow, or export to a .csv file") from None
    with read_store(db_path) as db:
        names = columns(db)
        lines = [flat(row) for row in rows(db)]
    table = pa.table({name: _arrow_column([line.get(name) for line in lines]) for name in names})
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    write_whole(target, buffer.getvalue().to_pybytes())


def _arrow_column(values: list[Value]) -> list[Any]:
    """A column of one type: int, float where any is one, text where any is one."""
    kinds = {type(value) for value in values} - {type(None)}
    if str in kinds:
        return [None if value is None else str(value) for value in values]
    if float in kinds:
        return [None if value is None else float(value) for value in values]
    return list(values)


def study_of(db: sqlite3.Connection) -> Mapping[str, Any]:
    """name, description, axes and objectives of the study that was last run into the store."""
    text = read_meta(db).get("study")
    return json.loads(text) if text else {}
