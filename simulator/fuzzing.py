"""Machines, topologies and configurations as text, whole and damaged, for fuzzers of the readers.

Texts are drawn as hypothesis strategies: a description that is right, with up to three places of it changed to what
people mistype and to what breaks programs (numbers beyond 64 bits, not-a-number, other types, half a file).  What must
come of them stands in `problems`; nothing is run here.  Read testing.py for machines and layers as objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from .hardware import PRESETS, preset_names
from .machines import MACHINES
from .testing import machines

ODD_VALUES = (
    "-1", "0", "1", "3", "1000", "65536", "2147483648", "9223372036854775807", "9223372036854775808", "1e300", "1e-300",
    "0.1", "-0.0", "nan", "inf", "-inf", "true", '""', '"ideal"', '"channel"', '"dram"', '"ddr4_2400"', '"2:4"',
    '"auto"', "[]", "[1]", '["2:4"]', '["4:2"]', "{}", "1979-05-27", "'''", "9" * 5000, '"' + "a" * 5000 + '"', "",
)
ODD_CELLS = (
    "", "-1", "0", "1", "2", "7", "65536", "2147483648", "9223372036854775808", "9" * 5000, "1e3", "1.5", "nan", "+5",
    "2:4", "4:2", "0:4", "1:0", "1:65536", "1:" + "9" * 5000, "x", "\u0663", "DP", '"', "\x00", "\ufeff",
)
CFG = """[general]
run_name = drawn
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {cols}
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow : {dataflow}
Bandwidth : 10
MemoryBanks: 1
[sparsity]
SparsitySupport : {sparse}
BlockSize : 4
[run_presets]
InterfaceBandwidth: CALC
"""


def toml(fields: Mapping[str, Any]) -> str:
    """Flat fields as TOML."""
    def text(value: Any) -> str:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value)

    return "".join(f"{name} = {text(value)}\n" for name, value in fields.items())


@st.composite
def machine_texts(draw: st.DrawFn) -> str:
    """A machine's TOML: a preset's or one of any model, as it is or damaged."""
    if draw(st.booleans()):
        text = (PRESETS / f"{draw(st.sampled_from(preset_names()))}.toml").read_text(encoding="utf-8")
    else:
        text = toml(draw(st.sampled_from(sorted(MACHINES)).flatmap(machines)).to_dict())
    return draw(damaged(text, _odd_value))


@st.composite
def topology_texts(draw: st.DrawFn, gemm: bool) -> str:
    """A SCALE-Sim topology of up to four small layers, as it is or damaged."""
    size, few = st.integers(1, 12), st.integers(1, 3)
    lines = ["Layer, M, N, K, Sparsity," if gemm else "Layer, H, W, R, S, C, K, stride, Sparsity,"]
    for index in range(draw(st.integers(1, 4))):
        if gemm:
            cells = [draw(size), draw(size), draw(size)]
        else:
            kernel = draw(few), draw(few)
            cells = [kernel[0] + draw(size), kernel[1] + draw(size), *kernel, draw(few), draw(size), draw(few)]
        name = draw(st.sampled_from((f"conv{index}", f"DP{index}", "twice")))
        sparsity = draw(st.sampled_from(("", "1:1", "2:4", "1:3")))
        lines.append(", ".join(map(str, (name, *cells, sparsity))) + ",")
    return draw(damaged("\n".join(lines) + "\n", _odd_cell))


@st.composite
def cfg_texts(draw: st.DrawFn) -> str:
    """A SCALE-Sim configuration, as it is or damaged."""
    side, dataflow, sparse = st.integers(1, 9), st.sampled_from(("ws", "os", "is")), st.sampled_from(("true", "false"))
    text = CFG.format(rows=draw(side), cols=draw(side), dataflow=draw(dataflow), sparse=draw(sparse))
    return draw(damaged(text, _odd_value))


@st.composite
def damaged(draw: st.DrawFn, text: str, odd: Callable[[st.DrawFn, str], str]) -> str:
    """The text after up to three accidents; `odd` changes a line by giving it an odd value."""
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 3)))):
        lines = text.split("\n")
        at = draw(st.integers(0, len(lines) - 1))
        accident = draw(st.sampled_from(("odd",) * 6 + ("drop", "twice", "cut", "letter", "noise")))
        if accident == "odd":
            lines[at] = odd(draw, lines[at])
        elif accident == "drop":
            del lines[at]
        elif accident == "twice":
            lines.insert(at, lines[at])
        elif accident == "cut":
            lines = lines[: at + 1]
            lines[-1] = lines[-1][: draw(st.integers(0, len(lines[-1])))]
        elif accident == "letter":
            where = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:where] + draw(st.characters(codec="utf-8")) + lines[at][where + 1 :]
        else:
            lines.insert(at, draw(st.text(st.characters(codec="utf-8"), max_size=20)))
        text = "\n".join(lines)
    return text


def _odd_value(draw: st.DrawFn, line: str) -> str:
    sign = "=" if "=" in line else ":"
    return f"{line.split(sign)[0]}{sign} {draw(st.sampled_from(ODD_VALUES))}"


def _odd_cell(draw: st.DrawFn, line: str) -> str:
    cells = line.split(",")
    cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(ODD_CELLS))
    return ",".join(cells)


def problems(table: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a simulation's JSON: counts below zero, causes that do not sum, parts beyond the whole."""
    for machine in table["machines"]:
        for total in (machine["total"], *(layer["total"] for layer in machine["layers"])):
            numbers = {**total["cycles_by_cause"], **total["energy_pj_by_component"],
                       **{name: value for name, value in total.items() if isinstance(value, (int, float))}}
            yield from (f"{name} = {value}" for name, value in numbers.items() if not 0 <= value < math.inf)
            if sum(total["cycles_by_cause"].values()) != total["cycles"]:
                yield f"causes sum to {sum(total['cycles_by_cause'].values())}, cycles {total['cycles']}"
            if not total["useful_macs"] <= total["issued_macs"] <= total["dense_macs"]:
                yield f"useful {total['useful_macs']}, issued {total['issued_macs']}, dense {total['dense_macs']} MACs"
            if total["utilisation"] > 1:
                yield f"utilisation {total['utilisation']}"
