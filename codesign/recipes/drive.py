"""DRIVE: a few dense epochs, then quickly pruned by what weights are, do, and have come to do; then trained sparse.

The paper is known to us by description only: brief dense training takes the chance of the initialisation out,
and a score of magnitude, gradient and the change of sensitivity ranks the weights, which go in a few steps.
The score's exact form is ours: with the connection sensitivity c = |w dL/dw|, now and at the beginning,

    |w| / mean |w| + c_now / mean c_now + |c_now - c_first| / mean |c_now - c_first|,

means over all weights that are left, in one ranking over the network.  Ours too are the steps, each of which
removes the same share of what is left, and that weights go on from their present values.  Left out: structures.
Read ../criteria.py for the single terms, "magnitude" and "snip".

Source: Saikumar and Varghese, "DRIVE: Dual Gradient-Based Rapid Iterative Pruning", arXiv 2404.03687.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import UNSTRUCTURED

from ..budgets import global_densities
from ..config import Section
from ..criteria import running_mean
from ..masks import pack, unpack
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, install_
from ..structures import project, unit_scores

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Settings(Section):
    """sparsity: share of the weights of all layers that go.  dense: share of training before the first step; until:
    before which the last one comes.  steps: how many.  batches: over how many sensitivities are averaged, with their
    sign.  magnitude, sensitivity, change: what the three terms count.  skip: patterns of layers that stay dense; None =
    the first convolution and the classifier."""

    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    dense: Share = 0.2
    until: Share = 0.35
    steps: Annotated[int, Field(ge=1)] = 5
    batches: Annotated[int, Field(ge=1)] = 10
    magnitude: Weight = 1.0
    sensitivity: Weight = 1.0
    change: Weight = 1.0
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class Drive(Method):
    """first, recent: float of each layer's weight, its mean w dL/dw at the beginning and now.  masks: bool, what is
    left.  done: steps that are over."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if settings.until <= settings.dense:
            raise InputError(f"until = {settings.until}", where="recipe drive",
                             expected=f"a progress after dense = {settings.dense}")
        if settings.magnitude + settings.sensitivity + settings.change == 0.0:
            raise InputError("magnitude, sensitivity and change are all 0", where="recipe drive",
                             expected="a term that counts")
        self.settings, self.done = settings, 0
        self.layers = chosen_layers(context, settings.skip)
        self.first: dict[str, Tensor] = {}
        self.recent: dict[str, Tensor] = {}
        self.masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in self.layers.items()}

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """A step that is due is made before the batch is looked at."""
        passed = (place.progress - self.settings.dense) / (self.settings.until - self.settings.dense)
        due = min(self.settings.steps, 1 + int(passed * self.settings.steps + 1e-9)) if passed >= 0 else 0
        if due > self.done:
            self._prune(due)
        return Batch(x, y)

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """Sensitivities into their running means, while they are still needed."""
        if self.done == self.settings.steps:
            return
        for name, layer in self.layers.items():
            if layer.weight.grad is not None:
                seen = layer.weight * layer.weight.grad
                self.recent[name] = running_mean(self.recent.get(name), seen, 1.0 - 1.0 / self.settings.batches)
                if place.step < self.settings.batches:
                    self.first[name] = self.recent[name]

    @torch.no_grad()
    def _prune(self, step: int) -> None:
        """To (1 - sparsity)^(step / steps) of all weights; what has gone stays gone."""
        missing = self.layers.keys() - self.recent.keys()
        if missing:
            raise InputError(f"no gradient for {', '.join(sorted(missing))}", where="recipe drive",
                             expected="layers that take part in the loss", fix="skip them")
        scores = self.scores()
        density = (1.0 - self.settings.sparsity) ** (step / self.settings.steps)
        densities = global_densities({name: unit_scores(score, UNSTRUCTURED) for name, score in scores.items()},
                                     density)
        self.masks = {name: project(score, UNSTRUCTURED, densities[name]) for name, score in scores.items()}
        self.done = step
        install_(self.context, self.masks, "unstructured")

    def scores(self) -> dict[str, Tensor]:
        """float64 of each layer's weight; -inf where it has gone."""
        total = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in self.layers.items()}
        now = {name: recent.double().abs() for name, recent in self.recent.items()}
        terms = (
            (self.settings.magnitude, {name: layer.weight.double().abs() for name, layer in self.layers.items()}),
            (self.settings.sensitivity, now),
            (self.settings.change, {name: (now[name] - first.double().abs()).abs() for name, first in
                                    self.first.items()}))
        for counts, term in terms:
            mean = torch.cat([term[name][mask] for name, mask in self.masks.items()]).mean()
            for name, score in total.items():
                score += counts * term[name] / mean.clamp_min(1e-30)  # no change at all ranks nothing
        return {name: score.masked_fill(~self.masks[name], -torch.inf) for name, score in total.items()}

    def end_epoch(self, place: Place) -> None:
        """A training that is too short for its steps still ends as sparse as asked for."""
        if place.epoch + 1 == place.epochs and self.done < self.settings.steps:
            self._prune(self.settings.steps)

    def row(self) -> dict[str, Any]:
        """Pruning steps that are over."""
        return {"pruning_steps": self.done}

    def state_dict(self) -> dict[str, Any]:
        """The sensitivities, and what is left."""
        return {"done": self.done, "first": dict(self.first), "recent": dict(self.recent),
                "masks": {name: pack(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.done = int(state["done"])
        for name, packed in state["masks"].items():
            weight = self.layers[name].weight
            self.masks[name] = unpack(packed, weight.shape).to(weight.device)
        for part, given in ((self.first, state["first"]), (self.recent, state["recent"])):
            part.update({name: value.to(self.layers[name].weight.device) for name, value in given.items()})


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Drive(settings, context)
