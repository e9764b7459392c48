"""The command that makes a pruned network really smaller: compact.

It calls compact_run.py and prints.  Read cli.py for the rest.
"""

from __future__ import annotations

import click

from .cli_common import JSON, example, message, print_json


@click.command(
    short_help="Take empty channels out of a pruned network.",
    epilog=example(
        "espalier compact runs/demo",
        "espalier compact runs/demo --out smaller",
        "espalier evaluate runs/demo/compact --machine systolic_ws",
    ),
)
@click.argument("run")
@click.option("--out", type=click.Path(file_okay=False), help="Where to write it.  [default: RUN/compact]")
@click.option(
    "--build", metavar="MODULE:NAME", help="The network's builder, where it is code of your own that you trust."
)
@JSON
def compact(run: str, out: str | None, build: str | None, as_json: bool) -> None:
    """Write a pruned network without the channels, hidden units and heads that its masks have emptied.

    RUN is a run directory or an exported directory.  The smaller network computes the same; what could not be taken out
    is listed with the reason.  Masks inside the layers that are left (2:4, blocks, single weights) stay masks.
    """
    from .compact_run import compact_run

    done = compact_run(run, out, build)
    if as_json:
        print_json(done.to_dict())
        return
    for name, count in done.removed.items():
        click.echo(f"{count:6} channels of {name}")
    for name, reason in done.kept.items():
        message(f"stays: {name}: {reason}")
    click.echo(f"parameters: {done.before:,} -> {done.after:,}")
    click.echo(f"written: {done.out}")
