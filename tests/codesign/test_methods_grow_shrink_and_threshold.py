"""Grow-and-prune, learned thresholds, trained rank pruning and PruneTrain: what each does to the weights."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.config import load_config
from codesign.low_rank import factorise, factorised, low_rank, rank_for_energy
from codesign.method import Batch, Method, Place
from codesign.structures import project
from codesign.trace import trace_model
from codesign.train import run_training
from simulator import load_machine, simulate
from simulator.trace import Trace

MethodOf = Callable[..., Method]


def test_one_group_after_the_other_is_dense_and_is_pruned_back(method_of: MethodOf) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(4)))
    method = method_of("grow_and_prune", model, (10,), sparsity=0.8, groups=2, rounds=2, until=0.8, skip=[])
    pruner = method.context.pruner
    assert pruner is not None
    x, y = torch.randn(2, 10), torch.zeros(2, dtype=torch.int64)
    dense = []
    for step in range(10):
        method.prepare(x, y, Place(0, 1, step, 10))
        dense.append([name for name in "0123" if pruner.realised()[name] == 0.0])
        for name in "0123":
            assert pruner.realised()[name] in (0.0, 0.8)
            if name in dense[-1]:  # what grew trains: give each weight another size
                with torch.no_grad():
                    model[int(name)].weight.copy_(torch.arange(100.0).reshape(10, 10) * (1 if step < 4 else -1))
    assert dense == [["0", "1"]] * 2 + [["2", "3"]] * 2 + [["0", "1"]] * 2 + [["2", "3"]] * 2 + [[]] * 2
    assert model[0].weight.detach().reshape(-1).nonzero().flatten().tolist() == list(range(80, 100))  # the largest


def test_a_learned_threshold_moves_by_the_chain_rule_and_zeros_get_their_share_of_gradient(method_of: MethodOf) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 2, bias=False)
    dense = model.weight.detach().clone()
    method = method_of("auto_sparse", model, (6,), lr=0.5, start=-2.0, decay=0.01, alpha=0.4, until=0.5, skip=[])
    s = torch.tensor(-2.0, requires_grad=True)
    behind = dense.clone().requires_grad_()
    shown = behind.sign() * (behind.abs() - s.sigmoid()).clamp_min(0)
    torch.testing.assert_close(model.weight.detach(), shown.detach())
    assert 0 < int((shown == 0).sum()) < 12
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 0, 1, 0])
    shown.retain_grad()
    F.cross_entropy(x @ shown.T, y).backward()
    assert shown.grad is not None and behind.grad is not None and s.grad is not None
    place = Place(0, 1, 1, 4)  # half of `until` is over: half of alpha is left
    F.cross_entropy(model(x), y).backward()
    method.after_backward(place)
    method.context.optimizer.step()
    method.after_step(place)
    expected = dense - 0.5 * torch.where(shown == 0, 0.2 * shown.grad, behind.grad)
    torch.testing.assert_close(method.behind[""], expected)
    assert float(method.s) == pytest.approx(-2.0 - 0.5 * (float(s.grad) + 0.01 * -2.0))
    assert method.alpha(0.5) == method.alpha(0.9) == 0.0


def test_zeros_of_a_learned_threshold_are_left_out_of_two_products(method_of: MethodOf) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1.0)
            layer.weight[:, 0] = 1e-6
    method = method_of("auto_sparse", model, (4,), skip=[])
    # the first layer: forward 12 of 16, its weight's gradient 16; the second also the gradient of its input
    assert method.macs(0, 1, Batch(torch.zeros(1, 4), torch.zeros(1))) == 12 + 16 + 12 + 12 + 16


def test_a_weight_is_cut_to_the_rank_that_holds_the_energy(method_of: MethodOf) -> None:
    assert rank_for_energy(torch.tensor([3.0, 1.0, 0.5]), 9 / 10.25) == 1
    assert rank_for_energy(torch.tensor([3.0, 1.0, 0.5]), 0.9) == 2
    assert rank_for_energy(torch.tensor([3.0, 1.0, 0.5]), 1.0) == 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(8 * 9, 4))
    before = model[0].weight.detach().clone()
    method = method_of("trained_rank_pruning", model, (2, 5, 5), energy=0.7, every=2, nuclear=0.0, skip=["2"])
    method.after_step(Place(0, 2, 0, 4))
    assert torch.equal(model[0].weight.detach(), before)  # not due yet
    method.after_step(Place(0, 2, 1, 4))
    rank = method.row()["ranks"]["0"]
    singular = torch.linalg.svdvals(before.flatten(1)).double().square()
    assert singular[:rank].sum() / singular.sum() >= 0.7 > singular[: rank - 1].sum() / singular.sum()
    assert int(torch.linalg.matrix_rank(model[0].weight.flatten(1), rtol=1e-4)) == rank < 8


def test_the_nuclear_norm_pulls_singular_values_down_alike(method_of: MethodOf) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    method = method_of("trained_rank_pruning", model, (3,), every=1, nuclear=0.5, skip=[])
    model[0].weight.grad = torch.zeros(3, 3)
    method.after_backward(Place(0, 1, 0, 2))
    torch.testing.assert_close(model[0].weight.grad, 0.5 * torch.eye(3))


def test_factors_compute_what_the_weight_of_low_rank_does_and_cost_less() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 96, 3, stride=2, padding=1)
    with torch.no_grad():
        left, right = low_rank(conv.weight, 16)
        conv.weight.copy_((left @ right).reshape(conv.weight.shape))
    x = torch.randn(2, 64, 9, 9)
    torch.testing.assert_close(factorised(conv, 16)(x), conv(x), atol=1e-5, rtol=1e-5)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(96 * 25, 4))
    small = factorise(model, {"0": 16, "3": 4})
    assert isinstance(small[3], nn.Linear)  # rank 4 of 4 would hold more weights, not fewer
    torch.testing.assert_close(small(x), model(x), atol=1e-4, rtol=1e-4)
    cycles = [simulate(trace_model(net, x[:1], {}), load_machine("systolic_ws")).cycles for net in (model, small)]
    assert cycles[1] < cycles[0]


def test_admm_pulls_weights_to_their_projection_and_remembers_how_they_resist(method_of: MethodOf) -> None:
    """Z = P(W + U) with U += W - Z, the pull rho (W - Z + U), three decays of the rate, and hard masks at the end."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2, bias=False)
    method = method_of("admm", model, (4,), structure="2:4", start=0.2, harden=0.6, rho=0.5, every=2, tune=0.1, skip=[])
    pruner, optimizer = method.context.pruner, method.context.optimizer
    assert pruner is not None
    x, y, rates = torch.randn(3, 4), torch.tensor([0, 1, 0]), []
    target, dual = torch.zeros(2, 4), torch.zeros(2, 4)
    for step in range(10):
        place = Place(0, 1, step, 10)
        method.prepare(x, y, place)
        weight = model.weight.detach().clone()
        if step in (2, 4):
            dual = dual + weight - target if step == 4 else dual
            target = (weight + dual) * project((weight + dual).abs(), "2:4")
        model.weight.grad = torch.ones(2, 4)
        optimizer.param_groups[0]["lr"] = 1.0
        method.after_backward(place)
        pull = 0.5 * (weight - target + dual) if 2 <= step < 6 else torch.zeros(2, 4)
        torch.testing.assert_close(model.weight.grad, 1.0 + pull)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        assert bool(pruner.masks) == (step >= 6)
    assert rates == pytest.approx([1.0, 0.5, 1.0, 0.853553, 0.5, 0.146447, 0.1, 0.0853553, 0.05, 0.0146447], rel=1e-4)
    assert (model.weight.detach() != 0).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["prune_after_training", "prunetrain"])
def test_the_baselines_of_pruning_while_training_run_from_their_configurations(name: str, tmp_path: Path) -> None:
    short = ["data.limit=128", "data.test_limit=50", "train.epochs=4", "output.cost_per_epoch=false",
             "model.kwargs.widths=[4, 8, 8]", "train.lr=0.02"]
    if name == "prunetrain":
        short += ["recipe.share=0.9", "recipe.threshold=0.7"]
    result = run_training(load_config(name, short), tmp_path / "run", device="cpu")
    layers = Trace.load(tmp_path / "run" / "trace.safetensors").layers
    pruned = [layer for layer in layers if layer.weight_mask is not None]
    wanted = "kernel + pattern 4" if name == "prune_after_training" else "channel"
    assert pruned and all(layer.structure == wanted for layer in pruned)
    assert result.table["training"]["macs"] < result.table["training"]["dense_macs"]


def test_the_lasso_is_a_share_of_the_first_loss_and_small_channels_go_for_good(method_of: MethodOf) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(),
                          nn.Linear(3, 2))
    method = method_of("prunetrain", model, (1, 5, 5), share=0.25, threshold=0.01)
    x, y = torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1])
    loss = method.loss(model(x), Batch(x, y))
    penalty = method.penalty(Place(0, 1, 0, 2))
    assert penalty is not None
    assert penalty.item() / (loss + penalty).item() == pytest.approx(0.25)
    # A channel is its filter and everything that reads it: both must be small.
    with torch.no_grad():
        model[0].weight[1] = 0.009
        model[3].weight[:, 1] = -0.009
        model[0].weight[2] = 0.009  # whose readers are as large as ever
    method.end_epoch(Place(0, 2, 1, 2))
    assert [kept.tolist() for kept in method.kept] == [[True, False, True, True], [True] * 3]
    assert not model[0].weight[1].any() and not model[3].weight[:, 1].any() and model[1].weight[1] == 0.0
    with torch.no_grad():
        model[0].weight[1] = 1.0  # what is gone stays gone
    method.end_epoch(Place(1, 2, 1, 2))
    assert not model[0].weight[1].any() and method.row()["channels"] == 6


def test_training_with_the_lasso_removes_channels(method_of: MethodOf) -> None:
    """Few images and a strong lasso: channels fall below the threshold one after the other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    method = method_of("prunetrain", model, (1, 5, 5), lr=0.05, share=0.6, threshold=0.05)
    x = torch.randn(16, 1, 5, 5)
    y = (x.mean((1, 2, 3)) > 0).long()
    left = []
    for epoch in range(6):
        for batch in range(20):
            place = Place(epoch, 6, batch, 20)
            made = method.prepare(x, y, place)
            (method.loss(model(x), made) + method.penalty(place)).backward()
            method.context.optimizer.step()
            method.context.optimizer.zero_grad()
        method.end_epoch(place)
        left.append(method.row()["channels"])
    assert left[-1] < 16 and all(later <= earlier for earlier, later in pairwise(left))
