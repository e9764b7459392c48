"""The frame of the pages that `espalier simulate` writes: one file, everything inside, the reports' own style.

It leaves out what is on the pages: read simulate_report.py for the pictures and simulate_tile.py for the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .report import ASSETS
from .report_svg import element, escape


def asset(name: str) -> str:
    """The text of a file in report_assets."""
    return (ASSETS / name).read_text(encoding="utf-8")


def document(title: str, header: str, sections: Sequence[str], styles: Sequence[str] = ("style.css",),
             scripts: Sequence[str] = ("script.js",)) -> str:
    """The whole document; title is text, header and sections are markup, styles and scripts names of assets."""
    head = element(
        "head",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        element("title", f"{escape(title)} · Espalier"),
        *(f"<style>{asset(name)}</style>" for name in styles),
    )
    body = element("body", header, element("main", *sections), '<div id="tip" hidden></div>',
                   *(f"<script>{asset(name)}</script>" for name in scripts))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def header(heading: str, said: str, *below: str) -> str:
    """Brand, heading and a sentence; heading is text, the rest markup."""
    return element("header", element("p", asset("logo.svg"), element("span", "Espalier"), class_="brand"),
                   element("h1", escape(heading)), element("p", said, class_="hero"), *below)


def write(text: str, path: str | Path) -> None:
    """Write a page, whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
