"""The pruner as a user meets it: the example of the README, loops of their own, and one call without training."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import Pruner, sparsify
from codesign.choice import StructureChoice
from codesign.masks import apply_mask_, kept_bits
from simulator.errors import InputError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 1, 6, 6, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def run(pruner: Pruner, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x, y = batch()
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()


def test_without_a_length_it_warns_and_trains_with_the_final_masks_from_the_first_step() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"structure": "2:4", "schedule": "one_cycle", "sparsity": 0.5}, optimizer, batch()[0])
    with pytest.warns(UserWarning, match=r"total_steps=epochs \* len\(loader\)") as caught:
        run(pruner, model, optimizer, 3)
    assert len(caught) == 1
    assert [entry["step"] for entry in pruner.history] == [1]
    assert pruner.finalize() == {"0": 0.0, "2": 0.5, "5": 0.5, "7": 0.0}


def test_masks_hold_after_optimizer_steps_without_a_call_of_pruner_step() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.9, "schedule": "constant", "total_steps": 1}, optimizer)
    run(pruner, model, optimizer, 1)
    x, y = batch()
    for _ in range(3):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert not model[2].weight[~pruner.masks["2"]].any()
    assert model[2].weight[pruner.masks["2"]].all()


def test_without_an_optimizer_step_applies() -> None:
    model = net()
    pruner = Pruner(model, {"sparsity": 0.5, "schedule": "constant", "criterion": "taylor_squared", "total_steps": 2})
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    pruner.step()
    with torch.no_grad():
        model[2].weight.add_(1.0)
    pruner.step()
    assert int((model[2].weight == 0).sum()) == model[2].weight.numel() // 2


def test_progress_may_be_given_instead_of_a_length() -> None:
    model = net()
    pruner = Pruner(model, {"sparsity": 0.8, "schedule": {"name": "one_shot", "start": 0.5}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner.step(progress=0.4)
        assert pruner.sparsity == 0.0
        pruner.step(progress=0.5)
    assert pruner.realised()["5"] == pytest.approx(0.8, abs=1 / 512)


def test_updates_are_as_rare_as_asked_but_the_end_is_never_missed() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.8, "schedule": "agp", "total_steps": 10, "update_every": 4}, optimizer)
    run(pruner, model, optimizer, 10)
    assert [entry["step"] for entry in pruner.history] == [4, 8, 10]


def test_updates_are_about_a_hundred_in_a_long_training() -> None:
    model = net()
    pruner = Pruner(model, {"sparsity": 0.8, "schedule": "one_cycle", "total_steps": 1000})
    for _ in range(1000):
        pruner.step()
    assert len(pruner.history) <= 101
    assert pruner.history[-1]["share"] == 1.0


def test_a_training_cut_short_is_finished_by_finalize_with_a_warning() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.75, "schedule": "agp"}, optimizer, total_steps=10)
    run(pruner, model, optimizer, 5)
    with pytest.warns(UserWarning, match="raised sparsity from"):
        realised = pruner.finalize()
    assert realised["2"] == realised["5"] == 0.75


def test_finetuning_after_finalize_keeps_the_zeros() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(model, {"structure": "2:4", "total_steps": 2}, optimizer)
    run(pruner, model, optimizer, 2)
    pruner.finalize()
    run(pruner, model, optimizer, 3)
    assert torch.equal(model[5].weight != 0, pruner.masks["5"])


def test_finalize_is_the_end_of_a_schedule_that_goes_back_to_dense() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.75, "schedule": "alternate", "total_steps": 20}, optimizer)
    run(pruner, model, optimizer, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.finalize()
    run(pruner, model, optimizer, 9)
    assert pruner.realised()["5"] == 0.75 and not model[5].weight[~pruner.masks["5"]].any()


def test_a_copy_of_model_optimizer_and_pruner_prunes_for_itself() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(model, {"sparsity": 0.75, "schedule": "agp", "criterion": "taylor", "total_steps": 6}, optimizer)
    run(pruner, model, optimizer, 2)
    twin_model, twin_optimizer, twin = copy.deepcopy((model, optimizer, pruner))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(twin, twin_model, twin_optimizer, 4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    run(pruner, model, optimizer, 4)
    assert twin.realised() == pruner.realised() and twin.sparsity > 0.5
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin_model.state_dict()[name], value, rtol=0.0, atol=0.0)
    assert not twin_model[5].weight[~twin.masks["5"]].any()


def test_weights_come_back_without_an_optimizer_to_listen_to() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.5, "schedule": "constant", "regrow": {"name": "rigl", "every": 2}},
                    total_steps=20)
    for _ in range(6):
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    regrown = [entry["regrown"] for entry in pruner.history if entry["event"] == "regrow"]
    assert len(regrown) == 3 and min(regrown) > 0 and pruner.realised()["5"] == 0.5


def half_way(progress: float) -> float:
    return min(1.0, 2.0 * progress)


def test_a_schedule_of_ones_own_is_known_again_by_its_name() -> None:
    described = Pruner(net(), {"sparsity": 0.5, "schedule": half_way}).config.describe()["schedule"]
    assert described.endswith("test_pruner_beside_a_training_loop.half_way")  # no address of this process


def test_a_nan_under_a_mask_does_not_survive() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, {"sparsity": 0.5, "schedule": "constant"}, optimizer)
    pruner.step()
    with torch.no_grad():
        model[5].weight[~pruner.masks["5"]] = float("nan")
    pruner.apply_masks_()
    assert model[5].weight.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_cut_every_number_of_every_precision_and_leave_the_others_alone(dtype: torch.dtype) -> None:
    """Not a number, both infinities and both zeros; an optimizer's state of another precision; a transposed weight."""
    numbers = torch.tensor([[1.5, -2.0, float("nan")], [float("inf"), -float("inf"), -0.0]], dtype=dtype)
    mask = torch.tensor([[True, False, False], [False, False, True]])
    parameter = nn.Parameter(numbers.T.contiguous().T)
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = numbers.double().float()
    apply_mask_(parameter, kept_bits(mask, dtype), optimizer)
    for value in (parameter.detach(), optimizer.state[parameter]["momentum_buffer"]):
        assert value.tolist() == [[1.5, 0.0, 0.0], [0.0, 0.0, -0.0]]
        assert torch.signbit(value).tolist() == [[False] * 3, [False, False, True]]


def test_diverged_weights_are_reported_by_layer() -> None:
    model = net()
    with torch.no_grad():
        model[5].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layer '5': a score is NaN.*did training diverge"):
        sparsify(model, "2:4")


def test_a_gradient_criterion_sees_the_gradient_although_the_loop_clears_it() -> None:
    model = net()
    with torch.no_grad():
        model[5].weight[:8].fill_(100.0)  # large weights without influence: their outputs are not read
        model[7].weight[:, :8].zero_()
        model[5].bias.fill_(5.0)  # so that every other output is alive
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    config = {
        "structure": "filter",
        "sparsity": 0.5,
        "schedule": "constant",
        "criterion": "taylor_squared",
        "skip": ["0", "2", "7"],
    }
    pruner = Pruner(model, config, optimizer)
    run(pruner, model, optimizer, 1)
    assert not pruner.masks["5"][:8].any()


def test_a_gradient_criterion_without_gradients_says_what_to_do() -> None:
    pruner = Pruner(net(), {"sparsity": 0.5, "schedule": "constant", "criterion": "taylor_squared"})
    with pytest.raises(InputError, match=r"layer '2': no gradient was seen.*pass optimizer="):
        pruner.step()


def test_sparsify_in_one_call() -> None:
    model = net()
    masks = sparsify(model, "2:4")
    assert set(masks) == {"2", "5"}
    assert torch.equal(model[2].weight != 0, masks["2"])
    assert int(masks["5"].sum()) * 2 == masks["5"].numel()


def test_sparsify_by_gradients_takes_batches() -> None:
    model = net()
    sparsify(model, "unstructured", 0.9, "fisher", batches=[batch()])
    assert int((model[5].weight != 0).sum()) == 51  # a tenth of 512
    with pytest.raises(InputError, match="without batches"):
        sparsify(net(), "unstructured", 0.9, "fisher")


class HalfOfLayerFive:
    """A cost model that keeps the better half of one layer's outputs and notes what it was shown."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Tensor]] = []

    def select(self, model, example_inputs, saliency, keep_dense):  # type: ignore[no-untyped-def]
        assert keep_dense == {"0", "7"} and example_inputs.shape == (5, 1, 6, 6)
        self.calls.append(dict(saliency))
        kept = saliency["5"].sum(1).argsort(descending=True)[:8]
        mask = torch.zeros_like(model[5].weight, dtype=torch.bool)
        mask[kept] = True
        return {"5": mask}, [StructureChoice("5", "filter", 0.5, 10.0, 0.1)]


def test_a_cost_model_chooses_once_at_its_moment_and_its_masks_stay() -> None:
    model, cost = net(), HalfOfLayerFive()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    pruner = Pruner(model, {"total_steps": 20, "select_at": 0.25}, optimizer, batch()[0], cost=cost)
    run(pruner, model, optimizer, 4)
    assert not cost.calls and pruner.sparsity == 0.0
    run(pruner, model, optimizer, 16)
    assert len(cost.calls) == 1
    assert set(cost.calls[0]) == {"0", "2", "5", "7"}
    assert cost.calls[0]["5"].any(), "the default criterion with a cost is made of gradients"
    assert pruner.finalize()["5"] == 0.5
    assert torch.equal(model[5].weight != 0, pruner.masks["5"])
    assert pruner.choices == (StructureChoice("5", "filter", 0.5, 10.0, 0.1),)
    assert [(entry["event"], entry["step"]) for entry in pruner.history] == [("select", 5)]
    assert pruner.history[0]["seconds"] > 0


def test_a_cost_model_may_choose_several_times() -> None:
    model, cost = net(), HalfOfLayerFive()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = Pruner(model, {"total_steps": 20, "select_at": (0.5, 0.25)}, optimizer, batch()[0], cost=cost)
    run(pruner, model, optimizer, 20)
    assert [entry["step"] for entry in pruner.history] == [5, 10]


def test_masks_from_elsewhere_are_checked_applied_and_final() -> None:
    model = net()
    pruner = Pruner(model, {"sparsity": 0.9, "schedule": "constant", "total_steps": 3})
    mask = torch.ones_like(model[2].weight, dtype=torch.bool)
    mask[0] = False
    pruner.set_masks_({"2": mask, "2.bias": mask[:, 0, 0, 0]})
    pruner.step()
    assert pruner.realised() == {"0": 0.0, "2": 1 / 8, "5": 0.0, "7": 0.0}
    assert model[2].bias[0] == 0
    with pytest.raises(InputError) as caught:
        pruner.set_masks_({"22": mask, "5": mask, "2": mask.float()})
    text = str(caught.value)
    assert "3 mistakes" in text and "did you mean '2'" in text and "torch.float32" in text and "[16, 32]" in text


def test_the_plan_shows_every_layer_and_why_two_stay_dense() -> None:
    plan = Pruner(net(), {"structure": "2:4"}).plan()
    assert [(row.layer, row.structure, row.sparsity) for row in plan] == [
        ("0", "dense", 0.0), ("2", "2:4", 0.5), ("5", "2:4", 0.5), ("7", "dense", 0.0),
    ]  # fmt: skip
    lines = str(plan).splitlines()
    assert "first convolution, kept by default" in lines[1] and "final classifier, kept by default" in lines[4]
    assert "8x4x3x3" in lines[2]


def test_a_weight_that_two_modules_share_is_pruned_once() -> None:
    model = net()
    model.append(nn.Linear(32, 16))
    model[8].weight = model[5].weight
    assert [row.layer for row in Pruner(model, {"structure": "2:4"}).plan()] == ["0", "2", "5", "7"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_removed_channel_stays_removed_although_the_filter_that_made_it_grows(resumed: bool) -> None:
    """A producer with a structure of its own keeps its filters, so the score of a removed channel is not zero."""
    config = {"structure": {"2": "2:4", "5": "channel"}, "sparsity": 0.5, "schedule": {"name": "agp", "start": 0.0}}
    model = net()
    pruner = Pruner(model, config, example_inputs=batch()[0])
    pruner.step(progress=0.2)
    removed = ~model[5].weight.reshape(16, 8, 4).any(2).any(0)
    assert 0 < removed.sum() < 4
    if resumed:
        state = pruner.state_dict()
        pruner = Pruner(model, config, example_inputs=batch()[0])
        pruner.load_state_dict(state)
    with torch.no_grad():
        model[2].weight[removed] *= 1000.0
    pruner.step(progress=1.0)
    after = ~model[5].weight.reshape(16, 8, 4).any(2).any(0)
    assert after.sum() == 4 and after[removed].all()
