"""Dropping and growing: as many weights as before, the right ones, at the right times; RigL, SET, GraNet, AC/DC."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codesign import Pruner
from codesign.budgets import erk_densities
from codesign.regrowth import REGROWTHS, Regrowth, parse_regrowth, regrown
from codesign.structures import as_matrix, project, unit_scores, window_of
from simulator.errors import InputError
from simulator.structure import conforms, parse


def test_rigl_follows_its_cosine_until_three_quarters_of_training() -> None:
    rule = REGROWTHS["rigl"]
    assert rule.share(0.0) == 0.3
    assert rule.share(0.375) == pytest.approx(0.15)
    assert rule.share(0.25) == pytest.approx(0.15 * (1 + math.cos(math.pi / 3)))
    assert rule.share(0.75) == rule.share(1.0) == 0.0


def test_the_weakest_survivors_give_way_to_the_steepest_of_the_pruned() -> None:
    mask = torch.tensor([[True, True, True, True, False, False, False, False]])
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    growth = torch.tensor([[9.0, 0.0, 9.0, 0.5, 1.0, 7.0, 2.0, 5.0]])
    after = regrown(mask, scores, growth, parse("unstructured"), 0.5, "sum")
    assert after.nonzero()[:, 1].tolist() == [0, 2, 5, 7]


@given(st.sampled_from(["unstructured", "block 2x3", "filter", "channel", "kernel", "ck", "window", "bank 8"]),
       st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None)
def test_as_many_units_are_kept_and_the_structure_holds(text: str, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    weight, growth = torch.randn(6, 4, 3, 3), torch.rand(6, 4, 3, 3)
    mask = project(weight.abs(), text, 0.4)
    after = regrown(mask, weight.abs() * mask, growth, parse(text), share, "sum")
    units = [unit_scores(part, parse(text))[0] > 0 for part in (mask, after)]
    assert units[0].sum() == units[1].sum()
    assert conforms(as_matrix(after).numpy(), parse(text), window_of(weight.shape))
    if share == 0.0:
        assert torch.equal(mask, after)


def test_erk_gives_small_layers_more_and_spends_exactly_the_budget() -> None:
    shapes = {"a": (8, 4, 3, 3), "b": (64, 64, 3, 3), "c": (256, 256)}
    found = erk_densities(shapes, 0.2)
    total = sum(math.prod(shape) for shape in shapes.values())
    assert sum(found[name] * math.prod(shape) for name, shape in shapes.items()) == pytest.approx(0.2 * total)
    assert found["a"] == 1.0  # (8 + 4 + 3 + 3) / 288 would be more than all of it
    assert found["b"] / found["c"] == pytest.approx((64 + 64 + 6) / (64 * 64 * 9) / (512 / 65536))
    assert set(erk_densities({"a": (2, 2)}, 1.0).values()) == {1.0}


def trained(
    config: dict[str, object], steps: int = 40, lr: float = 0.1
) -> tuple[nn.Module, Pruner, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    x, y = torch.randn(32, 12), torch.randint(0, 3, (32,))
    pruner = Pruner(model, {"total_steps": steps, "skip": ["4"], **config}, optimizer)
    seen = []
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pruner.step()
        seen.append({name: mask.clone() for name, mask in pruner.masks.items()})
        for name, mask in pruner.masks.items():
            parameter = model.get_submodule(name).weight
            assert not parameter[~mask].any()
            assert not optimizer.state[parameter]["momentum_buffer"][~mask].any()
    pruner.finalize()
    return model, pruner, seen


@pytest.mark.parametrize("rule", ["rigl", "set", "granet"])
def test_masks_move_at_constant_sparsity_from_the_first_step(rule: str) -> None:
    every = {"name": rule, "every": 5}
    _, pruner, seen = trained({"schedule": "constant", "sparsity": 0.75, "scope": "erk", "regrow": every})
    counts = {name: {int(masks[name].sum()) for masks in seen} for name in seen[0]}
    assert all(len(found) == 1 for found in counts.values())
    assert not torch.equal(seen[0]["0"], seen[-1]["0"])
    moved = [entry for entry in pruner.history if entry["event"] == "regrow"]
    assert [entry["step"] for entry in moved][:2] == [5, 10] and all(entry["regrown"] for entry in moved[:2])
    total = sum(mask.numel() for mask in seen[-1].values())
    assert sum(int(mask.sum()) for mask in seen[-1].values()) == pytest.approx(0.25 * total, abs=2)


def test_granet_regrows_while_a_ramp_prunes() -> None:
    _, pruner, seen = trained({"schedule": {"name": "cubic_era", "end": 0.9}, "sparsity": 0.8,
                               "regrow": {"name": "granet", "every": 4}})
    sparsities = [1 - masks["2"].float().mean().item() if "2" in masks else 0.0 for masks in seen]
    assert sparsities == sorted(sparsities) and sparsities[-1] == pytest.approx(0.8, abs=0.01)
    assert any(entry["event"] == "regrow" and entry["regrown"] for entry in pruner.history)


def test_alternation_frees_weights_in_dense_phases_and_ends_sparse() -> None:
    schedule = {"name": "alternate", "warmup": 0.1, "period": 0.1, "finish": 0.7}
    _, pruner, seen = trained({"schedule": schedule, "sparsity": 0.75}, lr=1.0)
    density = [masks["2"].float().mean().item() if "2" in masks else 1.0 for masks in seen]
    assert density[2] == 1.0 and density[5] == 0.25 and density[9] == 1.0 and density[-1] == 0.25
    assert pruner.realised()["2"] == 0.75
    assert not torch.equal(seen[5]["2"], seen[-1]["2"])


def test_regrowth_resumes_as_if_uninterrupted() -> None:
    config = {"schedule": "constant", "sparsity": 0.7, "regrow": {"name": "rigl", "every": 3}}
    whole, _, _ = trained(config)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = torch.randn(32, 12), torch.randint(0, 3, (32,))
    pruner = Pruner(model, {"total_steps": 40, "skip": ["4"], **config}, optimizer)
    for step in range(40):
        if step == 17:
            state = pruner.state_dict()
            saved = optimizer.state_dict()
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            optimizer.load_state_dict(saved)
            pruner = Pruner(model, {"total_steps": 40, "skip": ["4"], **config}, optimizer)
            pruner.load_state_dict(state)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pruner.step()
    pruner.finalize()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(("given", "said"), [
    ({"regrow": "rigle"}, "did you mean 'rigl'"),
    ({"regrow": {"name": "rigl", "evry": 3}}, "did you mean 'every'"),
    ({"regrow": {"name": "rigl", "fraction": 1.5}}, "up to 1"),
    ({"regrow": "rigl", "structure": "2:4"}, "sr_ste"),
])
def test_a_mistake_is_answered(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Pruner(nn.Linear(8, 8), {"sparsity": None if "structure" in given else 0.5, "skip": (), **given})


def test_a_rule_may_be_the_object_itself() -> None:
    assert parse_regrowth(Regrowth(every=7)).every == 7
