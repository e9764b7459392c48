"""A run killed with SIGKILL in the middle of an epoch and resumed ends as if it had never been killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codesign.checkpoint import load_checkpoint
from codesign.config import check_config
from codesign.train import run_training
from simulator.errors import InputError
from simulator.files import read

ROOT = Path(__file__).resolve().parents[2]

# Dropout draws from torch's global generator and batch norm has buffers: both must survive the kill.
NET = """
from torch import nn

def build(name, in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, num_classes))
"""

CASES = {
    "sgd, one-cycle, running Fisher scores": {
        "train": {"epochs": 4, "checkpoint_every": 3, "optimizer": "sgd"},
        "prune": {"structure": "unstructured", "sparsity": 0.7, "criterion": "fisher", "scope": "global"},
    },
    "chosen by a machine at two events": {
        "train": {"epochs": 4, "checkpoint_every": 3},
        "hardware": {"target_latency": 0.8, "select_at": [0.3, 0.7], "finalists": 2, "judge_steps": 3},
    },
    "adam, gradual, n:m": {
        "train": {"epochs": 4, "checkpoint_every": 4, "optimizer": "adam", "lr": 0.002},
        "prune": {"structure": "2:4", "schedule": "agp"},
    },
}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    (tmp_path / "net_with_dropout.py").write_text(NET, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "name": "killed",
        "seed": 3,
        "data": {"limit": 500, "test_limit": 100, "batch_size": 16, "augment": "models.batching:random_crop"},
        "model": {"build": "net_with_dropout:build"},
        "output": {"machines": []},
    }


@pytest.mark.parametrize("name", CASES)
def test_resume_after_sigkill_changes_no_bit(name: str, table: dict[str, object], tmp_path: Path) -> None:
    config = check_config({**table, **CASES[name]})
    run_training(config, tmp_path / "whole", device="cpu")

    draw = random.Random(name)
    for life in range(2):
        arguments = ["--resume", "--out", "killed"] if life else ["given.toml", "--out", "killed"]
        (tmp_path / "given.toml").write_text(config.to_toml(), encoding="utf-8")
        _kill_in_mid_epoch(tmp_path, arguments, epoch=1 + life, delay=draw.uniform(0, 0.05))
        position = load_checkpoint(tmp_path / "killed" / "checkpoint")["position"]
        assert 0 <= position["epoch"] < 4
        assert not (tmp_path / "killed" / "report.json").exists()
    run_training(None, tmp_path / "killed", resume=True, device="cpu")

    for file in (
        "metrics.jsonl",
        "config.toml",
        "trace.safetensors",
        "model/model.safetensors",
        "model/masks.safetensors",
        "model/architecture.json",
        "model/choices.json",
        "model/provenance.json",
    ):
        assert _content(tmp_path / "killed" / file) == _content(tmp_path / "whole" / file), file
    whole, killed = (load_checkpoint(tmp_path / run / "checkpoint") for run in ("whole", "killed"))
    assert _bytes(whole["optimizer"]) == _bytes(killed["optimizer"])
    assert _bytes(whole["random"]) == _bytes(killed["random"])


def _kill_in_mid_epoch(folder: Path, arguments: list[str], epoch: int, delay: float) -> None:
    """Start training, and kill it some `delay` seconds after it has written a checkpoint inside `epoch`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    process = subprocess.Popen(
        [sys.executable, "-m", "codesign.cli", "train", "--device", "cpu", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not _inside(folder / "killed" / "checkpoint", epoch):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _inside(checkpoint: Path, epoch: int) -> bool:
    try:
        position = load_checkpoint(checkpoint)["position"]
    except InputError:  # none yet
        return False
    return bool(position["epoch"] == epoch and position["batch"] > 0)


def _content(path: Path) -> object:
    """A file's bytes; of a safetensors file its tensors and metadata, whose order in the file is the writer's whim."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    tensors, metadata = read(path)
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in tensors.items()}, metadata


def _bytes(value: object) -> object:
    """Tensors as their bytes, inside any nesting, so that == compares bits (and NaN equals NaN)."""
    if hasattr(value, "numpy"):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bytes(item) for key, item in value.items()}
    return [_bytes(item) for item in value] if isinstance(value, list | tuple) else value
