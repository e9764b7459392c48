"""Builds a Verilated machine as a shared library, once per sources and parameters, and runs it through ctypes.

Libraries lie in the user's cache (simulator.jit.cache_root), named by the hash of all that decides them; they are
written aside and renamed, so that tests in several processes may build at once.  What is fed and what comes out is
machines.py's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.jit import cache_root

HERE = Path(__file__).parent
SOURCES = HERE / "sv"
# Unoptimised: the runs are short, and a wide machine takes seven times as long to build with -O1.
COMPILE = ["g++", "-std=c++17", "-O0", "-fPIC", "-w"]
VERILATE = ["verilator", "--cc", "--prefix", "Vtop"]


def need_verilator() -> None:
    """Skip the calling test where Verilator or a compiler is missing; in continuous integration that is a failure."""
    missing = [tool for tool in ("verilator", "g++") if shutil.which(tool) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; .ci/system-packages installs what the RTL tests need"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def command(*words: object) -> str:
    """Run a tool, return what it printed; RuntimeError with all of it where the tool fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def arguments(top: str, parameters: Mapping[str, int]) -> list[str]:
    """Verilator's choice of a top module and its parameters."""
    return ["--top-module", top, *(f"-G{name}={value}" for name, value in sorted(parameters.items()))]


def build(
    top: str, parameters: Mapping[str, int], mutation: tuple[str, str, str] | None = None, harness: str = "harness.cpp",
) -> ctypes.CDLL:
    """The machine `top` under a harness; mutation = (file, text, what it becomes) changes one place of the sources.

    Raises ValueError where the text does not stand exactly once in the file.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.sv"))}
    if mutation is not None:
        file, text, becomes = mutation
        if texts[file].count(text) != 1:
            raise ValueError(f"{file} holds {text!r} {texts[file].count(text)} times: mend the list of mutations")
        texts[file] = texts[file].replace(text, becomes)
    runtime = _runtime()
    state = hashlib.sha256("\0".join((runtime.stem, *VERILATE, *arguments(top, parameters))).encode())
    state.update((HERE / harness).read_bytes())
    for name, text in texts.items():
        state.update(f"\0{name}\0{text}".encode())
    library = _cache() / f"{top}-{state.hexdigest()[:20]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as folder:
            work = Path(folder)
            for name, text in texts.items():
                (work / name).write_text(text, encoding="utf-8")
            made = work / "made"
            command(*VERILATE, "-y", work, "--Mdir", made, *arguments(top, parameters), work / f"{top}.sv")
            # One translation unit: the runtime's headers, which take most of the time, are then read once.
            unit = work / "unit.cpp"
            generated = [HERE / harness, *sorted(made.glob("*.cpp"))]
            unit.write_text("".join(f'#include "{path}"\n' for path in generated), encoding="utf-8")
            command(*COMPILE, "-shared", "-I", made, *_includes(), unit, runtime, "-o", work / "library.so", "-pthread")
            os.replace(work / "library.so", library)
    return ctypes.CDLL(str(library))


@lru_cache(maxsize=1)
def _cache() -> Path:
    folder = cache_root() / "rtl"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@lru_cache(maxsize=1)
def _root() -> Path:
    return Path(command("verilator", "--getenv", "VERILATOR_ROOT").strip())


def _includes() -> list[str]:
    return [f"-I{_root() / 'include'}", f"-I{_root() / 'include' / 'vltstd'}"]


@lru_cache(maxsize=1)
def _runtime() -> Path:
    """Verilator's own runtime, compiled once per version."""
    versions = command("verilator", "--version") + command("g++", "-dumpfullversion") + " ".join(COMPILE)
    target = _cache() / f"runtime-{hashlib.sha256(versions.encode()).hexdigest()[:20]}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as folder:
            work = Path(folder)
            parts = [_root() / "include" / name for name in ("verilated.cpp", "verilated_threads.cpp")]
            (work / "unit.cpp").write_text("".join(f'#include "{part}"\n' for part in parts), encoding="utf-8")
            command(*COMPILE, *_includes(), "-c", work / "unit.cpp", "-o", work / "unit.o")
            os.replace(work / "unit.o", target)
    return target


def clock(
    library: ctypes.CDLL, rows: NDArray[np.uint8], cols: NDArray[np.uint16], word_bits: int, most_edges: int,
    hurry: bool = False,
) -> tuple[int, NDArray[np.bool_], NDArray[np.int64]]:
    """Run tiles back to back.

    rows: [tiles, length, row ports]; cols: [tiles, steps, columns], what the machine's requests are answered with.
    Returns (edges up to the last visible result, valid[edges, columns], result[edges, columns]).
    """
    tiles, length, _ = rows.shape
    _, steps, columns = cols.shape
    rows, cols = np.ascontiguousarray(rows), np.ascontiguousarray(cols)
    valid = np.zeros((most_edges, columns), dtype=np.uint8)
    result = np.zeros((most_edges, columns), dtype=np.int32)
    edges = library.run(
        ctypes.c_int(hurry), tiles, length, rows.ctypes.data_as(ctypes.c_void_p), steps,
        cols.ctypes.data_as(ctypes.c_void_p), word_bits, most_edges, valid.ctypes.data_as(ctypes.c_void_p),
        result.ctypes.data_as(ctypes.c_void_p))
    return edges, valid[:edges].astype(bool), result[:edges].astype(np.int64)
