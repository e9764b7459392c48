"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

It counts what it is told and reads the clock; nothing of it reaches a result.  Nothing further to read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_of(total: int, show: bool) -> Iterator[Callable[[bool], None]]:
    """Yields `advance(failed)`, to be called once per finished point."""
    if not show or total == 0:
        yield lambda failed: None
    elif sys.stderr.isatty():
        yield from _bar(total)
    else:
        yield from _lines(total)


def _bar(total: int) -> Iterator[Callable[[bool], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    failures = 0
    started = time.monotonic()
    bar = Progress(TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                   TimeRemainingColumn(), TextColumn("{task.fields[failures]}"), console=Console(stderr=True))
    with bar:
        item = bar.add_task("sweep", total=total, rate="", failures="")

        def advance(failed: bool) -> None:
            nonlocal failures
            failures += failed
            done = bar.tasks[0].completed + 1
            bar.update(item, advance=1, rate=_rate(done, started), failures=f"{failures} failed" if failures else "")

        yield advance


def _lines(total: int) -> Iterator[Callable[[bool], None]]:
    done = failures = 0
    started = said = time.monotonic()

    def advance(failed: bool) -> None:
        nonlocal done, failures, said
        done, failures = done + 1, failures + failed
        now = time.monotonic()
        if done == total or now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = (total - done) * (now - started) / done
            print(f"sweep {done}/{total}, {_rate(done, started)}, {failures} failed, {left:.0f} s left",
                  file=sys.stderr)

    yield advance


def _rate(done: float, started: float) -> str:
    return f"{60 * done / max(time.monotonic() - started, 1e-9):,.0f} points/min"
