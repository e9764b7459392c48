"""PreCropping, FilterSketch, fusible convolutions, OREPA and ToST: what they make of a network, and that it is plain
again after training."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.config import check_config
from codesign.coupling import channel_groups
from codesign.export import load_exported
from codesign.layers import prunable
from codesign.method import Batch, Context, Method, Place
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.recipes.filter_sketch import sketch
from codesign.recipes.precropping import crop, weights_left
from codesign.train import run_training
from models.nets import build
from simulator.errors import InputError

LAST = Place(0, 1, 0, 1)


def method_of(name: str, model: nn.Module, shape: tuple[int, ...], **settings: object) -> Method:
    example, optimizer = torch.zeros(1, *shape), torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner.for_given_masks(model, optimizer, example)
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, optimizer, pruner, example, 2, F.cross_entropy, losses, 0, 10)
    method: Method = recipe(name).make(settings_of({"name": name, **settings}), context)
    return method


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(32, 2))


X, Y = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(3)), torch.arange(8) % 2


# --- PreCropping -------------------------------------------------------------------------------------------------


def test_widths_follow_densities_and_leave_the_weights_asked_for() -> None:
    model = network()
    layers, groups = prunable(model), list(channel_groups(model, X[:1]))
    flat = crop(layers, groups, dict.fromkeys(layers, 0.25), 0.25)
    # The root of a quarter of every width, a little less for the inputs and outputs of the network, which all stay.
    assert flat == [8, 15, 15] and weights_left(layers, groups, [8, 16, 16]) > 0.25 * sum(
        layer.weight.numel() for layer in layers.values())
    total = sum(layer.weight.numel() for layer in layers.values())
    uneven = crop(layers, groups, {"0": 1.0, "2": 0.5, "4": 0.02, "8": 1.0}, 0.25)
    assert weights_left(layers, groups, uneven) == pytest.approx(0.25 * total, rel=0.1)
    shares = [width / group.width for width, group in zip(uneven, groups, strict=True)]
    assert shares[0] > shares[2] > 0  # what leaves the dense first layer keeps more than what leaves the sparsest


@pytest.mark.parametrize("by", ["erk", "synflow", "grasp"])
def test_the_network_is_thin_and_dense_before_its_first_step(by: str) -> None:
    model = network()
    method = method_of("precropping", model, (1, 6, 6), by=by, sparsity=0.75, rounds=4)
    before = {name: layer.weight.detach().clone() for name, layer in prunable(model).items()}
    assert method.prepare(X, Y, Place(0, 1, 0, 2)) is not None
    widths = method.row()["widths"]
    left = sum(int(layer.weight.count_nonzero()) for layer in prunable(model).values())
    assert left == pytest.approx(0.25 * sum(weight.numel() for weight in before.values()), rel=0.1)
    assert torch.equal(model[2].weight[: widths[1], : widths[0]], before["2"][: widths[1], : widths[0]])
    method.prepare(X, Y, Place(0, 1, 1, 2))
    assert method.row()["widths"] == widths  # once


# --- FilterSketch ------------------------------------------------------------------------------------------------


def test_a_sketch_has_the_second_moments_of_all_filters_within_its_bound() -> None:
    torch.manual_seed(0)
    filters = torch.randn(24, 10).double() @ torch.diag(torch.logspace(0, -2, 10)).double()
    for size in (3, 6):
        short = sketch(filters, size)
        apart = filters.T @ filters - short.T @ short
        values = torch.linalg.eigvalsh(apart)
        assert values[0] > -1e-9 and values[-1] <= filters.square().sum() / (size + 1)
        first = filters[:size].T @ filters[:size]
        assert values[-1] < torch.linalg.eigvalsh(filters.T @ filters - first)[-1]  # better than the first filters
    exact = sketch(filters[:, :3], 3)  # as many as there are dimensions: nothing is lost
    torch.testing.assert_close(exact.T @ exact, filters[:, :3].T @ filters[:, :3])


def test_filters_are_replaced_once_and_the_other_channels_go() -> None:
    model = network()
    method = method_of("filter_sketch", model, (1, 6, 6), sparsity=0.5, at=0.5)
    before = model[2].weight.detach().clone()
    method.end_epoch(Place(0, 4, 0, 1))
    assert torch.equal(model[2].weight.detach(), before)
    method.end_epoch(Place(1, 4, 0, 1))
    wanted = sketch(before.flatten(1), 16).reshape(16, 16, 3, 3)
    torch.testing.assert_close(model[2].weight.detach()[:16, :8], wanted[:, :8])
    assert not model[2].weight[16:].any() and not model[2].weight[:, 8:].any() and not model[4].weight[:, 16:].any()
    now = model[2].weight.detach().clone()
    method.end_epoch(Place(2, 4, 0, 1))
    assert torch.equal(model[2].weight.detach(), now)


# --- fusible convolutions ----------------------------------------------------------------------------------------


def test_a_convolution_and_an_identity_are_one_kernel_after_training() -> None:
    model = network()
    method = method_of("fusible", model, (1, 6, 6), identity=0.5)
    assert list(method.layers) == ["4"]  # the others change their shape
    inner = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(model[4](inner), nn.Conv2d.forward(model[4], inner) + 0.5 * inner)
    before = model(X)
    method.end_epoch(LAST)
    assert "forward" not in model[4].__dict__
    torch.testing.assert_close(model(X), before, atol=1e-5, rtol=1e-4)


def test_the_penalty_takes_a_useless_convolution_away_and_one_weight_a_channel_is_left() -> None:
    model = network()
    method = method_of("fusible", model, (1, 6, 6), penalty=0.5, remove=0.2)
    weight = model[4].weight.detach().clone()
    for step in range(60):
        place = Place(0, 1, step, 60)
        method.penalty(place).backward()
        method.after_step(place)
    convolution, identity = method.scales.values["4"].tolist()
    assert abs(convolution) < 0.2 and identity == 1.0
    method.end_epoch(Place(0, 1, 59, 60))
    assert int(model[4].weight.count_nonzero()) == 32
    inner = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(model[4](inner), inner)  # its bias is the convolution's, and went with it
    assert not torch.equal(weight, model[4].weight)
    assert method.context.pruner.realised()["4"] == 1.0 - 32 / weight.numel()


# --- OREPA -------------------------------------------------------------------------------------------------------


def test_branches_folded_into_one_kernel_compute_what_the_branches_do() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(27, 2))
    method = method_of("orepa", model, (2, 5, 5), scale=0.5)
    own, beside = model[0].weight, {key.split("/")[1]: value for key, value in method.beside.values.items()}
    x = torch.randn(4, 2, 5, 5)

    def run(kernel: Tensor, given: Tensor) -> Tensor:
        return F.conv2d(given, kernel, None, 2, 1)

    padded = torch.zeros(3, 2, 3, 3)
    padded[:, :, 1, 1] = beside["one"]
    branches = [run(own, x), run(padded, x), run(torch.full((3, 3, 3, 3), 1 / 9) * torch.eye(3)[:, :, None, None],
                                                  torch.einsum("oi,bihw->bohw", beside["average"], x)),
                run(beside["second"], torch.einsum("oi,bihw->bohw", beside["first"], x))]
    by_hand = sum(scale[None, :, None, None] * branch for scale, branch in zip(beside["scales"], branches, strict=True))
    torch.testing.assert_close(model[0](x), by_hand + model[0].bias[None, :, None, None], atol=1e-5, rtol=1e-4)
    model(x).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in method.beside.values.values())
    moved = method.beside.values["0/one"].detach() - 0.1 * method.beside.values["0/one"].grad
    method.after_step(LAST)
    torch.testing.assert_close(method.beside.values["0/one"].detach(), moved)
    before = model(x)
    assert method.macs(100, 4, Batch(x, Y[:4])) == 400 + 3 * 54 * 2  # a kernel of 54 weights, two inputs in the chain
    method.end_epoch(LAST)
    assert "forward" not in model[0].__dict__
    torch.testing.assert_close(model(x), before)


# --- ToST --------------------------------------------------------------------------------------------------------


def test_activations_and_skips_soften_the_network_less_and_less() -> None:
    model = network()
    plain = model(X)
    method = method_of("tost", model, (1, 6, 6), until=0.5, smooth=2.0, skip=0.25, rescale=False)
    method.prepare(X, Y, Place(0, 1, 1, 4))  # half way to the plain network
    x = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(model[1](x), x * torch.sigmoid(2.0 / 0.5 * x))
    inner = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(model[4](inner), nn.Conv2d.forward(model[4], inner) + 0.125 * inner)
    method.prepare(X, Y, Place(0, 1, 2, 4))
    assert torch.equal(model(X), plain)
    method.end_epoch(LAST)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_weights_make_up_once_for_those_that_the_mask_took() -> None:
    model = network()
    method = method_of("tost", model, (1, 6, 6))
    mask = torch.zeros_like(model[2].weight, dtype=torch.bool)
    mask[:, :4] = True  # a quarter
    method.prepare(X, Y, Place(0, 1, 0, 4))
    before = model[2].weight.detach().clone()
    method.context.pruner.set_masks_({"2": mask})
    for step in (1, 2):
        method.prepare(X, Y, Place(0, 1, step, 4))
        torch.testing.assert_close(model[2].weight.detach(), 2.0 * before * mask)


# --- RIFLE -------------------------------------------------------------------------------------------------------


def test_the_classifier_starts_anew_in_every_cycle_and_the_rate_falls_within_it() -> None:
    model = network()
    method = method_of("rifle", model, (1, 6, 6), cycles=2)
    optimizer, heads, rates = method.context.optimizer, [], []
    body = model[2].weight.detach().clone()
    for step in range(4):
        method.prepare(X, Y, Place(0, 1, step, 4))
        heads.append(model[8].weight.detach().clone())
        optimizer.param_groups[0]["lr"] = 1.0
        method.after_backward(Place(0, 1, step, 4))
        rates.append(optimizer.param_groups[0]["lr"])
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[2], heads[3]) and not torch.equal(heads[1], heads[2])
    assert heads[2].abs().max() <= 1 / 32**0.5
    assert torch.equal(model[2].weight.detach(), body)
    assert rates == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_a_trained_network_is_taken_over_but_for_its_classifier(tmp_path: Path) -> None:
    table = {"name": "first", "data": {"limit": 60, "test_limit": 20, "batch_size": 30}, "model": {"name": "lenet5"},
             "train": {"epochs": 1, "lr": 0.01}, "output": {"cost_per_epoch": False}}
    run_training(check_config(table), tmp_path / "first", device="cpu")
    before = load_exported(tmp_path / "first" / "model").model
    model = build("lenet5", in_channels=1, num_classes=3, seed=5)
    method_of("rifle", model, (1, 28, 28), weights=str(tmp_path / "first" / "model"))
    assert torch.equal(model.conv2.weight, before.conv2.weight) and torch.equal(model.fc2.bias, before.fc2.bias)
    assert model.fc3.weight.shape == (3, 84)
    with pytest.raises(InputError, match="conv1"):
        method_of("rifle", build("lenet5", in_channels=3, num_classes=3), (3, 28, 28),
                  weights=str(tmp_path / "first" / "model"))


# --- SbF ---------------------------------------------------------------------------------------------------------


def test_scores_read_the_filters_and_press_down_and_the_lowest_go() -> None:
    model = network()
    method = method_of("sbf", model, (1, 6, 6), sparsity=0.75, at=0.5)
    method.prepare(X, Y, Place(0, 1, 0, 2))
    scores = method.scores(1).detach()
    assert scores.shape == (32,) and bool(((scores > 0) & (scores < 1)).all())
    order = torch.randperm(32)
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight[order])
    torch.testing.assert_close(method.scores(1).detach(), scores[order])  # of the filter, wherever it stands
    inner = torch.randn(2, 16, 4, 4)
    plain = nn.Conv2d.forward(model[2], inner)
    torch.testing.assert_close(model[2](inner), plain * scores[order][None, :, None, None])
    before = method.row()["mean_score"]
    for step in range(5):
        method.penalty(Place(0, 1, step, 10)).backward()
        method.after_step(Place(0, 1, step, 10))
    assert method.row()["mean_score"] < before
    scores = method.scores(1).detach()
    method.prepare(X, Y, Place(0, 1, 1, 2))
    assert set(model[2].weight.flatten(1).any(1).nonzero().flatten().tolist()) == set(
        scores.topk(8).indices.tolist())
    assert method.penalty(Place(0, 1, 1, 2)) is None


def test_folded_scores_compute_what_the_gates_did_behind_a_norm_too() -> None:
    model = build("resnet8", in_channels=1, num_classes=10, widths=[4, 8, 8], seed=0)
    method = method_of("sbf", model, (1, 12, 12), sparsity=0.0, at=0.5)
    x, y = torch.randn(4, 1, 12, 12), torch.arange(4)
    plain = build("resnet8", in_channels=1, num_classes=10, widths=[4, 8, 8], seed=0).eval()(x)
    before = model.eval()(x)
    assert not torch.allclose(before, plain, atol=1e-3)
    method.prepare(x, y, Place(0, 1, 1, 2))
    assert not any("forward" in module.__dict__ for module in model.modules())
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-4)


# --- polarised gates ---------------------------------------------------------------------------------------------


def test_gates_read_the_input_and_are_driven_apart_together_and_to_the_budget() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    x, y = torch.rand(32, 1, 2, 2), torch.arange(32) % 2
    method = method_of("polarised", model, (1, 2, 2), sparsity=0.75, at=0.9)
    inner = x.flatten(1)
    gate = torch.sigmoid(inner @ method.beside.values["0/weight"] + method.beside.values["0/bias"])
    torch.testing.assert_close(model[1](inner), nn.Linear.forward(model[1], inner) * gate)
    method.context.optimizer.param_groups[0]["lr"] = 0.1
    for step in range(300):
        place = Place(0, 1, step, 400)
        method.prepare(x, y, place)
        model(x)
        method.penalty(place).backward()
        method.after_step(place)
        method.context.model.zero_grad()
    gates = method.gates[0].detach()
    assert bool(((gates < 0.2) | (gates > 0.8)).float().mean() > 0.9)
    assert float(gates.std(0).max()) < 0.1  # one answer for all images
    stay = method.means[0] > 0.5
    assert 2 <= int(stay.sum()) <= 6  # a quarter of 16 is 4
    before = model[1].weight.detach().clone()
    method.prepare(x, y, Place(0, 1, 399, 400))
    assert torch.equal(model[1].weight.detach().any(1), stay)
    torch.testing.assert_close(model[1].weight.detach(), before * (method.means[0] * stay)[:, None])
    assert "forward" not in model[1].__dict__ and method.penalty(Place(0, 1, 399, 400)) is None


def test_a_network_that_a_method_can_do_nothing_with_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    for name, said in (("fusible", "keeps its shape"), ("tost", "nothing to soften"), ("precropping", "no channels"),
                       ("filter_sketch", "no channels")):
        with pytest.raises(InputError, match=said):
            method_of(name, model, (1, 6, 6))
