"""Soft movement pruning: a learned score per weight or block; what has sigmoid(score) above a threshold is kept.

The forward pass sees W where the mask keeps it.  A score's gradient goes straight through mask and sigmoid: the
sum over its weights of dL/dW' W, W' being what the network shows, so that weights which grow are kept and those
that shrink go, and what is gone may come back.  A penalty, lambda times the mean of sigmoid(score), presses all
scores down and rises by a cubic schedule; how sparse the network gets is its outcome.  Left out: distillation,
and two ways of the released code, which raises the threshold along with lambda and takes the mean layer by
layer.  Read auto_sparse.py for learned thresholds on magnitudes; the hard form is the criterion "movement".

Source: Sanh et al., "Movement Pruning", NeurIPS 2020; in blocks Lagunas et al., "Block Pruning For Faster
Transformers", EMNLP 2021.  Scores start at 0 and move by Adam at 0.01, the threshold is 0.1, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import UNSTRUCTURED, block

from ..config import Section
from ..layers import Layer
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, install_
from ..schedules import Era
from ..step_macs import layer_macs, macs_around_zeros
from ..structures import as_matrix, keep_best, unit_scores, window_of

LEAST = 0.005
"""Share of a layer's scores that are kept whatever they are, so that no layer is cut through; as the authors do."""


class Settings(Section):
    """block: weights of one score, rows along k by columns along n ("32x32"); "1x1" is a score per weight.  tau: the
    threshold.  penalty: lambda at its full height.  start, full: progress at which it begins to rise and is there.
    score_lr: of the scores; it takes the course of the network's.  skip: patterns of layers that stay dense; None = the
    first convolution and the classifier."""

    block: Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*$")] = "1x1"
    tau: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    penalty: Annotated[float, Field(ge=0.0)] = 100.0
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    full: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    score_lr: Annotated[float, Field(gt=0.0)] = 0.01
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class SoftMovement(Method):
    """scores: float[rows of blocks, columns of blocks] of each layer.  behind: the weights that are trained; between
    steps the network has them masked."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if settings.full <= settings.start:
            raise InputError(f"full = {settings.full}", where="recipe soft_movement",
                             expected=f"a progress after start = {settings.start}")
        rows, cols = map(int, settings.block.split("x"))
        self.structure = UNSTRUCTURED if rows == cols == 1 else block(rows, cols)
        self.settings, self.rise = settings, Era(settings.start, settings.full, 3.0)
        self.layers = chosen_layers(context, settings.skip, self.structure)
        self.scores = {name: self._first_scores(layer) for name, layer in self.layers.items()}
        self.optimizer = torch.optim.Adam(list(self.scores.values()), settings.score_lr)
        self.behind: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        self.work = layer_macs(context.model, context.example)
        self._mask_()

    def _sizes(self, layer: Layer) -> tuple[int, int, int, int]:
        """k, n, and the rows and columns of a block on this layer."""
        k, n = as_matrix(layer.weight).shape
        return k, n, *self.structure.unit_extent(k, n, window_of(layer.weight.shape))

    def _first_scores(self, layer: Layer) -> Tensor:
        k, n, tall, wide = self._sizes(layer)
        return torch.zeros(-(-k // tall), -(-n // wide), device=layer.weight.device)

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """Scores get their gradients here and not from a term of the loss, which a float16 run would have scaled."""
        pressure = self.settings.penalty * self.rise(place.progress)
        total = sum(score.numel() for score in self.scores.values())
        for name, layer in self.layers.items():
            gradient, squeezed = layer.weight.grad, torch.sigmoid(self.scores[name])
            layer.weight.copy_(self.behind[name])
            if gradient is None:
                continue
            moved, _ = unit_scores(gradient * layer.weight, self.structure)
            self.scores[name].grad = moved.reshape(squeezed.shape).float() + (
                pressure / total * squeezed * (1.0 - squeezed))
            gradient.mul_(self.masks[name])
        network = self.context.optimizer
        self.optimizer.param_groups[0]["lr"] = (
            self.settings.score_lr * network.param_groups[0]["lr"] / network.defaults["lr"])
        self.optimizer.step()

    def after_step(self, place: Place) -> None:
        """Weights and scores have moved: a new mask."""
        self._mask_()

    @torch.no_grad()
    def _mask_(self) -> None:
        for name, layer in self.layers.items():
            self.behind[name] = layer.weight.clone()
            self.masks[name] = self.mask(name)
            layer.weight.masked_fill_(~self.masks[name], 0.0)

    def mask(self, name: str) -> Tensor:
        """bool of a layer's weight: its blocks whose score is high enough, and at least a few."""
        scores, layer = self.scores[name], self.layers[name]
        least = keep_best(scores.double().flatten(), max(1, round(LEAST * scores.numel()))).reshape(scores.shape)
        kept = (torch.sigmoid(scores) > self.settings.tau) | least
        k, n, tall, wide = self._sizes(layer)
        return kept.repeat_interleave(tall, 0)[:k].repeat_interleave(wide, 1)[:, :n].T.reshape(layer.weight.shape)

    def end_epoch(self, place: Place) -> None:
        """At the end of training masks are hard, and the pruner's."""
        if place.epoch + 1 == place.epochs:
            install_(self.context, self.masks, str(self.structure))

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """Every weight gets its gradient, for the scores; what is masked is left out of the other two products."""
        shown = {name: layer.weight for name, layer in self.layers.items()}
        return macs_around_zeros(self.work, shown) * (0 if batch is None else len(batch.x))

    def row(self) -> dict[str, Any]:
        """How sparse the network is that was just evaluated, and the mean that is penalised."""
        masked = [(~mask).flatten() for mask in self.masks.values()]
        scores = torch.cat([score.flatten() for score in self.scores.values()])
        return {"masked": float(torch.cat(masked).float().mean()), "mean_sigmoid": float(torch.sigmoid(scores).mean())}

    def state_dict(self) -> dict[str, Any]:
        """The weights behind, the scores and what Adam remembers of them; masks follow from the scores."""
        return {"behind": {name: value.clone() for name, value in self.behind.items()},
                "scores": {name: value.clone() for name, value in self.scores.items()},
                "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, value in state["behind"].items():
            self.layers[name].weight.copy_(value)
            self.scores[name].copy_(state["scores"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self._mask_()


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return SoftMovement(settings, context)
