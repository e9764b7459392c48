"""Lottery tickets: rounds within one run, survivors at their early values, zeros elsewhere, a fresh optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.config import TrainConfig, check_config
from codesign.method import Context, Method, Place
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.recipes.lottery_ticket import Timeline
from codesign.step import train_step
from codesign.train import run_training
from simulator.errors import InputError

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4))


def method_of(model: nn.Module, steps: int, **keys: object) -> Method:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruner = Pruner.for_given_masks(model, optimizer, X)
    context = Context(model, optimizer, pruner, X, 4, F.cross_entropy, nn.CrossEntropyLoss(reduction="none"), 0, steps)
    return recipe("lottery_ticket").make(settings_of({"name": "lottery_ticket", "skip": [], **keys}), context)


def states(method: Method, steps: int) -> list[dict[str, Tensor]]:
    """All parameters and buffers, before the first step and after each."""
    model, optimizer = method.context.model, method.context.optimizer
    model.train()
    seen = []
    for step in range(steps + 1):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        if step < steps:
            train_step(model, optimizer, method, X, Y, Place(0, 1, step, steps))
    return seen


def test_rounds_by_hand() -> None:
    """22 steps, pruned twice, back to step 2: T = (22 + 2 * 2) // 3 = 8.

    run     0 .. 7 | 8 .. 13 | 14 .. 21
    round   0        1         2
    within  0 .. 7 | 2 .. 7  | 2 .. 9     of 8, 8 and 8 + 2 steps: the last round takes the two that are over
    """
    timeline = Timeline(22, 2, 2)
    at = [timeline.at(step) for step in range(22)]
    assert at[:8] == [(0, i, 8) for i in range(8)]
    assert at[8:14] == [(1, i, 8) for i in range(2, 8)]
    assert at[14:] == [(2, i, 10) for i in range(2, 10)]
    assert [step for step in range(22) if timeline.prunes_after(step)] == [7, 13]
    assert [step for step in range(4) if Timeline(4, 3, 0).prunes_after(step)] == [0, 1, 2]


@pytest.mark.parametrize(("rewind_to", "ends"), [(2, (8, 14)), (0, (7, 14))])
def test_survivors_have_their_early_values_and_the_rest_is_zero(rewind_to: int, ends: tuple[int, int]) -> None:
    method = method_of(network(), 22, rounds=2, rewind_to=rewind_to, sparsity=0.75, scope="local")
    seen = states(method, 22)
    early, trained, first, second = seen[rewind_to], states_before(22, rewind_to, ends[0]), seen[ends[0]], seen[ends[1]]
    for layer in ("0", "3"):
        name = f"{layer}.weight"
        count = early[name].numel()
        kept = first[name] != 0
        assert int(kept.sum()) == count // 2  # the same share of what is left each time: a half, then a quarter
        assert trained[name].abs()[kept].min() >= trained[name].abs()[~kept].max()
        assert torch.equal(first[name], early[name] * kept)
        again = second[name] != 0
        assert int(again.sum()) == count // 4 and not bool((again & ~kept).any())
        assert torch.equal(second[name], early[name] * again)
        assert torch.equal(seen[-1][name] != 0, again)  # trained on, and nothing has come back
        assert not torch.equal(seen[-1][name][again], early[name][again])
    for name in ("0.bias", "1.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(first[name], early[name]) and torch.equal(second[name], early[name]), name
    assert method.summary()["pruned"] == [{"step": ends[0], "weight_sparsity": 0.5},
                                          {"step": ends[1], "weight_sparsity": 0.75}]


def states_before(steps: int, rewind_to: int, end: int) -> dict[str, Tensor]:
    """What the first round had trained: the same network under a rate of the same round, never pruned."""
    method = method_of(network(), steps, rounds=2, rewind_to=rewind_to, sparsity=0.75)
    method._prune_and_rewind_ = lambda step: None  # type: ignore[attr-defined]
    return states(method, steps)[end]


def test_each_round_begins_without_momentum_and_with_the_rate_of_the_step_it_goes_back_to() -> None:
    method = method_of(network(), 22, rounds=2, rewind_to=2, schedule="cosine")
    model, optimizer, rates = method.context.model, method.context.optimizer, []
    for step in range(22):
        train_step(model, optimizer, method, X, Y, Place(0, 1, step, 22))
        rates.append(optimizer.param_groups[0]["lr"])
        assert len(optimizer.state) == (0 if step in (7, 13) else 6)
    assert rates[8:14] == rates[2:8] and rates[0] == 0.1 and rates[7] == pytest.approx(0.0)
    assert len(set(rates[14:])) == 8 and rates[-1] == pytest.approx(0.0)


def test_a_global_ranking_takes_from_where_weights_are_small() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(0.01)
    method = method_of(model, 4, rounds=1, sparsity=0.5, schedule="constant")
    method.context.optimizer.param_groups[0]["lr"] = 0.0
    method.rates = method.rates.model_copy(update={"lr": 1e-9})
    states(method, 4)
    masks = method.context.pruner.masks
    assert int((~masks["0"]).sum()) == 50 and "3" not in masks  # half of 60 + 40, all from the small layer


def test_a_count_per_group_comes_in_steps() -> None:
    method = method_of(network(), 9, rounds=2, structure="1:3")
    seen = states(method, 9)
    assert [int((seen[step]["0.weight"] != 0).sum()) for step in (3, 6)] == [40, 20]


def config() -> TrainConfig:
    """Six batches an epoch, T = (12 + 2) // 3 = 4: pruned after 4 and 7 of 12 steps, in the middle of epochs."""
    return check_config({
        "name": "ticket", "data": {"limit": 130, "test_limit": 20, "batch_size": 20, "validation": 0.1},
        "model": {"name": "lenet5"},
        "train": {"epochs": 2, "lr": 0.02, "checkpoint_every": 1}, "output": {"activations": "none"},
        "recipe": {"name": "lottery_ticket", "rounds": 2, "rewind_to": 1}})  # fmt: skip


@pytest.mark.parametrize("stop_after", [4, 5])
def test_a_run_that_stops_where_it_was_rewound_goes_on_bit_for_bit(
    tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None], stop_after: int
) -> None:
    whole = run_training(config(), tmp_path / "whole", device="cpu")
    steps = [row["step"] for row in whole.table["recipe"]["pruned"]]
    assert steps == [4, 7] and whole.table["weight_sparsity"] > 0.8
    assert whole.table["training"]["macs"] < whole.table["training"]["dense_macs"]
    train_until(config(), tmp_path / "part", stop_after)
    part = run_training(None, tmp_path / "part", resume=True, device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "part")
    for key in ("macs", "dense_macs"):
        assert part.table["training"][key] == whole.table["training"][key]


def test_what_makes_no_sense_is_answered() -> None:
    with pytest.raises(InputError, match=r"3 rounds and rewind_to = 9 in 9 optimizer steps.*more than 12 steps"):
        method_of(network(), 9, rewind_to=9)
    with pytest.raises(InputError, match="3 rounds and rewind_to = 0 in 3 optimizer steps"):
        method_of(network(), 3)
    with pytest.raises(InputError, match="structure 'channel'"):
        method_of(network(), 9, structure="channel")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.5, "skip": []}, optimizer, X, total_steps=9)
    context = Context(model, optimizer, pruner, X, 4, F.cross_entropy, F.cross_entropy, 0, 9)
    with pytest.raises(InputError, match=r"\[prune\] or \[hardware\] beside a recipe that makes the masks"):
        recipe("lottery_ticket").make(settings_of({"name": "lottery_ticket"}), context)
