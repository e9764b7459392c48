"""A run on a folder of photographs, from the command's own configuration, ends in the same bits after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codesign import train
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
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    original, saves = train._save, []

    def stop(*given: object) -> None:
        saves.append(given)
        original(*given)
        if len(saves) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "part", device="cpu")
    monkeypatch.setattr(train, "_save", original)
    part = run_training(None, tmp_path / "part", resume=True, device="cpu")
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "part" / name).read_bytes(), name
    assert part.accuracy == whole.accuracy == 100.0  # brightness alone tells the two classes apart
    assert evaluate(tmp_path / "part", ["sparten"], f"images@32:{folder}").accuracy == whole.accuracy
