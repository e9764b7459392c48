"""The commands that need a network: train, evaluate, report.

Each checks its arguments, calls train.py, evaluate.py or report.py, and prints.  Read cli.py for the rest.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from .cli_common import (
    JSON,
    MACHINE_HELP,
    Bar,
    example,
    listed,
    message,
    print_comparison,
    print_json,
    print_layers,
    print_reports,
)


def _shipped() -> str:
    import tomllib

    folder = Path(__file__).parent / "configs"
    lines = []
    for path in sorted(folder.glob("*.toml"), key=lambda one: (one.stem != "demo", one.stem)):  # the default first
        text = path.read_text(encoding="utf-8")
        about = text.splitlines()[0].lstrip("# ") if text.startswith("#") else tomllib.loads(text)["name"]
        lines.append(f"{path.stem:12} {about}")
    return "\n".join(lines)


@click.command(
    short_help="Train a network, prune it to fit a machine, score it.",
    epilog=example(
        "espalier train",
        "espalier train demo --set train.epochs=3 --set seed=1 --out runs/short",
        "espalier train --resume --out runs/short",
    ),
)
@click.argument("config", required=False)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value, by its dotted key; repeatable. data=... is data.source=...",
)
@click.option("--out", type=click.Path(file_okay=False), help="The run directory.  [default: runs/NAME, numbered]")
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out, or the latest of this name, where it was stopped."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@listed(_shipped)
@JSON
def train(
    config: str | None, overrides: tuple[str, ...], out: str | None, resume: bool, device: str, as_json: bool
) -> None:
    """Train a network, prune it to fit a machine, export it and score it.

    CONFIG is a TOML file or the name of a shipped configuration (see --list); without one it is `demo`. A run that was
    stopped goes on with --resume, and ends as if it had never been stopped.
    """
    from simulator.errors import InputError

    from .config import load_config
    from .run_directory import free_directory, latest_directory

    # A run to resume has its own configuration, which one given here must equal.
    given = (
        None
        if resume and config is None and not overrides and out is not None
        else load_config(config or "demo", overrides)
    )
    team = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    if out is None and team > 1:
        raise InputError("several processes without --out", where="torchrun", expected="one run directory for all",
                         fix="name it with --out")
    if out is None:
        assert given is not None
        out = str(latest_directory(given.name) if resume else free_directory(given.name))
    from .compare import add_comparison
    from .train import run_training

    leads = os.environ.get("RANK", "0") == "0"
    with Bar() as bar:
        if leads:
            message(f"run directory: {out}")
        result = run_training(given, out, resume=resume, device=device, progress=bar if leads else None)
        if not leads:
            return
        result = add_comparison(result, device=device, progress=bar)
    if as_json:
        print_json(result.table)
        return
    table = result.table
    click.echo(
        f"{table['name']}, seed {table['seed']}: {table['accuracy']:.2f} % of the test images right, "
        f"{100 * table['weight_sparsity']:.1f} % of the weights pruned, {table['training']['seconds']:.0f} s"
    )
    if table["machines"]:
        print_reports(table["machines"])
    if table.get("comparison"):
        print_comparison(table["comparison"], table["machines"][0]["machine"])
    click.echo(f"run directory: {table['run']}")
    page = Path(table["run"]) / "report.html"
    if page.is_file():
        click.echo(f"report: {page}")


@click.command(
    short_help="Score a network on machines, beside itself dense.",
    epilog=example(
        "espalier evaluate runs/demo --machine nm_array --machine systolic_ws",
        "espalier evaluate runs/demo/model --machine 'nm_array?rows=32&cols=32' --data fashion-mnist-mini --json",
    ),
)
@click.argument("model")
@click.option("--machine", "machines", multiple=True, required=True, metavar="M", help=f"{MACHINE_HELP} Repeatable.")
@click.option("--data", metavar="NAME_OR_DIR", help="Measure the accuracy on the test images of this set too.")
@click.option(
    "--build", metavar="MODULE:NAME", help="The network's builder, where it is code of your own that you trust."
)
@JSON
def evaluate(model: str, machines: tuple[str, ...], data: str | None, build: str | None, as_json: bool) -> None:
    """Score a network on one or more machines, against the same network dense.

    MODEL is a run directory, an exported directory or a trace file.
    """
    from .evaluate import evaluate as score

    found = score(model, machines, data, build=build)
    table = found.to_dict()
    if as_json:
        print_json(table)
        return
    from simulator import simulate

    for report, row in zip(found.reports, table["machines"], strict=True):
        print_layers(row, simulate(found.trace.dense(), report.machine, compare_dense=False).to_dict())
    print_reports(table["machines"])
    if found.accuracy is not None:
        click.echo(f"accuracy: {found.accuracy:.2f} %")


@click.command(short_help="Write an HTML report again.", epilog=example("espalier report runs/demo"))
@click.argument("run_or_db", metavar="RUN_OR_DB")
@JSON
def report(run_or_db: str, as_json: bool) -> None:
    """Write the HTML report of a training run or of a sweep's database again."""
    from simulator.errors import InputError

    path = Path(run_or_db)
    if path.is_dir():
        from .run_directory import RunDirectory

        if not RunDirectory(path).config.is_file():
            raise InputError("holds no training run", where=run_or_db, expected="a run directory or a sweep's database")
        from .report import write_report

        page = write_report(path)
    elif path.is_file():
        from sweeps.report import write

        page = write(path, path.with_suffix(".html"))
    else:
        raise InputError("no such file or directory", where=run_or_db, expected="a run directory or a sweep's database")
    if as_json:
        print_json({"schema": 1, "report": str(page)})
    else:
        click.echo(f"report: {page}")
