"""The pruner as a callback of the Trainer of transformers, with its state in a folder of each checkpoint.

    trainer = Trainer(model, args, train_dataset=data, callbacks=[PrunerCallback({"structure": "2:4"})])

It leaves out DeepSpeed and FSDP, which keep the weights elsewhere than in the model's parameters.  Read ../pruner.py
for what happens at a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from ..checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from ..choice import CostModel
from ..pruner import Pruner
from ..settings import PrunerConfig
from .making import Wish, package

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

TrainerCallback = package("transformers", extra="huggingface").TrainerCallback

FOLDER = "pruner"


class PrunerCallback(TrainerCallback):  # type: ignore[misc, valid-type]
    """Prunes the model while transformers.Trainer trains it.

    settings, cost, example_inputs, probe: as of Pruner.  Steps are the trainer's optimizer steps: with
    gradient_accumulation_steps several batches make one; state.max_steps says how many there will be, unless the
    settings give total_steps.  resume_from: the checkpoint's folder, where train(resume_from_checkpoint=...) is given
    one that is not in output_dir; the trainer does not tell its callbacks.

    pruner: the Pruner, from the start of training on and after its end; None before.  A second train() of the same
    model goes on with its masks.  Raises InputError for mistakes in the settings at once; when training starts, for
    load_best_model_at_end (the best checkpoint would be one of the dense ones) and for a checkpoint without a pruner.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | PrunerConfig | None = None,
        *,
        cost: CostModel | None = None,
        example_inputs: Any = None,
        probe: tuple[Tensor, Tensor | None] | None = None,
        resume_from: str | Path | None = None,
    ) -> None:
        self._wish = Wish.of(settings, cost=cost, example_inputs=example_inputs, probe=probe)
        self._resume_from = resume_from
        self.pruner: Pruner | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *,
        model: nn.Module, optimizer: torch.optim.Optimizer, **_: Any,
    ) -> None:  # fmt: skip
        """Make the pruner; here weights and optimizer are those of the checkpoint, if there is one."""
        if args.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end", where="PrunerCallback", expected="False: earlier checkpoints are less sparse",
                fix="choose a checkpoint after training",
            )  # fmt: skip
        saved = None
        if state.global_step:
            saved = _saved(self._resume_from or _checkpoint(args, state))
        elif self.pruner is not None and self.pruner.model is model:
            saved = self.pruner.state_dict()
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper calls no hooks of its own
        self.pruner = self._wish.pruner(model, inner, state.max_steps)
        if saved is not None:
            self.pruner.load_state_dict(saved)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Advance the pruner by one optimizer step; before the trainer saves or evaluates."""
        assert self.pruner is not None
        self.pruner.step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the pruner's state beside the trainer's.  A hyperparameter search saves elsewhere and is not resumed."""
        assert self.pruner is not None
        folder = _checkpoint(args, state)
        if args.should_save and folder.is_dir():
            save_checkpoint(folder / FOLDER, self.pruner.state_dict())

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Enforce the final sparsity, also where training was stopped early."""
        assert self.pruner is not None
        self.pruner.finalize()


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _saved(checkpoint: str | Path) -> dict[str, Any]:
    folder = Path(checkpoint) / FOLDER
    if not has_checkpoint(folder):
        raise InputError(
            "no state of a pruner", where=str(folder), expected="what PrunerCallback saved with the checkpoint",
            fix="give PrunerCallback(resume_from=...) the folder that training is resumed from",
        )  # fmt: skip
    return load_checkpoint(folder)
