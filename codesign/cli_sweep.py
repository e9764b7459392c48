"""The command group `sweep`: run, merge, export, pareto, report.

The package `sweeps` is reached by name when a command runs: it does not know this package, and training
does not need it.  Read sweeps/run.py for what the commands call.
"""

from __future__ import annotations

import importlib
from typing import Any

import click


def sweep_module(name: str) -> Any:
    """The module `sweeps.<name>`."""
    return importlib.import_module(f"sweeps.{name}")


@click.group()
def sweep() -> None:
    """Explore many machine configurations: run, merge, export, pareto, report."""
