"""A study: which workloads, which machines, which axes; read from TOML, every mistake at once.

Axes are lists or ranges and the space is their full product; constraints and samplers are left out.
What a point costs is none of this file's business.  Read task.py next.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from simulator import InputError, Machine, load_machine
from simulator.errors import nearest

from . import task, workloads

STUDIES = Path(__file__).parent / "studies"
KEYS = ("name", "description", "workloads", "machines", "axes", "objectives", "seed", "evaluate")
RANGE_KEYS = ("from", "to", "step", "powers_of_two")
DEFAULT_OBJECTIVES = ("latency_s", "energy_j", "area_mm2")


@dataclass(frozen=True)
class Point:
    """One configuration: a workload and a base machine by name, and the fields that the axes change."""

    workload: str
    machine: str
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A checked study.  `workloads` maps a name to what workloads.load takes; axes are in the file's order."""

    name: str
    workloads: Mapping[str, str]
    machines: Mapping[str, Machine]
    axes: Mapping[str, tuple[Any, ...]]
    description: str = ""
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    seed: int = 0
    evaluate: str = task.SIMULATION

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self.workloads) * len(self.machines) * math.prod(len(values) for values in self.axes.values())

    def points(self) -> Iterator[Point]:
        """Every point, workload by workload (a worker then loads each trace once), the last axis fastest."""
        for workload, machine in itertools.product(self.workloads, self.machines):
            for values in itertools.product(*self.axes.values()):
                yield Point(workload, machine, dict(zip(self.axes, values, strict=True)))


def study_names() -> list[str]:
    """Names of the shipped studies, sorted."""
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def load_study(path_or_name: str | Path) -> Study:
    """A study from a TOML file or by the name of a shipped one.

    Raises one InputError with all mistakes of the file, each with its line.
    """
    path = Path(path_or_name)
    if path.suffix != ".toml":
        path = STUDIES / f"{path_or_name}.toml"
    if not path.is_file():
        raise InputError(f"no study {str(path_or_name)!r}", where="study", expected="a .toml file or a shipped study",
                         fix=nearest(str(path_or_name), study_names()))
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not valid TOML ({error})", where=str(path)) from None
    return _Reader(path, text, raw).study()


class _Reader:
    """Collects the mistakes of one study file while reading it."""

    def __init__(self, path: Path, text: str, raw: dict[str, Any]) -> None:
        self.path, self.lines, self.raw = path, text.splitlines(), raw
        self.errors: list[InputError] = []

    def study(self) -> Study:
        for key in self.raw:
            if key not in KEYS:
                self.wrong(f"unknown key {key!r}", key, fix=nearest(key, KEYS))
        name = self.text("name", self.path.stem)
        if not name or set(name) & set("/\\\0"):
            self.wrong(f"name = {name!r}", "name", expected="a name that a file can have")
        evaluate = self.text("evaluate", task.SIMULATION)
        known = self.evaluation(evaluate)
        machines = self.machines()
        study = Study(
            name=name, description=self.text("description", ""), workloads=self.workloads(), machines=machines,
            axes=self.axes(machines), objectives=self.objectives(known), seed=self.seed(), evaluate=evaluate,
        )
        if self.errors:
            raise InputError.collect(self.errors)
        return study

    def wrong(self, what: str, key: str, *, table: str = "", expected: str = "", fix: str = "") -> None:
        line = self.line(key, table)
        where = f"{self.path}, line {line}" if line else str(self.path)
        self.errors.append(InputError(what, where=where, expected=expected, fix=fix))

    def line(self, key: str, table: str) -> int | None:
        """Where `key` of `table` ("" = top level) stands; also `table.key = ...` and `[table.key]`."""
        current = ""
        for number, line in enumerate(self.lines, start=1):
            stripped = line.strip()
            if stripped.startswith("[") and not stripped.startswith("[["):
                current = stripped[1:].split("]")[0].strip()
                found = current
            else:
                left = stripped.split("=")[0].strip().strip("\"'")
                found = f"{current}.{left}" if current else left
            if found == (f"{table}.{key}" if table else key):
                return number
        return None

    def text(self, key: str, default: str) -> str:
        value = self.raw.get(key, default)
        if isinstance(value, str):
            return value
        self.wrong(f"{key} = {value!r}", key, expected="a text")
        return default

    def seed(self) -> int:
        value = self.raw.get("seed", 0)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.wrong(f"seed = {value!r}", "seed", expected="an integer of at least 0")
        return 0

    def names(self, key: str, example: str) -> list[str]:
        """A list of different texts under `key`, which must be there."""
        expected = f"a list of different texts such as [{example!r}]"
        if key not in self.raw:
            self.wrong(f"key {key!r} is missing", key, expected=expected)
            return []
        value = self.raw[key]
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value) \
                or len(set(value)) < len(value):
            self.wrong(f"{key} = {value!r}", key, expected=expected)
            return []
        return list(value)

    def evaluation(self, path: str) -> bool:
        """Whether the columns that `path` fills are known; a mistake where it names no function."""
        try:
            task.evaluation(path)
        except InputError as error:
            self.wrong(error.what, "evaluate", expected=error.expected, fix=error.fix)
        return path == task.SIMULATION

    def workloads(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for word in self.names("workloads", "resnet18"):
            label = _label(word)
            if label in found:
                self.wrong(f"two workloads are called {label!r}", "workloads", expected="different file names")
            try:
                found[label] = workloads.locate(word, self.path.resolve().parent)
            except InputError as error:
                self.wrong(error.what, "workloads", expected=error.expected, fix=error.fix)
        return found

    def machines(self) -> dict[str, Machine]:
        found: dict[str, Machine] = {}
        for word in self.names("machines", "systolic_ws"):
            base, mark, query = word.partition("?")
            if base.endswith((".toml", ".cfg")):
                base = str(self.path.resolve().parent / base)
            if _label(word) in found:
                self.wrong(f"two machines are called {_label(word)!r}", "machines", expected="different file names")
            try:
                found[_label(word)] = load_machine(base + mark + query)
            except InputError as error:
                self.wrong(str(error), "machines")
        return found

    def objectives(self, known: bool) -> tuple[str, ...]:
        if "objectives" not in self.raw:
            return DEFAULT_OBJECTIVES
        words = self.names("objectives", "latency_s")
        for word in words:
            column, _ = task.objective(word)
            if known and column not in task.NUMBERS:
                self.wrong(f"unknown objective {word!r}", "objectives", fix=nearest(column, task.NUMBERS),
                           expected="a column of the results, with 'max ' before it where more is better")
        return tuple(words)

    def axes(self, machines: Mapping[str, Machine]) -> dict[str, tuple[Any, ...]]:
        raw = self.raw.get("axes", {})
        if not isinstance(raw, dict):
            self.wrong(f"axes = {raw!r}", "axes", expected="a table [axes]")
            return {}
        found: dict[str, tuple[Any, ...]] = {}
        for key, value in raw.items():
            values = self.values(key, value)
            for name, machine in machines.items():
                values = [self.fit(key, item, name, machine.to_dict()) for item in values]
            # Compared as text, since 1, 1.0 and true are equal in Python but not as fields of a machine.
            if len({repr(item) for item in values}) < len(values):
                self.wrong(f"a value of {key} is given twice", key, table="axes", expected="different values")
            found[key] = tuple(values)
        return found

    def values(self, key: str, value: Any) -> list[Any]:
        """The values of one axis: a list as it is, a range spelled out."""
        if isinstance(value, dict):
            try:
                return _range(value)
            except InputError as error:
                self.wrong(f"{key}: {error.what}", key, table="axes", expected=error.expected, fix=error.fix)
                return []
        if not isinstance(value, list) or not value:
            self.wrong(f"{key} = {value!r}", key, table="axes",
                       expected="a list of values or a range such as {from = 4, to = 64, powers_of_two = true}")
            return []
        return value

    def fit(self, key: str, value: Any, name: str, fields: Mapping[str, Any]) -> Any:
        """`value` in the type that the machine's field has; a mistake where there is no such field or type."""
        if key not in fields or key in ("name", "description", "model"):
            allowed = sorted(set(fields) - {"name", "description", "model"})
            self.wrong(f"unknown axis {key!r}: machine {name!r} has no such field", key, table="axes",
                       fix=nearest(key, allowed))
            return value
        now = fields[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(now, bool):
            good, expected = isinstance(value, bool) or value in (0, 1), "true or false"
        elif isinstance(now, int):
            good, expected = number and (isinstance(value, int) or value.is_integer()), "an integer"
            value = int(value) if good else value
        elif isinstance(now, float):
            good, expected = number and not math.isnan(value), "a number"
            value = float(value) if good else value
        elif isinstance(now, str):
            good, expected = isinstance(value, str), "a text"
        else:
            good = isinstance(value, list) and all(isinstance(item, str) for item in value)
            expected = 'a list of texts such as ["2:4"]'
        if not good:
            self.wrong(f"{key} = {value!r}", key, table="axes", expected=expected)
        return value


def _label(word: str) -> str:
    """The name of a file without folder and ending, or the word itself; a machine's ?key=value stays."""
    base, mark, query = word.partition("?")
    is_file = base.endswith((".toml", ".cfg", ".csv", ".safetensors"))
    return (Path(base).stem if is_file else base) + mark + query


def _range(table: Mapping[str, Any]) -> list[Any]:
    """{from, to, step = 1} in equal steps, or {from, to, powers_of_two = true}; both ends are included."""
    for key in table:
        if key not in RANGE_KEYS:
            raise InputError(f"unknown key {key!r} in a range", fix=nearest(key, RANGE_KEYS))
    doubling = table.get("powers_of_two", False)
    first, last, step = table.get("from"), table.get("to"), table.get("step", 1)
    for key, value in (("from", first), ("to", last), ("step", step)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{key} = {value!r}", expected="a number", fix="a range needs from and to")
    if not isinstance(doubling, bool) or (doubling and "step" in table):
        raise InputError(f"powers_of_two = {doubling!r}", expected="true without a step, or a step")
    assert first is not None
    assert last is not None
    if first > last:
        raise InputError(f"from = {first} is above to = {last}", expected="from at most to")
    if doubling:
        powers = [2**exponent for exponent in range(63) if first <= 2**exponent <= last]
        if not powers:
            raise InputError(f"no power of two from {first} to {last}", expected="at least one")
        return powers
    if step <= 0:
        raise InputError(f"step = {step}", expected="more than 0")
    # Exact decimal steps: 0.1, 0.2, 0.3 and not 0.30000000000000004.
    start, stride = Fraction(str(first)), Fraction(str(step))
    exact = [start + index * stride for index in range(int((Fraction(str(last)) - start) / stride) + 1)]
    whole = isinstance(first, int) and isinstance(step, int)
    return [int(value) if whole else float(value) for value in exact]
