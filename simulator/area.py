"""Area: multipliers and SRAM times a sourced table.

Multiply-accumulate units at the array's peak and the buffers are counted; registers, metadata decoders, interconnect,
control, pads and DRAM are left out, so this is a floor that compares machines, not a floorplan.  Read tables.py
for the rules and presets/energy/ for the numbers.
"""

from __future__ import annotations

from .energy import buffer_bytes
from .errors import InputError
from .hardware import Machine
from .tables import Table, by_capacity, load_table

UM2_PER_MM2 = 1e6


def area_mm2(machine: Machine) -> float | None:
    """Square millimetres of multipliers and buffers, or None where the machine's table has no areas at all."""
    parts = breakdown(machine)
    return None if parts is None else sum(parts.values())


def breakdown(machine: Machine) -> dict[str, float] | None:
    """Square millimetres by part: mac, then one per buffer (input_sram, weight_sram, output_sram, or sram if shared).

    MACs are the table's 8-bit ones whatever widths a layer has: area is the machine's, not the layer's.  None
    where the table has no area at all; InputError where it has one of the two.
    """
    table = _table(machine)
    with_area = [entry for entry in table.entries.get("sram", ()) if "area_mm2" in entry.numbers]
    if not with_area and not table.has("mac_area"):
        return None
    if not with_area:
        raise InputError("no area for component 'sram'", where=f"area table {table.name!r}",
                         expected="area_mm2 on its sram entries", fix="choose another area_table")
    mac = table.of("mac_area")[0]
    parts = {"mac": machine.array.peak_macs_per_cycle * mac["um2"] / UM2_PER_MM2}
    buffers, copies = buffer_bytes(machine), getattr(machine.array, "arrays", 1)
    if machine.memory.shared_buffer_bytes:
        buffers = {"": machine.memory.shared_buffer_bytes}
    for name, capacity in buffers.items():
        points = [(entry["capacity_bytes"], entry["area_mm2"]) for entry in with_area]
        parts[f"{name}_sram".lstrip("_")] = copies * by_capacity(points, capacity)[0]
    return parts


def _table(machine: Machine) -> Table:
    try:
        return load_table(machine.area_table)
    except InputError as error:
        raise InputError(str(error), where=f"machine {machine.name!r}") from None
