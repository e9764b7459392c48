"""The HTML report of a training run: one file that opens anywhere, without a network.

What is on disk becomes sections in a reader's order: what came out, against what, how training went, what was
chosen, and for each machine where cycles and energy went.  Nothing is measured here; the same files give the
same bytes.  Read report_run.py for what is read, report_sections.py and report_machine.py for what is said.
"""

from __future__ import annotations

from pathlib import Path

from .report_machine import machine_sections
from .report_run import Run, read_run
from .report_sections import comparison, headline, origin, training
from .report_structures import structures
from .report_svg import element, escape

ASSETS = Path(__file__).parent / "report_assets"
FILE_NAME = "report.html"


def write_report(run_dir: str | Path) -> Path:
    """Write report.html into a finished run's directory; returns its path.

    Raises InputError where a file of the run is missing or damaged, where its files are not of one run, or
    where one of its machines cannot be loaded any more.
    """
    text = page(read_run(run_dir))
    path = Path(run_dir) / FILE_NAME
    partial = path.with_name(FILE_NAME + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def page(run: Run) -> str:
    """The whole document."""
    several = len(run.machines) > 1
    parts = [comparison(run), training(run), structures(run)]
    parts += [machine_sections(on, number, several) for number, on in enumerate(run.machines)]
    parts.append(origin(run))
    style, script, logo = (
        (ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "logo.svg")
    )
    head = element(
        "head",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # An empty icon, or a browser would ask for favicon.ico when the page is served.
        '<link rel="icon" href="data:,">',
        element("title", f"{escape(run.table['name'])} · Espalier"),
        f"<style>{style}</style>",
    )
    body = element(
        "body",
        headline(run, logo),
        element("main", *parts),
        '<div id="tip" hidden></div>',
        f"<script>{script}</script>",
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'
