"""The sections of a run's report that need no machine, as HTML: headline, comparison, training, origin.

Each function takes the run and returns one section, or nothing where the run has nothing to say; every number is
one that the run logged.  Text from files is escaped here or in report_svg.py.  Read report_structures.py and
report_machine.py for the other sections, report.py for their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import report_units as units
from .report_charts import Line, Mark, comparison_chart, legend, line_panel
from .report_run import Run
from .report_svg import element, escape


def section(identity: str, heading: str, lead: str, *content: str) -> str:
    """A section with its heading and the sentence that tells how to read it; lead and content are markup."""
    return element(
        "section",
        element("h2", escape(heading)),
        element("p", lead, class_="lead") if lead else "",
        *content,
        id=identity,
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, class_: str = "", last_is_total: bool = False
) -> str:
    """A table; cells are markup.  The first `left` columns are text, the others numbers."""
    listed = [list(row) for row in rows]

    def line(tag: str, row: Sequence[str], total: bool = False) -> str:
        cells = (element(tag, body, class_=None if at < left else "n") for at, body in enumerate(row))
        return element("tr", *cells, class_="total" if total else None)

    body = (line("td", row, last_is_total and at == len(listed) - 1) for at, row in enumerate(listed))
    header = line("th", [escape(name) for name in head])
    whole = element("table", element("thead", header), element("tbody", *body), class_=class_ or None)
    return element("div", whole, class_="scroll")


def headline(run: Run, logo: str) -> str:
    """What came out, in words and in a few large numbers; logo is markup."""
    model = run.config.model.name or run.config.model.build.rpartition(":")[2]
    accuracy, pruned = float(run.table["accuracy"]), float(run.table["weight_sparsity"])
    right = f"{accuracy:.2f} % of the test images are classified correctly{_beside_dense(run)}"
    sentences = []
    for number, on in enumerate(run.machines):
        subject = f"{model} now needs" if number == 0 else "It needs"
        saving = "" if not on.row["energy_ratio"] else f", and {1 / on.row['energy_ratio']:.2f} of the energy"
        sentences.append(
            f"{escape(subject)} <strong>{on.share:.2f} of its dense cycles</strong> on {escape(on.given)}{saving}."
        )
    if not sentences:
        sentences.append(f"{escape(model)} was trained with no machine to price it.")
    sentences.append(f"{units.percent(pruned)} of its weights are gone; {right}.")
    tiles = [_tile(f"{accuracy:.2f} %", "test accuracy"), _tile(units.percent(pruned), "of all weights removed")]
    for on in run.machines:
        where = f" on {on.given}" if len(run.machines) > 1 else ""
        tiles += [
            _tile(units.times(on.row["speedup"]), f"as fast as dense{where}"),
            _tile(
                units.NONE if not on.row["energy_ratio"] else f"{1 / on.row['energy_ratio']:.2f}",
                f"of the dense energy{where}",
            ),
        ]
        if len(run.machines) == 1:
            tiles.append(_tile(units.seconds(on.now["latency_s"]), f"per image at {on.machine.clock_hz / 1e6:g} MHz"))
    return element(
        "header",
        element("p", logo, element("span", "Espalier"), class_="brand"),
        element("h1", escape(run.table["name"])),
        element("p", " ".join(sentences), class_="hero"),
        element("div", *tiles, class_="tiles"),
    )


def comparison(run: Run) -> str:
    """This run's network beside others, where the run has a comparison."""
    if not run.comparison:
        return ""
    ours = _ours(run)
    dense = _dense_row(run.comparison)
    rows = []
    for index, row in enumerate(run.comparison):
        name = escape(row["label"])
        share = units.NONE if dense is None else f"{row['cycles'] / dense['cycles']:.2f}"
        rows.append(
            [
                f"<strong>{name}</strong>" if index == ours else name,
                f"{row['accuracy']:.2f} %",
                units.exact(int(row["cycles"])),
                share,
                units.times(row["speedup"]),
                units.energy(row["energy_pj"]),
                units.percent(row["weight_sparsity"]),
            ]
        )
    head = ("network", "accuracy", "cycles", "of dense", "speed‑up", "energy", "weights removed")
    where = f" on {run.machines[0].given}" if run.machines else ""
    lead = (
        f"The same network, pruned in different ways and scored{escape(where)}. A weight that the machine "
        "cannot skip costs as much as before: a count of zeros says little about cycles."
    )
    return section(
        "comparison",
        "Against other ways to prune",
        lead,
        element(
            "div",
            element("div", table(head, rows, class_="compare")),
            element("figure", comparison_chart(run.comparison, ours)),
            class_="beside",
        ),
    )


def training(run: Run) -> str:
    """Accuracy, loss and cost by epoch, with the selections marked."""

    def points(key: str) -> list[tuple[float, float]]:
        return [(row["epoch"], row[key]) for row in run.epochs]

    steps_per_epoch = run.epochs[0]["step"] / run.epochs[0]["epoch"]
    events = [Mark(row["step"] / steps_per_epoch, "selection") for row in run.selections]
    accuracy = [
        Line("validation", "l-first", points("validation_accuracy")),
        Line("training", "l-second", points("train_accuracy")),
    ]
    loss = [
        Line("validation", "l-first", points("validation_loss")),
        Line("training", "l-second", points("train_loss")),
    ]
    first = events[0].at if events else 0.0
    cost = [
        Line(
            "weights kept",
            "l-weights",
            _from_dense([(e["epoch"], 1 - e["weight_sparsity"]) for e in run.epochs], first),
        )
    ]
    for number, on in enumerate(run.machines):
        name, colour = on.machine.name, number % 3
        priced = [(row["epoch"], row["machines"][name]) for row in run.epochs if name in row.get("machines", {})]
        where = f" on {name}" if len(run.machines) > 1 else ""
        for kind, of in (("cycles", "cycles"), ("energy", "energy_pj")):
            shares = [
                (epoch, cost_of[of] / cost_of[f"dense_{of}"]) for epoch, cost_of in priced if cost_of[f"dense_{of}"]
            ]
            if shares:
                cost.append(Line(f"{kind}{where}", f"l-{kind}-{colour}", _from_dense(shares, first)))
    targets = []
    if run.config.hardware is not None:
        hardware = run.config.hardware
        kind, target = (
            ("cycles", hardware.target_latency)
            if hardware.target_latency is not None
            else ("energy", hardware.target_energy)
        )
        targets = [Mark(float(target or 0.0), f"target: {target:g} of dense {kind}")]
    panels = [
        ("Accuracy, %", accuracy, line_panel(accuracy, units.plain, label="Accuracy by epoch", events=events)),
        ("Loss", loss, line_panel(loss, units.plain, label="Loss by epoch", events=events)),
        (
            "Cost, as a share of dense",
            cost,
            line_panel(cost, units.plain, label="Cost by epoch", events=events, targets=targets, from_zero=True),
        ),
    ]
    figures = [element("figure", element("h3", escape(name)), legend(lines), chart) for name, lines, chart in panels]
    spent = run.table["training"]
    lead = (
        f"{len(run.epochs)} epochs in {units.seconds(spent['seconds'])}, of which choosing structures took "
        f"{units.seconds(spent['selection_seconds'])}. Sparse training needed {units.short(spent['macs'])} "
        f"multiply-accumulates; dense, it would have been {units.short(spent['dense_macs'])}. "
        "Validation images are held out of training."
    )
    return section("training", "Over training", lead, element("div", *figures, class_="panels"))


def origin(run: Run) -> str:
    """Where the run came from: seed, versions, data, configuration."""
    facts = {"seed": run.table["seed"], **run.provenance}
    rows = [[escape(name), escape(value)] for name, value in facts.items()]
    return section(
        "origin",
        "Where this came from",
        "Enough to make the run again: <code>espalier train</code> with this configuration.",
        table(("", ""), rows, left=2, class_="facts"),
        element(
            "details",
            element("summary", "config.toml, every default written out"),
            element("pre", escape(run.config_text)),
        ),
    )


def _from_dense(points: Sequence[tuple[float, float]], selected_at: float) -> list[tuple[float, float]]:
    """Shares of dense from the start of training: 1 there, and no change before the first selection."""
    before = [(0.0, 1.0), *(point for point in points if point[0] < selected_at)]
    kept = [(selected_at, before[-1][1])] if selected_at > before[-1][0] else []
    return [*before, *kept, *(point for point in points if point[0] >= selected_at)]


def _tile(value: str, words: str) -> str:
    return element("div", element("b", escape(value)), element("span", escape(words)))


def _beside_dense(run: Run) -> str:
    dense = _dense_row(run.comparison)
    if dense is None:
        return ""
    points = float(run.table["accuracy"]) - dense["accuracy"]
    if abs(points) < 0.005:
        return ", as many as after dense training"
    return f", {abs(points):.2f} points {'more' if points > 0 else 'fewer'} than after dense training"


def _dense_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the network that was not pruned, if there is one."""
    return next((row for row in rows if row["weight_sparsity"] == 0), None)


def _ours(run: Run) -> int | None:
    """The row of the comparison that is this run: the one with its accuracy and cycles."""
    cycles = {on.now["cycles"] for on in run.machines}
    return next(
        (
            index
            for index, row in enumerate(run.comparison)
            if row["accuracy"] == run.table["accuracy"] and row["cycles"] in cycles
        ),
        None,
    )
