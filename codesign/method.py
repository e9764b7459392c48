"""A training method: what a published recipe changes in an ordinary training step, and nothing else.

The loop in train.py stays one loop; a method is asked at six places (which examples, which loss, which
penalty, before and after the optimizer's step, at an epoch's end) and answers with the ordinary thing
unless it overrides.  Structure, schedule and criterion are not its business: those are the pruner's, which
a method may hand finished masks to.  Read recipes/ for the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simulator.errors import InputError

if TYPE_CHECKING:
    from .pruner import Pruner


@dataclass(frozen=True)
class Place:
    """Where training is: epoch, batch within it and step over all, each counted from 0.

    examples: int64[b], which of the training images this batch has, the same numbers in every epoch; only for a method
    that is `numbered`.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    examples: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def step(self) -> int:
        """Batches before this one, over all epochs."""
        return self.epoch * self.batches + self.batch

    @property
    def progress(self) -> float:
        """Share of training done before this batch, in [0, 1)."""
        return self.step / (self.epochs * self.batches)


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples to train on.  x: float[b, ...]; y: int64[b].

    other, share: for mixed examples, the second labels int64[b] and the weight of the first in [0, 1].  weight:
    float[b], what each example counts in the loss (None = 1).
    """

    x: Tensor
    y: Tensor
    other: Tensor | None = None
    share: float = 1.0
    weight: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may use: the network, its optimizer, the pruner, and the loss.

    example: one input of the network.  classes: how many labels there are.  loss(logits, y) -> float[], the mean over
    examples; losses(logits, y) -> float[b].
    forward: float[b, ...] -> float32[b, classes] at the precision of training; None = the model itself, at its own.
    pruner: takes finished masks by `set_masks_`; where the configuration has a [prune] section it prunes by itself;
    None in ordinary dense training.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    pruner: Pruner | None
    example: Tensor
    classes: int
    loss: Callable[[Tensor, Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]
    seed: int
    total_steps: int
    forward: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def logits_of(self, x: Tensor) -> Tensor:
        """float[b, classes]: the network in evaluation mode, without gradients; batch norm learns nothing from it."""
        self.model.eval()
        try:
            return self.model(x) if self.forward is None else self.forward(x)
        finally:
            self.model.train()

    def losses_of(self, x: Tensor, y: Tensor) -> Tensor:
        """float[b]: each example's loss by `logits_of`."""
        return self.losses(self.logits_of(x), y)


class Method:
    """Ordinary training.  A recipe overrides what it changes; every default is what a plain loop does.

    numbered: whether `Place.examples` is wanted.  rewrites: how often the network's weights became others at once, so
    that those from before say nothing about it; whoever averages weights looks at it.  makes_masks: whether it hands
    masks to the pruner, which then cannot make any itself; InputError where it is to.
    """

    numbered = False
    rewrites = 0
    makes_masks = False

    def __init__(self, context: Context) -> None:
        self.context = context
        pruner = context.pruner
        if self.makes_masks and pruner is not None and (
            pruner.cost is not None or any(row.sparsity for row in pruner.plan())
        ):
            raise InputError("[prune] or [hardware] beside a recipe that makes the masks", where="recipe",
                             expected="the recipe alone", fix="leave the section out, and set what the recipe has")

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch | None:
        """The examples of this step, or None to take no step with this batch."""
        return Batch(x, y)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The scalar to differentiate, without any penalty."""
        if batch.weight is None and batch.other is None:
            return self.context.loss(logits, batch.y)
        losses = self.context.losses(logits, batch.y)
        if batch.other is not None:
            losses = batch.share * losses + (1.0 - batch.share) * self.context.losses(logits, batch.other)
        return losses.mean() if batch.weight is None else (losses * batch.weight).sum() / len(losses)

    def penalty(self, place: Place) -> Tensor | None:
        """A regulariser to add to the loss, or None."""
        return None

    def after_backward(self, place: Place) -> None:
        """Gradients are there and belong to the present weights; the optimizer has not moved yet."""

    def after_step(self, place: Place) -> None:
        """The optimizer has moved, masks are applied, gradients are still there."""

    def end_epoch(self, place: Place) -> None:
        """The last batch of an epoch is done; place is that batch's.

        At the end of training the network has the averaged weights, if there are any: what is to be exported.
        """

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """Multiply-accumulates that this step took.

        per_image: of one image forward and backward with the present masks.  images: how many the data gave.  batch:
        what prepare made of them.
        """
        return per_image * (0 if batch is None else len(batch.x))

    def row(self) -> dict[str, Any]:
        """What to write into the metrics at the end of an epoch, as JSON values; counters start again."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What to write into the report at the end of training, as JSON values."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit: tensors and JSON values, nested."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
