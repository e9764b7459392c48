"""Machines as data: a name, a model, an array, a memory system, a clock and the tables that price it.

A machine is read from a flat TOML whose keys are the field names below (tables such as `[array]` are
allowed for the reader's sake and change nothing); each key belongs to exactly one component, so that
`NAME?rows=8&dram_bytes_per_cycle=4` can override any of them.  What the fields do to a cycle count is in
docs/model.md; which fields an array has is in its model under machines/.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .errors import InputError, nearest
from .machines import MACHINES, model

if TYPE_CHECKING:
    from .dram import Device

PRESETS = Path(__file__).parent / "presets"
MOST_DENOMINATOR = 10**6  # of bytes per cycle as a fraction: times bytes, it has to fit the kernels' 64 bits
RANGES = {
    # field of Memory: the least and the most; a buffer of 4 TiB is no limit for any layer that is simulated
    **dict.fromkeys(("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes"), (1, 2**42)),
    "shared_buffer_bytes": (0, 2**42), "dram_latency_cycles": (0, 2**32), "dram_burst_bytes": (1, 2**30),
    "psum_bits": (1, 1024),
}
COMPONENTS = ("array", "memory", "vector")  # fields of Machine that are components; in a file their fields are flat
NOT_IN_FILES = ("array_clock_hz", "inputs_on_chip", "outputs_on_chip")  # fields of Memory that others set


@dataclass(frozen=True)
class Memory:
    """On-chip buffers and the DRAM that all operands share.

    memory = "ideal" switches the memory system off; "channel" is a channel with a bandwidth and a latency; "dram" is
    `dram_channels` (0: as many as the device has) channels of a device with banks, rows and refresh, whose timings
    stand in presets/dram/ (docs/model.md section 3); dram_latency_cycles is then what comes on top of the device's own.
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
    keep_outputs_on_chip: bool = False  # from layer to layer, where they fit (residency.py)
    inputs_on_chip: bool = False  # of one layer, as residency.py sets it: its inputs do not cross the channel
    outputs_on_chip: bool = False  # of one layer: its finished outputs do not
    weight_format: str = "native"  # off chip: as the model keeps it, or a name of formats.STORABLE, or "auto"
    input_format: str = "native"
    weight_decoder: str = "load"  # of a declared weight_format: ahead of the buffer ("load") or behind it ("read")
    dram: str = "ddr4_2400"
    dram_channels: int = 0
    dram_address_mapping: str = "row:bank:column:group:channel"
    dram_window: int = 32  # requests of a channel that its controller opens rows for
    input_banks: int = 0  # of a buffer, 0: no conflicts; docs/model.md section 1.9
    weight_banks: int = 0
    output_banks: int = 0
    bank_ports: int = 1  # words that a bank serves at an edge
    bank_interleave: str = "element"  # neighbours lie in neighbouring banks, or whole rows of the tensor do ("row")
    array_clock_hz: float = 1e9  # set by Machine from its clock_hz: the DRAM has a clock of its own

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = _not_in(self, "memory", ("ideal", "channel", "dram"))
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                found.append(f"{name} = {getattr(self, name)}; expected an integer from {low} to {high}")
        found += _not_in(self, "bank_interleave", ("element", "row")) + _below(self, "bank_ports", 1)
        banks = {name: getattr(self, f"{name}_banks") for name in ("input", "weight", "output")}
        found += [f"{name}_banks = {value}; expected 0 (no conflicts) to 65536"
                  for name, value in banks.items() if not 0 <= value <= 65536]
        if not (1 / MOST_DENOMINATOR <= self.dram_bytes_per_cycle <= 2**30 or self.dram_bytes_per_cycle == math.inf):
            found.append(f"dram_bytes_per_cycle = {self.dram_bytes_per_cycle}; expected 1e-06 to {2**30} "
                         "(inf = no limit)")
        found += self._format_problems()
        return found + (self._dram_problems() if self.memory == "dram" else [])

    def _format_problems(self) -> list[str]:
        from .formats import candidates_of

        found = _not_in(self, "weight_decoder", ("load", "read"))
        if self.weight_decoder == "read" and self.weight_format == "native":
            found.append("weight_decoder = 'read'; it needs a weight_format")
        for name in ("weight_format", "input_format"):
            try:
                candidates_of(getattr(self, name))
            except InputError as error:
                found.append(f"{name} = {getattr(self, name)!r}: {error}")
        return found

    def _dram_problems(self) -> list[str]:
        from . import dram

        try:
            device = dram.load_device(self.dram)
        except InputError as error:
            return [f"dram = {self.dram!r}; {error}"]
        found = []
        if self.dram_channels < 0 or self.channels & (self.channels - 1) or self.channels > 1024:
            found.append(f"dram_channels = {self.dram_channels}; expected a power of two up to 1024, or 0")
        if not 1 <= self.dram_window <= 4096 or self.dram_window & (self.dram_window - 1):
            found.append(f"dram_window = {self.dram_window}; expected a power of two up to 4096")
        if problem := dram.mapping_problem(self.dram_address_mapping):
            found.append(problem)
        if math.isfinite(self.array_clock_hz) and self.array_clock_hz > 0:
            ratio = dram.clocks_per_cycle(device, self.array_clock_hz)
            if max(ratio.numerator, ratio.denominator) > dram.MOST_FRACTION:
                found.append(f"clock_hz = {self.array_clock_hz} beside a DRAM of {device.clock_mhz} MHz is the ratio "
                             f"{ratio}; expected numbers up to {dram.MOST_FRACTION}: give the clock with fewer digits")
        return found

    @property
    def device(self) -> Device:
        """The DRAM device of memory = "dram"."""
        from . import dram

        return dram.load_device(self.dram)

    @property
    def channels(self) -> int:
        """DRAM channels of memory = "dram"."""
        return self.dram_channels or self.device.channels

    @property
    def burst_bytes(self) -> int:
        """Bytes that transfers are rounded up to."""
        return self.device.burst_bytes if self.memory == "dram" else self.dram_burst_bytes

    def bandwidth(self) -> tuple[int, int]:
        """Peak bytes per cycle as an exact fraction (bytes, cycles); (0, 1) stands for no limit."""
        if self.memory == "dram":
            from . import dram

            peak = dram.bytes_per_cycle(self.device, self.channels, self.array_clock_hz)
            return peak.numerator, peak.denominator
        if math.isinf(self.dram_bytes_per_cycle):
            return 0, 1
        return _exact(self.dram_bytes_per_cycle)


@lru_cache(maxsize=256)
def _exact(rate: float) -> tuple[int, int]:
    """The rate as a fraction of its decimal text, not the binary float: 12.8 is 64/5, so that counts stay exact."""
    from fractions import Fraction

    text = Fraction(str(rate))
    exact = text.limit_denominator(MOST_DENOMINATOR) or text
    return exact.numerator, exact.denominator


@dataclass(frozen=True)
class Vector:
    """The unit that runs what is not a GEMM, and what it costs to start a layer; docs/networks.md has the equations.

    vector_lanes = 0: the machine has none, and operators are priced at zero (every report says which).
    """

    vector_lanes: int = 0
    vector_operations_per_cycle: int = 1  # scalar operations of one lane
    vector_fused: bool = True  # element-wise operators take the array's outputs as they leave
    layer_startup_cycles: int = 0  # to configure and launch a layer, or an operator that is not fused

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ranges = {"vector_lanes": (0, 2**20), "vector_operations_per_cycle": (1, 2**10),
                  "layer_startup_cycles": (0, 2**40)}
        return [f"{name} = {getattr(self, name)}; expected an integer from {low} to {high}"
                for name, (low, high) in ranges.items() if not low <= getattr(self, name) <= high]


@dataclass(frozen=True)
class Machine:
    """A frozen accelerator description.  `array` is the model's own spec (machines/<model>.py, class Spec).

    type_rates: products of a multiplier per cycle by operand type, "int4:2" or "fp32:1/4"; a type that is not named
    runs at the array's own rate (precision.py).
    """

    name: str
    model: str
    array: Any
    memory: Memory = Memory()
    vector: Vector = Vector()
    clock_hz: float = 1e9
    energy_table: str = "cacti_45nm"
    area_table: str = "cacti_45nm"
    type_rates: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if self.memory.array_clock_hz != self.clock_hz:
            object.__setattr__(self, "memory", dataclasses.replace(self.memory, array_clock_hz=self.clock_hz))

    def to_dict(self) -> dict[str, Any]:
        """The flat fields, as a TOML of this machine has them."""
        flat: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            flat.update(dataclasses.asdict(value) if item.name in COMPONENTS else {item.name: value})
        return {name: value for name, value in flat.items() if name not in NOT_IN_FILES}

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
    for owner in (Machine, Memory, Vector, spec):
        homes.update({item.name: owner for item in dataclasses.fields(owner) if item.name not in COMPONENTS})
    for item in NOT_IN_FILES:
        del homes[item]
    # `memory` names both a component of Machine and its first field; in a file it is the field.
    homes["memory"] = Memory
    parts: dict[type, dict[str, Any]] = {Machine: {}, Memory: {}, Vector: {}, spec: {}}
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
    clock = parts[Machine].get("clock_hz", 1e9)
    memory, vector, array = Memory(**parts[Memory], array_clock_hz=clock), Vector(**parts[Vector]), spec(**parts[spec])
    problems = memory.problems() + vector.problems() + array.problems() + _unable(memory, array)
    if hasattr(array, "bank_problems"):
        problems += array.bank_problems(memory)
    elif memory.input_banks or memory.weight_banks or memory.output_banks:
        problems.append(f"input_banks, weight_banks, output_banks: not of model {kind!r}; expected model systolic")
    if not 1 <= clock <= 1e15:
        problems.append(f"clock_hz = {clock}; expected a finite frequency from 1 to 1e15")
    if problems:
        raise InputError.collect([InputError(text, where=_at(where, text.split(" ")[0])) for text in problems])
    if parts[Machine].get("type_rates"):
        from .precision import rates

        rates(parts[Machine]["type_rates"])
    return Machine(memory=memory, vector=vector, array=array, **parts[Machine])


def _table(base: str) -> tuple[dict[str, Any], str]:
    """Flat fields of a preset or file, with `base = "preset"` resolved, and where they came from."""
    path = Path(base) if base.endswith(".toml") else PRESETS / f"{base}.toml"
    if not files.is_file(path):
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
    raw = files.read_toml(path)
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
    if where.endswith(".toml") and files.is_file(path):
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
            changes[key.strip()] = files.parse_toml(f"value = {value}", text)["value"]
        except InputError:
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


def _unable(memory: Memory, array: Any) -> list[str]:
    """A sentence for each operand that the array can neither decode nor compute on, and for one that it cannot keep."""
    found = []
    why = getattr(array, "outputs_leave", "")
    if memory.keep_outputs_on_chip and why:
        found.append(f"keep_outputs_on_chip = True; expected false: {why}")
    for operand in ("weight", "input"):
        declared = getattr(memory, f"{operand}_format")
        native = getattr(array, "native_formats", {}).get(operand, "dense")
        if declared not in ("native", native) and operand not in getattr(array, "decodes", ()):
            found.append(f"{operand}_format = {declared!r}; expected \"native\" ({native}): "
                         "the array reads what is stored")
    return found


def _below(spec: Any, name: str, least: int) -> list[str]:
    value = getattr(spec, name)
    return [] if value >= least else [f"{name} = {value}; expected at least {least}"]


def _not_in(spec: Any, name: str, allowed: tuple[str, ...]) -> list[str]:
    value = getattr(spec, name)
    if value in allowed:
        return []
    return [f"{name} = {value!r}; expected one of {', '.join(allowed)}; {nearest(value, allowed)}"]
