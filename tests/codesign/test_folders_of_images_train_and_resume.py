"""A run on a folder of photographs, from the command's own configuration, ends in the same bits after a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codesign.config import check_config
from codesign.evaluate import evaluate
from codesign.train import run_training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5)):
        for label, low in (("dark", 0), ("bright", 128)):
            for i in range(count):
                path = tmp_path / "data" / part / label / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(low, low + 128, (36, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def test_a_stopped_run_on_files_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    config = check_config({
        "name": "photographs",
        "data": {"source": f"images@32:{folder}", "batch_size": 8, "validation": 0.2,
                 "augment": "models.crops:random_resized_crop_and_flip"},
        "model": {"name": "resnet8", "kwargs": {"widths": [4, 8, 8]}},
        "train": {"epochs": 3, "lr": 0.05, "checkpoint_every": 1},
        "prune": {"sparsity": 0.5}, "output": {"machines": ["sparten"], "activations": "none"},
    })  # fmt: skip
    whole = run_training(config, tmp_path / "whole", device="cpu")
    train_until(config, tmp_path / "part", 6)
    part = run_training(None, tmp_path / "part", resume=True, device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "part")
    assert part.accuracy == whole.accuracy == 100.0  # brightness alone tells the two classes apart
    assert evaluate(tmp_path / "part", ["sparten"], f"images@32:{folder}").accuracy == whole.accuracy
