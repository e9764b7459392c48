"""Soft movement, DRIVE and LCS: which weights stay by what training does to them, by hand and against autograd."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.method import Batch, Method, Place
from simulator.errors import InputError
from simulator.structure import units_kept

MethodOf = Callable[..., Method]


def step(method: Method, place: Place, gradients: dict[str, Tensor]) -> None:
    """One step of a model whose layers have these gradients."""
    for name, gradient in gradients.items():
        method.context.model.get_submodule(name).weight.grad = gradient.clone()
    method.after_backward(place)
    method.context.optimizer.step()
    method.after_step(place)


# --- soft movement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "tall"), [("1x1", 1), ("2x1", 2)])
def test_scores_and_weights_move_as_autograd_says_through_a_mask_that_is_its_own_slope(
    method_of: MethodOf, block: str, tall: int
) -> None:
    """Against W' = W (M + S - S.detach()), whose value is masked and whose slope in S is that of S itself."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    method = method_of("soft_movement", model, (4,), lr=0.5, block=block, tau=0.45, penalty=3.0, start=0.0, full=1.0,
                       score_lr=0.3, skip=[])
    weight = model.weight.detach().clone().requires_grad_()
    scores = torch.zeros(4 // tall, 3, requires_grad=True)
    adam = torch.optim.Adam([scores], 0.3)
    x, y, masked = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0]), set()
    for number in range(6):
        wide = scores.repeat_interleave(tall, 0).T  # [inputs, outputs], as structures see a weight
        mask = torch.sigmoid(wide.detach()) > 0.45
        masked.add(int((~mask).sum()))
        torch.testing.assert_close(model.weight.detach(), (weight * mask).detach())
        shown = weight * (mask + wide - wide.detach())
        rise = 1.0 - (1.0 - number / 6) ** 3
        (F.cross_entropy(x @ shown.T, y) + 3.0 * rise * torch.sigmoid(scores).mean()).backward()
        F.cross_entropy(model(x), y).backward()
        step(method, Place(0, 1, number, 6), {})
        adam.step()
        with torch.no_grad():
            weight -= 0.5 * weight.grad
        for left in (weight, scores, model.weight):
            left.grad = None
    torch.testing.assert_close(method.scores[""], scores.detach())
    torch.testing.assert_close(method.behind[""], weight.detach())
    assert len(masked) > 1


def test_what_shrinks_goes_however_large_it_is_and_comes_back_when_it_grows(method_of: MethodOf) -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.1]]))
    method = method_of("soft_movement", model, (2,), tau=0.4, penalty=0.0, score_lr=1.0, skip=[])
    # -dL/dW' W is -3 and 0.1: Adam's first step is 1 up or down; sigmoid(-1) = 0.27, sigmoid(1) = 0.73.
    step(method, Place(0, 1, 0, 4), {"": torch.tensor([[1.0, -1.0]])})
    torch.testing.assert_close(method.scores[""].flatten(), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, 0.2]]))
    # Now it would grow: dL/dW' W = -100 * 2.9, against the 3 that Adam remembers.  The weight itself rests meanwhile.
    step(method, Place(0, 1, 1, 4), {"": torch.tensor([[-100.0, 0.0]])})
    mean, square = (0.9 * 0.1 * 3.0 - 0.1 * 290.0) / 0.19, (0.999 * 0.001 * 9.0 + 0.001 * 290.0**2) / (1 - 0.999**2)
    assert float(method.scores[""][0]) == pytest.approx(-1.0 - mean / square**0.5, rel=1e-5)  # -0.25, whose sigmoid
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[2.9, 0.2]]))  # is 0.44


def test_the_penalty_is_the_mean_over_all_scores_and_rises_by_the_cube(method_of: MethodOf) -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False))
    method = method_of("soft_movement", model, (4,), block="2x2", penalty=96.0, start=0.2, full=0.6, skip=[])
    assert [tuple(score.shape) for score in method.scores.values()] == [(2, 1), (1, 2)]  # [k, n], the last is half full
    seen = []
    for number in range(10):
        method.scores["0"].zero_()
        step(method, Place(0, 1, number, 10), {"0": torch.zeros(2, 4), "1": torch.zeros(3, 2)})
        seen.append(method.scores["0"].grad.flatten().tolist())
    # 96 / 4 scores * 1/4, the slope of the sigmoid at 0, times 1 - (3/4)^3, 1 - (2/4)^3, 1 - (1/4)^3 within the rise.
    heights = [0.0, 0.0, 0.0, 3.46875, 5.25, 5.90625, 6.0, 6.0, 6.0, 6.0]
    assert seen == [pytest.approx([height, height], abs=1e-6) for height in heights]


def test_no_layer_is_cut_through_and_the_last_masks_are_the_pruners_blocks(method_of: MethodOf) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 2, bias=False))
    method = method_of("soft_movement", model, (2, 3, 3), block="4x4", skip=[])
    method.scores["0"].copy_(torch.linspace(-8.0, 4.0, 10).reshape(5, 2))  # 18 x 6 in blocks of 4 x 4
    method.scores["2"].copy_(torch.tensor([[-9.0], [-8.0]]))  # 6 x 2
    method._mask_()
    place = Place(0, 1, 9, 10)
    method.end_epoch(place)
    pruner = method.context.pruner
    assert pruner is not None and [choice.structure for choice in pruner.choices] == ["block 4x4"] * 2
    kept = pruner.masks["0"].reshape(6, 18).T  # [k, n]; sigmoid(s) > 0.1 where s > -2.197: the last five of ten
    assert kept[8:12, 4:].all() and kept[12:].all() and int(kept.sum()) == 4 * 2 + 6 * 6
    assert pruner.masks["2"].sum(1).tolist() == [2, 2]  # the better of two blocks, rows 4 and 5 of k
    assert not model[0].weight[~pruner.masks["0"]].any()


def test_a_rise_that_ends_before_it_starts_is_refused(method_of: MethodOf) -> None:
    with pytest.raises(InputError, match=r"full = 0\.1"):
        method_of("soft_movement", nn.Linear(2, 2), (2,), start=0.5, full=0.1, skip=[])


# --- DRIVE -------------------------------------------------------------------------------------------------------


def test_size_sensitivity_and_its_change_are_added_and_rank_all_layers_together(method_of: MethodOf) -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, 2.0, 2.0]]))
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0], [2.0]]))
    method = method_of("drive", model, (3,), lr=0.0, sparsity=0.75, dense=0.2, until=0.6, steps=2, batches=1, skip=[])

    def train(number: int, products: list[float]) -> list[int]:
        """A batch in which w dL/dw are these; which weights were there for it."""
        place = Place(0, 1, number, 10)
        method.prepare(torch.zeros(1, 3), torch.zeros(1), place)
        weight = torch.cat([layer.weight.detach().flatten() for layer in model])
        gradient = torch.where(weight == 0, 0.0, torch.tensor(products) / weight)
        step(method, place, {"0": gradient[:3].reshape(1, 3), "1": gradient[3:].reshape(3, 1)})
        return weight.nonzero().flatten().tolist()

    assert train(0, [0.0, -2.0, 1.0, 1.0, 1.0, 1.0]) == list(range(6))
    assert train(1, [0.0, 2.0, 1.0, -5.0, 3.0, 1.0]) == list(range(6))
    # |w| is [4, 2, 2, 1, 1, 2], of mean 2; |w g| [0, 2, 1, 5, 3, 1], of mean 2; its change [0, 0, 0, 4, 2, 0], of mean
    # 1; together [2, 2, 1.5, 7, 4, 1.5], and half of the weights go first, of equals the last.
    sums = [score.flatten().tolist() for score in method.scores().values()]
    assert sums == [[2.0, 2.0, 1.5], [7.0, 4.0, 1.5]]
    assert train(2, [0.0, 0.0, 0.0, 8.0, 8.0, 0.0]) == [0, 3, 4]
    assert train(3, [0.0, 0.0, 0.0, 1.0, 9.0, 0.0]) == [0, 3, 4]  # the second step is not yet due
    # Of what is left: [4, 1, 1] / 2 + [0, 1, 9] / (10/3) + [0, 0, 8] / (8/3) = [2, 0.8, 6.2].
    left = torch.cat([score.flatten() for score in method.scores().values()])
    torch.testing.assert_close(left[[0, 3, 4]], torch.tensor([2.0, 0.8, 6.2], dtype=torch.float64))
    assert torch.isneginf(left[[1, 2, 5]]).all()
    assert train(4, [0.0] * 6) == [0, 4] and method.row() == {"pruning_steps": 2}  # a quarter of six is two, halves up
    assert method.context.pruner is not None and method.context.pruner.sparsity == 4 / 6


def test_sensitivities_are_means_with_a_sign_and_the_first_stay_what_they_were(method_of: MethodOf) -> None:
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    method = method_of("drive", model, (1,), lr=0.0, batches=2, dense=0.9, until=0.95, skip=[])
    for number, product in enumerate([4.0, -2.0, 7.0]):
        step(method, Place(0, 1, number, 10), {"": torch.full((2, 1), product)})
    assert method.first[""].flatten().tolist() == [1.0, 1.0]  # 4, then half of it and half of -2
    assert method.recent[""].flatten().tolist() == [4.0, 4.0]  # half of 1 and half of 7


def test_a_short_training_still_ends_sparse_and_terms_that_all_count_nothing_are_refused(method_of: MethodOf) -> None:
    torch.manual_seed(0)
    model = nn.Linear(10, 10, bias=False)
    method = method_of("drive", model, (10,), sparsity=0.9, dense=0.9, until=0.95, skip=[])
    step(method, Place(0, 1, 0, 1), {"": torch.randn(10, 10)})
    assert method.context.pruner is not None and not method.context.pruner.masks
    method.end_epoch(Place(0, 1, 0, 1))
    assert int(model.weight.count_nonzero()) == 10
    with pytest.raises(InputError, match="all 0"):
        method_of("drive", model, (10,), magnitude=0.0, sensitivity=0.0, change=0.0, skip=[])


# --- LCS ---------------------------------------------------------------------------------------------------------


def test_both_ends_move_by_the_chain_rule_and_apart(method_of: MethodOf) -> None:
    """Against autograd through (1 - a) w0 + a w1 with its mask held, plus the squared cosine over all layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False))
    start = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    method = method_of("lcs", model, (6,), lr=0.4, sparsity=0.6, rise=0.5, apart=2.0, position=0.75, skip=[])
    first = [value.clone().requires_grad_() for value in start]
    second = [method.second[name].detach().clone().requires_grad_() for name in ("0", "2")]
    for one, other in zip(first, second, strict=True):  # an end of its own, drawn as the network's
        assert torch.equal(one.detach().flatten().sort().values, other.detach().flatten().sort().values)
        assert not torch.equal(one, other)
    x, y, pruned = torch.randn(8, 6), torch.arange(8) % 2, set()
    for number in range(10):
        place = Place(0, 1, number, 10)
        position = method.position(number)
        level = position * 0.6 * min(1.0, number / 10 / 0.5)
        shown = []
        for one, other in zip(first, second, strict=True):
            point = (1.0 - position) * one + position * other
            drop = point.numel() - units_kept(1.0 - level, point.numel())
            smallest = point.detach().abs().flatten().argsort()[:drop]
            pruned.add(drop)
            mask = torch.ones(point.numel()).index_fill(0, smallest, 0.0)
            shown.append(point * mask.reshape(point.shape))
        ends = torch.cat([value.flatten() for value in first]), torch.cat([value.flatten() for value in second])
        apart = F.cosine_similarity(*ends, dim=0).square()
        (F.cross_entropy(torch.tanh(x @ shown[0].T) @ shown[1].T, y) + 2.0 * apart).backward()
        method.prepare(x, y, place)
        torch.testing.assert_close(model[0].weight.detach(), shown[0].detach())
        method.context.optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        step(method, place, {})
        with torch.no_grad():
            for value in (*first, *second):
                value -= 0.4 * value.grad
                value.grad = None
        for index, name in enumerate(("0", "2")):
            torch.testing.assert_close(method.first[name], first[index].detach())
            torch.testing.assert_close(method.second[name].detach(), second[index].detach())
        middle = 0.25 * first[0] + 0.75 * second[0]  # what the network shows between steps
        kept = model[0].weight.detach() != 0
        torch.testing.assert_close(model[0].weight.detach(), (middle * kept).detach())
    assert len(pruned) > 5


def test_half_of_the_batches_are_at_an_end_and_a_place_says_which(method_of: MethodOf) -> None:
    method, again = (method_of("lcs", nn.Linear(2, 2), (2,), skip=[]) for _ in range(2))
    drawn = [method.position(number) for number in range(1000)]
    assert drawn == [again.position(number) for number in range(1000)]
    between = sorted(position for position in drawn if 0.0 < position < 1.0)
    assert drawn.count(0.0) == pytest.approx(250, abs=45) and drawn.count(1.0) == pytest.approx(250, abs=45)
    assert between[len(between) // 4] == pytest.approx(0.25, abs=0.06) and between[-1] > 0.95


def test_work_is_what_the_level_of_the_batch_leaves_and_the_passes_of_batch_norms(method_of: MethodOf) -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10), nn.Linear(10, 10, bias=False))
    method = method_of("lcs", model, (10,), sparsity=0.5, rise=0.5, ends=1.0, batches=2, skip=[])
    x, y = torch.randn(4, 10), torch.zeros(4, dtype=torch.int64)
    for number, share in ((4, 0.8), (8, 1.0), (9, 1.0)):
        position = method.position(number)
        assert position in (0.0, 1.0)
        pruned = round(100 * 0.5 * share * position)
        batch = method.prepare(x, y, Place(0, 1, number, 10))
        assert batch is not None and int((~method.masks["0"]).sum()) == pruned
        # Per image two products of the first layer and three of the second; at the end of an epoch two batches forward.
        assert method.macs(0, 4, Batch(x, y)) == 4 * 5 * (100 - pruned) + (8 * 200 if number == 9 else 0)
    assert {method.position(number) for number in (4, 8, 9)} == {0.0, 1.0}


def test_the_position_asked_for_is_evaluated_with_statistics_of_its_own_and_ends_in_the_masks(
    method_of: MethodOf,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2, bias=False))
    method = method_of("lcs", model, (10,), sparsity=0.8, position=0.5, batches=2, skip=["3"])
    batches = [(torch.randn(6, 10), torch.arange(6) % 2) for _ in range(3)]
    for number, (x, y) in enumerate(batches):
        place = Place(0, 1, number, 3)
        made = method.prepare(x, y, place)
        assert made is not None
        method.loss(model(made.x), made).backward()
        step(method, place, {})
        method.context.optimizer.zero_grad()
    assert method.context.pruner is not None and not method.context.pruner.masks
    method.end_epoch(place)
    kept = method.context.pruner.masks["0"]
    assert int(kept.sum()) == 60
    point = 0.5 * method.first["0"] + 0.5 * method.second["0"].detach()
    torch.testing.assert_close(model[0].weight.detach(), point * kept)
    assert point[kept].abs().min() >= point[~kept].abs().max()
    seen = torch.stack([(x @ (point * kept).T).mean(0) for x, _ in batches[1:]])
    torch.testing.assert_close(model[1].running_mean, seen.mean(0))
    assert model.training
    # The line itself: level by level, each with its own statistics; the middle is what has stayed in the network.
    levels = method.summary()["levels"]
    assert [level["sparsity"] for level in levels] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    model.eval()
    losses = [F.cross_entropy(model(x), y).item() for x, y in batches[1:]]
    assert levels[2]["loss"] == pytest.approx(sum(losses) / 2)
    assert len({level["loss"] for level in levels}) == 5
