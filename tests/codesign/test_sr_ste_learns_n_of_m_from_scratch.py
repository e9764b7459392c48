"""SR-STE: dense weights behind a mask that is new at every step, straight-through gradients, sparse-refined decay."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.config import check_config, load_config
from codesign.method import Context, Place
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.structures import project
from codesign.train import run_training
from simulator.errors import InputError
from simulator.structure import conforms, parse
from simulator.trace import Trace


def test_a_step_is_the_papers_formula() -> None:
    """w <- w - lr (g(masked w) + decay (1 - mask) w)"""
    torch.manual_seed(0)
    model = nn.Linear(8, 3, bias=False)
    dense = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    losses = nn.CrossEntropyLoss(reduction="none")
    pruner = Pruner.for_given_masks(model, optimizer, torch.zeros(1, 8))
    context = Context(model, optimizer, pruner, torch.zeros(1, 8), 3, F.cross_entropy, losses, 0, 10)
    method = recipe("sr_ste").make(settings_of({"name": "sr_ste", "decay": 0.1, "skip": []}), context)
    mask = project(dense.abs(), "2:4")
    assert torch.equal(model.weight.detach(), dense * mask)
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    masked = (dense * mask).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(x @ masked.T, y), masked)
    expected = dense - 0.5 * (gradient + 0.1 * ~mask * dense)

    place = Place(0, 1, 0, 2)
    F.cross_entropy(model(x), y).backward()
    method.after_backward(place)
    optimizer.step()
    method.after_step(place)
    torch.testing.assert_close(method.behind[""], expected)
    assert torch.equal(model.weight.detach(), method.behind[""] * project(expected.abs(), "2:4"))


def config(**recipe_keys: object) -> object:
    return check_config({
        "name": "srste", "data": {"limit": 600, "test_limit": 200}, "model": {"name": "lenet5"},
        "train": {"epochs": 3, "lr": 0.05, "checkpoint_every": 3}, "output": {"machines": ["nm_array"]},
        "recipe": {"name": "sr_ste", **recipe_keys}})


def test_training_ends_in_two_of_four_that_the_machine_exploits(tmp_path: Path) -> None:
    result = run_training(config(), tmp_path / "run")
    trace = Trace.load(tmp_path / "run" / "trace.safetensors")
    for layer in trace.layers[1:-1]:
        assert layer.structure == "2:4"
        assert conforms(layer.weight_matrix()[0], parse("2:4"), layer.operation.window)
    assert result.machines[0]["speedup"] > 1.2
    assert result.table["weight_sparsity"] > 0.4


def test_resume_changes_no_bit(
    tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    whole = run_training(config(), tmp_path / "whole")
    train_until(config(), tmp_path / "part", 5)
    again = run_training(None, tmp_path / "part", resume=True)
    assert again.accuracy == whole.accuracy
    assert_same_run(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize(("section", "said"), [
    ({"name": "sr_sta"}, "did you mean 'sr_ste'"),
    ({"name": "sr_ste", "dekay": 1}, "did you mean 'decay'"),
    ({"name": "sr_ste", "decay": -1.0}, "greater than or equal to 0"),
    ({"structure": "2:4"}, "without a name"),
])
def test_a_mistake_in_the_section_is_answered(section: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_config({"name": "x", "recipe": section})




def test_a_recipe_can_be_taken_out_of_a_configuration() -> None:
    assert load_config("clicktrain", ["recipe={ name = 'none' }"]).recipe is None
