"""What every recipe of the table promises: exact resume, an account of its work, settings that answer mistakes."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codesign import train
from codesign.config import TrainConfig, check_config
from codesign.export import load_exported
from codesign.method import Method
from codesign.recipes import RECIPES, recipe, settings_of
from models import mini
from simulator.errors import InputError

READ = functools.cache(mini.read_bytes)
"""The embedded images are unpacked once for all."""

LENET = {"name": "lenet5"}
RESNET = {"name": "resnet8", "kwargs": {"widths": [4, 8, 8]}}
MODELS = dict.fromkeys(("clicktrain", "fusible", "lcs", "polarised", "sbf", "stochastic_depth", "tost"), RESNET)
"""Networks for recipes that need residual blocks or 3x3 kernels, or do more where there are batch norms."""
SETTINGS: dict[str, dict[str, object]] = {
    "activation_density": {"still": 1.0, "until": 1.0}, "admm": {"start": 0.3, "harden": 0.9, "every": 2},
    "auto_sparse": {"start": -3.0},
    "data_pruning": {"by": "epsilon_greedy", "explore": 0.3},
    "drive": {"dense": 0.4, "until": 0.9, "batches": 2, "steps": 3},
    "on_device": {"kept": 0.4, "bits": 8},
    "frac_train": {"window": 3, "flat": 1.0}, "kakurenbo": {"hide": 0.5, "sure": 0.1}, "lcs": {"batches": 3},
    "partition": {"parts": 2},
    "prunetrain": {"threshold": 0.12}, "soft_movement": {"block": "4x4", "score_lr": 1.0},
    "trained_rank_pruning": {"every": 3}, "update_skipping": {"window": 2, "flat": 9.0}}
"""Keys without a default, and those that make something happen within two epochs."""


def config(name: str, limit: int = 200, **train: object) -> TrainConfig:
    return check_config({
        "name": name, "data": {"limit": limit, "test_limit": 20, "batch_size": 30, "validation": 0.1},
        "model": MODELS.get(name, LENET),
        "train": {"epochs": 2, "lr": 0.02, "checkpoint_every": 4, **train},
        "output": {"cost_per_epoch": False, "activations": "none"},
        "recipe": {"name": name, **SETTINGS.get(name, {})}})


@pytest.fixture(autouse=True)
def _without_what_is_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "write_report", lambda path: None)  # 20 KB of HTML
    monkeypatch.setattr(mini, "read_bytes", READ)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resumes_bit_for_bit_and_counts_its_work(
    name: str, tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    """Stopped after eight of twelve batches, in the middle of what the method remembers, and again when all are done
    but the network is not yet scored."""
    whole = train.run_training(config(name), tmp_path / "whole", device="cpu").table["training"]
    assert math.isfinite(whole["macs"]) and whole["macs"] == int(whole["macs"])
    assert 0 < whole["macs"] < 3 * whole["dense_macs"]

    train_until(config(name), tmp_path / "part", 3)  # four batches, the end of the epoch, eight batches
    train_until(None, tmp_path / "part", 1)  # the end
    part = train.run_training(None, tmp_path / "part", resume=True, device="cpu").table["training"]
    assert part["macs"] == whole["macs"]
    assert_same_run(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_in_bfloat16_and_leaves_float32_weights(name: str, tmp_path: Path) -> None:
    """Two epochs: some methods begin in the second.  Whatever a recipe computes itself has to take part."""
    train.run_training(config(name, 100, precision="bf16", lr=0.002), tmp_path / "run", device="cpu")
    weights = load_exported(tmp_path / "run" / "model").model.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["train_loss"] < 8 for row in rows if row["event"] == "epoch"), "6 before training, 2.3 = ln 10"


@pytest.mark.parametrize("name", RECIPES)
def test_a_prune_section_beside_a_recipe_is_followed_or_refused(name: str, tmp_path: Path) -> None:
    both = config(name, 60, epochs=1).model_copy(update={"prune": check_config({"prune": {"sparsity": 0.5}}).prune})
    made_by = vars(recipe(name)).values()
    if any(isinstance(item, type) and issubclass(item, Method) and item.makes_masks for item in made_by):
        with pytest.raises(InputError, match=r"\[prune\] or \[hardware\] beside a recipe that makes the masks"):
            train.run_training(both, tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()
        return
    table = train.run_training(both, tmp_path / "run", device="cpu").table
    masks = load_exported(tmp_path / "run" / "model").masks.values()
    assert masks and all(abs(mask.mean() - 0.5) <= 0.5 / mask.size for mask in masks)
    assert table["weight_sparsity"] > 0.3


@pytest.mark.parametrize("name", RECIPES)
def test_a_key_that_a_recipe_does_not_know_is_named(name: str) -> None:
    with pytest.raises(InputError, match="no_such_key"):
        settings_of({"name": name, "no_such_key": 1})
