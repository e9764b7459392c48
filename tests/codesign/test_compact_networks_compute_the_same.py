"""compact(): channels, hidden units and heads really go; outputs, optimizer, training and files stay right."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import Pruner
from codesign.compact import compact
from codesign.compact_constants import constant_inputs
from codesign.coupling import trace_graph
from codesign.coupling_rules import SAME_CHANNELS, SAME_CHANNELS_FUNCTIONS
from codesign.export import Architecture, export, load_exported
from models import build
from simulator.errors import InputError

NETS = {
    "resnet8": ({"widths": [8, 16, 24]}, 16), "resnet50": ({"widths": [4, 8, 8, 8]}, 32),
    "vgg11": ({"widths": [8, 12, 16, 16, 16]}, 32), "mobilenet_v2": ({"stem": "small", "width": 0.25}, 32),
    "lenet5": ({}, 28),
}
VIT = {"widths": [24, 32], "depth": 2, "heads": 4, "patch": 8, "image": 16}


def network(name: str, size: int, kwargs: dict[str, object]) -> tuple[nn.Module, Tensor]:
    """With statistics and scales that are not those of a new network, so that nothing cancels by chance."""
    torch.manual_seed(0)
    model = build(name, in_channels=3, num_classes=5, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.1, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model, torch.randn(4, 3, size, size)


def difference(left: nn.Module, right: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        a, b = left.eval()(x), right.eval()(x)
    return float((a - b).abs().max() / a.abs().max().clamp_min(1.0))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int = 2) -> list[float]:
    model.train()
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), torch.arange(len(x)) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    for parameter, state in optimizer.state.items():
        assert id(parameter) in held
        assert {tuple(value.shape) for value in state.values() if value.dim()} == {tuple(parameter.shape)}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", NETS)
def test_channels_go_with_the_optimizers_state(name: str, optimizer: str) -> None:
    kwargs, size = NETS[name]
    model, x = network(name, size, kwargs)
    made = (torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4) if optimizer == "sgd"
            else torch.optim.AdamW(model.parameters(), 1e-3))
    pruner = Pruner(model, {"structure": "channel", "sparsity": 0.5, "schedule": "constant", "total_steps": 3}, made, x)
    for _ in range(3):
        train(model, made, x, 1)
        pruner.step()
    pruner.finalize()
    before = copy.deepcopy(model.state_dict())
    small = compact(model, x, {**pruner.masks, **pruner.parameter_masks}, made)
    assert difference(model, small.model, torch.randn(3, *x.shape[1:])) < 1e-5
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not small.masks, "whole channels leave nothing to mask"
    assert small.parameters < 0.75 * sum(p.numel() for p in model.parameters())
    check_optimizer(small.model, small.optimizer)
    # what is left goes on as it would have gone on with its masks
    masked, removed = train(model, made, x), train(small.model, small.optimizer, x)
    assert removed == pytest.approx(masked, rel=2e-3)
    assert list(small.model.state_dict()) == list(model.state_dict())


def test_hidden_units_and_heads_of_a_vision_transformer_go() -> None:
    model, x = network("vit_tiny", 16, VIT)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    train(model, optimizer, x)
    masks = {}
    for block in (0, 1):
        project, fc2 = torch.ones(24, 24, dtype=torch.bool), torch.ones(24, 32, dtype=torch.bool)
        project[:, 6:12] = project[:, 18:20] = False  # the whole second head, a third of the fourth
        fc2[:, ::2] = False
        masks |= {f"blocks.{block}.attention.project": project, f"blocks.{block}.fc2": fc2}
    silent = torch.ones(72, 24, dtype=torch.bool)
    silent[48:54] = False  # the values of the first head: attention passes their bias on
    masks["blocks.0.attention.qkv"] = silent
    quiet = torch.ones(32, 24, dtype=torch.bool)
    quiet[5] = False  # a hidden unit made by nobody: gelu(bias), which fc2's bias takes over
    masks["blocks.1.fc1"] = quiet
    Pruner.for_given_masks(model, optimizer, x).set_masks_(masks)
    small = compact(model, x, masks, optimizer)
    assert difference(model, small.model, torch.randn(3, 3, 16, 16)) < 1e-5
    assert small.removed == {"heads of blocks.0.attention": 2, "heads of blocks.1.attention": 1,
                             "blocks.0.fc1": 16, "blocks.1.fc1": 17}
    first = small.model.blocks[0]
    assert (first.attention.heads, first.attention.qkv.out_features, first.fc1.out_features) == (2, 36, 16)
    assert int((~small.masks["blocks.0.attention.project"]).sum()) == 2 * 24, "the fourth head is pruned in part"
    check_optimizer(small.model, small.optimizer)
    assert all(torch.isfinite(torch.tensor(train(small.model, small.optimizer, x))))


def test_a_filter_that_makes_a_constant_goes_where_its_reader_can_hold_it() -> None:
    torch.manual_seed(0)

    def net(padding: int) -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                              nn.Conv2d(6, 5, 3, padding=padding, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
                              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
        model[1].bias.data.uniform_(0.5, 1.0)
        with torch.no_grad():
            model[0].weight[[1, 4]] = 0
            model[3].weight[2] = 0
        return model

    x = torch.randn(2, 3, 10, 10)
    small = compact(net(0), x)
    assert small.removed == {"0": 2, "3": 1}  # into the running mean of the second batch norm, and fc's bias
    padded = compact(net(1), x)
    assert padded.removed == {"3": 1}
    assert "pads it with zeros" in padded.kept["0"]
    assert "'3' reads a constant" in padded.kept["0"]


class Joined(nn.Module):
    """A concatenation, a slice of channels, and a pad: removal shifts the first and must not touch the others."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(10, 8, 3, groups=2)
        self.d = nn.Conv2d(10 if how == "cat" else 6, 5, 1)
        self.fc = nn.Linear(5 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        if self.how == "cat":
            y = torch.cat([a, b], 1)
        elif self.how == "slice":
            y = torch.cat([b[:, :3], b[:, 3:]], 1)
        else:
            y = F.pad(a, (0, 0, 0, 0, 1, 1)) + b
        return self.fc(self.d(y).relu().flatten(1))


@pytest.mark.parametrize(("how", "removed"), [("cat", {"a": 1, "b": 2}), ("slice", {}), ("pad", {})])
def test_a_concatenation_shifts_and_a_number_in_the_code_stays(how: str, removed: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = Joined(how)
    with torch.no_grad():
        model.d.weight[:, [1, 4, 5] if how == "cat" else [1, 2]] = 0
    small = compact(model, torch.randn(2, 3, 8, 8))
    assert small.removed == removed


def test_what_cannot_be_taken_out_is_refused_by_name() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(),
                            nn.Linear(8 * 16, 3))
    with torch.no_grad():
        grouped[0].weight[3] = 0
        grouped[0].bias[3] = 0
    small = compact(grouped, x)
    assert not small.removed and "2 groups" in small.kept["2"]
    shared = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    shared[2].weight = shared[0].weight
    with torch.no_grad():
        shared[4].weight[:, 1] = 0
    assert "shared" in compact(shared, torch.randn(2, 6)).kept["2"]

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(4, 6, 3), nn.Linear(6 * 36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).relu().view(-1, 216))

    fixed = Fixed()
    with torch.no_grad():
        fixed.fc.weight[:, 36:72] = 0
    assert not compact(fixed, x).removed, "216 stands in the code"
    with pytest.raises(InputError, match="nonzero weights"):
        compact(fixed, x, {"conv": torch.zeros_like(fixed.conv.weight, dtype=torch.bool)})


def test_nothing_that_depends_on_the_input_is_taken_for_a_constant() -> None:
    """The constants are found by running NaN through the network: every activation and pool must pass it on."""
    for kind in SAME_CHANNELS:
        arguments = {nn.MaxPool2d: (2,), nn.AvgPool2d: (2,), nn.AdaptiveAvgPool2d: (2,), nn.AdaptiveMaxPool2d: (2,),
                     nn.ZeroPad2d: (0,)}.get(kind, ())
        assert torch.isnan(kind(*arguments).eval()(torch.full((1, 2, 4, 4), torch.nan))).all(), kind
    more = {F.max_pool2d: (2,), F.avg_pool2d: (2,), F.adaptive_avg_pool2d: (2,), F.adaptive_max_pool2d: (2,),
            torch.max_pool2d: (2,), F.interpolate: (8,), torch.clamp: (-1, 1), "clamp": (-1, 1), "to": (torch.float32,)}
    for function in SAME_CHANNELS_FUNCTIONS:
        x = torch.full((1, 2, 4, 4), torch.nan)
        call = getattr(x, function) if isinstance(function, str) else lambda *a, f=function, x=x: f(x, *a)
        assert torch.isnan(call(*more.get(function, ()))).all(), function
    model, x = network("mobilenet_v2", 32, NETS["mobilenet_v2"][0])
    found = constant_inputs(trace_graph(model, x), x, lambda _, weight: torch.ones_like(weight, dtype=torch.bool))
    assert all(torch.isnan(value).all() for value in found.values())


def test_a_fresh_process_loads_the_small_network(tmp_path: Path) -> None:
    kwargs = {"name": "mobilenet_v2", "in_channels": 3, "num_classes": 5, **NETS["mobilenet_v2"][0]}
    model, x = network("mobilenet_v2", 32, NETS["mobilenet_v2"][0])
    pruner = Pruner(model, {"structure": "channel", "sparsity": 0.5}, example_inputs=x, total_steps=1)
    pruner.step()
    pruner.finalize()
    small = compact(model, x[:1], {**pruner.masks, **pruner.parameter_masks})
    architecture = Architecture("models.nets:build", kwargs, (1, 3, 32, 32), {}, sizes=small.sizes)
    export(small.model, tmp_path / "small", architecture, small.masks)
    torch.save({"x": x, "y": model.eval()(x).detach()}, tmp_path / "wanted.pt")
    script = ("import sys, torch; from codesign.export import load_exported; w = torch.load(sys.argv[2]); "
              "n = load_exported(sys.argv[1]); y = n.model(w['x']); "
              "assert (y - w['y']).abs().max() <= 1e-5 * w['y'].abs().max().clamp_min(1); "
              "print(n.trace().layers[3].operation.out_channels, sum(p.numel() for p in n.model.parameters()))")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "small"), str(tmp_path / "wanted.pt")],
                          capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    layers = list(small.model.modules())
    fourth = [layer for layer in layers if isinstance(layer, nn.Conv2d)][3]
    assert done.stdout.split() == [str(fourth.out_channels), str(small.parameters)]


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = build("lenet5")
    for sizes, message in (({"conv9": {"out_channels": 2}}, "conv9"), ({"conv1": {"width": 2}}, "width"),
                           ({"conv1": {"out_channels": 0}}, "above 0")):
        export(model, tmp_path, Architecture("models.nets:build", {"name": "lenet5"}, (1, 1, 28, 28), {}, sizes=sizes),
               {})
        with pytest.raises(InputError, match=message):
            load_exported(tmp_path)


def test_a_finished_run_is_made_smaller_on_the_command_line(tiny_config, tmp_path: Path, invoke) -> None:
    config = tiny_config(prune={"structure": "channel", "sparsity": 0.5})
    assert invoke("train", config, "--out", tmp_path / "run", "--device", "cpu")[0] == 0
    status, out, err = invoke("compact", tmp_path / "run", "--json")
    assert status == 0, err
    table = json.loads(out)
    assert table["parameters"] < 0.7 * table["parameters_before"]
    masked, small = load_exported(tmp_path / "run" / "model"), load_exported(tmp_path / "run" / "compact")
    assert difference(masked.model, small.model, torch.randn(3, 1, 28, 28)) < 1e-5
    measured = small.activations
    assert set(measured) == set(masked.activations) and all(0 < density <= 1 for density in measured.values())
    scores = [json.loads(invoke("evaluate", path, "--machine", "systolic_ws", "--json")[1])["machines"][0]["total"]
              for path in (tmp_path / "run", tmp_path / "run" / "compact")]
    assert scores[1]["dense_macs"] < 0.7 * scores[0]["dense_macs"]
    assert invoke("compact", tmp_path / "run")[0] == 2  # it is there already
    assert "channels of" in invoke("compact", tmp_path / "run", "--out", tmp_path / "again")[1]
