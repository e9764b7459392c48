"""DRAM devices as data: organisation, named timings and currents, read from presets/dram/ or a TOML file.

Every number of a file has a unit, a condition and a source, or is refused.  Ranks, per-bank refresh, power-down,
temperature and the command bus are left out.  Read docs/model.md section 3 for what the timings do, dram_kernel.py for
how fast they are played and reference/dram.py for the same clock by clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import files
from .errors import InputError, nearest

if TYPE_CHECKING:
    from .hardware import Memory

DEVICES = Path(__file__).parent / "presets" / "dram"
FIELDS = ("row", "bank", "group", "column", "channel")
MAPPING = "row:bank:column:group:channel"
MOST_CLOCKS = 1 << 24  # of any timing: far beyond a refresh interval, and sums stay far from 64 bits
MOST_FRACTION = 10**6  # of numerator and denominator of the two clocks


@dataclass(frozen=True)
class Device:
    """One kind of DRAM channel; timings by their JEDEC names in clocks of `clock_mhz` (tCK), one command per clock.

    A row has row_bytes, a burst burst_bytes; bank groups, banks, rows, channels and bursts per row are powers of two.
    tREFI = 0 stands for no refresh.  tRTW is from a read command to a write command, tWTR from the end of the written
    data.  The *_ma and vdd_v are of one die, of which `dies` make a channel; all 0 where no data sheet gives them.
    """

    name: str
    clock_mhz: float
    channels: int
    bank_groups: int
    banks_per_group: int
    rows: int
    row_bytes: int
    burst_bytes: int
    tBL: int
    tCL: int
    tCWL: int
    tRCD: int
    tRCDW: int
    tRP: int
    tRAS: int
    tRRD_S: int
    tRRD_L: int
    tFAW: int
    tCCD_S: int
    tCCD_L: int
    tRTP: int
    tWR: int
    tWTR_S: int
    tWTR_L: int
    tRTW: int
    tREFI: int
    tRFC: int
    dies: int = 0
    vdd_v: float = 0.0
    idd0_ma: float = 0.0
    idd2n_ma: float = 0.0
    idd3n_ma: float = 0.0
    idd4r_ma: float = 0.0
    idd4w_ma: float = 0.0
    idd5_ma: float = 0.0

    @property
    def columns(self) -> int:
        """Bursts in a row."""
        return self.row_bytes // self.burst_bytes

    @property
    def burst_clocks(self) -> int:
        """Clocks between bursts of an undisturbed stream over all bank groups."""
        return max(self.tCCD_S, self.tBL)

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        for name in ("channels", "bank_groups", "banks_per_group", "rows"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                found.append(f"{name} = {value}; expected a power of two")
        if self.rows < 4:
            found.append(f"rows = {self.rows}; expected at least 4, one for each operand")
        if self.burst_bytes < 1 or self.row_bytes % max(1, self.burst_bytes) or self.columns & (self.columns - 1):
            found.append(f"row_bytes = {self.row_bytes}; expected a power of two bursts of {self.burst_bytes} bytes")
        for item in dataclasses.fields(self):
            if item.name.startswith("t") and not 0 <= getattr(self, item.name) <= MOST_CLOCKS:
                found.append(f"{item.name} = {getattr(self, item.name)}; expected 0 to {MOST_CLOCKS} clocks")
        if self.tBL < 1:
            found.append(f"tBL = {self.tBL}; expected at least 1 clock")
        if self.tREFI and self.tREFI <= self.tRP + self.tRFC:
            found.append(f"tREFI = {self.tREFI}; expected 0 (no refresh) or more than tRP + tRFC")
        if not self.clock_mhz > 0:
            found.append(f"clock_mhz = {self.clock_mhz}; expected more than 0")
        return found

    def energy_pj(self) -> dict[str, float]:
        """Picojoules of an activation with its precharge, a burst read, a burst written and a refresh of a channel.

        From the currents over what standby takes, as Micron's TN-40-07 derives them; empty where a device has none.
        Interface, termination and background power are left out.
        """
        if not self.dies:
            return {}
        # mA x V x ns = pJ
        scale, clock_ns = self.dies * self.vdd_v, 1e3 / self.clock_mhz
        row = self.idd0_ma * (self.tRAS + self.tRP) - self.idd3n_ma * self.tRAS - self.idd2n_ma * self.tRP
        return {
            "activate": row * scale * clock_ns,
            "read": (self.idd4r_ma - self.idd3n_ma) * self.tBL * scale * clock_ns,
            "write": (self.idd4w_ma - self.idd3n_ma) * self.tBL * scale * clock_ns,
            "refresh": (self.idd5_ma - self.idd3n_ma) * self.tRFC * scale * clock_ns,
        }


def device_names() -> list[str]:
    """Names of the shipped devices, sorted."""
    return sorted(path.stem for path in DEVICES.glob("*.toml"))


@lru_cache(maxsize=256)
def load_device(text: str) -> Device:
    """A device by `NAME` or `FILE.toml`, with numbers changed as in `ddr4_2400,tRCD=20,tFAW=40`.

    Raises InputError for an unknown name or number, a number without unit, condition or source, or one out of range.
    """
    base, *changes = text.split(",")
    path = Path(base) if base.endswith(".toml") else DEVICES / f"{base}.toml"
    if not files.is_file(path):
        raise InputError(f"dram = {base!r}", where="memory", expected="a shipped device or a .toml file",
                         fix=nearest(base, device_names()))
    numbers = {name: entry["value"] for name, entry in entries(path).items()}
    hints = {item.name: item.type for item in dataclasses.fields(Device) if item.name != "name"}
    for change in changes:
        name, _, value = change.partition("=")
        if name.strip() not in hints:
            raise InputError(f"unknown number {name.strip()!r}", where=f"dram = {text!r}",
                             fix=nearest(name.strip(), hints))
        try:
            numbers[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"{change!r}", where=f"dram = {text!r}", expected="NAME=NUMBER") from None
    errors = [f"{name} is missing" for name in hints if name not in numbers and name not in OPTIONAL]
    for name, value in numbers.items():
        if not math.isfinite(value):
            errors.append(f"{name} = {value}; expected a finite number")
        elif hints[name] == "int" and value != int(value):
            errors.append(f"{name} = {value}; expected an integer")
    if errors:
        raise InputError.collect([InputError(error, where=str(path)) for error in errors])
    whole = {name: int(value) if hints[name] == "int" else float(value) for name, value in numbers.items()}
    device = Device(name=path.stem, **whole)  # type: ignore[arg-type]
    if problems := device.problems():
        raise InputError.collect([InputError(problem, where=f"dram = {text!r}") for problem in problems])
    return device


OPTIONAL = {item.name for item in dataclasses.fields(Device) if item.default is not dataclasses.MISSING}
UNITS = ("MHz", "bytes", "tCK", "mA", "V", "count")


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The [[number]] entries of a device file by name; InputError, all at once, for one that is not fully sourced."""
    raw = files.read_toml(path)
    sources, rows = raw.get("sources", {}), raw.get("number", [])
    if not isinstance(sources, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("no numbers", where=str(path), expected="a table [sources] and entries [[number]]")
    known = {item.name for item in dataclasses.fields(Device)} - {"name"}
    errors, found = [], {}
    for index, row in enumerate(rows, start=1):
        where = f"{path}, number {index} ({row.get('name', 'no name')})"
        errors += [InputError(problem, where=where) for problem in _entry_problems(row, sources, known)]
        if row.get("name") in found:
            errors.append(InputError("given twice", where=where))
        found[row.get("name")] = row
    if errors:
        raise InputError.collect(errors)
    return {str(name): row for name, row in found.items()}


def _entry_problems(row: Mapping[str, Any], sources: Mapping[str, Any], known: set[str]) -> list[str]:
    problems = []
    if row.get("name") not in known:
        problems.append(f"unknown number {row.get('name')!r}; {nearest(str(row.get('name')), known)}")
    value = row.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**62:
        problems.append(f"value = {value!r}; expected a number")
    if row.get("unit") not in UNITS:
        problems.append(f"unit = {row.get('unit')!r}; expected one of {', '.join(UNITS)}")
    if not isinstance(row.get("condition"), str) or not row["condition"].strip():
        problems.append("condition is missing")
    source = row.get("source")
    if not isinstance(source, str) or not isinstance(sources.get(source), str):
        problems.append(f"source = {source!r} is not in [sources]")
    for name in row:
        if name not in ("name", "value", "unit", "condition", "source"):
            problems.append(f"unknown field {name!r}")
    return problems


def clocks_per_cycle(device: Device, array_clock_hz: float) -> Fraction:
    """DRAM clocks per cycle of the array, exact in the decimal text of both clocks."""
    return Fraction(str(device.clock_mhz)) * 10**6 / Fraction(str(array_clock_hz))


def bytes_per_cycle(device: Device, channels: int, array_clock_hz: float) -> Fraction:
    """The peak of all channels in bytes per cycle of the array."""
    return channels * device.burst_bytes * clocks_per_cycle(device, array_clock_hz) / device.burst_clocks


def mapping_problem(text: str) -> str | None:
    """What is wrong with an address mapping, or None."""
    if sorted(text.split(":")) == sorted(FIELDS):
        return None
    return f"dram_address_mapping = {text!r}; expected the five of {MAPPING!r} in some order, highest bits first"


def arguments(memory: Memory) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(parameters, fresh state) of dram_kernel; zero where the memory has no DRAM device."""
    if memory.memory != "dram":
        return _no_device()
    from . import dram_kernel as kernel

    parameters = _parameters(memory)
    state = np.zeros((int(parameters[kernel.CHANNELS]) + 1, int(parameters[kernel.WIDTH])), dtype=np.int64)
    kernel.reset(parameters, state)
    return parameters, state


@lru_cache(maxsize=1)
def _no_device() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nothing writes to them: without a device the kernels leave them alone."""
    from . import dram_kernel as kernel

    return np.zeros(kernel.PARAMETERS, dtype=np.int64), np.zeros((1, 1), dtype=np.int64)


@lru_cache(maxsize=256)
def _parameters(memory: Memory) -> NDArray[np.int64]:
    from . import dram_kernel as kernel

    device, channels = memory.device, memory.channels
    ratio = clocks_per_cycle(device, memory.array_clock_hz)
    p = np.zeros(kernel.PARAMETERS, dtype=np.int64)
    sizes = {"row": device.rows, "bank": device.banks_per_group, "group": device.bank_groups,
             "column": device.columns, "channel": channels}
    shift, local = {}, {}
    bits = inside = 0
    for name in reversed(memory.dram_address_mapping.split(":")):
        shift[name], local[name] = bits, inside
        bits += sizes[name].bit_length() - 1
        inside += 0 if name == "channel" else sizes[name].bit_length() - 1
    # A stripe: bursts that follow each other in a channel without any row changing.
    open_rows = local["row"] > local["column"]
    stripe = device.columns << local["column"] if open_rows else 1
    period = 1 << local["column"]
    values = {
        kernel.ON: 1, kernel.CHANNELS: channels, kernel.WINDOW: memory.dram_window, kernel.CLOCKS: ratio.numerator,
        kernel.CYCLES: ratio.denominator, kernel.BURST: device.burst_bytes,
        kernel.REGION: device.burst_bytes << (bits - 2),
        kernel.CHANNEL_SHIFT: shift["channel"], kernel.CHANNEL_BITS: channels.bit_length() - 1,
        kernel.GROUP_SHIFT: local["group"], kernel.GROUPS: device.bank_groups,
        kernel.BANK_SHIFT: local["bank"], kernel.BANKS: device.banks_per_group,
        kernel.ROW_SHIFT: local["row"], kernel.ROWS: device.rows, kernel.STRIPE: stripe, kernel.PERIOD: period,
        kernel.READ_BURST: device.tCL + device.tBL, kernel.WRITE_BURST: device.tCWL + device.tBL,
        kernel.CCD_S: device.burst_clocks, kernel.CCD_L: max(device.tCCD_L, device.burst_clocks),
        kernel.RCD_READ: device.tRCD, kernel.RCD_WRITE: device.tRCDW, kernel.RP: device.tRP, kernel.RAS: device.tRAS,
        kernel.RRD_S: device.tRRD_S, kernel.RRD_L: max(device.tRRD_S, device.tRRD_L), kernel.FAW: device.tFAW,
        kernel.READ_PRE: device.tRTP, kernel.WRITE_PRE: device.tCWL + device.tBL + device.tWR,
        kernel.WTR_S: device.tCWL + device.tBL + device.tWTR_S,
        kernel.WTR_L: device.tCWL + device.tBL + max(device.tWTR_S, device.tWTR_L),
        kernel.RTW: device.tRTW, kernel.REFI: device.tREFI, kernel.RFC: device.tRFC,
    }
    for index, value in values.items():
        p[index] = value
    kernel.lay_out(p)
    return p
