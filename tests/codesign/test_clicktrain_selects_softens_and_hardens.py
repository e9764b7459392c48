"""ClickTrain: its published ratios, its selection by (w g)^2, the lasso on what goes, and the phases of a run."""

import json
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
from simulator import patterns
from simulator.errors import InputError
from simulator.structure import conforms, parse
from simulator.trace import Trace

FOUR_OF_NINE = 4 / 9


def test_the_ratio_of_vgg11_is_the_papers() -> None:
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    removed = [None, 0.35, 0.45, 0.65, 0.75, 0.80, 0.80, 0.85]  # arXiv 2011.10170, released configuration: 10.3x
    layers = [Counted(9 * a * b) if r is None else Counted(9 * a * b, r, FOUR_OF_NINE)
              for a, b, r in zip(widths[:-1], widths[1:], removed, strict=True)]
    assert round(ratio(layers), 2) == 10.30


def test_the_ratio_of_the_authors_resnet_is_the_papers() -> None:
    """Their "ResNet-32": basic blocks [3, 4, 5, 3], widths 64 to 512, a 3x3 stem; 8.57x."""
    removed = iter([0.55] * 6 + [0.65] * 10 + [0.75] * 14)
    layers, channels = [Counted(9 * 3 * 64)], 64
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 5, 3), strict=True):
        for _ in range(blocks):
            layers += [Counted(9 * channels * width, next(removed), FOUR_OF_NINE),
                       Counted(9 * width * width, next(removed), FOUR_OF_NINE)]
            channels = width
    assert round(ratio(layers), 2) == 8.57


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


def test_resume_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign import train

    settings = ["data.limit=400", "data.test_limit=100", "train.epochs=4", "train.checkpoint_every=3",
                "output.cost_per_epoch=false"]
    whole = run_training(load_config("clicktrain", settings), tmp_path / "whole")
    saves, original = [], train._save

    def stop(*given: object) -> None:
        saves.append(given)
        original(*given)
        if len(saves) == stop_at:
            raise KeyboardInterrupt

    for stop_at in (4, 8):  # in the soft phase, in the hard one
        monkeypatch.setattr(train, "_save", stop)
        saves.clear()
        with pytest.raises(KeyboardInterrupt):
            run_training(load_config("clicktrain", settings), tmp_path / f"part{stop_at}")
        monkeypatch.setattr(train, "_save", original)
        run_training(None, tmp_path / f"part{stop_at}", resume=True)
        left, right = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", f"part{stop_at}"))
        assert left.read_bytes() == right.read_bytes()
    assert whole.table["recipe"]["compression"] > 4
