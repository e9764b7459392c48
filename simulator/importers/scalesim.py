"""SCALE-Sim's input files: an architecture .cfg becomes a Machine, a topology .csv a Trace.

Versions 2 and 3 of the format are read; what its files have and the simulator does not model (address offsets,
bank layouts, user bandwidth) is checked for spelling and left out.  Reports in its format are written by
scalesim_reports.py; where our counts differ from its, and why, is in docs/model.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..hardware import Machine, build
from ..machines.limits import MOST_ENTRIES
from ..trace import LayerTrace, Trace
from ..workload import Conv2d, Gemm

# section: keys in lower case, as configparser reads them
KEYS: Mapping[str, tuple[str, ...]] = {
    "general": ("run_name",),
    "architecture_presets": (
        "ArrayHeight", "ArrayWidth", "IfmapSramSzkB", "FilterSramSzkB", "OfmapSramSzkB", "IfmapOffset", "FilterOffset",
        "OfmapOffset", "Dataflow", "Bandwidth", "MemoryBanks", "ReadRequestBuffer", "WriteRequestBuffer"),
    "layout": (
        "IfmapCustomLayout", "IfmapSRAMBankBandwidth", "IfmapSRAMBankNum", "IfmapSRAMBankPort",
        "FilterCustomLayout", "FilterSRAMBankBandwidth", "FilterSRAMBankNum", "FilterSRAMBankPort"),
    "sparsity": ("SparsitySupport", "SparseRep", "OptimizedMapping", "BlockSize", "RandomNumberGeneratorSeed"),
    "run_presets": ("InterfaceBandwidth", "UseRamulatorTrace"),
    "network_presets": ("TopologyCsvLoc",),
}
SIZES = ("ArrayHeight", "ArrayWidth", "IfmapSramSzkB", "FilterSramSzkB", "OfmapSramSzkB")
WHOLE = r"\+?\d{1,18}"  # what fits 64 bits; Python refuses to read thousands of digits
MOST_CHANNELS = 1 << 16  # of a depthwise row in SCALE-Sim's convention
CONV_COLUMNS = "name, input height, input width, filter height, filter width, channels, filters, stride[, N:M]"
GEMM_COLUMNS = "name, M, N, K[, N:M]"


@dataclass(frozen=True)
class _Value:
    text: str
    where: str  # file, line


def machine_from_cfg(path: str | Path) -> Machine:
    """The machine of a SCALE-Sim .cfg: a systolic array in its convention, on an ideal memory.

    `cycles` on it is SCALE-Sim's Total Cycles.  The N:M column of a topology counts where the file says
    SparsitySupport = true and is ignored otherwise, as there.  Raises one InputError for all unknown, missing
    and wrong keys, with file and line.
    """
    file = Path(path)
    values, errors = _read_cfg(file)
    sizes = {key: _checked(values, key, _positive, "an integer of at least 1", errors) for key in SIZES}
    dataflow = _checked(values, "Dataflow", _one_of("ws", "os", "is"), "ws, os or is", errors)
    for key in ("IfmapOffset", "FilterOffset", "OfmapOffset"):
        _checked(values, key, int, "an integer", errors, needed=False)
    _checked(values, "InterfaceBandwidth", _one_of("calc", "user"), "CALC or USER", errors, needed=False)
    sparse = _checked(values, "SparsitySupport", _boolean, "true or false", errors, needed=False) or False
    optimized = _checked(values, "OptimizedMapping", _boolean, "true or false", errors, needed=False)
    if sparse and optimized:
        errors.append(InputError(
            "OptimizedMapping = true", where=values["optimizedmapping"].where, expected="false",
            fix="row-wise sparsity there is a drawn random pattern: give the real masks in a trace instead"))
    if errors:
        raise InputError.collect(errors)
    name = values["run_name"].text if "run_name" in values else file.stem
    kilobytes = {item: sizes[key] for item, key in (("input", "IfmapSramSzkB"), ("weight", "FilterSramSzkB"),
                                                    ("output", "OfmapSramSzkB"))}
    return build({
        "name": name, "model": "systolic", "memory": "ideal", "convention": "scalesim",
        "rows": sizes["ArrayHeight"], "cols": sizes["ArrayWidth"], "dataflow": dataflow,
        "weight_buffers": 1, "drain": "in_place", "compact_channels": bool(sparse),
        **{f"{item}_buffer_bytes": 1024 * size for item, size in kilobytes.items()},
        "description": f"SCALE-Sim configuration {file.name}; no memory stalls; the N:M column of a topology is "
                       + ("used" if sparse else "ignored (SparsitySupport is not true)"),
    }, name, str(file))


def read_topology(path: str | Path, gemm: bool = False, convention: str = "pytorch") -> Trace:
    """The layers of a SCALE-Sim topology csv, dense or n:m sparse.

    gemm: rows are `name, M, N, K` and become Gemm layers; otherwise `name, H, W, R, S, C, K, stride`, no padding.
    convention: "pytorch" makes Conv2d layers with PyTorch's output sizes; "scalesim" the GEMM that SCALE-Sim runs,
    with m = out_h * out_w and out_h = ceil((H - R + stride) / stride), which may count a window that sticks out.
    An N:M column keeps the first N of every M rows of k, the same for every filter.  A row with "DP" in its name is
    depthwise: one layer with groups, or in SCALE-Sim's convention one layer per channel.

    What was skipped or ignored is said in `provenance["notes"]`, a list of sentences.  Raises one InputError for
    all broken rows, each with file, line, what and what was expected.
    """
    file = Path(path)
    if convention not in ("pytorch", "scalesim"):
        raise InputError(f"convention {convention!r}", where="read_topology", expected='"pytorch" or "scalesim"')
    notes: list[str] = []
    errors: list[InputError] = []
    layers: dict[str, LayerTrace] = {}
    lines = _lines(file)
    if not lines:
        raise InputError("the file is empty", where=str(file), expected=f"a header line, then {_columns(gemm)}")
    header = [cell.strip() for cell in lines[0].split(",")]
    if len(header) > 3 and all(re.fullmatch(r"\d+", cell) for cell in header[1:4]):
        notes.append("line 1 looks like a layer; it was skipped, as in SCALE-Sim, where the first line is a header")
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if not any(cells):
            if number < len(lines):
                notes.append(f"line {number}: blank row skipped")
            continue
        try:
            for layer in _layers(cells, header, gemm, convention, f"line {number}", notes):
                layers.update(_renamed(layer, layers, f"line {number}", notes))
        except InputError as error:
            errors.append(InputError(error.what, where=f"{file}, line {number}", expected=error.expected,
                                     fix=error.fix))
    if errors:
        raise InputError.collect(errors)
    if not layers:
        raise InputError("no layers after the header line", where=str(file), expected=_columns(gemm))
    provenance: dict[str, Any] = {"source": file.name, "format": "SCALE-Sim topology", "convention": convention,
                                  "notes": notes}
    return Trace(list(layers.values()), provenance=provenance)


def _layers(cells: list[str], header: list[str], gemm: bool, convention: str, where: str,
            notes: list[str]) -> list[LayerTrace]:
    """The layers of one row; InputError (without its place) for a row that cannot be read."""
    count = 4 if gemm else 8
    if sum(cell != "" for cell in cells[:count]) < count:
        given = [cell for cell in cells if cell]
        raise InputError(f"{len(given)} filled field(s), {', '.join(given)!r}", expected=_columns(gemm),
                         fix="complete the row or delete it" + _other_form(cells, gemm))
    name, sizes = cells[0], cells[1:count]
    wrong = [_short(text) for text in sizes if not re.fullmatch(WHOLE, text) or int(text) < 1]
    if wrong:
        raise InputError(f"{', '.join(map(repr, wrong))} in layer {name!r}",
                         expected="integers of at least 1 and up to 18 digits", fix=f"the columns are {_columns(gemm)}")
    values = [int(text) for text in sizes]
    kept, of, stride_w = _extra(cells[count:], header[count:], gemm, where, notes)
    if gemm:
        m, n, k = values
        return [_masked(name, Gemm(m, k, n), kept, of)]
    height, width, rows, columns, channels, filters, stride = values
    stride_w = stride_w or stride
    if rows > height or columns > width:
        raise InputError(f"filter {rows}x{columns} on an input of {height}x{width} in layer {name!r}",
                         expected="a filter that fits the input")
    depthwise = "DP" in name
    if convention == "scalesim":
        m = -(-(height - rows + stride) // stride) * -(-(width - columns + stride_w) // stride_w)
        if not depthwise:
            return [_masked(name, Gemm(m, rows * columns * channels, filters), kept, of)]
        if channels > MOST_CHANNELS:
            raise InputError(f"{channels} channels in the depthwise layer {name!r}",
                             expected=f"at most {MOST_CHANNELS}",
                             fix="each becomes a layer here: use a machine of another convention")
        notes.append(f"{where}: depthwise row (DP in its name) became {channels} layers, one per channel, "
                     "as in SCALE-Sim")
        return [_masked(f"{name}Channel_{index}", Gemm(m, rows * columns, filters), kept, of)
                for index in range(channels)]
    if depthwise:
        notes.append(f"{where}: depthwise row (DP in its name), {channels} groups")
    return [_masked(name, Conv2d(
        in_channels=channels, out_channels=filters * (channels if depthwise else 1), in_h=height, in_w=width,
        kernel_h=rows, kernel_w=columns, stride_h=stride, stride_w=stride_w,
        groups=channels if depthwise else 1), kept, of)]


def _masked(name: str, operation: Gemm | Conv2d, kept: int, of: int) -> LayerTrace:
    """The layer with the first `kept` of every `of` rows of k, or dense where that is all of them."""
    if kept == of:
        return LayerTrace(name, operation)
    entries = math.prod(operation.weight_shape)
    if entries > MOST_ENTRIES:
        raise InputError(f"a mask of {entries} weights in layer {name!r}", expected=f"at most {MOST_ENTRIES}",
                         fix="split the layer, or leave out its N:M")
    gemm = operation.gemm()
    rows = np.arange(gemm.k) % of < kept
    if isinstance(operation, Gemm):
        mask = np.repeat(rows[:, None], gemm.n, axis=1)
    else:
        mask = np.broadcast_to(rows, (operation.out_channels, gemm.k)).reshape(operation.weight_shape)
    return LayerTrace(name, operation, mask, structure=f"{kept}:{of}")


def _extra(cells: list[str], header: list[str], gemm: bool, where: str, notes: list[str]) -> tuple[int, int, int]:
    """(N, M, stride along the width or 0) from the cells after the sizes; other cells are notes, ignored and said."""
    kept, of, stride_w = 1, 1, 0
    for index, text in enumerate(cells):
        if not text:
            continue
        title = header[index].lower() if index < len(header) else ""
        if match := re.fullmatch(r"(\d+)\s*:\s*(\d+)", text):
            if not all(re.fullmatch(WHOLE, part) for part in match.groups()) or not 1 <= int(match[1]) <= int(match[2]):
                raise InputError(f"sparsity {_short(text)!r}", expected="N:M with 1 <= N <= M, up to 18 digits")
            kept, of = int(match[1]), int(match[2])
        elif not gemm and index == 0 and "stride" in title and re.fullmatch(r"[1-9]\d*", text):
            stride_w = int(text)
            notes.append(f"{where}: {text} read as the stride along the width, as its column says")
        else:
            notes.append(f"{where}: {text!r} after the layer's sizes was ignored")
    return kept, of, stride_w


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"


def _renamed(layer: LayerTrace, layers: Mapping[str, LayerTrace], where: str,
             notes: list[str]) -> dict[str, LayerTrace]:
    """The layer under a name of its own; a name used twice gets a number, and that is said."""
    name, count = layer.name, 1
    while name in layers:
        count += 1
        name = f"{layer.name}#{count}"
    if name == layer.name:
        return {name: layer}
    notes.append(f"{where}: the name {layer.name!r} is taken; the layer is called {name!r}")
    return {name: LayerTrace(name, layer.operation, layer.packed_weight, structure=layer.structure)}


def _columns(gemm: bool) -> str:
    return GEMM_COLUMNS if gemm else CONV_COLUMNS


def _other_form(cells: list[str], gemm: bool) -> str:
    filled = sum(cell != "" for cell in cells)
    hint = "; for rows of name, M, N, K read the file in its GEMM form (--gemm)"
    return hint if not gemm and filled in (4, 5) else ""


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read it ({error.strerror})", where=str(file), expected="a readable file") from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(file), expected="UTF-8 text") from None


def _read_cfg(file: Path) -> tuple[dict[str, _Value], list[InputError]]:
    """Values by lower-case key, and what is wrong with the lines.  configparser would not tell the lines."""
    values: dict[str, _Value] = {}
    errors: list[InputError] = []
    section = ""
    for number, line in enumerate(_lines(file), start=1):
        text, where = line.strip(), f"{file}, line {number}"
        if not text or text[0] in "#;":
            continue
        if match := re.fullmatch(r"\[\s*(.*?)\s*\]", text):
            section = match[1].lower()
            if section not in KEYS:
                errors.append(InputError(f"unknown section [{match[1]}]", where=where, fix=nearest(section, KEYS)))
            continue
        match = re.fullmatch(r"([^:=]+?)\s*[:=]\s*(.*)", text)
        if not match or not section:
            errors.append(InputError(f"{text!r}", where=where,
                                     expected="[section] lines, then `Key : value` or `Key = value`"))
            continue
        key = match[1].lower()
        if section not in KEYS:
            continue
        if key not in [known.lower() for known in KEYS[section]]:
            errors.append(InputError(f"unknown key {match[1]!r} in [{section}]", where=where,
                                     fix=nearest(match[1], KEYS[section])))
        elif key in values:
            errors.append(InputError(f"key {match[1]!r} is given twice", where=where, expected="one value"))
        else:
            values[key] = _Value(match[2].strip(), where)
            if not match[2].strip():
                errors.append(InputError(f"{match[1]} has no value", where=where))
    if not values and not errors:
        errors.append(InputError("no keys", where=str(file), expected="a SCALE-Sim .cfg with [architecture_presets]"))
    return values, errors


def _checked(values: Mapping[str, _Value], key: str, read: Callable[[str], Any], expected: str,
             errors: list[InputError], needed: bool = True) -> Any:
    found = values.get(key.lower())
    if found is None:
        if needed:
            errors.append(InputError(f"key {key!r} is missing in [architecture_presets]", expected=expected))
        return None
    if not found.text:
        return None  # said already
    try:
        return read(found.text)
    except ValueError:
        errors.append(InputError(f"{key} = {found.text!r}", where=found.where, expected=expected))
        return None


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[_one_of("true", "false")(text)]


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(text)
        return text.lower()

    return read
