"""The pruner as a callback of Lightning's Trainer, with its state in Lightning's checkpoints.

    trainer = Trainer(callbacks=[PrunerCallback({"structure": "2:4"})])

It leaves out several optimizers (one pruner follows one), and what Lightning itself does not restore: the order of
the data within an epoch and torch's random numbers.  Read ../pruner.py for what happens at a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from simulator.errors import InputError

from ..choice import CostModel
from ..pruner import Pruner
from ..settings import PrunerConfig
from .making import Wish, package

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

# `lightning` brings pytorch_lightning along, and its Trainer calls the hooks of either's callbacks
Callback = package("pytorch_lightning", extra="lightning").Callback


class PrunerCallback(Callback):  # type: ignore[misc, valid-type]
    """Prunes the LightningModule while it is fitted.

    settings, cost, probe: as of Pruner.  example_inputs: as of Pruner; by default the module's
    example_input_array.  Steps are the trainer's optimizer steps: with accumulate_grad_batches several batches make
    one.  How many there will be is trainer.estimated_stepping_batches, unless the settings give total_steps.

    pruner: the Pruner, from the start of the fit on and after its end; None before.  A second fit of the same module
    goes on with its masks.  Raises InputError for mistakes in the settings at once, when the fit starts, for more than
    one optimizer, for an unknown number of steps and for a checkpoint without a pruner.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | PrunerConfig | None = None,
        *,
        cost: CostModel | None = None,
        example_inputs: Any = None,
        probe: tuple[Tensor, Tensor | None] | None = None,
    ) -> None:
        self._wish = Wish.of(settings, cost=cost, example_inputs=example_inputs, probe=probe)
        self.pruner: Pruner | None = None
        self._restored: Mapping[str, Any] | None = None
        self._steps_seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner; here weights and optimizer are those of the checkpoint, if there is one."""
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"{len(trainer.optimizers)} optimizers", where="PrunerCallback", expected="one",
                fix="prune each network in a loop of your own, with a Pruner each",
            )  # fmt: skip
        wish = self._wish
        if wish.example_inputs is None:
            wish = Wish(wish.config, wish.cost, pl_module.example_input_array, wish.probe)
        state = self._restored
        if state is None and self.pruner is not None and self.pruner.model is pl_module:
            state = self.pruner.state_dict()
        if state is None and trainer.global_step:
            raise InputError(
                "no state of a pruner", where="the checkpoint", expected="one that PrunerCallback was saved with",
                fix="to prune a trained network, load its weights and start a fit without ckpt_path",
            )  # fmt: skip
        self.pruner = wish.pruner(pl_module, trainer.optimizers[0], trainer.estimated_stepping_batches)
        if state is not None:
            self.pruner.load_state_dict(state)
        self._restored, self._steps_seen = None, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Advance the pruner by the optimizer steps of this batch: none while gradients are accumulated."""
        assert self.pruner is not None
        for _step in range(trainer.global_step - self._steps_seen):
            self.pruner.step()
        self._steps_seen = trainer.global_step

    def on_train_end(self, *_: Any) -> None:
        """Enforce the final sparsity, also where training was stopped early."""
        assert self.pruner is not None
        self.pruner.finalize()

    def state_dict(self) -> dict[str, Any]:
        """What Lightning puts into its checkpoint: the pruner's state, nothing before the fit has started."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the fit starts."""
        self._restored = state_dict
