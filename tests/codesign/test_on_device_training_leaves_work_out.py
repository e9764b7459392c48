"""On-device training: what the filter drops, how the threshold follows, what it all costs, and that it resumes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.config import check_config, load_config
from codesign.error_maps import ErrorMapPruning
from codesign.instance_filter import LEAST, ClassifyingFilter, Threshold, filter_loss, predict
from codesign.method import Batch, Context, Place
from codesign.on_device_cost import Part, iteration_parts
from codesign.recipes import recipe, settings_of
from codesign.recipes.on_device import OnDevice
from codesign.train import run_training
from simulator import load_machine
from simulator.errors import InputError

PLACE = Place(0, 1, 0, 10)
IMAGE = torch.zeros(1, 1, 28, 28)


# --- the parts -------------------------------------------------------------------------------------------------


def test_the_threshold_rises_while_enough_are_high_and_falls_while_they_are_not() -> None:
    threshold = Threshold(ratio=0.25, value=1.0, up=2.0, down=0.5, window=2)
    threshold.update(1, 4)  # 1/4 of the window: enough
    assert threshold.value == 2.0
    threshold.update(0, 4)  # 1/8
    assert threshold.value == 1.0
    threshold.update(2, 4)  # 2/8: the first batch has left the window
    assert threshold.value == 2.0
    still = Threshold(ratio=0.25, value=1.0, adaptive=False)
    still.update(4, 4)
    assert still.value == 1.0
    low = Threshold(ratio=0.25, value=3e-6, down=0.5)
    for _ in range(5):
        low.update(0, 4)
    assert low.value == LEAST  # and not 1e-7, which a loss in 32 bits cannot have
    early = Threshold(ratio=0.25, value=0.5, down=0.5, window=2, least=0.1)
    for _ in range(5):
        early.update(0, 4)
    assert early.value == 0.1
    early.update(4, 4)
    assert early.value > 0.1  # it rises again


def test_examples_are_high_unsure_or_dropped_by_the_filters_word_and_its_entropy() -> None:
    # p(high) = 0.5 + something, 0.4, 0.1: entropies of the last two are 0.673 and 0.325 nats
    share = torch.tensor([0.6, 0.4, 0.1])
    said = predict(torch.stack([share, 1 - share], 1).log(), entropy_threshold=0.5)
    assert said.high.tolist() == [True, False, False]
    assert said.unsure.tolist() == [False, True, False]


def test_a_batch_is_never_dropped_whole() -> None:
    """Of 32 examples that are all surely low, the two least sure run forward; else nothing would ever correct it."""
    share = torch.linspace(0.001, 0.05, 32)
    said = predict(torch.stack([share, 1 - share], 1).log(), entropy_threshold=0.5)
    assert said.unsure.nonzero().flatten().tolist() == [30, 31]
    assert not said.high.any()


def test_the_filters_loss_weighs_high_by_one_over_the_ratio() -> None:
    """w_H = 1 / R, w_L = 1 / (1 - R), normalised over the batch: with R = 0.2, one high and two low."""
    logits = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]])
    is_high = torch.tensor([True, False, False])
    each = -torch.log_softmax(logits, 1)[[0, 1, 2], [0, 1, 1]]
    by_hand = (5.0 * each[0] + 1.25 * each[1] + 1.25 * each[2]) / 7.5
    torch.testing.assert_close(filter_loss(logits, is_high, 0.2), by_hand)
    half = (5.0**0.5 * each[0] + 1.25**0.5 * (each[1] + each[2])) / (5.0**0.5 + 2 * 1.25**0.5)
    torch.testing.assert_close(filter_loss(logits, is_high, 0.2, weighting=0.5), half)
    torch.testing.assert_close(filter_loss(logits, is_high, 0.2, weighting=0.0), each.mean())


def test_a_classifying_filter_judges_by_how_sure_it_is_not_by_which_class() -> None:
    torch.manual_seed(0)
    small = ClassifyingFilter(nn.Identity(), 4)
    scores = torch.tensor([[5.0, 1.0, 0.0, -3.0], [-3.0, 0.0, 5.0, 1.0], [105.0, 101.0, 100.0, 97.0]])
    said = small(scores)
    torch.testing.assert_close(said[1], said[0])  # the same scores in another order
    torch.testing.assert_close(said[2], said[0], rtol=1e-4, atol=1e-5)  # the same shares
    assert not torch.allclose(small(torch.zeros(1, 4)), said[:1])
    sure = small(torch.tensor([[15.0, 0.0, 0.0, 0.0], [20.0, 0.0, 0.0, 0.0]]))
    assert not torch.allclose(sure[0], sure[1])  # surer still, as it gets in a long training
    scores.requires_grad_()
    small(scores).sum().backward()
    assert scores.grad is None  # the classes are learned from the labels alone


def test_a_classifying_filter_finds_ambiguous_images_that_it_was_never_told_of() -> None:
    """Easy: one of four classes alone.  High: two classes at once, of pairs other than those it learned from."""
    torch.manual_seed(0)
    method = method_of(classes=1.0)
    method.filter = ClassifyingFilter(nn.Linear(10, 10), 10)
    method.optimizer = torch.optim.SGD(method.filter.parameters(), 0.1)
    eye = torch.eye(10)
    pairs = [(a, b) for a in range(10) for b in range(a + 1, 10)]
    told, held = pairs[::2], pairs[1::2]

    def both(chosen: list[tuple[int, int]]) -> torch.Tensor:
        return 3 * torch.stack([eye[a] + eye[b] for a, b in chosen])

    x = torch.cat([6 * eye.repeat(3, 1), both(told)])
    y = torch.cat([torch.arange(10).repeat(3), torch.tensor([pair[n % 2] for n, pair in enumerate(told)])])
    is_high = torch.arange(len(x)) >= 30
    for _ in range(400):
        method._teach(x, y, is_high)
    with torch.no_grad():
        assert predict(method.filter(both(held)), 0.0).high.float().mean() > 0.9
        assert not predict(method.filter(6 * eye), 0.0).high.any()


def test_one_steep_gradient_does_not_end_a_filter() -> None:
    """Two images a thousand times as bright as they should be: every weight moves by the learning rate at most."""
    method = method_of(filter_lr=0.01)
    assert method.filter is not None
    before = nn.utils.parameters_to_vector(method.filter.parameters()).detach().clone()
    x = 1000 * torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    method._teach(x, torch.tensor([0, 1]), torch.tensor([True, False]))
    moved = nn.utils.parameters_to_vector(method.filter.parameters()).detach() - before
    torch.testing.assert_close(moved.abs().max(), torch.tensor(0.01), rtol=1e-3, atol=0.0)


# --- the method ------------------------------------------------------------------------------------------------


def method_of(name: str = "on_device", model: nn.Module | None = None, **settings: object) -> OnDevice:
    from models.nets import build

    torch.manual_seed(0)
    model = model if model is not None else build("lenet_431k", in_channels=1, num_classes=10)
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, torch.optim.SGD(model.parameters(), 0.01), None, IMAGE, 10, F.cross_entropy, losses, 0, 10)
    method: OnDevice = recipe(name).make(settings_of({"name": name, **settings}), context)
    return method


class Says(nn.Module):
    """A filter that reads its answer off the first pixel: its share of high."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = x[:, 0, 0, 0] * self.scale
        return torch.stack([share, 1 - share], 1).log()


def step(shares: list[float], **settings: object) -> tuple[OnDevice, Batch | None, int]:
    """One step of a method whose filter gives these shares; its batch and its MACs."""
    method = method_of(**settings)
    method.filter, method.filter_macs = Says(), 7
    method.optimizer = torch.optim.SGD(method.filter.parameters(), 0.1)
    x = torch.randn(len(shares), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = torch.tensor(shares)
    y = torch.arange(len(shares)) % 10
    batch = method.prepare(x, y, PLACE)
    if batch is not None:
        method.loss(method.context.model(batch.x), batch).backward()
    method.after_step(PLACE)
    return method, batch, method.macs(0, len(x), batch)


def test_a_step_costs_the_filter_the_forward_passes_and_the_kept_backward() -> None:
    """C = m F_e + 3 (|P| + |U|) F_e + |P| (F + F_back) + |U| F; of four images two are high, one is unsure."""
    method, batch, macs = step([0.9, 0.8, 0.45, 0.1], entropy=0.6, kept=0.5)
    conv1, conv2, fc = 288_000, 1_600_000, 405_000
    forward, backward = conv1 + conv2 + fc, conv1 // 2 + 2 * conv2 // 2 + 2 * fc
    assert batch is not None and len(batch.x) == 2
    assert (method.forward_macs, method.backward_macs) == (forward, backward)
    assert macs == 4 * 7 + 3 * 3 * 7 + 2 * (forward + backward) + forward
    assert method.row()["share_unsure"] == 0.25


def test_a_classifying_filter_is_counted_with_its_two_layers() -> None:
    """6 and 16 maps of 3x3, ten classes, and 10 x 32 x 2 on top: 9.6 % of the large network."""
    assert method_of(classes=1.0).filter_macs == 28 * 28 * 9 * 6 + 14 * 14 * 9 * 6 * 16 + 784 * 10 + 10 * 32 + 32 * 2


def test_only_examples_that_the_filter_calls_high_are_trained_on() -> None:
    _, batch, _ = step([0.1, 0.9, 0.1, 0.7], entropy=0.6)
    assert batch is not None
    assert batch.y.tolist() == [1, 3]


def test_averaged_over_the_batch_the_step_is_that_of_all_examples_whose_loss_counts() -> None:
    shares = [0.9, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1]
    passed, whole = (step(shares, entropy=0.6, average=average)[0].context.model.conv1.weight.grad
                     for average in ("passed", "batch"))
    torch.testing.assert_close(whole, passed * 2 / 8)


def test_a_batch_of_easy_examples_moves_no_weight() -> None:
    method, batch, macs = step([0.01] * 16, entropy=0.6)
    assert batch is None
    assert all(parameter.grad is None for parameter in method.context.model.parameters())
    assert macs == 16 * 7 + 1 * 3 * 7 + 1 * method.forward_macs  # one of sixteen is probed


def test_without_a_filter_the_step_is_ordinary_but_for_its_backward_pass() -> None:
    method = method_of(filter="none", kept=0.5)
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    batch = method.prepare(x, y, PLACE)
    assert batch is not None and batch.x is x
    assert method.macs(0, 8, batch) == 8 * (method.forward_macs + method.backward_macs)


# --- what it is compared with ------------------------------------------------------------------------------------


def test_hard_example_mining_takes_the_highest_losses_and_pays_for_finding_them() -> None:
    method = method_of("ohem", ratio=0.25)
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    batch = method.prepare(x, y, PLACE)
    with torch.no_grad():
        losses = F.cross_entropy(method.context.model.eval()(x), y, reduction="none")
    assert batch is not None
    assert set(batch.y.tolist()) == set(losses.topk(2).indices.tolist())
    assert method.macs(1000, 8, batch) == 8 * 2_293_000 + 2 * 1000


def test_batches_are_dropped_at_the_chance_asked_for_and_the_same_after_a_resume() -> None:
    x, y = torch.zeros(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)

    def taken(drop: float, first: int = 0) -> list[bool]:
        method = method_of("batch_dropping", drop=drop)
        return [method.prepare(x, y, Place(0, 1, batch, 1000)) is not None for batch in range(first, 400)]

    kept = taken(0.5)
    assert 150 < sum(kept) < 250
    assert taken(0.5, 200) == kept[200:]
    assert all(taken(0.0))


def test_a_block_that_is_skipped_is_its_shortcut_and_costs_nothing() -> None:
    from models.nets import build

    model = build("resnet8", in_channels=1, num_classes=10, widths=[4, 8, 8])
    method = method_of("stochastic_depth", model, last=0.4)
    assert list(method.chances.values()) == pytest.approx([0.8, 0.6, 0.4])
    x, y = torch.randn(4, 1, 28, 28), torch.arange(4)
    whole = sum(layer.forward + layer.backward for layer in method.layers)
    ran, seen = [], set()
    model.train()
    for number in range(60):
        batch = method.prepare(x, y, Place(0, 1, number, 60))
        ran.append(method.macs(0, 1, batch) / whole)
        if "layer1.0" in method.skipped and "layer1.0" not in seen:
            inner = torch.relu(torch.randn(2, 4, 5, 5))
            assert torch.equal(model.layer1[0](inner), inner)  # its shortcut is the identity
        seen |= method.skipped
    assert seen == {"layer1.0", "layer2.0", "layer3.0"}
    assert 0.4 < sum(ran) / len(ran) < 0.9
    # A surviving branch is divided by its chance, so that evaluation is the plain network.
    method.skipped = frozenset()
    block, inner = model.layer1[0].eval(), torch.relu(torch.randn(2, 4, 5, 5))
    plain = block(inner)
    torch.testing.assert_close(plain, type(block).forward(block, inner))


def test_a_network_without_residual_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="no residual blocks"):
        method_of("stochastic_depth")


def test_a_threshold_that_would_begin_below_its_least_is_refused() -> None:
    with pytest.raises(InputError, match=r"least = 0\.6"):
        method_of(least=0.6)  # the first threshold is 0.5
    assert method_of(least=0.5).threshold.least == 0.5


# --- whole runs ----------------------------------------------------------------------------------------------------

SHORT = ["data.limit=600", "data.test_limit=100", "train.epochs=3", "output.cost_per_epoch=false",
         "train.checkpoint_every=3"]


def test_the_shipped_configuration_saves_computation(tmp_path: Path) -> None:
    run = run_training(load_config("on_device", SHORT), tmp_path / "run")
    assert run.table["training"]["macs"] < 0.9 * run.table["training"]["dense_macs"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(0.0 <= row["share_high"] + row["share_unsure"] <= 1.0 for row in rows)


@pytest.mark.parametrize("section", [
    {"name": "ohem", "ratio": 0.3}, {"name": "batch_dropping"}, {"name": "on_device", "filter": "none", "kept": 0.4},
    {"name": "on_device", "bits": 8, "adaptive": False, "weighting": 1.0, "kept": 0.5}])
def test_baselines_and_ablations_train(tmp_path: Path, section: dict[str, object]) -> None:
    result = run_training(check_config({
        "name": "part", "data": {"limit": 300, "test_limit": 100, "batch_size": 20}, "model": {"name": "lenet_431k"},
        "train": {"epochs": 1, "optimizer": "sgd", "lr": 0.01}, "recipe": section,
        "output": {"machines": ["systolic_ws"], "cost_per_epoch": False}}), tmp_path / "run")
    training = result.table["training"]
    assert 0 < training["macs"] < training["dense_macs"]


def test_joules_of_an_iteration_are_those_of_its_parts() -> None:
    """All images high and no error map pruned is an ordinary iteration; a pruned one costs less."""
    from models.nets import build

    torch.manual_seed(0)
    model, small = (build(name, in_channels=1, num_classes=count, widths=widths)
                    for name, count, widths in (("lenet_431k", 10, [4, 8, 16]), ("lenet_filter", 2, [2, 3])))
    x, y, machine = torch.randn(6, 1, 28, 28), torch.arange(6), load_machine("systolic_ws")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def parts(kept: float, high: int, unsure: int) -> dict[str, Part]:
        return {part.name: part for part in
                iteration_parts(model, small, ErrorMapPruning(kept), x, y, high, unsure, machine)}

    whole = parts(1.0, 6, 0)
    assert whole["high: trained"].energy_j == whole["dense"].energy_j
    assert "unsure: forward" not in whole
    less = parts(0.5, 3, 2)
    assert less["dense"] == whole["dense"]
    assert less["high: trained"].energy_j < parts(1.0, 3, 2)["high: trained"].energy_j < whole["dense"].energy_j
    assert less["unsure: forward"].cycles < less["high: trained"].cycles
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
