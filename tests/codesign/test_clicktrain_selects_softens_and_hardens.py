"""ClickTrain: its published ratios, its selection by (w g)^2, the lasso on what goes, and the phases of a run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.config import load_config
from codesign.method import Batch, Context, Place
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.recipes.compression import Counted, ratio
from codesign.train import run_training
from models.nets import build
from simulator import patterns
from simulator.errors import InputError
from simulator.structure import conforms, parse
from simulator.trace import Trace

FOUR_OF_NINE = 4 / 9


# Per cent of the kernels removed from every 3x3 convolution but the first, and the ratio that the authors noted beside
# it: configs/ of their released code (hipdac-lab/ICS21-ClickTrain).  The same networks serve CIFAR-10 and CIFAR-100.
VGG11, VGG13 = [64, 128, 256, 256, 512, 512, 512, 512], [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
VGG_RATIOS = [
    (VGG11, [35, 45, 45, 55, 55, 65, 75], 5.85),
    (VGG11, [45, 55, 55, 65, 65, 75, 85], 7.9),
    (VGG11, [40, 55, 60, 65, 70, 75, 85], 8.4),
    (VGG11, [45, 55, 55, 65, 65, 85, 85], 8.7),
    (VGG11, [35, 45, 65, 75, 80, 80, 85], 10.3),
    (VGG11, [45, 55, 65, 75, 75, 80, 88], 10.3),
    (VGG11, [45, 65, 66, 75, 78, 85, 88], 11.5),
    (VGG13, [16, 26, 35, 35, 36, 45, 46, 46, 46], 4.0),
    (VGG13, [15, 30, 35, 35, 40, 45, 45, 50, 55], 4.3),
    (VGG13, [25, 45, 55, 55, 55, 65, 65, 65, 65], 6.2),
    (VGG13, [35, 55, 65, 65, 65, 75, 75, 75, 75], 8.5),
    (VGG13, [40, 50, 55, 60, 65, 70, 75, 75, 85], 9.0),
]


@pytest.mark.parametrize(("widths", "removed", "noted"), VGG_RATIOS, ids=lambda value: str(value)[:20])
def test_the_ratios_of_the_vggs_are_the_authors(widths: list[int], removed: list[int], noted: float) -> None:
    sizes = [9 * a * b for a, b in zip([3, *widths], widths, strict=False)]
    layers = [Counted(sizes[0]), *(Counted(size, share / 100, FOUR_OF_NINE)
                                   for size, share in zip(sizes[1:], removed, strict=True))]
    assert ratio(layers) == pytest.approx(noted, abs=0.051)  # as they round


def test_one_ratio_is_what_a_hand_computes() -> None:
    """Two layers: 27 weights whole, and of 72 a quarter of the kernels gone and four of nine entries left, 24."""
    assert ratio([Counted(27), Counted(72, 0.25, FOUR_OF_NINE)]) == pytest.approx(99 / 51)


@pytest.mark.parametrize(("removed", "noted"), [((55, 65, 75), 8.57), ((65, 75, 85), 13.85)])
def test_the_ratios_of_the_authors_resnet32_are_theirs(removed: tuple[int, int, int], noted: float) -> None:
    """Basic blocks [3, 4, 5, 3], widths 64 to 512, a 3x3 stem; they noted 8.6 and 13.9."""
    shares = iter([removed[0]] * 6 + [removed[1]] * 10 + [removed[2]] * 14)
    layers, channels = [Counted(9 * 3 * 64)], 64
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 5, 3), strict=True):
        for _ in range(blocks):
            layers += [Counted(9 * channels * width, next(shares) / 100, FOUR_OF_NINE),
                       Counted(9 * width * width, next(shares) / 100, FOUR_OF_NINE)]
            channels = width
    assert round(ratio(layers), 2) == noted


@pytest.mark.parametrize(("stem", "removed", "noted"), [
    (7 * 7 * 3 * 64, [25] * 6 + [35] * 3 + [45] * 4 + [55] * 3, 2.82),  # ImageNet; by their counter, no note of theirs
    (3 * 3 * 3 * 64, [55] * 3 + [65] * 3 + [75] * 2 + [80] * 2 + [85] * 6, 8.35)])
def test_the_ratios_of_resnet50_count_1x1_kernels_and_no_shortcut(stem: int, removed: list[int], noted: float) -> None:
    layers, channels, shares = [Counted(stem)], 64, iter(removed)
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for _ in range(blocks):
            share = next(shares) / 100
            layers += [Counted(channels * width, share), Counted(9 * width * width, share, FOUR_OF_NINE),
                       Counted(4 * width * width, share)]
            channels = 4 * width
    assert round(ratio(layers), 2) == noted


def vgg11_table() -> tuple[nn.Module, dict[str, float], float]:
    model = build(name="vgg11", num_classes=10)
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)][1:]
    return model, {name: share / 100 for name, share in zip(names, [35, 45, 65, 75, 80, 80, 85], strict=True)}, 10.3


def resnet50_table() -> tuple[nn.Module, dict[str, float], float]:
    """The shares by bottleneck, for its 1x1 convolutions as for its 3x3."""
    shares = {1: [25] * 3, 2: [25] * 3 + [35], 3: [35] * 2 + [45] * 4, 4: [55] * 3}
    return build(name="resnet50", num_classes=10), {
        f"layer{stage}.{block}.conv?": share / 100 for stage, row in shares.items() for block, share in enumerate(row)
    }, 2.82


@pytest.mark.parametrize("network", [vgg11_table, resnet50_table])
def test_the_recipe_reaches_the_authors_ratios_from_a_table_of_its_layers(network: Callable[[], object]) -> None:
    torch.manual_seed(0)
    model, table, noted = network()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    example, optimizer = torch.zeros(1, 3, 32, 32), torch.optim.SGD(model.parameters(), 0.1)
    context = Context(model, optimizer, Pruner.for_given_masks(model, optimizer, example), example, 10, F.cross_entropy,
                      nn.CrossEntropyLoss(reduction="none"), 0, 40)
    method = recipe("clicktrain").make(settings_of({"name": "clicktrain", "kernels": table}), context)
    method.after_backward(Place(2, 4, 0, 10))
    assert method.summary()["compression"] == pytest.approx(noted, abs=0.051)


@pytest.mark.parametrize(("kernels", "said"), [
    ({"2": 1.5}, "less than 1"), ({"2": -0.5}, "greater than or equal to 0"), ({"0": 0.5}, "only layers that stay"),
    ({"conv9": 0.5}, "matches no layer")])
def test_a_table_that_makes_no_sense_is_answered(kernels: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(kernels=kernels)


@pytest.mark.parametrize(("progress", "epochs", "first"), [
    (0.55, 100, 55), (0.07, 100, 7), (0.14, 50, 7), (0.56, 25, 14), (0.33, 12, 4), (0.67, 12, 9)])
def test_a_phase_begins_with_the_epoch_that_its_share_names(progress: float, epochs: int, first: int) -> None:
    assert type(made()[2])._epoch(progress, Place(0, epochs, 0, 10)) == first


def made(**keys: object) -> tuple[nn.Module, Pruner, object, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1),
                          nn.Flatten(), nn.Linear(6 * 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    example = torch.zeros(1, 1, 8, 8)
    pruner = Pruner.for_given_masks(model, optimizer, example)
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, optimizer, pruner, example, 3, F.cross_entropy, losses, 0, 40)
    section = {"name": "clicktrain", "choose": 0.25, "harden": 0.5, **keys}
    return model, pruner, recipe("clicktrain").make(settings_of(section), context), optimizer


def selected(**keys: object) -> tuple[nn.Module, Pruner, object]:
    model, pruner, method, _ = made(**keys)
    F.cross_entropy(model(torch.randn(6, 1, 8, 8)), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    method.after_backward(Place(1, 4, 0, 10))
    return model, pruner, method


def test_kernels_are_ranked_over_the_layer_by_the_sum_of_squares_of_w_times_g() -> None:
    model, _, method = selected(kernels=0.3)
    weight = model[2].weight
    importance = (weight * weight.grad).square().sum((2, 3)).flatten()
    removed = ~method.kernels["2"].flatten()
    assert int(removed.sum()) == 6  # ceil(0.3 * 20)
    assert set(removed.nonzero().flatten().tolist()) == set(importance.argsort()[:6].tolist())


def test_each_kernel_has_the_pattern_with_most_importance_whether_or_not_it_is_removed() -> None:
    model, _, method = selected(kernels=0.5, library=8)
    weight = model[2].weight
    importance = (weight * weight.grad).square().flatten(2).detach()
    for out in range(5):
        for channel in range(4):
            sums = [float(importance[out, channel, list(patterns.entries(rank))].sum()) for rank in patterns.FIXED[8]]
            kept = method.patterns["2"][out, channel].flatten().nonzero().flatten().tolist()
            assert kept == list(patterns.entries(patterns.FIXED[8][int(np.argmax(sums))]))


def test_a_generated_library_holds_what_most_kernels_of_all_layers_would_choose() -> None:
    model, _, method = selected(library=3, generated=True)
    weight = model[2].weight
    importance = (weight * weight.grad).square().detach()
    matrix = importance.reshape(5, -1).T.double().numpy()
    assert method.library == patterns.most_chosen(matrix, 3)


def test_only_selected_layers_take_part_and_1x1_ones_when_asked() -> None:
    assert set(made()[2].layers) == {"2"}  # the stem, 1x1 convolutions and linear layers stay
    assert set(made(one_by_one=0.5)[2].layers) == {"2", "4"}
    assert set(made(kernels={"4": 0.5, "2": 0.2})[2].layers) == {"2", "4"}
    _, _, method = selected(one_by_one=0.5)
    assert int(method.masks["4"].sum()) == 15


def test_the_lasso_pulls_only_at_what_will_be_removed() -> None:
    model, _, method = selected(group_lasso=0.1)
    model.zero_grad()
    penalty = method.penalty(Place(1, 4, 1, 10))
    kernels, outside = model[2].weight.detach().flatten(2), ~method.patterns["2"].flatten(2)
    by_hand = sum(float(((kernels[o, i] * outside[o, i]).square().sum() + 1e-8).sqrt())
                  + float((kernels[o, i].square().sum() * (~method.kernels["2"][o, i, 0]) + 1e-8).sqrt())
                  for o in range(5) for i in range(4))
    assert float(penalty.detach()) == pytest.approx(0.1 * by_hand, rel=1e-5)
    penalty.backward()
    gradient = model[2].weight.grad
    assert not gradient[method.masks["2"]].any()
    assert gradient[~method.masks["2"]].any()


def test_masks_become_hard_at_the_start_of_an_epoch_and_examples_are_mixed_from_then_on() -> None:
    model, pruner, method = selected(kernels=0.5)
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    plain = method.prepare(x, y, Place(1, 4, 1, 10))
    assert plain.other is None and not pruner.masks
    mixed = method.prepare(x, y, Place(2, 4, 0, 10))
    assert pruner.masks.keys() == {"2"} and not model[2].weight[~pruner.masks["2"]].any()
    torch.testing.assert_close(method.loss(model(mixed.x), mixed), mixed.share * F.cross_entropy(model(mixed.x), y)
                               + (1 - mixed.share) * F.cross_entropy(model(mixed.x), mixed.other))
    assert isinstance(mixed, Batch) and method.penalty(Place(2, 4, 1, 10)) is None


@pytest.mark.parametrize(("keys", "said"), [
    ({"choose": 0.6}, "after choose"), ({"library": 5}, "generated = true"),
    ({"kernels": {"9": 0.5}}, "matches no layer"),
    ({"kernels": 1.0}, "less than 1"), ({"skip": ["2"]}, "no convolution to prune"),
])
def test_a_mistake_is_answered(keys: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(**keys)


def test_the_shipped_configuration_runs_and_its_network_is_what_it_says(tmp_path: Path) -> None:
    settings = ["data.limit=600", "data.test_limit=200", "train.epochs=4"]
    result = run_training(load_config("clicktrain", settings), tmp_path / "run")
    summary = result.table["recipe"]
    assert summary["library"] == [patterns.drawn(rank) for rank in patterns.FIXED[4]]
    trace = Trace.load(tmp_path / "run" / "trace.safetensors")
    pruned = [layer for layer in trace.layers if layer.structure == "kernel + pattern 4"]
    assert len(pruned) == 6
    for layer in pruned:
        assert conforms(layer.weight_matrix()[0], parse("kernel + pattern 4"), 9)
        # half of the kernels, 4 of 9 entries of each
        assert layer.weight_nnz == layer.operation.in_channels * layer.operation.out_channels // 2 * 4
    assert result.machines[0]["speedup"] > 1.5
    phases = [json.loads(line).get("phase") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert phases == ["dense", "soft", "soft", "hard"] or phases == ["dense", "dense", "soft", "hard"]


def test_resume_changes_no_bit(
    tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    settings = ["data.limit=400", "data.test_limit=100", "train.epochs=4", "train.checkpoint_every=3",
                "output.cost_per_epoch=false"]
    whole = run_training(load_config("clicktrain", settings), tmp_path / "whole")
    for checkpoints in (4, 8):  # in the soft phase, in the hard one
        part = tmp_path / f"part{checkpoints}"
        train_until(load_config("clicktrain", settings), part, checkpoints)
        run_training(None, part, resume=True)
        assert_same_run(tmp_path / "whole", part)
    assert whole.table["recipe"]["compression"] > 4
