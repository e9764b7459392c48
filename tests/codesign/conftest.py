"""One tiny network, trained once, for all tests that need a run directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from codesign.config import TrainConfig
    from codesign.method import Method

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "name": "tiny",
    "data": {"limit": 200, "test_limit": 100, "batch_size": 25},
    "model": {"name": "resnet8", "kwargs": {"widths": [8, 8, 16]}},
    "train": {"epochs": 1, "lr": 0.05},
    "prune": {"structure": {"layer1.*": "2:4", "layer2.*": "unstructured", "layer3.*": "block 8x8"}, "sparsity": 0.5},
    "output": {"machines": ["nm_array", "systolic_ws"]},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits depend on how many threads share a sum, and the subprocesses here have one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of TINY.  Not to be written to: see `tiny_run`."""
    import torch

    from codesign.config import check_config
    from codesign.train import run_training

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_training(check_config(TINY), folder, device="cpu")
    torch.set_num_threads(before)
    return folder


@pytest.fixture
def tiny_run(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to read, damage or throw away."""
    return Path(shutil.copytree(trained_once, tmp_path / "tiny_run"))


@pytest.fixture
def espalier() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process of its own."""

    def call(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "codesign.cli", *map(str, arguments)],
            cwd=more.get("cwd", ROOT),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


@pytest.fixture
def method_of() -> Callable[..., Method]:
    """A recipe's method for a model of two classes: (recipe, model, shape of an image, learning rate, its settings)."""
    import torch
    from torch import nn

    from codesign.method import Context
    from codesign.pruner import Pruner
    from codesign.recipes import recipe, settings_of

    def make(name: str, model: nn.Module, shape: tuple[int, ...], lr: float = 0.1, **settings: object) -> Method:
        example, optimizer = torch.zeros(1, *shape), torch.optim.SGD(model.parameters(), lr)
        pruner = Pruner.for_given_masks(model, optimizer, example)
        each = nn.CrossEntropyLoss(reduction="none")
        context = Context(model, optimizer, pruner, example, 2, nn.functional.cross_entropy, each, 0, 10)
        method: Method = recipe(name).make(settings_of({"name": name, **settings}), context)
        return method

    return make


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains, or goes on where there is no configuration, and is stopped by Ctrl-C after so many checkpoints."""
    from codesign import train

    def call(config: TrainConfig | None, folder: Path, checkpoints: int) -> None:
        written, original = [], train.save_state

        def save(*given: object) -> None:
            written.append(given)
            original(*given)
            if len(written) == checkpoints:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(train, "save_state", save)
            with pytest.raises(KeyboardInterrupt):
                train.run_training(config, folder, resume=config is None, device="cpu")

    return call


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """Two run directories have the same metrics and weights, bit for bit."""

    def check(whole: Path, part: Path) -> None:
        for file in ("metrics.jsonl", "model/model.safetensors"):
            assert (whole / file).read_bytes() == (part / file).read_bytes(), f"{file} of {part} differs"

    return check


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from codesign.cli import main

        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes TINY with some sections changed as a TOML file."""

    def write(**sections: object) -> Path:
        import tomli_w

        table = json.loads(json.dumps(TINY))
        for name, value in sections.items():
            table[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
        path = tmp_path / "config.toml"
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
        return path

    return write


def environment() -> dict[str, str]:
    """The process's environment with this checkout importable and one thread."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
