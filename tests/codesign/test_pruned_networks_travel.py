"""Copies, saves, resumes and compiled twins of a network under the pruner, for every structure, criterion and schedule.

Each structure meets each schedule, the criteria in turn: what travels does not depend on how scores came about.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import Pruner
from codesign.checkpoint import load_checkpoint, save_checkpoint
from codesign.criteria import CRITERIA
from codesign.schedules import SCHEDULES

STRUCTURES: dict[str, float | None] = {
    "unstructured": 0.75, "2:4": None, "1:4": None, "block 4x4": 0.6, "channel": 0.5, "filter": 0.5, "kernel": 0.7,
    "ck": 0.5, "window": 0.6, "window 4": None, "bank 8": 0.5, "2:4 of 1x2": None, "pattern 4": None,
    "kernel + pattern 4": 0.8, "ck + window": 0.75, "2:3 of 4x1 + 2:4": None,
}
CASES = [(structure, list(CRITERIA)[(row + column) % len(CRITERIA)], schedule)
         for row, structure in enumerate(STRUCTURES) for column, schedule in enumerate(SCHEDULES)]
X, Y = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
STEPS, STOP = 6, 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
                         nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))


def begin(config: dict[str, Any], model: nn.Module) -> tuple[Pruner, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return Pruner(model, {"total_steps": STEPS, **config}, optimizer, probe=(X, Y)), optimizer


def go_on(run: nn.Module, pruner: Pruner, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)  # for the criterion that draws
        F.cross_entropy(run(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(("structure", "criterion", "schedule"), CASES)
def test_saved_loaded_and_resumed_it_is_the_same(structure: str, criterion: str, schedule: str, tmp_path: Path) -> None:
    config = {"structure": structure, "criterion": criterion, "schedule": schedule, "sparsity": STRUCTURES[structure]}
    model = network()
    keys = list(model.state_dict())
    pruner, optimizer = begin(config, model)
    go_on(model, pruner, optimizer, range(STOP))
    save_checkpoint(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                               "pruner": pruner.state_dict()})
    twin = copy.deepcopy(model)
    frozen = {key: value.clone() for key, value in model.state_dict().items()}
    go_on(model, pruner, optimizer, range(STOP, STEPS))
    pruner.finalize()
    assert list(model.state_dict()) == keys
    assert same(twin.state_dict(), frozen), "a copy is not trained along"

    resumed = network()
    later, its_optimizer = begin(config, resumed)
    state = load_checkpoint(tmp_path)
    resumed.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    later.load_state_dict(state["pruner"])
    go_on(resumed, later, its_optimizer, range(STOP, STEPS))
    later.finalize()
    assert same(model.state_dict(), resumed.state_dict())
    assert same(pruner.masks, later.masks)
    assert pruner.masks


@pytest.mark.parametrize("structure", ["unstructured", "2:4", "filter"])
def test_a_compiled_network_is_pruned_as_the_plain_one(structure: str) -> None:
    config = {"structure": structure, "criterion": "fisher", "sparsity": STRUCTURES[structure]}
    plain, captured = network(), network()
    for model, run in ((plain, plain), (captured, torch.compile(captured, backend="eager"))):
        pruner, optimizer = begin(config, model)
        go_on(run, pruner, optimizer, range(STEPS))
        pruner.finalize()
    assert same(plain.state_dict(), captured.state_dict())
