"""Bars of one machine: cycles by cause for each layer, energy by component; dense above, pruned below.

Lengths are counts of the simulator, nothing is smoothed or fitted.  The script may stretch every bar to the
same length, to show shares; the numbers beside it stay.  Read report_sections.py for the words around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import report_units as units
from .report_run import LayerOnMachine
from .report_svg import WIDTH, Scale, element, escape, middle_cut, svg, text, title, x_axis

CAUSES = {
    "compute": "operands stream into the array",
    "fill": "the first stationary operand enters, nothing can stream yet",
    "weight_shift": "a later stationary operand enters and no stream hides it",
    "drain": "results leave and nothing streams",
    "queue": "the request queue is full",
    "cold_fill": "the first operands come from DRAM",
    "stall_weight": "waiting for weights from DRAM",
    "stall_input": "waiting for inputs from DRAM",
    "stall_psum": "waiting for partial sums from DRAM",
    "stall_output": "no free output buffer, or the last results go to DRAM",
    "imbalance": "units wait at a barrier for the slowest",
    "bank_conflict": "products queue for the same accumulator bank",
    "fragmentation": "slots of a vector or a pass that the nonzeros do not fill",
    "halo": "partial sums at tile borders are exchanged",
    "vector": "the vector unit works, and the array's own time does not hide it",
    "startup": "a layer or an operator is configured and launched",
    "exchange": "operands cross the link between arrays",
}
"""The causes that simulator/counts.py names, in the order of the bars; a machine's other causes follow them."""
OTHERS = 6
BOTH = ("dense", "pruned")
ALONE = ("pruned",)
"""Rows of every group of bars; a network without any pruned weight has one, and no dense one beside it."""
LEFT, RIGHT = 196.0, WIDTH - 190
BAR, PITCH = 10.0, 31.0


def causes_of(layers: Sequence[LayerOnMachine]) -> list[str]:
    """The causes that occur in any layer, dense or pruned, in the order of the bars."""
    found = {cause for layer in layers for total in (layer.now, layer.dense) for cause in total["cycles_by_cause"]}
    return [cause for cause in CAUSES if cause in found] + sorted(found - set(CAUSES))


def cause_class(cause: str, causes: Sequence[str]) -> str:
    """The style sheet's class of a cause: its own, or one of a few for those that only some machines have."""
    if cause in CAUSES:
        return "c-" + cause.replace("_", "-")
    return f"c-other-{[c for c in causes if c not in CAUSES].index(cause) % OTHERS}"


def cause_legend(causes: Sequence[str]) -> str:
    """Colours and names of the causes, as HTML."""
    keys = [
        element(
            "span",
            element("i", " ", class_=cause_class(cause, causes)),
            element("code", escape(cause)),
            class_="key",
            data_tip=CAUSES.get(cause, "a cause of this machine"),
        )
        for cause in causes
    ]
    return element("p", *keys, class_="legend")


def total_bars(
    dense: Mapping[str, Any], now: Mapping[str, Any], causes: Sequence[str], rows: Sequence[str] = BOTH
) -> str:
    """Two thick bars, the whole network dense and as it is now; or the latter alone."""
    x = Scale(0, max(dense["cycles"], now["cycles"], 1), LEFT, RIGHT)
    parts = []
    for row, name in enumerate(rows):
        total = dense if name == "dense" else now
        y = 8 + row * 34.0
        said = f"network, {name}" if rows == BOTH else "network"
        parts.append(text(LEFT - 12, y + 17, said, "label", "end"))
        parts.append(
            element("g", _stack(total, causes, x, 24, said), transform=f"translate({LEFT:g} {y:g})")
        )
        parts.append(text(RIGHT + 12, y + 17, f"{units.short(total['cycles'])} cycles", "label"))
    return svg(WIDTH, 10 + 34 * len(rows), *parts, label=f"Cycles of the whole network by cause{_which(rows)}")


def layer_bars(layers: Sequence[LayerOnMachine], causes: Sequence[str], rows: Sequence[str] = BOTH) -> str:
    """For every layer the dense bar, paler, above the bar of now; cycles and speed-up at the right."""
    both, thick = rows == BOTH, BAR if rows == BOTH else 2 * BAR
    longest = max(max(layer.now["cycles"], layer.dense["cycles"]) for layer in layers)
    x = Scale(0, max(longest, 1), LEFT, RIGHT)
    top, bottom = 10.0, 14 + PITCH * len(layers)
    shares = Scale(0, 100, LEFT, RIGHT)
    parts = [
        element("g", x_axis(x, top, bottom, units.plain, "cycles"), class_="as-cycles"),
        element(
            "g", x_axis(shares, top, bottom, lambda v: f"{v:g} %", "share of the layer's cycles"), class_="as-shares"
        ),
    ]
    for index, layer in enumerate(layers):
        y = top + 5 + index * PITCH
        parts.append(
            element(
                "text",
                title(layer.name),
                escape(middle_cut(layer.name, 25)),
                x=LEFT - 12,
                y=y + 15,
                class_="label",
                text_anchor="end",
            )
        )
        for row, name in enumerate(rows):
            total = layer.dense if name == "dense" else layer.now
            stretch = longest / total["cycles"] if total["cycles"] else 0.0
            bar = element(
                "g",
                _stack(total, causes, x, thick, f"{layer.name}, {name}" if both else layer.name),
                class_="bar",
                style=f"--stretch:{stretch:.5f}",
            )
            parts.append(element("g", bar, class_=name, transform=f"translate({LEFT:g} {y + row * (BAR + 1):g})"))
        parts.append(
            text(
                RIGHT + 12,
                y + 15,
                (f"{units.short(layer.dense['cycles'])} → " if both else "") + units.short(layer.now["cycles"]),
                "label",
            )
        )
        if both:
            parts.append(text(WIDTH - 2, y + 15, units.times(layer.speedup), "label strong", "end"))
    return svg(WIDTH, bottom + 46, *parts, label=f"Cycles of each layer by cause{_which(rows)}")


def energy_bars(
    dense: Mapping[str, float], now: Mapping[str, float], rows: Sequence[str] = BOTH, per: str = " per image"
) -> str:
    """For every component of the energy two bars, dense and pruned, with picojoules at the right; or one."""
    both, thick = rows == BOTH, 12 if rows == BOTH else 25
    names = list(dict.fromkeys([*dense, *now]))
    most = max([*dense.values(), *now.values(), 1e-30])
    unit, factor = next(((unit.strip(), factor) for factor, unit in units.ENERGIES_PJ if most >= factor), ("pJ", 1.0))
    x = Scale(0, most / factor, LEFT, RIGHT)
    top, bottom = 10.0, 14 + 38.0 * len(names)
    parts = [x_axis(x, top, bottom, units.plain, unit + per)]
    for index, name in enumerate(names):
        y = top + 7 + index * 38.0
        parts.append(text(LEFT - 12, y + 17, name, "label", "end"))
        for row, which in enumerate(rows):
            table = dense if which == "dense" else now
            value = table.get(name, 0.0)
            said = title(
                f"{name}, {which}" if both else name,
                units.energy(value),
                f"{units.percent(value / (sum(table.values()) or 1.0))} of the network's energy",
            )
            parts.append(
                element(
                    "rect",
                    said,
                    x=LEFT,
                    y=y + row * 13,
                    width=x(value / factor) - LEFT,
                    height=thick,
                    class_=f"energy {which}",
                )
            )
        parts.append(
            text(
                RIGHT + 12,
                y + 17,
                (f"{units.energy(dense.get(name, 0.0))} → " if both else "") + units.energy(now.get(name, 0.0)),
                "label",
            )
        )
    return svg(WIDTH, bottom + 46, *parts, label=f"Energy by component{_which(rows)}")


def _which(rows: Sequence[str]) -> str:
    return ", dense and pruned" if rows == BOTH else ""


def _stack(total: Mapping[str, Any], causes: Sequence[str], x: Scale, height: float, name: str) -> str:
    parts, begun = [], 0
    for cause in causes:
        cycles = total["cycles_by_cause"].get(cause, 0)
        if cycles > 0:
            said = title(
                name,
                f"{cause}: {units.exact(cycles)} cycles, {units.percent(cycles / total['cycles'])}",
            )
            parts.append(
                element(
                    "rect",
                    said,
                    x=x(begun) - x.start,
                    y=0,
                    width=x(begun + cycles) - x(begun),
                    height=height,
                    class_=f"part {cause_class(cause, causes)}",
                )
            )
            begun += cycles
    return "".join(parts)
