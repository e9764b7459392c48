"""A pruner saved in the middle and loaded into a fresh process goes on to the same weights, masks and history."""

import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign import Pruner
from simulator.errors import InputError

STEPS = 12
CONFIGS = [
    {"structure": "unstructured", "sparsity": 0.8, "schedule": "agp", "criterion": "fisher"},
    {"structure": "2:4", "schedule": "one_cycle", "update_every": 3},
    {"structure": "channel", "sparsity": 0.5, "schedule": "iterative", "criterion": "taylor_squared"},
    {
        "structure": {"2": "block 4x4", "5": "filter"},
        "scope": {"2": 0.5, "5": 0.25},
        "schedule": {"name": "agp", "start": 0.1},
    },
]
X = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 1, 0])


def start(config: dict[str, object]) -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return model, optimizer, Pruner(model, {"total_steps": STEPS, **config}, optimizer, X)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner, steps: int) -> None:
    for _ in range(steps):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config["structure"]))
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_cut_anywhere_it_ends_in_the_same_place(config: dict[str, object], cut: int) -> None:
    whole = start(config)
    run(*whole, STEPS)
    whole[2].finalize()

    first = start(config)
    run(*first, cut)
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in first], saved)
    saved.seek(0)
    model, optimizer, pruner = start(config)
    for part, state in zip((model, optimizer, pruner), torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    run(model, optimizer, pruner, STEPS - cut)
    pruner.finalize()

    expected = whole[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert pruner.history == whole[2].history
    assert pruner.masks.keys() == whole[2].masks.keys()
    assert all(torch.equal(mask, whole[2].masks[name]) for name, mask in pruner.masks.items())


def test_all_but_the_tensors_is_json() -> None:
    model, optimizer, pruner = start(CONFIGS[3])
    run(model, optimizer, pruner, 6)
    state = pruner.state_dict()
    assert json.loads(json.dumps(state["meta"])) == state["meta"]
    assert all(packed.dtype == torch.uint8 for packed in state["masks"].values())
    assert len(state["masks"]["5"]) == 16 * 32 // 8


def test_a_state_of_other_settings_is_refused_by_name() -> None:
    state = start(CONFIGS[0])[2].state_dict()
    with pytest.raises(InputError, match=r"sparsity was 0\.8; expected 0\.7 as configured now"):
        start({**CONFIGS[0], "sparsity": 0.7})[2].load_state_dict(state)


def test_a_longer_training_may_take_over_a_shorter_ones_state() -> None:
    state = start(CONFIGS[0])[2].state_dict()
    start({**CONFIGS[0], "total_steps": 50})[2].load_state_dict(state)


def test_a_state_of_another_network_is_refused() -> None:
    model, optimizer, pruner = start({"structure": "unstructured", "sparsity": 0.5, "schedule": "constant"})
    run(model, optimizer, pruner, 1)
    state = pruner.state_dict()
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(InputError) as caught:
        Pruner(
            other, {"structure": "unstructured", "sparsity": 0.5, "schedule": "constant", "total_steps": STEPS}
        ).load_state_dict(state)
    assert "masks of shape [36] for '2'" in str(caught.value) and "masks for '5'" in str(caught.value)


def test_a_foreign_schema_is_refused() -> None:
    pruner = start(CONFIGS[0])[2]
    with pytest.raises(InputError, match="schema 99"):
        pruner.load_state_dict({"meta": {"schema": 99}})
