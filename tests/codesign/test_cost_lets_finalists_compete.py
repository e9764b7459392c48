"""Finalists from several objectives and uniform networks: all within the target, and the judge's word is final."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codesign import HardwareCost
from codesign.judge import make_judge
from codesign.layers import prunable
from codesign.trace import trace_model
from simulator import load_machine, simulate

IMAGE = (1, 1, 8, 8)


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


def saliency_of(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: (layer.weight.detach() * torch.randn(layer.weight.shape, generator=generator)).square()
            for name, layer in prunable(model).items()}


def test_every_finalist_meets_the_target_and_the_judges_favourite_wins() -> None:
    model, seen = make(), []

    def judge(judged: nn.Module, masks: Mapping[str, Tensor]) -> float:
        assert judged is model
        weights = {name: mask for name, mask in masks.items() if name in prunable(model)}
        report = simulate(trace_model(model, torch.zeros(IMAGE), weights), load_machine("nm_array"))
        seen.append((report.cycles / report.dense.cycles, dict(masks)))
        return -float(len(seen))  # ever better: the last one wins

    cost = HardwareCost("nm_array", target_latency=0.5, judge=judge, finalists=5)
    masks, _ = cost.select(model, torch.zeros(IMAGE), saliency_of(model), frozenset({"0", "9"}))
    assert 3 <= len(seen) <= 5
    assert all(share <= 0.5 for share, _ in seen)
    assert masks.keys() == seen[-1][1].keys()
    assert all(torch.equal(masks[name], seen[-1][1][name]) for name in masks)
    row = cost.log[-1]
    assert row["finalists"][0]["label"] == "fisher_log"
    assert row["finalists"][1]["label"].startswith("uniform ")  # so that two finalists already include a uniform one
    assert row["chosen"]["label"] == row["finalists"][-1]["label"]
    assert [one["judged"] for one in row["finalists"]] == [-float(n + 1) for n in range(len(seen))]


def test_where_the_judge_sees_no_difference_the_cheaper_network_wins() -> None:
    verdicts = iter([1.005, 1.0, 1.019, 1.5, 1.5])
    cost = HardwareCost("nm_array", target_latency=0.5, judge=lambda *_: next(verdicts), finalists=5)
    cost.select(make(), torch.zeros(IMAGE), saliency_of(make()), frozenset({"0", "9"}))
    row = cost.log[-1]
    level = [one for one in row["finalists"] if one["judged"] < 1.02]
    assert len(level) == 3
    assert row["chosen"]["cycles"] == min(one["cycles"] for one in level)
    assert len({one["cycles"] for one in level}) > 1


def test_without_a_judge_the_first_objective_decides() -> None:
    labels = []
    for objective in ("fisher_log", "taylor", "magnitude_squared"):
        cost = HardwareCost("nm_array", target_latency=0.5, objective=objective)
        cost.select(make(), torch.zeros(IMAGE), saliency_of(make()), frozenset({"0", "9"}))
        labels.append([one["label"] for one in cost.log[-1]["finalists"]])
    assert labels == [["fisher_log"], ["taylor"], ["magnitude_squared"]]


def batch() -> tuple[Tensor, Tensor]:
    """Images whose class is where their bright column is."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(0, 3, (96,), generator=generator)
    x = 0.3 * torch.randn(96, *IMAGE[1:], generator=generator)
    x[torch.arange(96), 0, :, 2 * y] += 2.0
    return x, y


def test_a_judge_trains_a_copy_prefers_the_network_that_can_learn_and_leaves_no_trace() -> None:
    model = make()
    judge = make_judge(lambda: [batch()] * 60, lambda: [batch()], lr=0.1, steps=60)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    severed = {"5": torch.zeros(32, 32, 3, 3, dtype=torch.bool)}  # nothing passes: the best guess is the prior
    free, cut = judge(model, {}), judge(model, severed)
    assert free < 0.8 * cut
    assert cut > 0.9
    assert judge(model, {}) == free
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_masks_hold_while_the_judge_trains() -> None:
    """With the classifier's weights masked away only its bias can learn, however long the training."""
    model = make()
    judge = make_judge(lambda: [batch()] * 40, lambda: [batch()], lr=0.1, steps=40)
    masked = judge(model, {"9": torch.zeros(3, 32, dtype=torch.bool)})
    prior = torch.bincount(batch()[1], minlength=3) / 96
    assert masked > float(-(prior * prior.log()).sum()) - 1e-3


def test_a_judge_with_more_steps_than_batches_goes_round() -> None:
    """Three batches, thirty steps: the same as thirty batches in that order, learning rate down to the end."""
    model = make()
    three = [tuple(part[at::3] for part in batch()) for at in range(3)]
    around = make_judge(lambda: three, lambda: [batch()], lr=0.1, steps=30)
    along = make_judge(lambda: three * 10, lambda: [batch()], lr=0.1, steps=30)
    short = make_judge(lambda: three, lambda: [batch()], lr=0.1, steps=3)
    assert around(model, {}) == along(model, {}) != short(model, {})
