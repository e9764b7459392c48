"""train.ema with recipes: what is folded, fused or cut in the end is the average; a rewound network has a new one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codesign import train
from codesign.checkpoint import load_checkpoint
from codesign.config import TrainConfig, check_config
from codesign.ema import Ema
from codesign.export import load_exported
from codesign.method import Method, Place
from models import mini

READ = functools.cache(mini.read_bytes)
RESNET = {"name": "resnet8", "kwargs": {"widths": [4, 8, 8]}}
REWRITING: dict[str, dict[str, object]] = {
    "fusible": {}, "orepa": {}, "reconstruction": {}, "trained_rank_pruning": {"energy": 0.7}}
"""Recipes whose last end_epoch computes other weights, and settings for which it does much."""
BEHIND: dict[str, dict[str, object]] = {
    "auto_sparse": {"start": -3.0}, "lcs": {"batches": 3}, "soft_movement": {"score_lr": 1.0}, "sr_ste": {}}
"""Recipes that keep weights of their own and put them back when training is resumed."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "write_report", lambda path: None)
    monkeypatch.setattr(mini, "read_bytes", READ)


def config(name: str, ema: float = 0.9, **settings: object) -> TrainConfig:
    return check_config({
        "name": name, "data": {"limit": 110, "test_limit": 20, "batch_size": 25, "validation": 0.1}, "model": RESNET,
        "train": {"epochs": 2, "lr": 0.02, "ema": ema, "checkpoint_every": 1},
        "output": {"cost_per_epoch": False, "activations": "none"}, "recipe": {"name": name, **settings}})


def state(method: Method) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in method.context.model.state_dict().items()}


def far(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


@pytest.mark.parametrize("name", REWRITING)
def test_what_is_rewritten_and_exported_is_the_average(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[Ema] = []
    seen: dict[str, dict[str, Tensor]] = {}
    made, make = train.Ema, train._method

    def ema(*given: object) -> Ema:
        averages.append(made(*given))
        return averages[-1]

    def method(*given: object) -> Method:
        found = make(*given)
        end_epoch = found.end_epoch

        def watched(place: Place) -> None:
            seen["average"] = {key: value.clone() for key, value in averages[0].average.items()}
            seen["before"] = state(found)
            end_epoch(place)
            seen["after"] = state(found)

        found.end_epoch = watched
        return found

    monkeypatch.setattr(train, "Ema", ema)
    monkeypatch.setattr(train, "_method", method)
    train.run_training(config(name, **REWRITING[name]), tmp_path / "run", device="cpu")
    assert far(seen["before"], seen["average"]) == 0
    assert far(seen["after"], seen["before"]) > 1e-3
    exported = load_exported(tmp_path / "run" / "model")
    kept = {f"{layer}.weight": torch.from_numpy(mask) for layer, mask in exported.masks.items()}
    expected = {key: value * kept[key] if key in kept else value for key, value in seen["after"].items()}
    assert far(exported.model.state_dict(), expected) == 0


@pytest.mark.parametrize("name", [*REWRITING, *BEHIND])
def test_a_run_stopped_after_its_last_checkpoint_exports_the_same_average(
    name: str, tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    """Four steps an epoch, a checkpoint after each: stopped after the sixth, and after the eighth and last."""
    given = config(name, **(REWRITING | BEHIND)[name])
    train.run_training(given, tmp_path / "whole", device="cpu")
    train_until(given, tmp_path / "part", 6)
    train_until(None, tmp_path / "part", 2)
    train.run_training(None, tmp_path / "part", resume=True, device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("name", ["auto_sparse", "soft_movement", "sr_ste"])
def test_masks_are_those_of_the_trained_network_and_cut_the_average(name: str, tmp_path: Path) -> None:
    """The average of a weight that came and went is not zero: its own zeros would be too few."""
    runs = {}
    for ema in (0.0, 0.9):
        train.run_training(config(name, ema, **BEHIND[name]), tmp_path / str(ema), device="cpu")
        runs[ema] = load_exported(tmp_path / str(ema) / "model")
    plain, averaged = runs[0.0], runs[0.9]
    assert plain.masks.keys() == averaged.masks.keys() and plain.masks
    for layer, mask in plain.masks.items():
        assert (averaged.masks[layer] == mask).all()
        assert not averaged.model.get_submodule(layer).weight[~torch.from_numpy(mask)].any()
    assert far(plain.model.state_dict(), averaged.model.state_dict()) > 1e-4


def test_a_rewound_network_has_an_average_of_its_own(tmp_path: Path, train_until: Callable[..., None]) -> None:
    """Eight steps, T = (8 + 1) // 2 = 4: after the fourth the network is set back to what it was after the first."""
    train_until(config("lottery_ticket", rounds=1, rewind_to=1), tmp_path / "run", 4)
    found = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert found["method"]["pruned"], "it has been set back"
    assert found["ema"]["updates"] == 0 and far(found["ema"]["average"], found["model"]) == 0


def test_an_average_that_starts_again_forgets() -> None:
    model = torch.nn.Linear(2, 2)
    ema = Ema(model, 0.5)
    for value in (1.0, 2.0):
        torch.nn.init.constant_(model.weight, value)
        ema.update()
    ema.restart_()
    assert ema.updates == 0 and torch.equal(ema.average["weight"], torch.full((2, 2), 2.0))
    torch.nn.init.constant_(model.weight, 12.0)
    ema.update()  # d = min(0.5, 1 / 10), as at the first step
    torch.testing.assert_close(ema.average["weight"], torch.full((2, 2), 11.0))
