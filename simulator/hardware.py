"""Machines as data: a name, a model, an array, a memory system, a clock and the tables that price it.

A machine is read from a flat TOML whose keys are the field names below (tables such as `[array]` are
allowed for the reader's sake and change nothing); each key belongs to exactly one component, so that
`NAME?rows=8&dram_bytes_per_cycle=4` can override any of them.  What the fields do to a cycle count is in
docs/model.md; which fields an array has is in its model under machines/.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import InputError, nearest
from .machines import MACHINES, model

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Memory:
    """On-chip buffers and one DRAM channel that all operands share.

    memory = "ideal" switches the memory system off; "channel" is a channel with a bandwidth and a latency.
    Either three private buffers, or one scratchpad of `shared_buffer_bytes` that holds all three operands.
    """

    memory: str = "channel"
    input_buffer_bytes: int = 65536
    weight_buffer_bytes: int = 65536
    output_buffer_bytes: int = 65536
    shared_buffer_bytes: int = 0  # 0: private buffers
    input_double_buffered: bool = True
    weight_double_buffered: bool = True
    output_double_buffered: bool = True
    dram_bytes_per_cycle: float = 16.0
    dram_latency_cycles: int = 100
    dram_burst_bytes: int = 64
    psum_bits: int = 32

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = _not_in(self, "memory", ("ideal", "channel"))
        sizes = ("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes", "dram_burst_bytes", "psum_bits")
        for name in sizes:
            found += _below(self, name, 1)
        found += _below(self, "shared_buffer_bytes", 0) + _below(self, "dram_latency_cycles", 0)
        if not self.dram_bytes_per_cycle > 0:
            found.append(f"dram_bytes_per_cycle = {self.dram_bytes_per_cycle}; expected more than 0 (inf = no limit)")
        return found

    def bandwidth(self) -> tuple[int, int]:
        """dram_bytes_per_cycle as an exact fraction (bytes, cycles); (0, 1) stands for no limit."""
        if math.isinf(self.dram_bytes_per_cycle):
            return 0, 1
        # Decimal text, not binary float: 12.8 bytes per cycle is 64/5, so that counts stay exact.
        from fractions import Fraction

        exact = Fraction(str(self.dram_bytes_per_cycle))
        return exact.numerator, exact.denominator


@dataclass(frozen=True)
class Machine:
    """A frozen accelerator description.  `array` is the model's own spec (machines/<model>.py, class Spec)."""

    name: str
    model: str
    array: Any
    memory: Memory = Memory()
    clock_hz: float = 1e9
    energy_table: str = "cacti_45nm"
    area_table: str = "cacti_45nm"
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The flat fields, as a TOML of this machine has them."""
        flat: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            flat.update(dataclasses.asdict(value) if item.name in ("array", "memory") else {item.name: value})
        return flat

    def replace(self, **overrides: Any) -> Machine:
        """The same machine with some fields changed, by their flat names; InputError as in load_machine."""
        return build({**self.to_dict(), **overrides}, self.name)


def preset_names() -> list[str]:
    """Names of the shipped machines, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_machine(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Machine:
    """A machine from a preset's name, a TOML file or a SCALE-Sim .cfg.

    `NAME?key=value&key=value` and `overrides` change fields by name.  Raises InputError for an unknown
    preset, file or field (naming the nearest), a value of the wrong type or one out of range.
    """
    text = str(name_or_path)
    base, _, query = text.partition("?")
    changes = {**_query(query, text), **dict(overrides or {})}
    if base.endswith(".cfg"):
        from .importers.scalesim import machine_from_cfg

        machine = machine_from_cfg(base)
        return machine.replace(**changes) if changes else machine
    table, where = _table(base)
    return build({**table, **changes}, base if base.endswith(".toml") else Path(base).stem, where)


def build(table: Mapping[str, Any], name: str, where: str = "") -> Machine:
    """A machine from flat fields; `where` (a file) goes into the errors."""
    table = dict(table)
    table.setdefault("name", Path(name).stem if name.endswith(".toml") else name)
    where = where or f"machine {table['name']!r}"
    kind = table.get("model")
    if kind not in MACHINES:
        raise InputError(f"model = {kind!r}", where=where, expected="a machine model", fix=nearest(str(kind), MACHINES))
    spec = model(str(kind)).Spec
    homes: dict[str, type] = {}
    for owner in (Machine, Memory, spec):
        homes.update({item.name: owner for item in dataclasses.fields(owner) if item.name != "array"})
    # `memory` names both a component of Machine and its first field; in a file it is the field.
    homes["memory"] = Memory
    parts: dict[type, dict[str, Any]] = {Machine: {}, Memory: {}, spec: {}}
    errors: list[InputError] = []
    for key, value in table.items():
        if key not in homes:
            errors.append(InputError(f"unknown field {key!r}", where=_at(where, key), fix=nearest(key, homes)))
            continue
        owner = homes[key]
        try:
            parts[owner][key] = _typed(value, typing.get_type_hints(owner)[key] if key != "memory" else str)
        except TypeError as error:
            errors.append(InputError(f"{key} = {value!r}", where=_at(where, key), expected=str(error)))
    for owner in (spec, Memory):
        missing = [item.name for item in dataclasses.fields(owner)
                   if item.default is dataclasses.MISSING and item.name not in table]
        errors += [InputError(f"field {item!r} is missing", where=where) for item in missing]
    if errors:
        raise InputError.collect(errors)
    memory, array = Memory(**parts[Memory]), spec(**parts[spec])
    clock = parts[Machine].get("clock_hz", 1e9)
    problems = memory.problems() + array.problems()
    if not (math.isfinite(clock) and clock > 0):
        problems.append(f"clock_hz = {clock}; expected a finite frequency above 0")
    if problems:
        raise InputError.collect([InputError(text, where=_at(where, text.split(" ")[0])) for text in problems])
    return Machine(memory=memory, array=array, **parts[Machine])


def _table(base: str) -> tuple[dict[str, Any], str]:
    """Flat fields of a preset or file, with `base = "preset"` resolved, and where they came from."""
    path = Path(base) if base.endswith(".toml") else PRESETS / f"{base}.toml"
    if not path.is_file():
        what = f"no machine file {base!r}" if base.endswith(".toml") else f"unknown machine {base!r}"
        raise InputError(what, where="machine", expected="a preset's name, a .toml file or a SCALE-Sim .cfg",
                         fix=nearest(base, preset_names()))
    flat = dict(_flat(path, path.stat().st_mtime_ns))
    parent = flat.pop("base", None)
    if parent is None:
        return flat, str(path)
    if parent not in preset_names() or parent == path.stem:
        raise InputError(f"base = {parent!r}", where=_at(str(path), "base"), expected="another preset's name",
                         fix=nearest(str(parent), preset_names()))
    inherited, _ = _table(str(parent))
    inherited.pop("description", None)
    inherited.pop("name", None)
    return {**inherited, **flat}, str(path)


@lru_cache(maxsize=256)
def _flat(path: Path, _mtime_ns: int) -> tuple[tuple[str, Any], ...]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML ({error})", where=str(path)) from None
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        items = value.items() if isinstance(value, dict) else [(key, value)]
        for name, item in items:
            if name in flat:
                raise InputError(f"field {name!r} is given twice", where=_at(str(path), name))
            flat[name] = tuple(item) if isinstance(item, list) else item
    return tuple(flat.items())


def _at(where: str, key: str) -> str:
    """`file, line N` where the key stands in a file, else `where` as it is."""
    path = Path(where)
    if where.endswith(".toml") and path.is_file():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.split("=")[0].strip() == key:
                return f"{where}, line {number}"
    return where


def _query(query: str, text: str) -> dict[str, Any]:
    """The overrides of NAME?key=value&key=value, each value read as TOML where it is TOML, else as text."""
    changes: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise InputError(f"override {part!r}", where=f"machine {text!r}", expected="key=value")
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value.strip()
    return changes


def _typed(value: Any, hint: Any) -> Any:
    """`value` as the type a field declares; TypeError with what was expected."""
    if isinstance(hint, types.GenericAlias) or typing.get_origin(hint) is tuple:
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise TypeError('a list of texts such as ["2:4", "1:4"]')
        return tuple(items)
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise TypeError("true or false")
    if hint is int:
        if isinstance(value, bool) and value in (True, False):
            raise TypeError("an integer")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or abs(value) > 2**62:
            raise TypeError("an integer")
        return value
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError("a number")
        return float(value)
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _below(spec: Any, name: str, least: int) -> list[str]:
    value = getattr(spec, name)
    return [] if value >= least else [f"{name} = {value}; expected at least {least}"]


def _not_in(spec: Any, name: str, allowed: tuple[str, ...]) -> list[str]:
    value = getattr(spec, name)
    if value in allowed:
        return []
    return [f"{name} = {value!r}; expected one of {', '.join(allowed)}; {nearest(value, allowed)}"]
