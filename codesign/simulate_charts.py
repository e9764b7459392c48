"""Pictures of one simulation: the array element by element, and what it did over time.

Plain numbers in, inline SVG out; colours are classes of the style sheet.  It leaves out where the numbers come from:
read simulate_report.py for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import report_units as units
from .report_bars import CAUSES, cause_class
from .report_masks import averaged, shares_png
from .report_svg import WIDTH, Scale, element, escape, middle_cut, svg, text, title, x_axis, y_axis

Floats = NDArray[np.float64]
MOST_CELLS = 32  # along a side of the heat map; larger arrays are averaged over squares of elements
MOST_PIXELS = 128
COLOUR = (36, 113, 181)  # the style sheet's --compute
LEFT, RIGHT = 60.0, WIDTH - 14
BINS = 240
STEPS = "the array's steps"
"""Cycles that a model counts by cause for a layer, and not step by step."""


def cells(shares: Floats) -> tuple[Floats, list[str], list[str]]:
    """(the heat map's cells, names of its rows, of its columns): an element each, or the mean over a square of them."""
    small = averaged(shares, MOST_CELLS)
    names = []
    for extent, count in zip(shares.shape, small.shape, strict=True):
        first = [at * extent // count for at in range(count + 1)]
        names.append([str(a) if b == a + 1 else f"{a}–{b - 1}" for a, b in pairwise(first)])
    return small, names[0], names[1]


def heat_map(shares: Floats, highest: float) -> str:
    """The array, a square per element: the deeper, the larger its share; `highest` has the whole colour."""
    small, rows, cols = cells(shares)
    side = 470.0 / max(small.shape)
    left, top = 40.0, 26.0
    parts = [text(left, 10, "column →", "axis"), text(0, top + 12, "row ↓", "axis")]
    every = [max(1, -(-len(names) // 8)) for names in (rows, cols)]
    parts += [text(left - 7, top + (at + 0.5) * side + 4, rows[at].partition("–")[0], anchor="end")
              for at in range(0, len(rows), every[0]) if top + at * side > 38]
    parts += [text(left + (at + 0.5) * side, top - 4, cols[at].partition("–")[0], anchor="middle")
              for at in range(0, len(cols), every[1]) if at * side > 50 or at == 0]
    for row, line in enumerate(small):
        for col, share in enumerate(line):
            said = title(f"element ({rows[row]}, {cols[col]}): {units.percent(share)}")
            parts.append(element("rect", said, x=left + col * side, y=top + row * side, width=side, height=side,
                                 class_="pe", fill_opacity=_opacity(share, highest)))
    return svg(left + side * small.shape[1] + 2, top + side * small.shape[0] + 2, *parts,
               label=f"Utilisation of each of {shares.shape[0]} × {shares.shape[1]} elements")


def heat_scale(highest: float) -> str:
    """The colours of the heat maps with their shares, as HTML."""
    steps = [element("i", class_="pe", style=f"opacity:{_opacity(at / 8 * highest, highest)}") for at in range(9)]
    return element("p", element("span", "0 %"), element("span", *steps, class_="ramp"),
                   element("span", f"{units.percent(highest)} of the cycles"), class_="legend scale")


def small_map(shares: Floats, highest: float) -> str:
    """The array as a small image in the same colours."""
    uri, width, height = shares_png(np.clip(averaged(shares, MOST_PIXELS) / (highest or 1.0), 0, 1), COLOUR)
    zoom = 84 / max(width, height)
    return element("img", src=uri, width=round(zoom * width), height=round(zoom * height), alt="")


def over_time(spans: Sequence[tuple[str, int, int]], busy: Floats, spent: Mapping[str, Floats], cycles: int,
              peak: int) -> str:
    """Occupancy above, causes of the cycles below, layers at the bottom, over the cycles of the whole network.

    spans: (name, begin, cycles) of layers and operators.  busy: float64[steps, 3], (begin, end, multiplications) in
    order of time; spent: for each cause float64[events, 2], (begin, end).
    """
    x = Scale(0, cycles, LEFT, RIGHT)
    edges = np.linspace(0, cycles, BINS + 1)
    top, bottom, low, floor = 24.0, 190.0, 214.0, 300.0
    y = Scale(0, 1, bottom, top)
    share = rates(edges, busy) / peak
    parts = [y_axis(y, LEFT, RIGHT, lambda v: f"{100 * v:g} %", "multipliers that do a product, of all"),
             element("path", d=_steps(x, y, edges, np.zeros(BINS), share), class_="busy")]
    base, form = np.zeros(BINS), Scale(0, 1, floor, low)
    causes = [cause for cause in CAUSES if cause in spent]
    for cause in causes:
        part = rates(edges, np.column_stack([spent[cause], spent[cause][:, 1] - spent[cause][:, 0]]))
        parts.append(element("path", title(cause), d=_steps(x, form, edges, base, base + part),
                             class_=f"part {cause_class(cause, causes)}"))
        base = base + part
    if (base < 1 - 1e-6).any():
        rest = _steps(x, form, edges, base, np.ones(BINS))
        parts.append(element("path", title(STEPS), d=rest, class_="part c-steps"))
    parts.append(text(LEFT, low - 8, "what the cycles went to", "axis"))
    for number, (name, begin, length) in enumerate(spans):
        wide = x(begin + length) - x(begin)
        said = title(name, f"{units.exact(length)} cycles from cycle {units.exact(begin)} on")
        words = middle_cut(name, int(wide / 7.6)) if wide >= 56 else ""
        parts.append(element("g", element("rect", said, x=x(begin), y=floor + 8, width=wide, height=20,
                                          class_=f"layer-{number % 2}"),
                             text(x(begin) + wide / 2, floor + 22, words, anchor="middle") if words else ""))
    parts.append(x_axis(x, floor + 30, floor + 34, units.plain, "cycles of the network"))
    return svg(WIDTH, floor + 74, *parts, label="Occupancy and causes of the cycles over time")


def rates(edges: Floats, intervals: Floats) -> Floats:
    """float64[bins]: amounts per cycle between edges, of (begin, end, amount) intervals that do not overlap."""
    kept = intervals[intervals[:, 1] > intervals[:, 0]]
    if not len(kept):
        return np.zeros(len(edges) - 1)
    done = np.cumsum(kept[:, 2])
    # What is done by a time is linear inside an interval and constant between two.
    times, amounts = kept[:, :2].reshape(-1), np.column_stack([done - kept[:, 2], done]).reshape(-1)
    return np.asarray(np.diff(np.interp(edges, times, amounts)) / np.diff(edges))


def access_map(low: int, high: int, first: int, stop: int, points: NDArray[np.int64], name: str) -> str:
    """Addresses [low, high] over the cycles [first, stop).

    points: int64[accesses, 3] of (cycle, address, is a write).
    """
    height, left, right, top = 190.0, 76.0, WIDTH - 14, 12.0
    bottom = height - 46
    x, y = Scale(first, stop, left, right), Scale(low, high + 1, bottom, top)
    across, along = min(stop - first, 600), min(high + 1 - low, 130)
    wide, tall = (right - left) / across, (bottom - top) / along
    parts = [x_axis(x, top, bottom, units.plain, "cycle"), y_axis(y, left, right, units.plain)]
    for write, kind in ((0, "read"), (1, "write")):
        chosen = points[points[:, 2] == write]
        at_x = (chosen[:, 0] - first) * across // (stop - first)
        at_y = (chosen[:, 1] - low) * along // (high + 1 - low)
        grid = np.zeros((along, across), dtype=bool)
        grid[at_y, at_x] = True
        path = "".join(f"M{left + a * wide:.1f} {bottom - (row + 1) * tall:.1f}h{(b - a) * wide:.1f}v{tall:.1f}"
                       f"h{-(b - a) * wide:.1f}z" for row, line in enumerate(grid) for a, b in _runs(line))
        parts.append(element("path", d=path, class_=kind) if path else "")
    return svg(WIDTH, height, *parts, label=f"Addresses of {escape(name)} over time")


def transfer_marks(marks: Sequence[tuple[int, str, bool, int]], first: int, stop: int) -> str:
    """(cycle, operand, is a write, bytes) of every transfer that begins in [first, stop), a line per operand."""
    names = list(dict.fromkeys(operand for _, operand, _, _ in marks))
    x, bottom = Scale(first, stop, 76.0, WIDTH - 14), 10 + 30.0 * len(names)
    parts = [x_axis(x, 6, bottom, units.plain, "cycle")]
    parts += [text(66, 28 + 30.0 * row, name, "label", "end") for row, name in enumerate(names)]
    for cycle, operand, write, size in marks:
        said = title(f"{operand}, cycle {units.exact(cycle)}", f"{units.exact(size)} bytes")
        parts.append(element("rect", said, x=x(cycle), y=14 + 30.0 * names.index(operand), width=3, height=20,
                             class_="write" if write else "read"))
    return svg(WIDTH, bottom + 44, *parts, label="Where DRAM transfers begin")


def _runs(line: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[begin, end) of the runs of True."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in change.reshape(-1, 2)]


def _steps(x: Scale, y: Scale, edges: Floats, base: Floats, tops: Floats) -> str:
    """An area of steps between two heights."""
    there = "".join(f"L{x(a):.1f} {y(t):.1f}L{x(b):.1f} {y(t):.1f}"
                    for a, b, t in zip(edges, edges[1:], tops, strict=False))
    back = "".join(f"L{x(b):.1f} {y(t):.1f}L{x(a):.1f} {y(t):.1f}"
                   for a, b, t in reversed(list(zip(edges, edges[1:], base, strict=False))))
    return f"M{there[1:]}{back}Z"


def _opacity(share: float, highest: float) -> str:
    return f"{0.06 + 0.94 * min(1.0, share / highest if highest else 0.0):.3f}".rstrip("0")
