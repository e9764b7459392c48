"""Charts over training and the comparison: lines by epoch, accuracy against cycles.

Plain data in, inline SVG out; every point says its numbers when it is pointed at.  Colours are classes of
the style sheet.  Read report_bars.py and report_roofline.py for the charts of one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import report_units as units
from .report_svg import Scale, element, escape, padded, polyline, svg, text, title, x_axis, y_axis

PANEL = (340.0, 236.0)
"""Width and height of a small chart; three of them share a row of the page where it is wide enough."""


@dataclass(frozen=True)
class Line:
    """A named line through (epoch, value) points; class_: its colour in the style sheet."""

    name: str
    class_: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A vertical line at an epoch, or a horizontal one at a value, with a word on it."""

    at: float
    word: str


def line_panel(
    lines: Sequence[Line],
    form: Callable[[float], str],
    *,
    label: str,
    events: Sequence[Mark] = (),
    targets: Sequence[Mark] = (),
    from_zero: bool = False,
) -> str:
    """Lines by epoch.  events: vertical marks; targets: horizontal ones.  label: for those who cannot see it."""
    width, height = PANEL
    left, right, top, bottom = 40.0, width - 10, 26.0, height - 42
    # A loss that overflowed has no place on a scale.
    lines = [Line(line.name, line.class_, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    values = [value for line in lines for _, value in line.points] + [target.at for target in targets] or [0.0]
    last = max((x for line in lines for x, _ in line.points), default=1.0)
    low, high = padded(values)
    x = Scale(0, max(last, 1), left, right)
    y = Scale(min(0.0, low) if from_zero else low, high, bottom, top)
    parts = [x_axis(x, top, bottom, units.plain, "epoch"), y_axis(y, left, right, form)]
    for event in events:
        at = x(event.at)
        anchor = "start" if at < width - 90 else "end"
        parts.append(element("line", x1=at, x2=at, y1=top - 8, y2=bottom, class_="event"))
        parts.append(text(at + (5 if anchor == "start" else -5), top, event.word, "note", anchor))
    for target in targets:
        parts.append(element("line", x1=left, x2=right, y1=y(target.at), y2=y(target.at), class_="target"))
        parts.append(text(right, y(target.at) - 5, target.word, "note", "end"))
    for line in lines:
        places = [(x(epoch), y(value)) for epoch, value in line.points]
        parts.append(polyline(places, f"line {line.class_}") if places else "")
    for line in lines:  # dots above every line, so that each can be pointed at
        for epoch, value in line.points:
            said = title(f"epoch {epoch:g}", f"{line.name}: {form(value)}")
            parts.append(element("circle", said, cx=x(epoch), cy=y(value), r=3.2, class_=f"dot {line.class_}"))
    return svg(width, height, *parts, label=label)


def legend(lines: Sequence[Line]) -> str:
    """Names and colours of lines, as HTML."""
    return element(
        "p",
        *(element("span", element("i", " ", class_=line.class_), escape(line.name), class_="key") for line in lines),
        class_="legend",
    )


def comparison_chart(rows: Sequence[Mapping[str, Any]], ours: int | None) -> str:
    """Accuracy against cycles, a point per row of the comparison; `ours` is the index of this run's."""
    width, height = 460.0, 300.0
    left, right, top, bottom = 40.0, width - 14, 34.0, height - 48
    x = Scale(0.0, max(row["cycles"] for row in rows) * 1.12, left, right)
    low, high = padded([row["accuracy"] for row in rows], 0.25)
    y = Scale(low, high, bottom, top)
    parts = [
        x_axis(x, top, bottom, units.plain, "cycles per image (further left is faster)"),
        y_axis(y, left, right, units.plain, "accuracy on test images, %"),
    ]
    for index, row in enumerate(rows):
        said = title(
            str(row["label"]),
            f"{row['accuracy']:.2f} % of the test images",
            f"{units.exact(int(row['cycles']))} cycles",
            f"{units.times(row['speedup'])} as fast as dense",
            f"{units.percent(row['weight_sparsity'])} of the weights removed",
        )
        mine = index == ours
        parts.append(
            element(
                "circle",
                said,
                cx=x(row["cycles"]),
                cy=y(row["accuracy"]),
                r=8.0 if mine else 6.0,
                class_="point ours" if mine else "point",
            )
        )
    parts += _labels(
        [(x(row["cycles"]), y(row["accuracy"]), str(row["label"]), index == ours) for index, row in enumerate(rows)],
        left,
        right,
    )
    return svg(width, height, *parts, label="Accuracy against cycles for each way of pruning")


def _labels(points: Sequence[tuple[float, float, str, bool]], left: float, right: float) -> list[str]:
    """A name beside each point: above, below, right or left of it, the first place that hits nothing placed before."""
    taken = [(px - 9, py - 9, px + 9, py + 9) for px, py, _, _ in points]
    parts = []
    for px, py, name, mine in points:
        wide = 7.4 * len(name)
        places = [
            ("start", px + 13, py + 5),
            ("end", px - 13, py + 5),
            ("middle", px, py - 15),
            ("middle", px, py + 25),
            ("end", px, py - 30),
            ("end", px, py + 40),
        ]
        boxes = []
        for anchor, ax, ay in places:
            start = ax - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            boxes.append((start, ay - 12, start + wide, ay + 4))
        free = [
            place
            for place, box in zip(range(len(places)), boxes, strict=True)
            if box[0] >= left and box[2] <= right and not any(_overlap(box, other) for other in taken)
        ]
        chosen = free[0] if free else 1
        anchor, ax, ay = places[chosen]
        taken.append(boxes[chosen])
        parts.append(text(ax, ay, name, "name ours" if mine else "name", anchor))
    return parts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
