"""Structure "channel" on a vision transformer: hidden units of the perceptrons go, the plan says why the rest stays.

A layer norm takes its mean over the width of the tokens, and attention splits its projections into heads: neither can
lose a channel without changing what the others compute.
"""

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from torch import nn

from codesign import Pruner
from codesign.compact import compact
from codesign.export import load_exported
from codesign.method import Method
from codesign.trace import trace_model
from models import build
from simulator.errors import InputError

SIZES = {"widths": [16, 48], "depth": 2, "heads": 2, "patch": 7, "image": 28}
HIDDEN = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in ("fc1", "fc2")]


def vit() -> nn.Module:
    return build("vit_tiny", seed=0, in_channels=1, num_classes=5, **SIZES)


def macs(model: nn.Module, x: torch.Tensor) -> int:
    operations = [layer.operation for layer in trace_model(model, x).layers if layer.name in HIDDEN]
    return sum(gemm.m * gemm.k * gemm.n for gemm in operations)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_hidden_units_are_pruned_while_it_trains_and_then_removed(optimizer: str) -> None:
    torch.manual_seed(0)
    model, x = vit(), torch.randn(6, 1, 28, 28)
    made = (torch.optim.AdamW(model.parameters(), 1e-3) if optimizer == "adamw"
            else torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    pruner = Pruner(model, {"structure": "channel", "sparsity": 0.75, "schedule": "linear"}, made, x, total_steps=4)
    for _ in range(5):  # one more with the final masks
        F.cross_entropy(model.train()(x), torch.arange(6) % 5).backward()
        made.step()
        made.zero_grad()
        pruner.step()
    assert pruner.finalize() == {name: 0.75 if name in HIDDEN else 0.0 for name in pruner.realised()}
    small = compact(model, x, {**pruner.masks, **pruner.parameter_masks}, made)
    with torch.no_grad():
        masked, removed = model.eval()(y := torch.randn(8, 1, 28, 28)), small.model.eval()(y)
    assert float((masked - removed).abs().max()) <= 1e-5 * max(1.0, float(masked.abs().max()))
    assert small.removed == {"blocks.0.fc1": 36, "blocks.1.fc1": 36} and not small.masks
    assert macs(small.model, x) * 4 == macs(model, x)
    kept = pruner.masks["blocks.1.fc2"][0]
    new, old = small.model.blocks[1], model.blocks[1]
    for key in ("exp_avg", "exp_avg_sq") if optimizer == "adamw" else ("momentum_buffer",):
        before, after = made.state, small.optimizer.state
        assert torch.equal(after[new.fc2.weight][key], before[old.fc2.weight][key][:, kept])
        assert torch.equal(after[new.fc1.weight][key], before[old.fc1.weight][key][kept])
        assert torch.equal(after[new.fc1.bias][key], before[old.fc1.bias][key][kept])
    held = {id(parameter) for group in small.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in small.model.parameters()}


def test_the_plan_says_why_the_other_channels_stay() -> None:
    plan = Pruner(vit(), {"structure": "channel", "sparsity": 0.5}, example_inputs=torch.zeros(1, 1, 28, 28),
                  total_steps=1).plan()
    rows = {row.layer: row for row in plan}
    assert [row.layer for row in plan if row.structure == "channel"] == ["blocks.0.fc2", "blocks.1.fc2"]
    assert "filters go with channels of blocks.0.fc1" in rows["blocks.0.fc1"].reason
    for layer, norm in (("attention.qkv", "norm1"), ("fc1", "norm2")):
        assert (f"module 'blocks.0.{norm}' (LayerNorm) takes its mean over all channels"
                in rows[f"blocks.0.{layer}"].reason)
    heads = "no rule for a reshape from [1, 17, 48] to [1, 17, 3, 2, 8] at 'reshape' in 'blocks.0.attention'"
    assert heads in rows["blocks.0.attention.project"].reason


def test_a_run_on_the_command_line_gets_smaller_and_faster(tiny_config, tmp_path: Path, invoke) -> None:
    config = tiny_config(model={"name": "vit_tiny", "kwargs": SIZES}, prune={"structure": "channel", "sparsity": 0.75})
    status, _, err = invoke("train", config, "--out", tmp_path / "run", "--device", "cpu")
    assert status == 0, err
    masks = load_exported(tmp_path / "run" / "model").masks
    assert {name: float(mask.mean()) for name, mask in masks.items()} == dict.fromkeys(HIDDEN, 0.25)
    status, out, err = invoke("compact", tmp_path / "run", "--json")
    assert status == 0, err
    assert json.loads(out)["removed"] == {"blocks.0.fc1": 36, "blocks.1.fc1": 36}
    run, small = (json.loads(invoke("evaluate", path, "--machine", "systolic_ws", "--json")[1])["machines"][0]
                  for path in (tmp_path / "run", tmp_path / "run" / "compact"))
    assert small["total"]["dense_macs"] == run["total"]["dense_macs"] - 2 * 2 * 17 * 16 * 36
    assert small["total"]["cycles"] == run["total"]["cycles"] < run["dense"]["cycles"]


@pytest.mark.parametrize("section", [
    {"recipe": {"name": "prunetrain", "threshold": 0.2}}, {"recipe": {"name": "filter_sketch"}},
    {"recipe": {"name": "precropping", "rounds": 2}},
    {"hardware": {"machine": "systolic_ws", "target_latency": 0.95, "candidates": ["channel"], "judge_steps": 0}}])
def test_recipes_and_costs_take_hidden_units_and_nothing_else(
    section: dict[str, object], tiny_config, tmp_path: Path, invoke
) -> None:
    made = tiny_config(model={"name": "vit_tiny", "kwargs": SIZES}, prune={"structure": "channel", "sparsity": 0.5})
    table = tomllib.loads(made.read_text())
    del table["prune"]
    made.write_text(tomli_w.dumps({**table, **section, "train": {"epochs": 2, "lr": 0.05}}))
    status, _, err = invoke("train", made, "--out", tmp_path / "run", "--device", "cpu")
    assert status == 0, err
    masks = load_exported(tmp_path / "run" / "model").masks
    assert masks and set(masks) <= set(HIDDEN)
    assert invoke("compact", tmp_path / "run")[0] == 0
    small = load_exported(tmp_path / "run" / "compact").model
    assert any(small.get_submodule(name).weight.numel() < mask.size for name, mask in masks.items())


@pytest.mark.parametrize("recipe", ["activation_density", "sbf", "polarised"])
def test_recipes_that_look_at_channels_of_maps_say_that_these_are_tokens(recipe: str, method_of) -> None:
    def make() -> Method:
        return method_of(recipe, vit(), (1, 28, 28))

    with pytest.raises(InputError, match=r"layer 'blocks.0.attention.qkv' runs on tokens \[1, 17, 16\]"):
        make()
