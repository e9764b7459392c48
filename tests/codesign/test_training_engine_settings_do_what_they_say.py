"""[train] precision, compile, accumulate, ema and channels_last: each does what it says, and resumes bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import codesign.train as train_module
from codesign.checkpoint import load_checkpoint
from codesign.config import check_config
from codesign.ema import Ema
from codesign.export import load_exported
from codesign.precision import Precision
from codesign.train import run_training
from models import build
from simulator.errors import InputError
from simulator.files import read

TABLE: dict[str, Any] = {
    "name": "engine", "data": {"limit": 90, "test_limit": 40, "batch_size": 10},
    "model": {"name": "lenet5", "kwargs": {"widths": [4, 8, 16, 12]}},
    "train": {"epochs": 2, "lr": 0.02, "momentum": 0.0, "nesterov": False, "schedule": "constant"},
    "prune": {"structure": "unstructured", "sparsity": 0.5, "schedule": "agp"},
    "output": {"machines": [], "activations": "none"},
}


def run(folder: Path, **train: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    table = json.loads(json.dumps(TABLE))
    table["train"] |= {key: value for key, value in train.items() if key != "batch_size"}
    table["data"]["batch_size"] = train.get("batch_size", 10)
    run_training(check_config(table), folder, device="cpu")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return load_exported(folder / "model").model.state_dict(), rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("plain") / "run")


def far(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[key] - right[key]).abs().max()) for key in left)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """81 images: batches of 10 by threes are batches of 30, the last one 21 in three parts, one a single image."""
    small, rows = run(tmp_path / "small", accumulate=3)
    large, expected = run(tmp_path / "large", batch_size=30)
    assert far(small, large) < 1e-5
    assert {key: (value == 0).tolist() for key, value in small.items()} == {
        key: (value == 0).tolist() for key, value in large.items()}
    for left, right in zip(rows, expected, strict=True):
        assert (left["step"], left["lr"], left["weight_sparsity"]) == (right["step"], right["lr"],
                                                                       right["weight_sparsity"])
        assert left["train_loss"] == pytest.approx(right["train_loss"], rel=1e-5)


def test_the_average_is_that_of_its_formula_and_keeps_pruned_weights_zero() -> None:
    model = nn.Linear(2, 1)
    ema, expected = Ema(model, 0.3), model.weight.detach().double().clone()
    for step in range(6):
        with torch.no_grad():
            model.weight.add_(1.0 + step)
        ema.update()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema.average["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    ema.mask_({"": torch.tensor([[True, False]])} if "" in ema.average else {"weight": torch.tensor([[True, False]])})
    before = model.weight.detach().clone()
    with ema.in_place():
        assert model.weight[0, 1] == 0 and model.weight[0, 0] == ema.average["weight"][0, 0]
    assert torch.equal(model.weight, before)


def test_the_averaged_weights_are_exported_with_their_masks(tmp_path: Path, plain) -> None:
    averaged, rows = run(tmp_path / "run", ema=0.9)
    assert far(averaged, plain[0]) > 1e-4
    state = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert far(averaged, state["ema"]["average"]) == 0 and far(averaged, state["model"]) == 0
    masks = load_exported(tmp_path / "run" / "model").masks
    assert all(not averaged[f"{name}.weight"][~torch.from_numpy(mask)].any() for name, mask in masks.items())
    assert rows[-1]["train_loss"] == plain[1][-1]["train_loss"], "training itself is as it was"


def test_bfloat16_is_used_and_is_near(tmp_path: Path, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    step = train_module.train_step

    def watched(model, *rest):
        layer = model.get_submodule("conv1")
        handle = layer.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
        try:
            return step(model, *rest)
        finally:
            handle.remove()

    monkeypatch.setattr(train_module, "train_step", watched)
    state, rows = run(tmp_path / "run", precision="bf16")
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in state.values()} == {torch.float32}
    kept = {key: (state[key] != 0) & (plain[0][key] != 0) for key in state}  # a mask may fall otherwise at its edge
    both = [{key: values[key] * kept[key] for key in state} for values in (state, plain[0])]
    assert 0 < far(*both) < 0.05
    assert rows[-1]["train_loss"] == pytest.approx(plain[1][-1]["train_loss"], rel=0.05)


def test_fp16_needs_a_gpu_and_scales_the_loss_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bf16"):
        run(tmp_path / "run", precision="fp16")

    class Scaler:
        """Stands for a GPU's: scales by 1024, and leaves out a step with an infinite gradient as GradScaler does."""

        def scale(self, loss: Tensor) -> Tensor:
            return loss * 1024

        def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.div_(1024)

        def step(self, optimizer: torch.optim.Optimizer) -> None:
            optimizer.step()

        def update(self) -> None:
            pass

    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    precision = Precision(model, torch.device("cpu"))
    precision.scaler = Scaler()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), model.weight)[0]
    precision.backward(F.cross_entropy(precision.forward(x), y))
    precision.unscale_(optimizer)
    torch.testing.assert_close(model.weight.grad, expected)


if torch.cuda.is_available():

    def test_float16_trains_on_a_gpu(tmp_path: Path) -> None:
        table = json.loads(json.dumps(TABLE))
        table["train"] |= {"precision": "fp16"}
        run_training(check_config(table), tmp_path / "run", device="cuda")
        assert load_checkpoint(tmp_path / "run" / "checkpoint")["precision"]["scale"] > 1


def test_channels_last_lays_out_the_same_network(tmp_path: Path, plain) -> None:
    model = build("resnet8", in_channels=1, num_classes=3, widths=(4, 4, 4))
    precision = Precision(model, torch.device("cpu"), channels_last=True)
    assert precision.forward(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    state, _ = run(tmp_path / "run", channels_last=True)
    assert far(state, plain[0]) < 1e-4


def test_a_compiled_network_trains_as_the_plain_one(tmp_path: Path, plain) -> None:
    """The backend "eager" captures and runs the graph; what inductor makes of it is PyTorch's."""
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["ok"]
    state, _ = run(tmp_path / "run", compile="eager")
    assert frames["ok"] > before
    assert list(state) == list(plain[0]) and far(state, plain[0]) < 1e-5


def test_average_and_accumulation_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"ema": 0.8, "accumulate": 2, "checkpoint_every": 2, "momentum": 0.9}
    run(tmp_path / "whole", **settings)
    step, calls = train_module.train_step, []

    def stopped(*given):
        calls.append(1)
        if len(calls) == 15:  # in the second epoch, in the middle of an optimizer step
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(train_module, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", **settings)
    monkeypatch.setattr(train_module, "train_step", step)
    run_training(None, tmp_path / "killed", resume=True, device="cpu")
    for name in ("model/model.safetensors", "model/masks.safetensors"):
        left, right = (read(tmp_path / folder / name)[0] for folder in ("whole", "killed"))
        assert {key: value.tobytes() for key, value in left.items()} == {
            key: value.tobytes() for key, value in right.items()}
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "killed/metrics.jsonl").read_bytes()


def test_a_recipe_and_accumulation_are_refused_together() -> None:
    table = {**TABLE, "recipe": {"name": "sr_ste"}, "train": {"accumulate": 2}}
    with pytest.raises(InputError, match="accumulate"):
        check_config(table)
