"""What several commands share: options, JSON on stdout, tables, and a progress bar on stderr.

It leaves out everything that knows a command.  Read cli.py for the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else.")
MACHINE_HELP = "A preset's name, a TOML file or a SCALE-Sim .cfg; NAME?key=value&key=value overrides fields."


def example(*lines: str) -> str:
    """The example at the end of a command's --help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(table: Mapping[str, Any]) -> None:
    """One JSON document on stdout.  NaN and infinity, which JSON lacks, would be an error of ours."""
    import json

    click.echo(json.dumps(table, indent=1, allow_nan=False))


def message(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


TEXT_COLUMNS = ("model", "description", "structure", "where the cycles went")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], last_is_total: bool = False) -> None:
    """A table on stdout; the first column and TEXT_COLUMNS are aligned left, the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in TEXT_COLUMNS else "right", no_wrap=True)
    listed = list(rows)
    for index, row in enumerate(listed):
        table.add_row(*row, end_section=last_is_total and index == len(listed) - 2)
    # Into a pipe or a file a table is as wide as it needs to be; on a terminal it must fit.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def counted(value: float) -> str:
    """A count with thousands apart."""
    return f"{round(value):,}"


def energy(picojoules: float) -> str:
    """Picojoules in the unit that suits them."""
    for unit, size in (("J", 1e12), ("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3)):
        if abs(picojoules) >= size:
            return f"{picojoules / size:.3g} {unit}"
    return f"{picojoules:.3g} pJ"


def ratio(value: float | None) -> str:
    """A ratio such as a speed-up, or a dash where there is none."""
    return "-" if value is None else f"{value:.2f}x"


def causes(by_cause: Mapping[str, int], most: int = 3) -> str:
    """The largest shares of a breakdown: "compute 71%, stall_weight 20%"."""
    total = sum(by_cause.values())
    if not total:
        return "-"
    largest = sorted(by_cause.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {100 * cycles / total:.0f}%" for name, cycles in largest if cycles)


class Bar:
    """Progress of a training run on stderr: a bar on a terminal, a line per epoch elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, markup=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=1, loss=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, epoch: int, epochs: int, batch: int, batches: int, loss: float) -> None:
        """Draw how far the epoch is."""
        self._bar.update(self._task, description=f"epoch {epoch}/{epochs}", total=batches, completed=batch, loss=loss)

    def row(self, row: Mapping[str, Any]) -> None:
        """Say what a line of the metrics says."""
        if row["event"] == "selection":
            text = f"selection at step {row['step']}: {100 * row['sparsity']:.1f} % of the weights go"
        else:
            text = (
                f"epoch {row['epoch']}: loss {row['train_loss']:.3f}, "
                f"validation accuracy {row['validation_accuracy']:.2f} %, "
                f"weights pruned {100 * row['weight_sparsity']:.1f} %"
            )
            for name, cost in row.get("machines", {}).items():
                text += f", {name} {cost['cycles']:,} cycles ({cost['cycles'] / cost['dense_cycles']:.2f} of dense)"
        self._bar.console.print(text, soft_wrap=True)


def print_comparison(rows: Sequence[Mapping[str, Any]], machine: str) -> None:
    """Networks of equal training beside each other on one machine, a row each."""
    print_table(
        f"the same epochs and seed, on {machine}",
        ("network", "accuracy", "cycles", "speed-up", "energy", "weights pruned"),
        [
            [
                row["label"],
                f"{row['accuracy']:.2f}%",
                counted(row["cycles"]),
                ratio(row["speedup"]),
                energy(row["energy_pj"]),
                f"{100 * row['weight_sparsity']:.1f}%",
            ]
            for row in rows
        ],
    )


def print_reports(reports: Sequence[Mapping[str, Any]]) -> None:
    """A summary of reports in their JSON form, a row per machine."""
    rows = [
        [
            report["machine"],
            counted(report["total"]["cycles"]),
            counted(report["dense"]["cycles"]),
            ratio(report["speedup"]),
            energy(report["total"]["energy_pj"]),
            ratio(report["energy_ratio"]),
            f"{100 * report['total']['utilisation']:.1f}%",
            causes(report["total"]["cycles_by_cause"]),
        ]
        for report in reports
    ]
    print_table(
        "",
        (
            "machine",
            "cycles",
            "dense cycles",
            "speed-up",
            "energy",
            "energy gain",
            "utilisation",
            "where the cycles went",
        ),
        rows,
    )
    for report in reports:
        if report.get("coverage"):
            click.echo(f"{report['machine']}: {report['coverage']['line']}")
        if kept := report.get("kept_on_chip"):
            saved, names = sum(one["dram_bytes_saved"] for one in kept), ", ".join(one["producer"] for one in kept)
            click.echo(f"{report['machine']}: on chip from layer to layer, {saved:,} DRAM bytes saved: {names}")


def print_layers(report: Mapping[str, Any], dense: Mapping[str, Any] | None) -> None:
    """Every layer of one report in its JSON form, beside the same layer of the dense network."""
    rows = []
    beside = {layer["name"]: layer["total"] for layer in dense["layers"]} if dense else {}
    for layer in report["layers"]:
        total = layer["total"]
        groups = f" /{layer['groups']}" if layer["groups"] > 1 else ""
        before = beside.get(layer["name"])
        rows.append(
            [
                layer["name"],
                f"{layer['m']}x{layer['k']}x{layer['n']}{groups}",
                layer["structure"],
                f"{layer['weight_density']:.3f}",
                f"{layer['input_density']:.3f}",
                counted(total["cycles"]),
                ratio(before["cycles"] / total["cycles"]) if before and total["cycles"] else "-",
                energy(total["energy_pj"]),
                f"{100 * total['utilisation']:.1f}%",
                causes(total["cycles_by_cause"]),
            ]
        )
    operators = [operator["total"] for operator in report.get("operators", ())]
    if cycles := sum(one["cycles"] for one in operators):
        spent = sum(one["energy_pj"] for one in operators)
        rows.append([f"{len(operators)} operators", "", "", "", "", counted(cycles), "-", energy(spent), "", ""])
    total = report["total"]
    rows.append(
        [
            "total",
            "",
            "",
            "",
            "",
            counted(total["cycles"]),
            ratio(report["speedup"]),
            energy(total["energy_pj"]),
            f"{100 * total['utilisation']:.1f}%",
            causes(total["cycles_by_cause"]),
        ]
    )
    print_table(
        f"{report['machine']} at {report['clock_hz'] / 1e6:g} MHz",
        (
            "layer",
            "m x k x n",
            "structure",
            "weights",
            "inputs",
            "cycles",
            "speed-up",
            "energy",
            "utilisation",
            "where the cycles went",
        ),
        rows,
        last_is_total=True,
    )


def listed(callback: Callable[[], str]) -> Any:
    """A --list flag that prints what `callback` returns and ends the command."""

    def show(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(callback())
            context.exit()

    return click.option(
        "--list",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="List the shipped configurations and stop.",
    )
