"""Activation density and layer-wise reconstruction: decisions by what layers see, and weights that make up for it."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.config import check_config
from codesign.method import Context, Method, Place
from codesign.probes import activation_density
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.reconstruction import contributing_channels, error, input_moments, lasso_channels, refitted
from codesign.train import run_training
from simulator.errors import InputError
from simulator.structure import conforms, parse


def method_of(name: str, model: nn.Module, shape: tuple[int, ...], **settings: object) -> Method:
    example, optimizer = torch.zeros(1, *shape), torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner.for_given_masks(model, optimizer, example)
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, optimizer, pruner, example, 2, F.cross_entropy, losses, 0, 10)
    method: Method = recipe(name).make(settings_of({"name": name, **settings}), context)
    return method


# --- activation density ------------------------------------------------------------------------------------------


def halves() -> nn.Sequential:
    """Channels 0 and 1 of the first convolution are active everywhere, 2 on half of the image, 3 nowhere."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[2] = 1.0
        model[0].bias.copy_(torch.tensor([1.0, 1.0, 0.0, -1.0]))
        model[2].weight.abs_()
        model[2].bias.fill_(1.0)
    return model


IMAGES = torch.cat([torch.ones(2, 1, 2, 4), -torch.ones(2, 1, 2, 4)], 2)
LABELS = torch.tensor([0, 1])


def test_the_score_of_a_weight_is_the_density_of_the_channel_it_reads() -> None:
    scores = activation_density(halves(), IMAGES, None)
    assert scores["2"][:, :, 0, 0].tolist() == [[1.0, 1.0, 0.5, 0.0]] * 3
    assert scores["0"].flatten().tolist() == [1.0] * 4
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    seen = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1, 1)
    assert activation_density(grouped, seen, None)["0"].reshape(4, 2).tolist() == [[1, 0], [1, 0], [1, 1], [1, 1]]


def test_a_group_shrinks_to_density_times_its_channels_when_density_stands_still() -> None:
    model = halves()
    method = method_of("activation_density", model, (1, 4, 4), until=1.0)
    channels = []
    for epoch in range(4):
        method.prepare(IMAGES, LABELS, Place(epoch, 8, 0, 1))
        model.train()(IMAGES)
        model.eval()(-IMAGES)  # evaluation is not counted
        method.end_epoch(Place(epoch, 8, 0, 1))
        channels.append(method.row()["channels"])
    # Density 2.5 / 4; still in the second epoch: 0.625 * 4 = 2.5 rounds to two channels, which are dense ever after.
    assert channels == [[4, 3], [2, 3], [2, 3], [2, 3]]
    assert method.kept[0].tolist() == [True, True, False, False]
    assert not model[0].weight[2:].any() and not model[0].bias[2:].any() and not model[2].weight[:, 2:].any()


def test_criteria_that_run_the_network_work_from_a_configuration(tmp_path: Path) -> None:
    """GraSP needs labels: training shows it a batch."""
    for criterion in ("grasp", "activation_density"):
        result = run_training(check_config({
            "name": "probe", "data": {"limit": 60, "test_limit": 20, "batch_size": 30}, "model": {"name": "lenet5"},
            "train": {"epochs": 1}, "output": {"cost_per_epoch": False},
            "prune": {"structure": "channel", "sparsity": 0.5, "criterion": criterion, "schedule": "constant"}}),
            tmp_path / criterion, device="cpu")
        assert result.table["weight_sparsity"] > 0.4


# --- reconstruction ----------------------------------------------------------------------------------------------


def seen_by(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.unfold(x, layer.kernel_size, padding=layer.padding).transpose(1, 2).flatten(0, 1).double()


def mixed(channels: int) -> Tensor:
    """Images whose channels are mixtures of each other, so that some can stand in for others."""
    torch.manual_seed(0)
    mixture = torch.randn(channels, channels) * 0.4 + torch.eye(channels)
    return torch.einsum("bchw,dc->bdhw", torch.randn(6, channels, 5, 5), mixture)


def test_refitted_weights_are_the_least_squares_of_the_layers_own_inputs() -> None:
    x, conv = mixed(4), nn.Conv2d(4, 3, 3, padding=1)
    mask = torch.rand(conv.weight.shape) < 0.5
    moments = input_moments(nn.Sequential(conv), conv, [x[:4], x[4:]])
    rows, dense = seen_by(conv, x), conv.weight.detach().flatten(1).double()
    torch.testing.assert_close(moments, rows.T @ rows, rtol=1e-6, atol=1e-5)
    found = refitted(conv.weight, mask, moments)
    assert not found[~mask].any()
    for output in range(3):
        kept = mask[output].flatten()
        best = torch.linalg.lstsq(rows[:, kept], rows @ dense[output]).solution
        torch.testing.assert_close(found[output].flatten()[kept].double(), best, rtol=1e-3, atol=1e-4)
    assert error(conv.weight, found, moments) < 0.8 * error(conv.weight, conv.weight * mask, moments)


@pytest.mark.parametrize(("padding", "mode"), [((1, 0), "zeros"), (1, "reflect"), ("same", "circular")])
def test_moments_see_the_edge_that_the_layer_sees(padding: object, mode: str) -> None:
    """The sum of the squares of all outputs is the trace of W M W^T."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, padding=padding, padding_mode=mode, bias=False), torch.randn(4, 3, 6, 7)
    weight = conv.weight.detach().reshape(5, -1).double()
    moments = input_moments(nn.Sequential(conv), conv, [x])
    torch.testing.assert_close((weight @ moments @ weight.T).trace(), conv(x).double().square().sum().detach(),
                               rtol=1e-5, atol=0.0)


def test_lasso_keeps_the_largest_contributions_where_channels_are_independent() -> None:
    """With orthogonal inputs b_i = max(0, 1 - lambda / |X_i W_i|^2), so the largest products stay."""
    weight = torch.tensor([[1.0, 3.0, -2.0, 0.5], [1.0, 0.0, 2.0, 0.5]])
    moments = torch.diag(torch.tensor([1.0, 1.0, 0.01, 100.0])).double()
    # |X_i W_i|^2 = 2, 9, 0.08, 50
    assert lasso_channels(weight, moments, 1).tolist() == [False, False, False, True]
    assert lasso_channels(weight, moments, 3).tolist() == [True, True, False, True]


def test_contribution_removes_what_the_rest_can_stand_in_for() -> None:
    """The first removal is the best of all by brute force; a copy goes although its own product is the largest."""
    x, conv = mixed(5), nn.Conv2d(5, 3, 3, padding=1)
    moments = input_moments(nn.Sequential(conv), conv, [x])
    errors = []
    for gone in range(5):
        mask = torch.ones_like(conv.weight, dtype=torch.bool)
        mask[:, gone] = False
        errors.append(error(conv.weight, refitted(conv.weight, mask, moments), moments))
    kept = contributing_channels(conv.weight, moments, 4)
    assert (~kept).nonzero().item() == min(range(5), key=errors.__getitem__)
    twice = torch.randn(400, 2).double()
    inputs = torch.cat([3.0 * twice[:, :1], twice[:, :1], 0.1 * twice[:, 1:]], 1)
    weight = torch.ones(1, 3)
    assert contributing_channels(weight, inputs.T @ inputs, 2).tolist()[2]


@pytest.mark.parametrize(("choose", "structure"), [("lasso", "channel"), ("contribution", "channel"),
                                                   ("magnitude", "2:4"), ("magnitude", "unstructured")])
def test_after_training_layers_are_pruned_refitted_and_norms_estimated_anew(choose: str, structure: str) -> None:
    torch.manual_seed(1)

    def network() -> nn.Sequential:
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
                             nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 2))

    x, y, errors = mixed(4), torch.zeros(6, dtype=torch.int64), {}
    for refit in (True, False):
        model = network()
        method = method_of("reconstruction", model, (4, 5, 5), choose=choose, structure=structure, refit=refit)
        assert method.prepare(x, y, Place(0, 2, 0, 1)) is not None
        method.end_epoch(Place(0, 2, 0, 1))
        assert not method.summary()["squared_error_share"]  # not yet
        batch = method.prepare(x, y, Place(1, 2, 0, 1))
        assert method.macs(1000, 6, batch) == 6 * 1000 + 12 * 2 * method.forward_macs  # one layer, and the norms
        method.end_epoch(Place(1, 2, 0, 1))
        errors[refit] = method.summary()["squared_error_share"]["3"]
        mask = model[3].weight.detach() != 0
        assert int(mask.sum()) == mask.numel() // 2
        assert conforms(mask.reshape(8, -1).T.numpy(), parse(structure), 9) or structure == "unstructured"
    assert errors[True] < 0.9 * errors[False]
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, model[0](x).var((0, 2, 3)))
    assert model.training and model[1].momentum == 0.1


def test_lasso_on_a_structure_that_is_no_channel_is_refused() -> None:
    with pytest.raises(InputError, match="magnitude"):
        method_of("reconstruction", nn.Sequential(*itertools.repeat(nn.Linear(4, 4), 1)), (4,), structure="2:4")
