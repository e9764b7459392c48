"""Energy: counts times a sourced table, in float64, outside the kernels.

Every multiply-accumulate, register hop, buffer access and DRAM bit that a machine counted is priced; leakage, clock,
wires, control and the arithmetic outside the multipliers are left out.  The tables and the rules for what they lack
are in tables.py; the numbers, with their sources, in presets/energy/; the discussion in docs/energy.md.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .counts import Count
from .errors import InputError
from .hardware import Machine
from .number_types import multiplied_as
from .tables import Entry, Table, by_capacity, by_width, load_table

__all__ = ["COMPONENTS", "energy_pj", "load_table", "notes"]

COMPONENTS = ("mac", "mac_gated", "registers", "input_sram", "weight_sram", "output_sram", "metadata", "dram")
DRAM_COMPONENTS = ("dram_activate", "dram_refresh")  # of a DRAM device whose currents are known
Bits = tuple[int, int, int, int]
INTEGERS = ("int", "int")


def energy_pj(counts: NDArray[np.int64], machine: Machine, bits: Bits,
              numbers: tuple[str, str] = INTEGERS) -> dict[str, float]:
    """Picojoules by component, in the order of COMPONENTS, then of DRAM_COMPONENTS.

    counts: int64[len(Count)].  bits: widths of (weight, input, output, partial sum).  The output buffer holds partial
    sums and is priced at their width; metadata lies with the weights and costs what a weight bit costs.  A component
    that has no events is left out, so a table needs prices only for what happened.  numbers: kinds of number of
    (weight, input), as in number_types.py.  Raises InputError where the machine's table lacks a component that has
    events, and for floating-point arithmetic that it does not list.
    """
    weight, inputs, _, psum = bits
    at = [int(value) for value in counts]
    table = _table(machine)
    capacity = buffer_bytes(machine)
    energy: dict[str, float] = {}
    if at[Count.ISSUED_MACS]:
        energy["mac"] = at[Count.ISSUED_MACS] * mac_pj(table, weight, inputs, psum, numbers)[0]
    if at[Count.GATED_MACS]:
        energy["mac_gated"] = at[Count.GATED_MACS] * gated_pj(table, weight, inputs, numbers)
    hop_bits = at[Count.INPUT_HOPS] * inputs + at[Count.WEIGHT_HOPS] * weight + at[Count.PSUM_HOPS] * psum
    if hop_bits:
        energy["registers"] = hop_bits * _per_bit(table, "register")
    traffic = {
        "input_sram": (at[Count.INPUT_SRAM_READS] * inputs, at[Count.INPUT_SRAM_WRITES] * inputs, "input"),
        "weight_sram": (at[Count.WEIGHT_SRAM_READS] * weight, at[Count.WEIGHT_SRAM_WRITES] * weight, "weight"),
        "output_sram": (at[Count.OUTPUT_SRAM_READS] * psum, at[Count.OUTPUT_SRAM_WRITES] * psum, "output"),
        "metadata": (at[Count.METADATA_SRAM_READ_BITS], at[Count.METADATA_SRAM_WRITE_BITS], "weight"),
    }
    for name, (read_bits, written_bits, buffer) in traffic.items():
        if read_bits or written_bits:
            read_pj, write_pj = sram_pj_per_bit(table, capacity[buffer])
            energy[name] = read_bits * read_pj + written_bits * write_pj
    return energy | _dram_pj(at, machine, table)


def _dram_pj(at: list[int], machine: Machine, table: Table) -> dict[str, float]:
    """The DRAM's picojoules: of its commands where a device states its currents, else of every bit by the table."""
    read = at[Count.INPUT_DRAM_READ_BYTES] + at[Count.WEIGHT_DRAM_READ_BYTES] + at[Count.PSUM_DRAM_READ_BYTES]
    written = at[Count.OUTPUT_DRAM_WRITE_BYTES] + at[Count.PSUM_DRAM_WRITE_BYTES]
    if not read + written:
        return {}
    own = machine.memory.device.energy_pj() if machine.memory.memory == "dram" else {}
    if not own:
        return {"dram": (read + written) * 8 * _per_bit(table, "dram")}
    # The table averages activations in; priced apart they must not be paid twice, so its price is not used.
    activates = at[Count.DRAM_ROW_MISSES] + at[Count.DRAM_ROW_CONFLICTS]
    bursts = {"read": read / machine.memory.burst_bytes, "write": written / machine.memory.burst_bytes}
    priced = {"dram": sum(number * own[kind] for kind, number in bursts.items()),
              "dram_activate": activates * own["activate"], "dram_refresh": at[Count.DRAM_REFRESHES] * own["refresh"]}
    return {name: picojoules for name, picojoules in priced.items() if picojoules}


def notes(machine: Machine) -> tuple[str, ...]:
    """What a reader must know before quoting these picojoules: what is left out, derived, borrowed or extrapolated."""
    table = _table(machine)
    said = [f"energy table {table.name}: dynamic energy only, no leakage, clock tree, wires or control",
            *getattr(machine.array, "unpriced", ())]
    if table.has("mac"):
        widths = ", ".join(sorted({f"{e['weight_bits']:.0f}x{e['input_bits']:.0f}" for e in table.of("mac")}))
        accumulators = sorted({int(e["accumulator_bits"]) for e in table.of("mac")
                               if "accumulator_bits" in e.numbers})
        said.append(f"MAC energy is tabulated at {widths} bits; other widths are derived (log-log between entries, in "
                    "proportion to the product of the widths outside)")
        if accumulators and machine.memory.psum_bits not in accumulators:
            said.append(f"the tabulated MAC adds in {', '.join(map(str, accumulators))} bits, not in psum_bits = "
                        f"{machine.memory.psum_bits}; its adder is not rescaled")
    elif table.has("multiply"):
        widths = ", ".join(f"{e['weight_bits']:.0f}x{e['input_bits']:.0f}" for e in table.of("multiply"))
        said.append(f"MAC energy = multiply + add at psum_bits; multiplies are tabulated at {widths} bits, others "
                    "are derived (log-log between entries, in proportion to the product of the widths outside)")
        if table.has("add") and by_width(table.of("add"), _bits, machine.memory.psum_bits, "pj")[1]:
            said.append(f"the add at psum_bits = {machine.memory.psum_bits} is derived from the tabulated widths")
    if table.has("sram"):
        said += _capacity_notes(machine, table)
    if machine.memory.memory == "dram":
        said.append(_dram_note(machine, table))
    for component, entries in sorted(table.entries.items()):
        said += [f"{component}: {text}" for text in dict.fromkeys(entry.note for entry in entries if entry.note)]
    return tuple(said)


def _dram_note(machine: Machine, table: Table) -> str:
    device = machine.memory.device
    if device.dies:
        return (f"DRAM energy is that of {device.name}'s commands, from the currents of its data sheet: activations, "
                "bursts and refreshes; interface, termination and background power are left out")
    return f"DRAM energy is {table.name}'s price of a bit, activations averaged in: {device.name} states no currents"


def _table(machine: Machine) -> Table:
    try:
        return load_table(machine.energy_table)
    except InputError as error:
        raise InputError(str(error), where=f"machine {machine.name!r}") from None


def buffer_bytes(machine: Machine) -> dict[str, int]:
    """Capacity in bytes of the buffer that serves each operand: three private ones, or one that they share."""
    memory = machine.memory
    if memory.shared_buffer_bytes:
        return dict.fromkeys(("input", "weight", "output"), memory.shared_buffer_bytes)
    return {"input": memory.input_buffer_bytes, "weight": memory.weight_buffer_bytes,
            "output": memory.output_buffer_bytes}


def _capacity_notes(machine: Machine, table: Table) -> list[str]:
    rows = table.entries["sram"]
    low, high = (pick(entry["capacity_bytes"] for entry in rows) for pick in (min, max))
    span = f"{low / 1024:g} to {high / 1024:g} KB" if high > low else f"{low / 1024:g} KB only"
    outside: dict[int, list[str]] = {}
    for buffer, capacity in buffer_bytes(machine).items():
        if not low <= capacity <= high:
            outside.setdefault(capacity, []).append(buffer)
    return [f"SRAM energy of the {' and '.join(names)} buffer ({capacity / 1024:g} KB) is extrapolated: "
            f"{table.name} has {span}" for capacity, names in outside.items()]


@lru_cache(maxsize=4096)  # a network asks for the same few capacities once per layer
def sram_pj_per_bit(table: Table, capacity_bytes: int) -> tuple[float, float]:
    """(read, write) picojoules per bit of an SRAM of that capacity: an access of a whole word, over its bits."""
    read, write = ([(e["capacity_bytes"], e[value] / e["word_bits"]) for e in table.of("sram")]
                   for value in ("read_pj", "write_pj"))
    return by_capacity(read, capacity_bytes)[0], by_capacity(write, capacity_bytes)[0]


def _product(entry: Entry) -> float:
    return entry["weight_bits"] * entry["input_bits"]


def _bits(entry: Entry) -> float:
    return entry["bits"]


def _per_bit(table: Table, component: str) -> float:
    entry = table.of(component)[0]
    return entry["pj"] / entry["bits"]


@lru_cache(maxsize=4096)
def mac_pj(table: Table, weight_bits: int, input_bits: int, psum_bits: int,
           numbers: tuple[str, str] = INTEGERS) -> tuple[float, bool]:
    """(picojoules of one multiply-accumulate, derived): a tabulated MAC, or a multiply and an add at psum_bits.

    Floats of any kind are added as floats of psum_bits, and only at widths that are tabulated.
    """
    (weight_bits, number), (input_bits, _) = multiplied_as((weight_bits, numbers[0]), (input_bits, numbers[1]))
    if number != "int":
        widths = {"weight_bits": weight_bits, "input_bits": input_bits}
        if table.has("mac", number) or (table.has("mac") and not table.has("multiply", number)):
            return table.exactly("mac", number, **widths)["pj"], False
        multiply_pj = table.exactly("multiply", number, **widths)["pj"]
        return multiply_pj + table.exactly("add", "float", bits=psum_bits)["pj"], False
    if table.has("mac"):
        return by_width(table.of("mac"), _product, weight_bits * input_bits, "pj")
    if not table.has("multiply"):
        table.of("mac")  # raises, naming the component
    multiply, derived = by_width(table.of("multiply"), _product, weight_bits * input_bits, "pj")
    add, derived_add = by_width(table.of("add"), _bits, psum_bits, "pj")
    return multiply + add, derived or derived_add


def gated_pj(table: Table, weight_bits: int, input_bits: int, numbers: tuple[str, str] = INTEGERS) -> float:
    """Picojoules of a slot whose multiplier is held still."""
    (weight_bits, number), (input_bits, _) = multiplied_as((weight_bits, numbers[0]), (input_bits, numbers[1]))
    if number != "int":
        return table.exactly("mac_gated", number, weight_bits=weight_bits, input_bits=input_bits)["pj"]
    return by_width(table.of("mac_gated"), _product, weight_bits * input_bits, "pj")[0]
