"""Energy and area tables: sourced numbers in TOML, checked when they are read, and the two rules that fill gaps.

A table prices components (multiply-accumulate, register, SRAM, DRAM); what a machine does with them is in
energy.py and area.py.  Leakage, wires and clock trees are in no table.  Read presets/energy/cacti_45nm.toml
for the format and docs/energy.md for the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import files
from .errors import InputError, nearest
from .number_types import KINDS, type_name

TABLES = Path(__file__).parent / "presets" / "energy"

# component: the numbers an entry has, and those it may have; every entry also has `source`, `node_nm` and a condition
NUMBERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mac": (("weight_bits", "input_bits", "pj"), ("accumulator_bits",)),
    "multiply": (("weight_bits", "input_bits", "pj"), ()),
    "add": (("bits", "pj"), ()),
    "mac_gated": (("weight_bits", "input_bits", "pj"), ()),
    "register": (("bits", "pj"), ()),
    "sram": (("capacity_bytes", "word_bits", "read_pj", "write_pj"), ("area_mm2",)),
    "dram": (("bits", "pj"), ("low_pj", "high_pj")),
    "mac_area": (("weight_bits", "input_bits", "um2"), ("accumulator_bits",)),
}
TEXTS = ("source", "cell", "condition", "note")
CONDITIONS = ("voltage_v", "cell", "condition")  # any one of them says what an entry was measured under
ARITHMETIC = ("mac", "multiply", "add", "mac_gated")  # an entry of these may say number = "float" or "bfloat"


@dataclass(frozen=True)
class Entry:
    """One line of a table: its numbers by name (units in the names), where they come from and how they were made."""

    numbers: Mapping[str, float]
    node_nm: float
    source: str
    condition: str  # what it was measured or modelled under: supply voltage, cell type, temperature
    note: str = ""  # what a reader must know: derived, borrowed from another table, middle of a range
    number: str = "int"  # of arithmetic: the kind of number, as in number_types.py

    def __getitem__(self, name: str) -> float:
        return self.numbers[name]


@dataclass(frozen=True, eq=False)
class Table:
    """A named set of entries by component; equal to itself only, so that prices can be remembered by table."""

    name: str
    description: str
    entries: Mapping[str, Sequence[Entry]]

    def has(self, component: str, number: str = "int") -> bool:
        """True where the table prices the component, for numbers of that kind."""
        return any(entry.number == number for entry in self.entries.get(component, ()))

    def of(self, component: str) -> Sequence[Entry]:
        """The entries of a component for integers, or of one without arithmetic.

        InputError where the table has none: a missing price is never a default.
        """
        if not self.has(component):
            raise InputError(f"no entry for component {component!r}", where=f"energy table {self.name!r}",
                             expected=f"one of the components it has: {', '.join(sorted(self.entries))}",
                             fix="choose another table, or add an entry with its source")
        return [entry for entry in self.entries[component] if entry.number == "int"]

    def exactly(self, component: str, number: str, **widths: int) -> Entry:
        """The entry for floating-point numbers of just these widths; InputError, by name, where the table has none.

        Nothing is derived: exponents, rounding and normalisation do not scale with a width as integer arrays do.
        """
        found = [entry for entry in self.entries.get(component, ())
                 if entry.number == number and all(entry[name] == bits for name, bits in widths.items())]
        if not found:
            names = sorted({_names(entry) for entry in self.entries.get(component, ())})
            raise InputError(f"no entry for component {component!r} in {_named(number, widths)}",
                             where=f"energy table {self.name!r}",
                             expected=f"a sourced entry; it has {', '.join(names) or 'none at all'}",
                             fix=f"choose a table that has it{_having(component, number, widths)}, or add an entry "
                                 "with its source")
        return found[0]


def _names(entry: Entry) -> str:
    """The widths of an entry of arithmetic by type: "int8 x int8", "fp32"."""
    return _named(entry.number, {name: int(value) for name, value in entry.numbers.items()})


def _named(number: str, widths: Mapping[str, int]) -> str:
    bits = [widths[name] for name in ("weight_bits", "input_bits", "bits") if name in widths]
    return " x ".join(type_name(width, number) for width in bits)


def _having(component: str, number: str, widths: Mapping[str, int]) -> str:
    """The shipped tables with such an entry, in brackets; a multiply will do for a multiply-accumulate."""
    names = [name for name in table_names() if any(
        entry.number == number and all(entry[key] == bits for key, bits in widths.items())
        for kind in {component, "multiply" if component == "mac" else component}
        for entry in load_table(name).entries.get(kind, ()))]
    return f" ({', '.join(names)})" if names else " (no shipped one has)"


def table_names() -> list[str]:
    """Names of the shipped tables, sorted."""
    return sorted(path.stem for path in TABLES.glob("*.toml"))


@lru_cache(maxsize=64)
def load_table(name_or_path: str) -> Table:
    """A table by its shipped name or from a TOML file.

    Raises InputError for an unknown name and, all at once, for every entry that lacks a number, a node or a
    source, has an unknown field, or has a number that is not positive.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else TABLES / f"{name_or_path}.toml"
    if not files.is_file(path):
        raise InputError(f"unknown energy or area table {name_or_path!r}", where="energy_table, area_table",
                         expected="a shipped table's name or a .toml file", fix=nearest(name_or_path, table_names()))
    return _checked(files.read_toml(path), path)


def _checked(raw: dict[str, Any], path: Path) -> Table:
    errors: list[InputError] = []
    sources, conditions = raw.pop("sources", {}), raw.pop("conditions", {})
    description = raw.pop("description", "")
    if not isinstance(description, str) or not isinstance(sources, dict) or not isinstance(conditions, dict):
        raise InputError("description, sources or conditions of the wrong type", where=str(path),
                         expected='description = "..." and tables [sources] and [conditions]')
    for name, text in conditions.items():
        if name not in sources or not isinstance(text, str) or not text.strip():
            errors.append(InputError(f"condition {name} = {text!r}", where=str(path),
                                     expected="a text, under the name of a source", fix=nearest(name, sources)))
    entries: dict[str, list[Entry]] = {}
    for component, rows in raw.items():
        if component not in NUMBERS:
            errors.append(InputError(f"unknown component {component!r}", where=str(path),
                                     fix=nearest(component, NUMBERS)))
            continue
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            errors.append(InputError(f"{component} is not a list of entries", where=str(path),
                                     expected=f"[[{component}]]"))
            continue
        for index, row in enumerate(rows, start=1):
            found = _problems(component, row, sources, conditions)
            errors += [InputError(text, where=f"{path}, {component} entry {index}") for text in found]
            if not found:
                entries.setdefault(component, []).append(_entry(component, row, sources, conditions))
    if errors:
        raise InputError.collect(errors)
    return Table(path.stem, description, {name: tuple(rows) for name, rows in entries.items()})


def _problems(component: str, row: dict[str, Any], sources: Mapping[str, Any],
              conditions: Mapping[str, Any]) -> list[str]:
    required, optional = NUMBERS[component]
    found = [f"{name!r} is missing" for name in (*required, "node_nm", "source") if name not in row]
    if not any(name in row for name in CONDITIONS) and row.get("source") not in conditions:
        found.append(f"no condition; expected one of {', '.join(CONDITIONS)}, or the source's in [conditions]")
    for name, value in row.items():
        if name in TEXTS:
            if not isinstance(value, str) or not value.strip():
                found.append(f"{name} = {value!r}; expected a text")
        elif name == "number" and component in ARITHMETIC:
            if value not in KINDS:
                found.append(f"number = {value!r}; expected one of {', '.join(KINDS)}")
        elif name in (*required, *optional, "node_nm", "voltage_v"):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                found.append(f"{name} = {value!r}; expected a number above 0")
        else:
            known = (*required, *optional, "node_nm", "voltage_v", *TEXTS)
            found.append(f"unknown field {name!r}; {nearest(name, known)}")
    source = row.get("source")
    if isinstance(source, str) and source.strip() and not isinstance(sources.get(source), str):
        found.append(f"source {source!r} is not in [sources]; {nearest(source, sources)}")
    return found


def _entry(component: str, row: dict[str, Any], sources: Mapping[str, str], conditions: Mapping[str, str]) -> Entry:
    required, optional = NUMBERS[component]
    numbers = {name: float(row[name]) for name in (*required, *optional) if name in row}
    said = [f"{row['voltage_v']:g} V"] if "voltage_v" in row else []
    said += [str(row[name]) for name in ("cell", "condition") if name in row]
    said += [conditions[row["source"]]] if row["source"] in conditions else []
    return Entry(numbers, float(row["node_nm"]), sources[row["source"]], ", ".join(said), row.get("note", ""),
                 row.get("number", "int"))


def by_width(entries: Sequence[Entry], size: Callable[[Entry], float], wanted: float, value: str) -> tuple[float, bool]:
    """(value, derived): an arithmetic unit's number at a width that may not be in the table.

    `size` measures an entry (product of operand widths for a multiplier, width for an adder).  A tabulated size gives
    its entry.  Between two, the straight line in log-log; outside, in proportion to the size: an array multiplier has
    one cell per pair of bits, a ripple adder one per bit.  `derived` is True unless the size is in the table.
    """
    points = sorted((size(entry), entry[value]) for entry in entries)
    for at, number in points:
        if at == wanted:
            return number, False
    if wanted < points[0][0] or wanted > points[-1][0]:
        at, number = points[0] if wanted < points[0][0] else points[-1]
        return number * wanted / at, True
    return _log_line(points, wanted), True


def by_capacity(points: Sequence[tuple[float, float]], capacity_bytes: float) -> tuple[float, bool]:
    """(value, extrapolated): an SRAM's number at a capacity, from (capacity in bytes, number) points.

    Log-log interpolation between neighbours.  Outside the table the line leaves the nearest point with the
    least-squares slope of all points in log-log: the slope between the two end points alone follows one change of
    bank organisation.  With one point the slope is 1/2: bit lines and word lines grow as the side of a square.
    """
    points = sorted(points)
    low, high = points[0][0], points[-1][0]
    if low <= capacity_bytes <= high:
        return _log_line(points, capacity_bytes), False
    at, number = points[0] if capacity_bytes < low else points[-1]
    return number * (capacity_bytes / at) ** _slope(points), True


def _log_line(points: Sequence[tuple[float, float]], x: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            share = math.log(x / x0) / math.log(x1 / x0) if x1 > x0 else 0.0
            return y0 if share == 0.0 else y1 if share == 1.0 else y0 * (y1 / y0) ** share
    return points[0][1]  # one entry, asked for exactly


def _slope(points: Sequence[tuple[float, float]]) -> float:
    if len(points) == 1:
        return 0.5
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum((x - mean_x) ** 2 for x in xs)
