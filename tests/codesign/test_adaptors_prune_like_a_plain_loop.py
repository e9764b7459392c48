"""The pruner inside Lightning's and transformers' trainers ends where a plain loop ends, also after an interruption."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from codesign import HardwareCost, Pruner
from codesign.adaptors.hugging_face import PrunerCallback as HuggingFaceCallback
from codesign.adaptors.lightning import PrunerCallback as LightningCallback
from simulator.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES, BATCH, ACCUMULATE, EPOCHS = 5, 4, 2, 3
STEPS = 3 * EPOCHS  # five batches an epoch, two by two, the last alone
DRAWS = torch.Generator().manual_seed(1)
X = torch.randn(BATCHES * BATCH, 1, 6, 6, generator=DRAWS)
Y = torch.randint(0, 3, (BATCHES * BATCH,), generator=DRAWS)
ONE = (X[:1], Y[:1])  # what Net takes; Module takes the image alone
FISHER = {"structure": "unstructured", "sparsity": 0.8, "schedule": "agp", "criterion": "fisher", "update_every": 1}
REGROWN = {
    "structure": {"*.2": "kernel", "*.5": "block 4x4"}, "sparsity": 0.5, "schedule": "one_shot", "update_every": 1,
    "regrow": {"name": "rigl", "every": 2},
}  # fmt: skip
CHANNELS = {"structure": "channel", "sparsity": 0.5, "schedule": "iterative", "criterion": "taylor_squared"}
SETTINGS = pytest.mark.parametrize("settings", [FISHER, REGROWN, CHANNELS], ids=["fisher", "regrown", "channels"])


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16),
        nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = body()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        out = self.net(x)
        return out if labels is None else {"loss": F.cross_entropy(out, labels), "logits": out}


class Stopped(Exception):
    pass


class Module(pl.LightningModule):
    """Checks the masks after every batch, when all callbacks have had it; is stopped where a test says so."""

    def __init__(self, pruned: LightningCallback, stop_in_epoch: int = EPOCHS) -> None:
        super().__init__()
        self.net, self.pruned, self.stop_in_epoch, self.checked = body(), pruned, stop_in_epoch, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if self.current_epoch == self.stop_in_epoch and index == 3:
            raise Stopped
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        self.checked += check_masks_hold(self.pruned.pruner)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


def check_masks_hold(pruner: Pruner) -> int:
    for name, mask in pruner.masks.items():
        weight = pruner.model.get_submodule(name).weight
        assert not weight[~mask].any()
        assert not pruner.optimizer.state[weight]["momentum_buffer"][~mask].any()
    return len(pruner.masks)


def plain_loop(settings: dict[str, Any], divide_last: bool, cost: Any = None) -> Pruner:
    """The same steps by hand.  divide_last: whether the lonely last batch counts half, as in Lightning, or whole."""
    model = Net()
    optimizer = sgd(model)
    pruner = Pruner(model, settings, optimizer, ONE, total_steps=STEPS, cost=cost)
    for _ in range(EPOCHS):
        for index in range(BATCHES):
            here = slice(index * BATCH, (index + 1) * BATCH)
            last = index == BATCHES - 1
            (F.cross_entropy(model(X[here]), Y[here]) / (1 if last and not divide_last else ACCUMULATE)).backward()
            if last or index % ACCUMULATE == ACCUMULATE - 1:
                optimizer.step()
                optimizer.zero_grad()
                pruner.step()
    pruner.finalize()
    return pruner


def lightning(
    folder: Path, pruned: LightningCallback, stop_in_epoch: int = EPOCHS, resume: bool = False, **trainer: Any
) -> Module:
    saver = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    module = Module(pruned, stop_in_epoch)
    options = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATE, **trainer}
    loop = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saver, pruned], **options,
    )  # fmt: skip
    loop.fit(module, DataLoader(TensorDataset(X, Y), BATCH), ckpt_path=folder / "epoch=0.ckpt" if resume else None)
    return module


class Watch(transformers.TrainerCallback):
    def __init__(self, pruned: HuggingFaceCallback, stop_at: int) -> None:
        self.pruned, self.stop_at, self.checked = pruned, stop_at, 0
        self.trainer: transformers.Trainer | None = None

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.checked += check_masks_hold(self.pruned.pruner)
        if state.global_step == self.stop_at:
            raise Stopped


def hugging_face(
    folder: Path, pruned: HuggingFaceCallback, stop_at: int = 0, resume: str | None = None,
    order: str = "sequential", **options: Any,
) -> Watch:  # fmt: skip
    model, watch = Net(), Watch(pruned, stop_at)
    args = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, save_steps=4, max_grad_norm=0.0,
        lr_scheduler_type="constant", num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, logging_steps=1000,
        gradient_accumulation_steps=ACCUMULATE, remove_unused_columns=False, dataloader_pin_memory=False,
        train_sampling_strategy=order, **options,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    callbacks, optimizers = [pruned, watch], (sgd(model), None)
    trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=callbacks, optimizers=optimizers)
    trainer.train(resume_from_checkpoint=resume)
    watch.trainer = trainer
    return watch


def assert_same(one: Pruner, other: Pruner) -> None:
    assert one.masks and one.masks.keys() == other.masks.keys()
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())
    theirs = other.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.model.state_dict().items())
    assert [(e["step"], e["share"]) for e in one.history] == [(e["step"], e["share"]) for e in other.history]


@SETTINGS
def test_lightning_ends_where_a_plain_loop_ends(tmp_path: Path, settings: dict[str, Any]) -> None:
    pruned = LightningCallback(settings, example_inputs=X[:1])
    module = lightning(tmp_path, pruned)
    assert module.checked
    assert_same(pruned.pruner, plain_loop(settings, divide_last=True))


@SETTINGS
def test_transformers_ends_where_a_plain_loop_ends(tmp_path: Path, settings: dict[str, Any]) -> None:
    pruned = HuggingFaceCallback(settings, example_inputs=ONE)
    watch = hugging_face(tmp_path, pruned)
    assert watch.checked
    assert_same(pruned.pruner, plain_loop(settings, divide_last=False))


@SETTINGS
def test_lightning_resumes_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole, first, second = (LightningCallback(settings, example_inputs=X[:1]) for _ in range(3))
    lightning(tmp_path / "whole", whole)
    with pytest.raises(Stopped):
        lightning(tmp_path / "cut", first, stop_in_epoch=1)
    assert first.pruner.masks and first.pruner.progress < 1.0
    lightning(tmp_path / "cut", second, resume=True)
    assert_same(second.pruner, whole.pruner)


@SETTINGS
def test_transformers_resumes_bit_for_bit_within_a_shuffled_epoch(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole, first, second = (HuggingFaceCallback(settings, example_inputs=ONE) for _ in range(3))
    hugging_face(tmp_path / "whole", whole, order="random")
    with pytest.raises(Stopped):
        hugging_face(tmp_path / "cut", first, stop_at=5, order="random")
    (tmp_path / "cut").rename(tmp_path / "moved")
    checkpoint = str(tmp_path / "moved" / "checkpoint-4")
    with pytest.raises(InputError, match=r"no state of a pruner.*resume_from"):
        hugging_face(tmp_path / "cut", second, resume=checkpoint, order="random")
    second = HuggingFaceCallback(settings, example_inputs=ONE, resume_from=checkpoint)
    hugging_face(tmp_path / "cut", second, resume=checkpoint, order="random")
    assert_same(second.pruner, whole.pruner)


@pytest.mark.parametrize("run", [lightning, hugging_face])
def test_the_sparsity_asked_for_is_reached_to_the_unit(tmp_path: Path, run: Callable[..., Any]) -> None:
    pruned = (LightningCallback if run is lightning else HuggingFaceCallback)({**FISHER, "skip": ()})
    run(tmp_path, pruned)
    for name, mask in pruned.pruner.masks.items():
        weight = pruned.pruner.model.get_submodule(name).weight
        assert int((weight == 0).sum()) == int((~mask).sum()) == weight.numel() - math.floor(0.2 * weight.numel() + 0.5)
    assert len(pruned.pruner.masks) == 4


@pytest.mark.parametrize("run", [lightning, hugging_face])
def test_a_hardware_cost_chooses_in_either(tmp_path: Path, run: Callable[..., Any]) -> None:
    cost = HardwareCost("nm_array", target_latency=0.9)
    if run is lightning:
        pruned = LightningCallback(cost=cost, example_inputs=X[:1])
    else:
        pruned = HuggingFaceCallback(cost=cost, example_inputs=ONE)
    run(tmp_path, pruned)
    by_hand = plain_loop({}, run is lightning, HardwareCost("nm_array", target_latency=0.9))
    assert pruned.pruner.choices == by_hand.choices != ()
    assert_same(pruned.pruner, by_hand)


def test_a_fit_that_ends_before_its_schedule_still_ends_sparse(tmp_path: Path) -> None:
    pruned = LightningCallback({**FISHER, "total_steps": 100})
    lightning(tmp_path, pruned)
    assert pruned.pruner.realised()["net.5"] == pytest.approx(0.8, abs=1 / 512)
    assert pruned.pruner.history[-1]["event"] == "finalize"


def test_a_second_training_keeps_the_masks(tmp_path: Path) -> None:
    pruned = HuggingFaceCallback(FISHER)
    watch = hugging_face(tmp_path, pruned)
    masks, checked = pruned.pruner.masks, watch.checked
    watch.trainer.train()
    assert all(torch.equal(mask, pruned.pruner.masks[name]) for name, mask in masks.items())
    assert watch.checked == checked + STEPS * len(masks)


def test_a_second_fit_keeps_the_masks(tmp_path: Path) -> None:
    pruned = LightningCallback(FISHER)
    module = lightning(tmp_path, pruned)
    masks = pruned.pruner.masks
    again = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                       enable_checkpointing=False, max_epochs=1, callbacks=[pruned])  # fmt: skip
    again.fit(module, DataLoader(TensorDataset(X, Y), BATCH))
    assert all(torch.equal(mask, pruned.pruner.masks[name]) for name, mask in masks.items())
    assert check_masks_hold(pruned.pruner) == len(masks)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    for callback in (LightningCallback, HuggingFaceCallback):
        with pytest.raises(InputError, match="did you mean 'sparsity'"):
            callback({"sparsty": 0.5})
    with pytest.raises(InputError, match="does not know how many steps"):
        lightning(tmp_path, LightningCallback(FISHER), max_epochs=-1)
    with pytest.raises(InputError, match="load_best_model_at_end"):
        hugging_face(tmp_path, HuggingFaceCallback(FISHER), load_best_model_at_end=True, eval_strategy="no",
                     save_strategy="no")  # fmt: skip


@pytest.mark.parametrize(
    ("adaptor", "needs", "extra"),
    [("lightning", "pytorch_lightning", "lightning"), ("hugging_face", "transformers", "huggingface")],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, adaptor: str, needs: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"codesign.adaptors.{adaptor}")
    with pytest.raises(InputError, match=rf"{needs} is not installed.*espalier-codesign\[{extra}\]"):
        importlib.import_module(f"codesign.adaptors.{adaptor}")


def test_gradients_of_a_closure_are_seen_after_it() -> None:
    """optimizer.step(closure), as Lightning steps: the scores are those of backward before step()."""
    pruners = []
    for by_closure in (False, True):
        model = Net()
        optimizer = sgd(model)
        pruner = Pruner(model, FISHER, optimizer, total_steps=4)

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        for _ in range(4):
            if by_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            pruner.step()
        pruners.append(pruner)
    assert_same(*pruners)
