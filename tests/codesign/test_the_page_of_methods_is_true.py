"""docs/methods.md names what there is: every part and recipe of the tables, and nothing that is not there."""

import re
from pathlib import Path

from codesign.config import shipped_names
from codesign.criteria import CRITERIA
from codesign.recipes import RECIPES
from codesign.regrowth import REGROWTHS
from codesign.schedules import SCHEDULES
from simulator.structure import parse

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def parts(name: str) -> set[str]:
    """The names in backticks in the second cell of a part's row."""
    (row,) = [cells for cells in CELLS if cells[0] == name]
    return set(re.findall(r"`([^`]+)`", row[1]))


def test_every_part_is_on_the_page_and_no_other() -> None:
    assert parts("criteria") == set(CRITERIA)
    assert parts("schedules") == set(SCHEDULES)
    assert parts("drop and grow") == set(REGROWTHS)
    for form in parts("structures"):
        example = form.replace("N:M", "2:4").replace("RxC", "2x2").replace("#A#B...", "#3#7")
        example = example.replace("A + B", "kernel + window")
        parse(re.sub(r"(?<= )[BKP]$", "4", example))


def test_every_recipe_is_on_the_page_and_no_other() -> None:
    methods = [cells for cells in CELLS if len(cells) == 3]
    named = {name for _, _, how in methods for name in re.findall(r"recipe(?: and configuration)? `(\w+)`", how)}
    assert named == set(RECIPES)
    for configuration in re.findall(r"configuration `(\w+)`", PAGE):
        assert configuration in shipped_names()


def test_what_is_not_there_yet_says_why_and_files_that_are_named_exist() -> None:
    for cells in CELLS:
        if cells[-1].startswith("not yet"):
            assert len(cells[-1]) > len("not yet: ") + 20
    for path in re.findall(r"`((?:codesign|simulator)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file(), path
