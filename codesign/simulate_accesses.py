"""An access trace drawn: which address of which operand is read or written when, on chip and in DRAM.

What is drawn are the rows of the trace; where more fall on a spot than it has room for, the spot says that there is at
least one.  Read simulator/access_trace.py for what an access is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.access_trace import LEVELS, OPERANDS, AccessTrace

from . import report_units as units
from .report_sections import section, table
from .report_svg import element, escape
from .simulate_charts import access_map, transfer_marks
from .simulate_page import document, header

MOST_CYCLES = 400  # in the table
UNITS = {"sram": "elements", "dram": "bytes"}


def accesses_page(trace: AccessTrace, layer: str, given: str, first: int, stop: int) -> str:
    """The document; [first, stop) is the window that was asked for, which the layer's end may cut."""
    stop = max(first + 1, min(stop, trace.cycles))
    found = [(level, operand, trace.table[(trace.table[:, 1] == at) & (trace.table[:, 2] == which)])
             for at, level in enumerate(LEVELS) for which, operand in enumerate(OPERANDS)]
    found = [part for part in found if len(part[2])]
    count = units.exact(len(trace.table)) + (" access" if len(trace.table) == 1 else " accesses")
    said = (f"Cycles {units.exact(first)} to {units.exact(stop - 1)} of the layer, from the stepped twin: "
            f"<strong>{count}</strong>. On chip an access is one element and its address the element's number in the "
            "tensor; in DRAM it is a transfer, in the cycle in which it begins.")
    on_chip = [part for part in found if part[0] == "sram"]
    return document(f"Accesses of {layer} on {given}", header(f"Accesses of {layer} on {given}", said),
                    [_maps(on_chip, first, stop), _transfers(trace.table, first, stop), _totals(found),
                     _cycles(trace.table, first, stop)], styles=("style.css", "simulate.css"))


def _key() -> str:
    keys = (element("span", element("i", " ", class_=kind), kind, class_="key") for kind in ("read", "write"))
    return element("p", *keys, class_="legend")


def _maps(found: list[tuple[str, str, NDArray[np.int64]]], first: int, stop: int) -> str:
    figures = []
    for _, operand, rows in found:
        points = rows[:, [0, 3, 4]]
        inside = points[points[:, 1] >= 0]
        padded = len(points) - len(inside)
        more = f" · {units.exact(padded)} reads of padding, which have no address" if padded else ""
        heading = element("h3", escape(operand), element("small", f" {units.exact(len(rows))} accesses{more}"))
        low, high = (int(inside[:, 1].min()), int(inside[:, 1].max())) if len(inside) else (0, 0)
        figures.append(element("figure", heading, access_map(low, high, first, stop, inside, operand)))
    if not figures:
        return section("maps", "On chip", "No element is read or written on chip in this window.")
    return section("maps", "On chip", "Time goes to the right, addresses upwards.", _key(), *figures)


def _transfers(accesses: NDArray[np.int64], first: int, stop: int) -> str:
    """DRAM: a mark where a transfer begins, and a table of all."""
    rows = accesses[accesses[:, 1] == LEVELS.index("dram")]
    if not len(rows):
        return section("dram", "DRAM", "No transfer begins in this window.")
    listed = [[units.exact(cycle), OPERANDS[operand], "write" if write else "read", hex(address), units.exact(size)]
              for cycle, _, operand, address, write, size in rows[:MOST_CYCLES].tolist()]
    marks = [(cycle, OPERANDS[operand], bool(write), size) for cycle, _, operand, _, write, size in rows.tolist()]
    cut = f" The table has the first {MOST_CYCLES} of {len(rows)}." if len(rows) > MOST_CYCLES else ""
    return section("dram", "DRAM", f"A mark where a transfer begins.{cut}", _key(),
                   element("figure", transfer_marks(marks, first, stop)),
                   element("details", element("summary", "Table of the transfers"),
                           table(("cycle", "operand", "", "address", "bytes"), listed, left=3)))


def _totals(found: list[tuple[str, str, NDArray[np.int64]]]) -> str:
    rows = []
    for level, operand, part in found:
        sums = [int(part[part[:, 4] == write, 5].sum()) for write in (0, 1)]
        rows.append(["DRAM" if level == "dram" else "on chip", operand, UNITS[level], *map(units.exact, sums)])
    return section("totals", "How much", "", table(("level", "operand", "in", "read", "written"), rows, left=3))


def _cycles(accesses: NDArray[np.int64], first: int, stop: int) -> str:
    """A table of accesses by cycle, of the first cycles that have any."""
    kinds = sorted({(int(level), int(operand), int(write)) for level, operand, write in accesses[:, [1, 2, 4]]})
    head = ["cycle", *(f"{OPERANDS[operand]} {LEVELS[level]} {'write' if write else 'read'}"
                       for level, operand, write in kinds)]
    counts = np.zeros((stop - first, len(kinds)), dtype=np.int64)
    for at, kind in enumerate(kinds):
        chosen = accesses[(accesses[:, [1, 2, 4]] == kind).all(axis=1)]
        np.add.at(counts[:, at], chosen[:, 0] - first, chosen[:, 5])
    busy = np.flatnonzero(counts.any(axis=1))
    rows = [[units.exact(first + int(at)), *(units.exact(int(count)) if count else units.NONE for count in counts[at])]
            for at in busy[:MOST_CYCLES]]
    cut = f" The first {MOST_CYCLES} of {len(busy)} cycles with an access." if len(busy) > MOST_CYCLES else ""
    return section("cycles", "Every cycle", f"Elements on chip, bytes in DRAM.{cut}",
                   element("details", element("summary", "Table of the cycles"), table(head, rows)))
