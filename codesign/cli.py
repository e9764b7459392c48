"""The command line `espalier`: one function per command, and the one place where errors become exit codes.

A command reads its arguments, calls one library function and prints what it returns; torch, numba and
rich are imported inside the functions, so that `--help` answers at once.  It leaves out all work.  Read
cli_train.py, cli_simulate.py, cli_sweep.py and cli_check.py for the commands.

Results go to stdout, progress and messages to stderr.  Exit status: 0; 2 for a mistake in the user's
input, with a message and no traceback; 130 on Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from . import cli_check, cli_compact, cli_simulate, cli_sweep, cli_train
from .cli_common import example

COMMANDS: tuple[click.Command, ...] = (
    cli_train.train,
    cli_train.evaluate,
    cli_compact.compact,
    cli_simulate.simulate,
    cli_sweep.sweep,
    cli_simulate.machines,
    cli_check.check,
    cli_check.doctor,
    cli_train.report,
)


class InOrder(click.Group):
    """Lists its commands in the order they are given, which is the order they are used in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(self.commands)


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from .cli_check import version

        click.echo(f"espalier {version('espalier-codesign')}")
        context.exit()


@click.group(
    cls=InOrder,
    commands={str(command.name): command for command in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example("espalier train", "espalier evaluate runs/demo --machine nm_array"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def espalier() -> None:
    """Train and prune networks to fit an accelerator, and simulate how they run on it.

    Start with `espalier train`: the demo trains a small network on embedded images, lets the simulated machine choose
    what to prune, and writes a report.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `espalier` with these arguments (default: the process's) and return its exit status."""
    try:
        status = espalier.main(
            args=None if arguments is None else list(arguments), prog_name="espalier", standalone_mode=False
        )
        return status if isinstance(status, int) else 0
    except click.Abort:  # click turns Ctrl-C into this
        print("stopped; what was done is kept", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except ValueError as error:
        # simulator's InputError and models' DataError both say what, where, what was expected and what to do.
        if not all(hasattr(error, part) for part in ("what", "where", "expected", "fix")):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
