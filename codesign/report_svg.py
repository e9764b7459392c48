"""The few parts that every chart of the report is made of: escaped elements, scales with round ticks, axes.

Everything returns text; colours are left to the style sheet, through classes, so that one picture serves
light and dark.  Data come in data units and lengths in user units of the viewBox.  Read report_charts.py next.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 1040.0
"""Of a chart that takes the page's whole width."""


def escape(text: object) -> str:
    """Text that is safe between tags and in quoted attributes: names come from users."""
    return html.escape(str(text), quote=True)


def element(tag: str, *content: str, **attributes: object) -> str:
    """<tag a="...">content</tag>: attributes are escaped, content is markup; `class_` is class, `_` becomes `-`."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    body = "".join(content)
    return (
        f"<{tag}{given}>{body}</{tag}>" if body or tag not in ("rect", "line", "circle", "path") else f"<{tag}{given}/>"
    )


def text(x: float, y: float, words: object, class_: str = "tick", anchor: str = "start", **attributes: object) -> str:
    """A line of text at its baseline."""
    return element("text", escape(words), x=x, y=y, class_=class_, text_anchor=anchor, **attributes)


def title(*lines: str) -> str:
    """What is said of an element when it is pointed at; the script makes a tooltip of it."""
    return element("title", escape("\n".join(lines)))


def svg(width: float, height: float, *content: str, label: str) -> str:
    """A picture that scales with the page.  label: what it shows, for those who cannot see it."""
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        # Pictures as wide as the page shrink most on a narrow one; the style sheet then enlarges their text.
        class_="chart wide" if width == WIDTH else "chart",
        role="img",
        aria_label=label,
    )


def middle_cut(words: str, most: int) -> str:
    """At most `most` characters, cut in the middle, where names of layers differ least."""
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return words[:head] + "…" + words[len(words) - (most - 1 - head) :]


@dataclass(frozen=True)
class Scale:
    """Data [low, high] to user units [start, end]; with `log` both bounds are above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start) if high > low else self.start

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside the bounds, about `most` of them."""
        return _log_ticks(self.low, self.high) if self.log else _round_ticks(self.low, self.high, most)


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Bounds around values with some air; around equal values, one unit of air."""
    low, high = min(values), max(values)
    air = (high - low) * share or 1.0
    return low - air, high + air


def x_axis(
    scale: Scale, top: float, bottom: float, form: Callable[[float], str], label: str = "", most: int = 6
) -> str:
    """Grid lines from top to bottom, numbers below, and what they are."""
    parts = []
    for value in scale.ticks(most):
        x = scale(value)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        parts.append(text(x, bottom + 17, form(value), anchor="middle"))
    if label:
        parts.append(text((scale.start + scale.end) / 2, bottom + 36, label, "axis", "middle"))
    return "".join(parts)


def y_axis(
    scale: Scale, left: float, right: float, form: Callable[[float], str], label: str = "", most: int = 5
) -> str:
    """Grid lines from left to right, numbers at the left, and above them what they are."""
    parts = []
    for value in scale.ticks(most):
        y = scale(value)
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(text(left - 8, y + 4, form(value), anchor="end"))
    if label:
        parts.append(text(left, scale.end - 12, label, "axis"))
    return "".join(parts)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> str:
    """A line through points in user units."""
    return element("path", d="M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in points), class_=class_)


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    # Multiples of the step, not running sums: sums drift and show as 0.30000000000000004.
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades <= 3.2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return escape(value)
