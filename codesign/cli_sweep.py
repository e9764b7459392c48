"""The command group `sweep`: run, merge, export, pareto, report.

The package `sweeps` is imported when a command runs; it does not know this one.  Read sweeps/run.py for
what the commands call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .cli_common import JSON, example, print_json, print_table


@click.group(
    short_help="Explore many machine configurations.",
    epilog=example("espalier sweep run array_shape --out shapes.db", "espalier sweep pareto shapes.db"),
)
def sweep() -> None:
    """Explore many machine configurations: run a study, merge and export its results, find the Pareto front."""


@sweep.command(
    short_help="Run a study, or go on with it.",
    epilog=example(
        "espalier sweep run array_shape --out shapes.db --jobs 2",
        "espalier sweep run my_study.toml --shard 1/4 --out part1.db",
    ),
)
@click.argument("study")
@click.option("--out", type=click.Path(dir_okay=False), metavar="DB", help="The database.  [default: NAME.db]")
@click.option("--jobs", type=int, metavar="N", help="Processes.  [default: one per core]")
@click.option("--shard", metavar="I/N", help="Only every N-th part of the configurations.")
@JSON
def run(study: str, out: str | None, jobs: int | None, shard: str | None, as_json: bool) -> None:
    """Run a study, or what is left of it: results that the database has are not computed again.

    STUDY is a TOML file or the name of a shipped study.
    """
    from sweeps.run import run_study

    summary = run_study(study, out, jobs, shard)
    if as_json:
        print_json({"schema": 1, **summary.to_dict()})
        return
    click.echo(
        f"{summary.study}: {summary.points} configurations, {summary.already_done} were there, "
        f"{summary.evaluated} evaluated in {summary.seconds:.1f} s, {summary.failed} failed"
    )
    click.echo(f"database: {summary.database}")


@sweep.command(
    short_help="Put several databases into one.", epilog=example("espalier sweep merge all.db part1.db part2.db")
)
@click.argument("out")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@JSON
def merge(out: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Put the rows of all IN databases into OUT."""
    from sweeps.store import merge as merge_stores

    rows = merge_stores(out, inputs)
    if as_json:
        print_json({"schema": 1, "database": out, "rows": rows})
    else:
        click.echo(f"{out}: {rows} rows")


@sweep.command(
    short_help="Write the results as csv or parquet.", epilog=example("espalier sweep export shapes.db shapes.csv")
)
@click.argument("database", metavar="DB")
@click.argument("file")
@JSON
def export(database: str, file: str, as_json: bool) -> None:
    """Write all rows of DB to FILE, a .csv or .parquet."""
    from sweeps.store import export as export_store

    written = export_store(database, file)
    if as_json:
        print_json({"schema": 1, "file": str(written)})
    else:
        click.echo(f"written: {written}")


@sweep.command(
    short_help="Print the Pareto front.",
    epilog=example(
        "espalier sweep pareto shapes.db", "espalier sweep pareto shapes.db --objective latency_s --objective area_mm2"
    ),
)
@click.argument("database", metavar="DB")
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="COLUMN",
    help='A column to minimise, or "max COLUMN"; repeatable.  [default: the study\'s]',
)
@JSON
def pareto(database: str, objectives: tuple[str, ...], as_json: bool) -> None:
    """Print the configurations of DB that no other one beats in every objective, for each workload."""
    from sweeps.pareto import front

    rows = front(database, objectives or None)
    if as_json:
        print_json({"schema": 1, "database": database, "front": rows})
        return
    shown = _columns_worth_showing(rows)
    print_table(
        f"Pareto front of {database}, {len(rows)} configurations",
        shown,
        [[_cell(row.get(column)) for column in shown] for row in rows],
    )


@sweep.command(short_help="Write the HTML report of a database.", epilog=example("espalier sweep report shapes.db"))
@click.argument("database", metavar="DB")
@JSON
def report(database: str, as_json: bool) -> None:
    """Write an HTML page about DB, beside it."""
    from sweeps.report import write

    page = write(database, Path(database).with_suffix(".html"))
    if as_json:
        print_json({"schema": 1, "report": str(page)})
    else:
        click.echo(f"report: {page}")


NUMBERS = ("cycles", "latency_s", "energy_j", "area_mm2", "speedup", "utilisation")
"""Columns of a simulation that the printed front shows; --json has all."""


def _columns_worth_showing(rows: list[dict[str, Any]]) -> list[str]:
    """Workload, machine, the axes and the main numbers; axes are what stands between the status and the metrics."""
    if not rows:
        return ["workload", "machine"]
    names = list(rows[0])
    first_number = next((names.index(name) for name in names if name in NUMBERS), len(names))
    axes = [name for name in names[:first_number] if name not in ("task_id", "workload", "machine", "status", "error")]
    return ["workload", "machine", *axes, *(name for name in NUMBERS if name in names)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )
