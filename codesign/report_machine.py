"""The sections of a run's report about one machine, as HTML: where cycles and energy went, the roofline, its fields.

Every number is the simulator's; nothing is summed anew but shares.  It leaves out what does not depend on the
machine: read report_sections.py for that.
"""

from __future__ import annotations

import math

from . import report_units as units
from .report_bars import cause_legend, causes_of, energy_bars, layer_bars, total_bars
from .report_roofline import WORK, numbers, roofline
from .report_run import OnMachine
from .report_sections import section
from .report_svg import element, escape

SIZES = ("_bytes",)
WORK_LEAD = {
    "dense_macs": "Work is counted as the MACs of the dense layer, so higher is always faster, and only skipping lifts "
    "a point above the flat roof.",
    "issued_macs": "Work is counted as the MACs that the array issued: what is skipped is no work, and no point is "
    "above either roof.",
}


def machine_sections(on: OnMachine, number: int, several: bool) -> str:
    """All sections of one machine.  number: of the machine, from 0; several: whether the run has more than one."""
    tail = f" on {on.given}" if several else ""
    return cycles(on, number, tail) + energy(on, number, tail) + roof(on, number, tail) + fields(on, number)


def cycles(on: OnMachine, number: int, tail: str) -> str:
    """Where the cycles went, of the network and of each layer."""
    causes = causes_of(on.layers)
    dense, now = on.dense, on.now
    lead = (
        f"{units.exact(dense['cycles'])} cycles dense, {units.exact(now['cycles'])} pruned; the parts sum to the "
        f"whole. Multipliers did useful work in {units.percent(now['utilisation'])} of their slots "
        f"({units.percent(dense['utilisation'])} dense). In each pair the paler bar above is the dense layer. "
        "Blue is work, violet the array's own overhead, warm colours wait for DRAM."
    )
    buttons = switch({"cycles": "cycles", "shares": "shares"})
    body = element(
        "div",
        buttons,
        cause_legend(causes),
        element("figure", total_bars(dense, now, causes)),
        element("figure", layer_bars(on.layers, causes)),
        class_="views",
        data_view="cycles",
    )
    return section(f"cycles-{number}", f"Where the cycles went{tail}", lead, body)


def energy(on: OnMachine, number: int, tail: str) -> str:
    """Energy by component."""
    dense, now = on.dense["energy_pj_by_component"], on.now["energy_pj_by_component"]
    lead = (
        f"{units.energy(on.dense['energy_pj'])} per image dense, {units.energy(on.now['energy_pj'])} pruned: "
        f"counts of the simulator times <code>{escape(on.machine.energy_table)}</code>."
    )
    keys = element(
        "p",
        *(
            element("span", element("i", " ", class_=f"energy {name}"), name, class_="key")
            for name in ("dense", "pruned")
        ),
        class_="legend",
    )
    notes = element("ul", *(element("li", escape(note)) for note in on.notes), class_="notes") if on.notes else ""
    chart = element("figure", energy_bars(dense, now)) if dense or now else ""
    return section(f"energy-{number}", f"Energy by component{tail}", lead, keys, chart, notes)


def roof(on: OnMachine, number: int, tail: str) -> str:
    """The roofline, counted both ways."""
    pictures = {work: roofline(on, work) for work in WORK}
    heading = f"Roofline{tail}"
    if any(picture is None for picture in pictures.values()):
        return section(
            f"roofline-{number}", heading, "No layer moves a byte over DRAM on this machine, so there is no roofline."
        )
    views = [
        element(
            "div",
            element("p", WORK_LEAD[work], class_="lead"),
            element("figure", picture or ""),
            class_=f"as-{work.replace('_', '-')}",
        )
        for work, picture in pictures.items()
    ]
    key = element(
        "p",
        *(
            element("span", f'<span class="number">{at}</span>', escape(name), class_="key")
            for at, name in numbers(on.layers)
        ),
        class_="legend names",
    )
    lead = (
        "Each layer moves from the hollow point, dense, to the numbered one, pruned. A layer at the slanted roof waits "
        "for memory: fewer weights help it only by moving fewer bytes. One far below both roofs loses its time to "
        "fills, drains and latency."
    )
    buttons = switch({work.replace("_", "-"): words for work, words in WORK.items()})
    return section(
        f"roofline-{number}",
        heading,
        lead,
        element("div", buttons, *views, key, class_="views", data_view="dense-macs"),
    )


def fields(on: OnMachine, number: int) -> str:
    """The machine, every field."""
    flat = on.machine.to_dict()
    said = escape(flat.pop("description", "") or "")
    area = on.row.get("area_mm2")
    if area is not None:
        flat["area_mm2"] = f"{area:.3f}"
    pairs = [
        element("div", element("dt", escape(name)), element("dd", _field(name, value))) for name, value in flat.items()
    ]
    return section(f"machine-{number}", f"The machine: {on.given}", said, element("dl", *pairs, class_="fields"))


def _field(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return escape(", ".join(map(str, value)) or units.NONE)
    if isinstance(value, bool):
        return "true" if value else "false"
    if name.endswith("_hz") and isinstance(value, float):
        return f"{value / 1e6:g} MHz"
    if name.endswith(SIZES) and isinstance(value, int) and value >= 1024:
        return units.size(value)
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "no limit"
    return escape(value)


def switch(choices: dict[str, str]) -> str:
    """Buttons that the script shows and serves; without it the first view stays."""
    buttons = [element("button", escape(words), type="button", data_show=view) for view, words in choices.items()]
    return element("div", *buttons, class_="switch", role="group", hidden="hidden")
