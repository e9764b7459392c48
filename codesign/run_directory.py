"""Where a training run keeps its files, and how its metrics survive a kill.

metrics.jsonl has only what the seed determines; wall-clock times go to timing.jsonl.  A checkpoint
remembers how long both files were, and resuming cuts off what was written after it.  It leaves out what
the files say; read train.py for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.errors import InputError

from .config import TrainConfig, load_config


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside one run directory."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration as resolved."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """One JSON line per epoch and per selection event."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """One JSON line with seconds for each line of the metrics."""
        return self.path / "timing.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The folder of the one checkpoint."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """The folder of the exported network."""
        return self.path / "model"

    @property
    def trace(self) -> Path:
        """The trace of the trained network."""
        return self.path / "trace.safetensors"

    @property
    def report(self) -> Path:
        """What `espalier train --json` prints."""
        return self.path / "report.json"

    def append(self, path: Path, row: Mapping[str, Any]) -> int:
        """Add one JSON line to a file; returns the file's length in bytes afterwards."""
        with path.open("ab") as handle:
            handle.write(json.dumps(row).encode() + b"\n")
            handle.flush()
            return handle.tell()

    def cut(self, metrics_bytes: int, timing_bytes: int) -> None:
        """Make both line files as long as they were at a checkpoint; InputError where one is shorter."""
        for path, length in ((self.metrics, metrics_bytes), (self.timing, timing_bytes)):
            found = path.stat().st_size if path.is_file() else 0
            if found < length:
                raise InputError(
                    f"{found} bytes",
                    where=str(path),
                    expected=f"at least {length}, as the checkpoint says",
                    fix="the file was edited or lost: start the run again in another directory",
                )
            if path.is_file():
                os.truncate(path, length)

    def discard_if_unused(self) -> None:
        """Take away a directory that holds a configuration and nothing else, so that a corrected one can go there."""
        if self.config.is_file() and [item.name for item in self.path.iterdir()] == [self.config.name]:
            self.config.unlink()
            self.path.rmdir()

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]


def open_run(path: str | Path, config: TrainConfig | None, *, resume: bool) -> tuple[RunDirectory, TrainConfig]:
    """A new run directory with its config.toml, or with `resume` an old one, and the run's configuration.

    Raises InputError where a new run would overwrite an old one, where there is nothing to resume, and where
    the configuration given differs from the run's own.
    """
    run = RunDirectory(Path(path))
    if run.config.is_file():
        if not resume:
            raise InputError(
                "already holds a run",
                where=str(path),
                expected="a new or empty directory",
                fix="add --resume to continue it, or choose another --out",
            )
        own = load_config(str(run.config))
        if config is not None and config != own:
            raise InputError(
                f"was started with other values of {', '.join(_differences(config, own))}",
                where=str(path),
                expected="the configuration that the run was started with",
                fix=f"resume with {run.config}, or choose another --out",
            )
        return run, own
    if config is None:
        raise InputError(
            "holds no run to resume",
            where=str(path),
            expected="a directory with config.toml",
            fix="start one without --resume",
        )
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot be made ({error.strerror})", where=str(path), expected="a directory to write to"
        ) from None
    write_whole(run.config, config.to_toml())
    return run, config


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def free_directory(name: str, root: Path = Path("runs")) -> Path:
    """runs/NAME, or runs/NAME-2, -3 ...: the first that holds no run."""
    number, path = 1, root / name
    while (path / "config.toml").exists():
        number += 1
        path = root / f"{name}-{number}"
    return path


def latest_directory(name: str, root: Path = Path("runs")) -> Path:
    """The last directory that `free_directory` gave away under this name, or runs/NAME where there is none."""
    number, path = 1, root / name
    while (following := root / f"{name}-{number + 1}") and (following / "config.toml").exists():
        number, path = number + 1, following
    return path


def _differences(one: TrainConfig, other: TrainConfig) -> list[str]:
    first, second = _flat(one.model_dump()), _flat(other.model_dump())
    return sorted(key for key in {*first, *second} if first.get(key) != second.get(key))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
