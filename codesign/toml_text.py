"""A table as TOML text, for configurations and machines as resolved.

The standard library reads TOML and does not write it; what is written here has texts, numbers, booleans,
lists and tables, and reads back equal.  Dates and arrays of tables are left out, since no file of ours has
any.  Read config.py for who uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def write_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A table of texts, numbers, booleans, lists and tables as TOML, in the order given."""
    lines: list[str] = []
    inner: list[str] = []
    for key, value in table.items():
        name = key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
        if isinstance(value, Mapping):
            path = f"{prefix}{name}"
            body = write_toml(value, f"{path}.")
            inner.append(f"\n[{path}]\n{body}")
        else:
            lines.append(f"{name} = {_toml_value(value)}\n")
    return "".join(lines) + "".join(inner)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf and nan, which JSON spells otherwise
    return json.dumps(value, ensure_ascii=False)  # texts, integers, booleans; floats as their shortest exact form
