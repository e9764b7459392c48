"""One rule for naming a part in a configuration: a word of a table, "package.module:Name", or the object.

The tables themselves (SCHEDULES, CRITERIA) stand beside the parts they list.  Nothing is registered.
Read schedules.py or criteria.py for a table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from simulator.errors import InputError, nearest

Part = TypeVar("Part")


def look_up(given: Any, table: Mapping[str, Part], where: str) -> Part:
    """The part that `given` names; an object that is not a text passes through.

    Raises InputError for a word that is not in the table, or a dotted path that leads nowhere.
    """
    if not isinstance(given, str):
        return given  # type: ignore[no-any-return]
    if given in table:
        return table[given]
    if ":" in given:
        module, _, name = given.partition(":")
        try:
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError) as error:
            raise InputError(f"cannot load {given!r} ({error})", where=where, expected="package.module:Name") from error
    raise InputError(
        f"unknown {where} {given!r}",
        where=where,
        expected="a known name or package.module:Name",
        fix=nearest(given, table),
    )
