"""What holds for every structure, criterion and schedule: exact counts, conformance, and no way back."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import Pruner
from codesign.budgets import density_of
from codesign.criteria import CRITERIA
from codesign.schedules import SCHEDULES
from codesign.structures import as_matrix, window_of
from simulator.structure import conforms, parse
from simulator.structure import project as numpy_project

STRUCTURES = {
    "unstructured": 0.75,
    "2:4": None,
    "1:4": None,
    "block 4x4": 0.6,
    "channel": 0.5,
    "filter": 0.5,
    "kernel": 0.7,
    "ck": 0.5,
    "window": 0.6,
    "window 4": None,
    "bank 8": 0.5,
    "2:4 of 1x2": None,
    "pattern 4": None,
    "kernel + pattern 4": 0.8,
    "ck + window": 0.75,
    "2:3 of 4x1 + 2:4": None,
}
ONLY_CONVOLUTIONS = {"pattern 4", "window", "window 4"}
STEPS = 12


class Net(nn.Module):
    """Two convolutions with batch norm and two linear layers, on 8x8 images of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 4, 10)
        self.fc2 = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 2, 8, 8, generator=generator), torch.randint(0, 3, (6,), generator=generator)


def train(
    config: dict[str, object], optimizer: str = "sgd", example: bool = False, steps: int = STEPS
) -> tuple[Net, Pruner, torch.optim.Optimizer]:
    """A short training, checking after every step that nothing pruned has a value or a momentum, or comes back."""
    torch.manual_seed(0)
    model = Net()
    x, y = batch()
    made = (
        torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        if optimizer == "sgd"
        else torch.optim.Adam(model.parameters(), 0.01, amsgrad=True)
    )
    pruner = Pruner(model, {"total_steps": steps, **config}, optimizer=made, example_inputs=x if example else None,
                    probe=(x, y))
    before: dict[str, Tensor] = {}
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        made.step()
        made.zero_grad()
        pruner.step()
        masks = {**pruner.masks, **pruner.parameter_masks}
        for name, mask in masks.items():
            came_back = (mask & ~before.get(name, torch.ones_like(mask))).any()
            assert not came_back or config.get("schedule") == "alternate", f"{name} came back"
            parameter = pruner._parameter(name)
            assert not parameter[~mask].any()
            for state in made.state[parameter].values():
                if state.shape == parameter.shape:
                    assert not state[~mask].any()
        before = masks
    pruner.finalize()
    return model, pruner, made


@pytest.mark.parametrize(
    ("structure", "criterion", "schedule"), list(itertools.product(STRUCTURES, CRITERIA, SCHEDULES))
)
def test_realised_equals_requested_and_masks_conform(structure: str, criterion: str, schedule: str) -> None:
    sparsity = STRUCTURES[structure]
    model, pruner, _ = train(
        {"structure": structure, "criterion": criterion, "schedule": schedule, "sparsity": sparsity}, steps=5
    )
    pattern = parse(structure)
    assert set(pruner.masks) == ({"conv2"} if structure in ONLY_CONVOLUTIONS else {"conv2", "fc1"})
    for name, mask in pruner.masks.items():
        weight = model.get_submodule(name).weight
        matrix, window = as_matrix(mask).numpy(), window_of(weight.shape)
        assert conforms(matrix, pattern, window)
        anything = np.random.default_rng(0).random(matrix.shape)  # how many are kept does not depend on the scores
        share = density_of(sparsity) if sparsity is not None else 1.0
        unit_k, unit_n = pattern.unit_extent(*matrix.shape, window)  # ragged units count as much as whole ones
        expected = numpy_project(anything, pattern, share, window)
        assert matrix[::unit_k, ::unit_n].sum() == expected[::unit_k, ::unit_n].sum()
        assert torch.equal(weight != 0, mask)
        assert pruner.realised()[name] == pytest.approx(1 - mask.float().mean().item())


@pytest.mark.parametrize(("structure", "sparsity", "kept"), [
    ("2:4", None, 8 * (13 * 2 + 2)), ("block 4x4", 0.6, 16 * 11), ("filter", 0.5, 4 * 54), ("kernel", 0.7, 9 * 14),
    ("ck", 0.5, 8 * 3 * 9), ("window", 0.6, 48 * 4), ("pattern 4", None, 48 * 4), ("ck + window", 0.75, 8 * 3 * 5)])
def test_the_second_convolution_keeps_the_number_counted_by_hand(structure, sparsity, kept) -> None:
    """conv2 is [k, n] = [54, 8]: 6 channels of 3x3, 48 kernels; the last row of blocks holds 2 of 4 rows."""
    _, pruner, _ = train({"structure": structure, "sparsity": sparsity, "schedule": "constant"})
    found = int(pruner.masks["conv2"].sum())
    assert found == kept if structure != "block 4x4" else found in (kept, kept - 8, kept - 16)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("structure", ["unstructured", "2:4", "channel"])
def test_momentum_is_zero_where_pruned_for_either_optimizer(structure: str, optimizer: str) -> None:
    train({"structure": structure, "sparsity": STRUCTURES[structure]}, optimizer)  # the checks are in train()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_same_seed_gives_the_same_network(structure: str) -> None:
    config = {"structure": structure, "sparsity": STRUCTURES[structure], "criterion": "fisher"}
    first, second = train(config)[0].state_dict(), train(config)[0].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("structure", ["unstructured", "block 4x4", "filter", "kernel", "channel"])
def test_global_scope_spends_one_budget_and_cuts_no_layer_through(structure: str) -> None:
    _, pruner, _ = train({"structure": structure, "sparsity": 0.8, "scope": "global"})
    kept = {name: int(mask.sum()) for name, mask in pruner.masks.items()}
    total = sum(mask.numel() for mask in pruner.masks.values())
    assert min(kept.values()) > 0
    if structure == "unstructured":
        assert sum(kept.values()) == round(0.2 * total)
    largest = {"unstructured": 1, "block 4x4": 16, "filter": 54, "kernel": 9, "channel": 72}[structure]
    assert abs(sum(kept.values()) - 0.2 * total) <= 2 * largest


def test_a_table_gives_each_layer_its_own_sparsity() -> None:
    _, pruner, _ = train({"structure": "unstructured", "scope": {"conv*": 0.5, "fc1": 0.9}, "schedule": "agp"})
    assert pruner.realised() == {"conv1": 0.0, "conv2": 0.5, "fc1": 0.9, "fc2": 0.0}


def test_a_table_gives_each_layer_its_own_structure() -> None:
    model, pruner, _ = train({"structure": {"conv2": "filter", "fc*": "2:4"}, "sparsity": 0.5})
    assert model.conv2.weight.reshape(8, -1).any(1).sum() == 4
    assert pruner.realised()["fc1"] == 0.5


def test_coupled_channels_go_with_their_filters_biases_and_batch_norm() -> None:
    model, pruner, _ = train({"structure": "channel", "sparsity": 0.5}, example=True)
    silent = ~model.bn1.weight.bool()
    assert silent.sum() == 3
    assert torch.equal(silent, ~model.conv1.weight.reshape(6, -1).any(1))
    assert torch.equal(silent, ~model.conv2.weight.transpose(0, 1).reshape(6, -1).any(1))
    gone = ~model.conv2.bias.bool()
    assert gone.sum() == 4 and torch.equal(gone, ~model.bn2.bias.bool())
    assert torch.equal(gone, ~model.fc1.weight.reshape(10, 8, 4).any(2).any(0))
    assert model.fc2.weight.all(), "the classifier is kept, so fc1 keeps the channels that only it reads"
    assert pruner.realised()["conv2"] == pytest.approx(1 - 0.25)


def test_state_dict_keys_and_parameters_stay_plain() -> None:
    model, _, optimizer = train({"structure": "unstructured", "sparsity": 0.8})
    fresh = Net()
    assert list(model.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert type(model.conv2.weight) is nn.Parameter
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def test_a_deepcopy_is_an_ordinary_model() -> None:
    model, _, _ = train({"structure": "2:4"})
    x, _ = batch()
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    with torch.no_grad():
        twin.conv2.weight.fill_(1.0)
    assert int((model.conv2.weight != 0).sum()) < model.conv2.weight.numel()
