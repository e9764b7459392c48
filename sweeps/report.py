"""One HTML page for a store: scatter, heat map, table, failures; it opens without a network.

The page holds the data as JSON and draws it with the script beside this file; the front is computed here,
exactly.  Nothing is smoothed, sampled or left out.  Read report_assets/page.js next.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator import InputError

from . import store
from .pareto import front_rows
from .space import DEFAULT_OBJECTIVES
from .task import COLUMNS, Row

ASSETS = Path(__file__).parent / "report_assets"


def write(db_path: str | Path, html_path: str | Path) -> Path:
    """Write the report of a store and return its path.

    Raises InputError for a damaged or empty store and for a file that cannot be written.
    """
    with store.read_store(db_path) as db:
        study, found = store.study_of(db), list(store.rows(db))
    if not found:
        raise InputError("holds no rows yet", where=str(db_path), expected="a store that a sweep has filled",
                         fix="run `espalier sweep run` first")
    target = Path(html_path)
    store.write_whole(target, page(study, found).encode())
    return target


def page(study: Mapping[str, Any], found: Sequence[Row]) -> str:
    """The page as text."""
    title = str(study.get("name", "sweep"))
    parts = {
        "@TITLE@": html.escape(title),
        "@STYLE@": (ASSETS / "page.css").read_text(encoding="utf-8"),
        "@DATA@": _embed(content(study, found)),
        "@SCRIPT@": "\n".join((ASSETS / name).read_text(encoding="utf-8")
                              for name in ("format.js", "charts.js", "page.js")),
    }
    text = (ASSETS / "page.html").read_text(encoding="utf-8")
    for mark, part in parts.items():
        head, _, tail = text.partition(mark)  # once, so that a mark inside data stays data
        text = head + part + tail
    return text


def content(study: Mapping[str, Any], found: Sequence[Row]) -> dict[str, Any]:
    """What the page knows: columns of the good rows, which of them are on the front, the failed rows."""
    objectives = list(study.get("objectives", DEFAULT_OBJECTIVES))
    good = [row for row in found if row.error is None]
    on_front = {row.task_id for row in front_rows(good, objectives)}
    lines = [store.flat(row) for row in good]
    axes = [name for name in study.get("axes", []) if any(name in row.axes for row in found)]
    axes += sorted({name for row in found for name in row.axes} - set(axes))
    names = list(dict.fromkeys(name for row in good for name in row.metrics))
    numbers = [name for name in names if any(isinstance(line.get(name), (int, float)) for line in lines)]
    keys = ["workload", "machine", *axes, *names]
    return {
        "name": study.get("name", "sweep"), "description": study.get("description", ""), "objectives": objectives,
        "axes": axes, "numbers": numbers, "points": len(found),
        "ids": [row.task_id[:12] for row in good],
        "columns": {key: [line.get(key) for line in lines] for key in keys},
        "front": [int(row.task_id in on_front) for row in good],
        "failed": [{key: value for key, value in store.flat(row).items() if key not in COLUMNS or key in
                    ("workload", "machine", "error")} for row in found if row.error is not None],
    }


def _embed(value: Any) -> str:
    """JSON that cannot end its script element; infinities, which JSON has not, become texts."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return value
