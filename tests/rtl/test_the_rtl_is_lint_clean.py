"""Every design and configuration passes Verilator's lint with all warnings on, and no warning is waived."""

import re

import pytest

from .cartesian import GRIDS
from .inner_join import CLUSTERS
from .lanes import LANES
from .machines import ARRAYS
from .verilated import SOURCES, arguments, command, need_verilator

MACHINES = (*ARRAYS, *LANES, *CLUSTERS, *GRIDS)
TOPS = {(array.top, tuple(sorted(array.parameters.items()))): array for array in MACHINES}


@pytest.mark.parametrize("array", TOPS.values(), ids=str)
def test_lint_with_all_warnings_says_nothing(array):
    need_verilator()
    said = command("verilator", "--lint-only", "-Wall", "-y", SOURCES, *arguments(array.top, array.parameters),
                   SOURCES / f"{array.top}.sv")
    assert said == ""


def test_no_warning_is_waived():
    assert list(SOURCES.glob("*.sv"))
    assert not list(SOURCES.glob("*.vlt"))
    for path in SOURCES.glob("*.sv"):
        assert not re.search(r"lint_o|verilator\s+(lint|coverage)|-Wno", path.read_text(encoding="utf-8")), path.name


def test_lint_finds_a_fault_that_is_put_in(tmp_path):
    need_verilator()
    for path in SOURCES.glob("*.sv"):
        text = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(text.replace("output logic               done", "output logic [1:0] done"))
    array = ARRAYS[0]
    with pytest.raises(RuntimeError, match="WIDTH"):
        command("verilator", "--lint-only", "-Wall", "-y", tmp_path, *arguments(array.top, array.parameters),
                tmp_path / f"{array.top}.sv")
