"""The page that `espalier simulate --report` writes: where one simulation's multipliers, cycles and joules went.

Every number is the report's, the timeline's or the element map's; the page sums nothing anew but shares, and each
picture has its numbers in a table below it.  Read simulate_charts.py for the pictures and report.py for a training
run's page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator import Trace, simulate
from simulator.element_map import ElementMap, element_map, why_not
from simulator.report import LayerReport, Report
from simulator.timeline import Span, Timeline, timeline

from . import report_units as units
from .report_bars import ALONE, BOTH, CAUSES, cause_legend, causes_of, energy_bars, layer_bars, total_bars
from .report_machine import WORK_LEAD, fields, switch
from .report_roofline import WORK, numbers, roofline
from .report_run import LayerOnMachine, OnMachine
from .report_sections import section, table
from .report_svg import element, escape
from .simulate_charts import STEPS, cells, heat_map, heat_scale, over_time, small_map
from .simulate_page import document, header


def simulation_page(trace: Trace, report: Report, workload: str, given: str, layer: str | None = None) -> str:
    """The document.

    workload and given are the names of the workload and of the machine as the user wrote them; layer: the layer whose
    elements are shown one by one, None = of those that have a map the one of most cycles.
    """
    on = _on_machine(trace, report, given)
    rows = BOTH if any(one.packed_weight is not None for one in trace.layers) else ALONE
    return document(
        f"{workload} on {given}", _headline(report, on, workload, given, rows),
        [_array(report, layer), _time(timeline(report), report), _cycles(on, rows), _roofline(on, rows),
         _energy(on, rows), fields(on, 0)],
        styles=("style.css", "simulate.css"),
    )


def default_layer(report: Report) -> str | None:
    """The layer of most cycles among those whose elements have counts of their own."""
    have = [layer for layer in report.layers if not why_not(layer, report.machine)]
    return max(have, key=lambda layer: layer.cycles).name if have else None


def _on_machine(trace: Trace, report: Report, given: str) -> OnMachine:
    dense = simulate(trace.dense(), report.machine, compare_dense=False)
    parts = [LayerOnMachine(a.name, a.executed_as, a.total.to_dict(), b.total.to_dict())
             for a, b in zip(report.layers, dense.layers, strict=True)]
    parts += [LayerOnMachine(a.operator.name, a.how, a.total.to_dict(), b.total.to_dict())
              for a, b in zip(report.operators, dense.operators, strict=True) if a.total.cycles or b.total.cycles]
    table = report.to_dict() | {"dense": dense.total.to_dict()}
    covered = [report.coverage.line()] if report.coverage is not None else []
    return OnMachine(report.machine, given, table, parts, [*covered, *report.notes])


def _headline(report: Report, on: OnMachine, workload: str, given: str, rows: Sequence[str]) -> str:
    total = report.total
    lost = max(total.cycles_by_cause.items(), key=lambda pair: (pair[0] != "compute", pair[1]), default=("", 0))
    said = (f"{len(report.layers)} layers in <strong>{units.exact(total.cycles)} cycles</strong>, one after the other: "
            f"multipliers did useful work in {units.percent(total.utilisation)} of their slots")
    if total.cycles and lost[0] != "compute":
        said += f"; of what was lost, <code>{escape(lost[0])}</code> took the largest part"
    tiles = [(units.short(total.cycles), "cycles"),
             (units.seconds(total.latency_s), f"at {report.machine.clock_hz / 1e6:g} MHz"),
             (units.energy(total.energy_pj), "energy"), (units.percent(total.utilisation), "utilisation"),
             (units.size(on.now["dram_read_bytes"] + on.now["dram_write_bytes"]), "over DRAM")]
    if rows == BOTH and total.cycles:
        tiles.insert(1, (units.times(on.dense["cycles"] / total.cycles), "as fast as dense"))
    boxes = (element("div", element("b", escape(value)), element("span", escape(words))) for value, words in tiles)
    return header(f"{workload} on {given}", said + ".", element("div", *boxes, class_="tiles"))


def _array(report: Report, chosen: str | None) -> str:
    """The heat map of one layer, and small ones of all that have one."""
    machine, heading = report.machine, "The array, element by element"
    refused = {layer.name: why for layer in report.layers if (why := why_not(layer, machine))}
    maps = [(layer, element_map(layer, machine)) for layer in report.layers if layer.name not in refused]
    if not maps:
        return section("array", heading, f"No map: {escape(next(iter(refused.values()), 'there is no layer'))}. "
                       "The layers' utilisation is in the table of causes below.")
    chosen = chosen or default_layer(report)
    layer, shown = next((pair for pair in maps if pair[0].name == chosen), maps[0])
    highest = max(float(one.utilisation.max()) for _, one in maps)
    each = "each element" if shown.multipliers == 1 else f"the {shown.multipliers} multipliers of each element"
    lead = (f"How much of <strong>{escape(layer.name)}</strong>'s {units.exact(layer.cycles)} cycles {each} spent on a "
            "product of two nonzero operands. These are counts: every product of the layer's masks, placed "
            "in the element that the array's schedule gives it to; together they are the report's useful MACs.")
    if layer.layer.packed_input is None and layer.layer.input_density < 1:
        then = "spread over them evenly"
        if machine.model == "systolic":
            then = "every element has that share of its products"
        lead += (" Of this layer's inputs only the share of nonzeros was recorded, "
                 f"{units.percent(layer.layer.input_density)}: {then}.")
    beside = element("div", element("figure", heat_map(shown.utilisation, highest)), _facts(layer, shown, highest),
                     class_="beside")
    details = element("details", element("summary", "Table of the elements"), _elements(shown))
    gallery = element("div", *(_small(number, one, found, highest) for number, (one, found) in enumerate(maps, 1)),
                      class_="masks")
    below = element("p", "All layers in the same colours.", class_="lead") + gallery if len(maps) > 1 else ""
    if refused:
        below += element("ul", *(element("li", f"{escape(name)} has no map: {escape(why)}.")
                                 for name, why in refused.items()), class_="notes")
    return section("array", f"{heading}: {layer.name}", lead, beside, details, below)


def _facts(layer: LayerReport, shown: ElementMap, highest: float) -> str:
    share, useful = shown.utilisation, shown.useful
    busiest = np.unravel_index(int(share.argmax()), share.shape)
    idle = int(np.count_nonzero(shown.slots == 0))
    facts = [
        ("elements", f"{share.shape[0]} × {share.shape[1]}"),
        ("mean utilisation", units.percent(float(share.mean()))),
        ("busiest element", f"({busiest[0]}, {busiest[1]}), {units.percent(float(share.max()))}"),
        ("least busy", units.percent(float(share.min()))),
        ("elements without any product", f"{idle} of {share.size}"),
        ("useful products", units.short(float(useful.sum()))),
        ("products of a zero", units.short(float(shown.slots.sum() - useful.sum()))),
        ("executed as", layer.executed_as),
    ]
    listed = (element("div", element("dt", name), element("dd", escape(value))) for name, value in facts)
    return element("div", heat_scale(highest), element("dl", *listed, class_="facts-list"))


def _elements(shown: ElementMap) -> str:
    small, rows, cols = cells(shown.utilisation)
    lines = [[f"row {name}", *(f"{100 * share:.1f}" for share in line)] for name, line in zip(rows, small, strict=True)]
    return table(("%", *cols), lines, class_="dense-table")


def _small(number: int, layer: LayerReport, found: ElementMap, highest: float) -> str:
    share = float(found.utilisation.mean())
    caption = element("figcaption", f'<span class="number">{number}</span>{units.percent(share)}',
                      element("small", escape(layer.name)))
    tip = f"{layer.name}\n{units.percent(share)} of the elements' cycles are useful"
    return element("figure", element("div", small_map(found.utilisation, highest), class_="mask"), caption,
                   data_tip=tip)


def _time(line: Timeline, report: Report) -> str:
    if not line.cycles:
        return section("time", "Over time", "No layer takes a cycle.")
    spent: dict[str, list[tuple[int, int]]] = {}
    for span in line.spans:
        for event in span.events:
            if event.track == "cycles by cause":
                spent.setdefault(event.name, []).append((span.begin + event.begin, span.begin + event.end))
    busy = np.array(list(line.busy()) or [(0, 0, 0)], dtype=np.float64)
    causes = {name: np.array(events, dtype=np.float64) for name, events in spent.items()}
    names = [(span.name, span.begin, span.cycles) for span in line.spans if span.cycles]
    peak = report.total.peak_macs_per_cycle
    lead = ("Above, the share of the multipliers that do a product, zeros included, averaged over each of the "
            "picture's columns; below, what the same cycles went to.")
    keys = cause_legend([cause for cause in CAUSES if cause in causes])
    if sum(float((events[:, 1] - events[:, 0]).sum()) for events in causes.values()) < line.cycles:
        lead += (" What the array's steps themselves went to is known for a whole layer, and is in the table of "
                 "causes; its products are spread over its steps by their cycles.")
        keys += element("p", element("span", element("i", " ", class_="c-steps"), STEPS, class_="key"), class_="legend")
    if any(span.kind == "layer" and span.cycles and not span.detailed for span in line.spans):
        lead += " A layer that says <q>as a whole</q> in the table is drawn as its average, causes one after the other."
    rows = [_span_row(span, peak) for span in line.spans if span.cycles]
    head = ("layer", "drawn", "from cycle", "cycles", "products", "occupancy")
    return section("time", "Over time", lead, keys,
                   element("figure", over_time(names, busy, causes, line.cycles, peak)),
                   element("details", element("summary", "Table of the layers in time"), table(head, rows, left=2)))


def _span_row(span: Span, peak: int) -> list[str]:
    how = f"{units.exact(span.steps)} steps" if span.detailed else "as a whole"
    return [escape(span.name), how, units.exact(span.begin), units.exact(span.cycles), units.exact(span.slots),
            units.percent(span.slots / (span.cycles * peak))]


def _cycles(on: OnMachine, rows: Sequence[str]) -> str:
    causes = causes_of(on.layers)
    lead = "Every layer's cycles by cause; the parts sum to the whole. "
    if rows == BOTH:
        lead += "In each pair the paler bar above is the same layer dense. "
    lead += "Blue is work, violet the array's own overhead, warm colours wait for DRAM."
    body = element("div", switch({"cycles": "cycles", "shares": "shares"}), cause_legend(causes),
                   element("figure", total_bars(on.dense, on.now, causes, rows)),
                   element("figure", layer_bars(on.layers, causes, rows)), class_="views", data_view="cycles")
    here = [cause for cause in causes if any(cause in layer.now["cycles_by_cause"] for layer in on.layers)]
    lines = [_cause_row(layer.name, layer.executed_as, layer.now, here) for layer in on.layers]
    lines.append(_cause_row("network", "", on.now, here))
    listed = table(("layer", "executed as", "cycles", "utilisation", *here), lines, left=2, last_is_total=True)
    return section("cycles", "Where the cycles went", lead, body,
                   element("details", element("summary", "Table of causes"), listed))


def _cause_row(name: str, how: str, total: dict[str, object], causes: Sequence[str]) -> list[str]:
    spent = total["cycles_by_cause"]
    assert isinstance(spent, dict)
    return [escape(name), escape(how), units.exact(int(str(total["cycles"]))),
            units.percent(float(str(total["utilisation"]))), *(units.exact(spent.get(cause, 0)) for cause in causes)]


def _roofline(on: OnMachine, rows: Sequence[str]) -> str:
    pictures = {work: roofline(on, work) for work in WORK}
    if any(picture is None for picture in pictures.values()):
        return section("roofline", "Roofline", "No layer moves a byte over DRAM on this machine: there is no roofline.")
    views = [element("div", element("p", WORK_LEAD[work], class_="lead"), element("figure", picture or ""),
                     class_=f"as-{work.replace('_', '-')}") for work, picture in pictures.items()]
    keys = element("p", *(element("span", f'<span class="number">{at}</span>', escape(name), class_="key")
                          for at, name in numbers(on.layers)), class_="legend names")
    lead = ("A layer at the slanted roof waits for memory; one far below both roofs loses its time to fills, drains "
            "and latency.")
    if rows == BOTH:
        lead = "Each layer moves from the hollow point, dense, to the numbered one. " + lead
    body = element("div", switch({work.replace("_", "-"): words for work, words in WORK.items()}), *views, keys,
                   class_="views", data_view="dense-macs")
    lines = []
    for number, layer in enumerate(on.layers, 1):
        moved = layer.now["dram_read_bytes"] + layer.now["dram_write_bytes"]
        cycles = layer.now["cycles"]
        lines.append([str(number), escape(layer.name), units.exact(layer.now["dense_macs"]),
                      units.exact(layer.now["issued_macs"]), units.exact(moved),
                      f"{layer.now['dense_macs'] / moved:.1f}" if moved else units.NONE,
                      f"{layer.now['dense_macs'] / cycles:.1f}" if cycles else units.NONE])
    head = ("", "layer", "dense MACs", "issued MACs", "DRAM bytes", "dense MACs per byte", "per cycle")
    return section("roofline", "Roofline", lead, body,
                   element("details", element("summary", "Table of the roofline"), table(head, lines, left=2)))


def _energy(on: OnMachine, rows: Sequence[str]) -> str:
    dense, now = on.dense["energy_pj_by_component"], on.now["energy_pj_by_component"]
    lead = (f"{units.energy(on.now['energy_pj'])}: counts of the simulator times "
            f"<code>{escape(on.machine.energy_table)}</code>.")
    names = [name for name in now if any(layer.now["energy_pj_by_component"].get(name) for layer in on.layers)]
    lines = [[escape(layer.name), units.energy(layer.now["energy_pj"]),
              *(units.energy(layer.now["energy_pj_by_component"].get(name, 0.0)) for name in names)]
             for layer in on.layers]
    lines.append(["network", units.energy(on.now["energy_pj"]), *(units.energy(now.get(name, 0.0)) for name in names)])
    keys = "" if rows != BOTH else element("p", *(
        element("span", element("i", " ", class_=f"energy {name}"), name, class_="key") for name in BOTH),
        class_="legend")
    notes = element("ul", *(element("li", escape(note)) for note in on.notes), class_="notes") if on.notes else ""
    chart = element("figure", energy_bars(dense, now, rows, per="")) if now else ""
    listed = table(("layer", "energy", *(escape(name) for name in names)), lines, last_is_total=True)
    return section("energy", "Energy by component", lead, keys, chart,
                   element("details", element("summary", "Table of energy"), listed), notes)
