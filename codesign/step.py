"""One training step: examples, loss, gradients, optimizer, in the order that every method relies on.

It knows nothing of epochs, masks or files; the pruner's own step follows it in train.py.  Read method.py
for what a recipe may change here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from simulator.errors import InputError

from .method import Batch, Method, Place
from .precision import Precision


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a step did: the mean loss without penalty, right answers, examples trained on, and the batch itself."""

    loss: float
    correct: int
    seen: int
    batch: Batch | None


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    x: torch.Tensor,
    y: torch.Tensor,
    place: Place,
    precision: Precision | None = None,
    share: float = 1.0,
    last: bool = True,
) -> Outcome:
    """Train on one batch.  Raises InputError where the loss is not finite.

    precision: how it is computed; None = plainly.  share: what the batch's loss counts in the coming optimizer step,
    which is taken if this is the `last` batch of it.
    """
    precision = precision or Precision(model, x.device)
    batch = method.prepare(x, y, place)
    if batch is None or not len(batch.x):
        method.after_step(place)
        return Outcome(0.0, 0, 0, None)
    with precision.autocast():
        logits = precision.forward(batch.x)
        loss = method.loss(logits, batch)
        penalty = method.penalty(place)
    whole = loss if penalty is None else loss + penalty
    precision.backward(whole if share == 1.0 else whole * share)
    if last:
        precision.unscale_(optimizer)
        method.after_backward(place)
        precision.step(optimizer)
        method.after_step(place)
        optimizer.zero_grad(set_to_none=True)
    correct = int((logits.detach().argmax(1) == batch.y).sum())
    return Outcome(_finite(float(loss.detach()), place), correct, len(batch.x), batch)


def _finite(loss: float, place: Place) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss}",
            where=f"training, epoch {place.epoch + 1}, batch {place.batch + 1}",
            expected="a finite loss",
            fix="training diverged: lower train.lr or add train.warmup_epochs",
        )
    return loss
