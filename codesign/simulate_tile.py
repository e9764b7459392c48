"""The page on which a lecturer shows a small tile in the array: which operand is in which element, cycle by cycle.

What is shown are frames out of the stepped twin's registers; the script paints them and computes nothing.  Read
simulator/tile_view.py for the tile, report_assets/tile.js for the painting.
"""

from __future__ import annotations

import json
from typing import Any

from simulator.tile_view import TileView

from . import report_units as units
from .report_bars import CAUSES, cause_class
from .report_sections import section, table
from .report_svg import element, escape
from .simulate_page import document, header

FLOWS = {
    "ws": ("weight stationary", "Weights <b>w</b> rest in the elements, inputs <b>a</b> move to the right, sums "
           "<b>Σ</b> move down and leave below the last row."),
    "os": ("output stationary", "Inputs <b>a</b> move to the right and weights <b>w</b> down; each sum <b>Σ</b> stays "
           "in its element until its last product, then leaves downwards."),
    "is": ("input stationary", "Inputs <b>a</b> rest in the elements, weights <b>w</b> move to the right, sums "
           "<b>Σ</b> move down and leave below the last row."),
}
KEYS = (("space", "play or pause"), ("← →", "one cycle"), ("home end", "first, last"), ("click", "follow an element"))
BUTTONS = (("first", "❘◀", "first cycle"), ("back", "−1", "one cycle back"), ("play", "▶", "play"),
           ("next", "+1", "one cycle on"), ("last", "▶❘", "last cycle"))


def tile_page(view: TileView) -> str:
    """The document."""
    spec, gemm = view.machine.array, view.gemm.operation.gemm()
    rows = len(view.film.per_element)
    cols = view.film.per_element.shape[1]
    flow, how = FLOWS[spec.dataflow]
    said = (f"A GEMM of {gemm.m} × {gemm.k} × {gemm.n} (m × k × n), the first tile of the layer, on {rows} × {cols} "
            f"elements, {flow}: <strong>{view.cycles} cycles</strong>. {how}")
    shrunk = (rows, cols) != (spec.rows, spec.cols)
    notes = []
    if shrunk:
        notes.append(f"The machine's array is {spec.rows} × {spec.cols}; shown are {rows} × {cols} elements of the "
                     "same kind.")
    if spec.activation_hop_registers > 1 or spec.psum_hop_registers > 1:
        notes.append("Between neighbours there are more registers than one; shown is the first of each.")
    kept, of = view.film.pattern
    if kept < of:
        notes.append(f"Weights keep {kept} of every {of}: each element's mux chooses one of {of} inputs.")
    notes.append("Memory is ideal: every operand is there when the array asks for it. Each frame is read out of the "
                 "registers of the stepped twin.")
    return document(
        f"{view.layer} on {view.machine.name}, cycle by cycle",
        header(f"{view.layer} on {view.machine.name}, cycle by cycle", said),
        [_stage(view, rows, cols),
         section("cycles", "Every cycle", " ".join(escape(note) for note in notes),
                 element("details", element("summary", "Table of all cycles"), _listing(view)))],
        styles=("style.css", "tile.css"), scripts=("script.js", "tile.js"),
    )


def _stage(view: TileView, rows: int, cols: int) -> str:
    last = view.cycles - 1
    buttons = "".join(
        element("button", words, type="button", id=identity, aria_label=said, title=said)
        for identity, words, said in BUTTONS)
    slider = element("input", type="range", id="cycle", min=0, max=last, value=0, step=1, aria_label="cycle")
    strip = "".join(element("i", class_=cause_class(frame.cause, list(CAUSES)),
                            data_tip=f"cycle {at}: {frame.cause}") for at, frame in enumerate(view.film.frames))
    bar = element("div", element("div", buttons, class_="buttons"),
                  element("div", slider, element("div", strip, class_="strip"), class_="slide"),
                  element("output", "", id="now", aria_live="off"), class_="controls")
    grid = element("div", element("div", id="array", style=f"--rows:{rows};--cols:{cols}", role="grid",
                                  aria_label="processing elements"), class_="stage")
    marks = (("a", "a", "input (m, k)"), ("w", "w", "weight (k, n)"), ("Σ", "s", "sum (m, n)"))
    legend = element("p", *(element("span", element("b", mark, class_=name), words, class_="key")
                            for mark, name, words in marks),
        element("span", element("b", "0", class_="zero"), "an operand that is zero", class_="key"),
        *(element("span", element("kbd", key), words, class_="key") for key, words in KEYS), class_="legend keys")
    panel = element("p", "", id="said", aria_live="polite")
    leaving = element("p", "", id="left")
    data = element("script", _json(_frames(view)), type="application/json", id="frames")
    noscript = element("noscript", element("p", "Without scripts the table below says what happens in each cycle."))
    return element("section", bar, noscript, grid, leaving, panel, legend, data, id="tile", tabindex="-1")


def _frames(view: TileView) -> dict[str, Any]:
    gemm = view.gemm.operation.gemm()
    causes = list(CAUSES)
    return {
        "flow": view.machine.array.dataflow, "rows": view.film.per_element.shape[0],
        "cols": view.film.per_element.shape[1], "m": gemm.m, "k": gemm.k, "n": gemm.n,
        "frames": [{"cause": frame.cause, "class": cause_class(frame.cause, causes), "entering": frame.entering,
                    "p": [list(one) for one in frame.product], "b": frame.banks, "s": frame.sums, "l": frame.leaving,
                    "left": [list(pair) for pair in frame.left]} for frame in view.film.frames],
    }


def _json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _listing(view: TileView) -> str:
    rows = []
    for cycle, frame in enumerate(view.film.frames):
        busy = [one for one in frame.product if one and min(one[:3]) >= 0]
        useful = sum(1 for one in busy if one[3] and one[4])
        enters = f"{frame.entering[1]} of fold {frame.entering[0]}" if frame.entering else units.NONE
        rows.append([str(cycle), element("code", escape(frame.cause)), enters, str(len(busy)), str(useful),
                     ", ".join(f"({m}, {n})" for m, n in frame.left) or units.NONE])
    return table(("cycle", "spent on", "vector that enters", "multipliers busy", "of them useful", "results that left"),
                 rows, left=3)
