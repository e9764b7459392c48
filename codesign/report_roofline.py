"""The roofline of one machine: work per cycle against work per DRAM byte, each layer dense and as it is now.

No point can lie above bandwidth × MACs per byte; none above the array's multipliers either, as long as work
is counted as the MACs issued.  Counted as the MACs of the dense layer, higher is always faster, and only
skipping lifts a point above the flat roof.  Both ways are drawn; read report_bars.py for where the rest went.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import report_units as units
from .report_run import LayerOnMachine, OnMachine
from .report_svg import WIDTH, Scale, element, svg, text, title, x_axis, y_axis

WORK = {"dense_macs": "dense MACs", "issued_macs": "issued MACs"}
HEIGHT = 470.0
Point = tuple[float, float]


def roofline(on: OnMachine, work: str) -> str | None:
    """The picture, with work counted as `work`, a key of WORK; None where no layer touches DRAM."""
    places = [(_place(layer.dense, work), _place(layer.now, work)) for layer in on.layers]
    points = [point for pair in places for point in pair if point is not None]
    if not points:
        return None
    peak, bandwidth = float(on.machine.array.peak_macs_per_cycle), on.machine.memory.dram_bytes_per_cycle
    ridge = peak / bandwidth if math.isfinite(bandwidth) else points[0][0]
    left, right, top, bottom = 66.0, WIDTH - 20, 40.0, HEIGHT - 52
    x = Scale(
        min(ridge, *(p[0] for p in points)) / 1.6, max(ridge, *(p[0] for p in points)) * 2.0, left, right, log=True
    )
    y = Scale(
        min(peak / 4, *(p[1] for p in points)) / 1.6, max(peak, *(p[1] for p in points)) * 1.9, bottom, top, log=True
    )
    parts = [
        x_axis(x, top, bottom, units.plain, f"{WORK[work]} per DRAM byte"),
        y_axis(y, left, right, units.plain, f"{WORK[work]} per cycle"),
        _roofs(x, y, peak, bandwidth),
    ]
    for layer, (dense, now) in zip(on.layers, places, strict=True):
        if dense is not None and now is not None and math.dist(dense, now) > 0:
            parts.append(element("line", x1=x(dense[0]), y1=y(dense[1]), x2=x(now[0]), y2=y(now[1]), class_="move"))
        if dense is not None:
            parts.append(
                element(
                    "circle", _said(layer, "dense", dense, work), cx=x(dense[0]), cy=y(dense[1]), r=4.5, class_="from"
                )
            )
    for number, (layer, (_, now)) in enumerate(zip(on.layers, places, strict=True), start=1):
        if now is not None:
            at = f"translate({x(now[0]):.1f} {y(now[1]):.1f})"
            parts.append(
                element(
                    "g",
                    _said(layer, "pruned" if layer.now != layer.dense else "dense", now, work),
                    element("circle", r=9.5),
                    text(0, 4, number, "number" if number < 100 else "number tight", "middle"),
                    class_="to",
                    transform=at,
                )
            )
    return svg(WIDTH, HEIGHT, *parts, label=f"Roofline of {on.machine.name}, work counted as {WORK[work]}")


def _roofs(x: Scale, y: Scale, peak: float, bandwidth: float) -> str:
    """The flat roof of the multipliers and the slanted one of the DRAM channel."""
    parts = [
        element("line", x1=x.start, x2=x.end, y1=y(peak), y2=y(peak), class_="roof"),
        text(x.end - 4, y(peak) - 8, f"{units.short(peak)} multipliers", "note", "end"),
    ]
    if math.isfinite(bandwidth):
        # The slanted roof enters at the left edge or at the bottom, whichever comes later, and leaves at the top.
        low = max(x.low, y.low / bandwidth)
        high = min(x.high, y.high / bandwidth)
        x1, y1, x2, y2 = x(low), y(low * bandwidth), x(high), y(high * bandwidth)
        parts.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="roof"))
        angle = math.degrees(math.atan2(y2 - y1, x2 - x1))
        parts.append(
            text(
                0,
                -8,
                f"DRAM: {bandwidth:g} bytes per cycle",
                "note",
                "start",
                transform=f"translate({x1 + 0.1 * (x2 - x1):.1f} {y1 + 0.1 * (y2 - y1):.1f}) rotate({angle:.2f})",
            )
        )
    return "".join(parts)


def _place(total: Mapping[str, Any], work: str) -> Point | None:
    moved = total["dram_read_bytes"] + total["dram_write_bytes"]
    if not moved or not total["cycles"] or not total[work]:
        return None
    return total[work] / moved, total[work] / total["cycles"]


def _said(layer: LayerOnMachine, which: str, point: Point, work: str) -> str:
    return title(
        f"{layer.name}, {which}", f"{point[1]:.1f} {WORK[work]} per cycle", f"{point[0]:.1f} {WORK[work]} per DRAM byte"
    )


def numbers(layers: Sequence[LayerOnMachine]) -> list[tuple[int, str]]:
    """What the numbers in the circles stand for."""
    return [(number, layer.name) for number, layer in enumerate(layers, start=1)]
