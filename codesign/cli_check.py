"""The commands that look without changing anything: check, doctor.

`check` finds out what kind of file it is given by its content and reads it as strictly as the command that
would use it.  Read cli.py for the rest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import JSON, example, print_json

if TYPE_CHECKING:
    from simulator import Trace

PACKAGES = ("simulator", "models", "codesign", "sweeps")
CORE = ("torch", "numpy", "numba", "scipy", "networkx", "safetensors", "pydantic", "click", "rich")
TRAINING_KEYS = frozenset({"data", "model", "train", "prune", "hardware", "compare", "output"})
STUDY_KEYS = frozenset({"workloads", "machines", "axes", "objectives"})


@click.command(
    short_help="Validate any input file.",
    epilog=example("espalier check my_machine.toml", "espalier check runs/demo/model/model.safetensors"),
)
@click.argument("file")
@JSON
def check(file: str, as_json: bool) -> None:
    """Validate a file: machine, study or training TOML, .cfg, topology csv, any safetensors or JSON file of ours, or a
    run or exported directory.

    Exit status 0 if it is sound; 2 with everything that is wrong if it is not.
    """
    kind, summary = inspect(Path(file))
    if as_json:
        print_json({"schema": 1, "file": file, "kind": kind, "summary": summary})
    else:
        click.echo(f"{file}: sound {kind}; {summary}")


def inspect(path: Path) -> tuple[str, str]:
    """(what kind of file it is, what is in it).  Raises InputError for all that is wrong with it."""
    from simulator.errors import InputError

    if path.is_dir():
        from .evaluate import load_network

        exported, _ = load_network(path)
        return "network", f"{len(exported.masks)} masked layers of {exported.architecture.build}"
    if not path.is_file():
        raise InputError("no such file or directory", where=str(path), expected="a file to check")
    readers = {".toml": _toml, ".cfg": _machine, ".csv": _topology, ".safetensors": _safetensors, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"files ending in {path.suffix!r} are not known", where=str(path), expected=", ".join(readers))
    return reader(path)


def _toml(path: Path) -> tuple[str, str]:
    import tomllib

    from simulator.errors import InputError

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML ({error})", where=str(path), fix="correct the line it names") from None
    # `model` is a table in a training configuration and a text in a machine.
    if isinstance(table.get("model"), str) or "base" in table:
        return _machine(path)
    if STUDY_KEYS & table.keys():
        from sweeps.space import load_study

        study = load_study(path)
        return "study", f"{study.size} configurations"
    if TRAINING_KEYS & table.keys():
        from .config import load_config

        config = load_config(str(path))
        return "training configuration", f"{config.name}, {config.train.epochs} epochs"
    raise InputError(
        "neither a machine, a study nor a training configuration",
        where=str(path),
        expected="a machine's model or base, a study's axes, or sections such as [train] and [prune]",
    )


def _machine(path: Path) -> tuple[str, str]:
    from simulator import load_machine

    machine = load_machine(str(path))
    return "machine", f"{machine.name}, model {machine.model}, {machine.array.peak_macs_per_cycle} MACs per cycle"


def _topology(path: Path) -> tuple[str, str]:
    from simulator.errors import InputError
    from simulator.importers.scalesim import read_topology

    try:
        trace = read_topology(path)
    except InputError as error:
        # A csv does not say which of SCALE-Sim's two forms it is in: it is sound if it is sound as either.
        try:
            trace = read_topology(path, gemm=True)
        except InputError:
            raise error from None
        return "topology in gemm form", f"{len(trace.layers)} layers"
    return "topology", f"{len(trace.layers)} layers"


def _safetensors(path: Path) -> tuple[str, str]:
    from simulator import Trace, files

    tensors, metadata = files.read(path)
    kind = next((key.removeprefix("espalier_") for key in metadata if key.startswith("espalier_")), None)
    if kind is None:
        return "safetensors file", f"{len(tensors)} tensors, not written by espalier, so without a checksum"
    if kind == "trace":
        trace = Trace.load(path)
        return "trace", f"{len(trace.layers)} layers, checksum right; {_storage(trace)}"
    files.load(path, kind, "`espalier train`")
    return kind, f"{len(tensors)} tensors, checksum right"


def _storage(trace: Trace) -> str:
    from simulator.stored import stored_weights

    found = stored_weights(trace)
    formats = ", ".join(f"{name} in {count} layers" for name, count in found.formats.items())
    return f"weights {found.dense:,} bytes dense, {found.smallest:,} in the smallest formats ({formats})"


def _json(path: Path) -> tuple[str, str]:
    from .export import read_json

    return path.stem, f"{len(read_json(path))} fields, checksum right"


@click.command(
    short_help="Print versions, paths, caches, devices.", epilog=example("espalier doctor", "espalier doctor --json")
)
@JSON
def doctor(as_json: bool) -> None:
    """Print versions, where the packages come from, caches, devices and optional features."""
    table = diagnosis()
    if as_json:
        print_json(table)
        return
    for section, values in table.items():
        if isinstance(values, dict):
            click.echo(f"{section}:")
            for key, value in values.items():
                click.echo(f"  {key:12} {value}")
        elif section != "schema":
            click.echo(f"{section}: {values}")


def diagnosis() -> dict[str, Any]:
    """What `espalier doctor --json` prints."""
    return {
        "schema": 1,
        "espalier": version("espalier-codesign"),
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": platform.platform(),
        "paths": {name: _place(name) for name in PACKAGES},
        "versions": {name: version(name) for name in CORE},
        "extras": _extras(),
        "device": _device(),
        "caches": {"numba": _numba_cache()},
    }


def version(name: str) -> str:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _extras() -> dict[str, str]:
    """Extra -> the versions of what it needs, as the installed distribution's own metadata name it."""
    try:
        requirements = importlib.metadata.requires("espalier-codesign") or []
    except importlib.metadata.PackageNotFoundError:
        return {"unknown": "espalier is not installed, it runs from its source tree"}
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", requirement):
            found.setdefault(match[2], []).append(f"{match[1]} {version(match[1])}")
    return {extra: ", ".join(needed) for extra, needed in sorted(found.items())}


def _place(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return "missing"
    return str(Path(spec.origin).parent) if spec.origin else ", ".join(spec.submodule_search_locations or ())


def _device() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if cuda else "none",
    }


def _numba_cache() -> str:
    from simulator.jit import cache_dir

    folder = cache_dir()
    return f"{folder}, {len(list(folder.rglob('*.nbc')))} compiled functions" if folder.is_dir() else f"{folder}, empty"
