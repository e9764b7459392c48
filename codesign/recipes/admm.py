"""ADMM: pruning after training, the baseline that methods which prune while they train are compared with.

Three phases, each with its own decay of the learning rate: dense training; ADMM, in which weights are pulled
towards their own projection onto the structure, and a dual variable remembers by how much they resist; hard
masks and fine-tuning.  Left out: penalties that grow from round to round.  Read clicktrain.py for the rival.

Source: Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers",
ECCV 2018; the lengths of the phases are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import parse

from ..config import Section
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, install_, projected


class Settings(Section):
    """structure, sparsity: what is projected onto (sparsity: unless the structure fixes it).  start, harden: progress
    at which ADMM begins and at which masks become hard.  rho: strength of the pull.  every: steps between two
    projections.  tune: learning rate of the fine-tuning as a multiple of the configured one, which the other phases
    begin with.  skip: layers that stay dense; None = the first convolution and the classifier."""

    structure: str = "unstructured"
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    harden: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    rho: Annotated[float, Field(gt=0.0)] = 1e-2
    every: Annotated[int, Field(ge=1)] = 100
    tune: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class Admm(Method):
    """target, dual: Z and U of each layer, from the start of ADMM until masks are hard."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if settings.harden <= settings.start:
            raise InputError(f"harden = {settings.harden}", where="recipe admm",
                             expected=f"a progress after start = {settings.start}")
        self.settings, self.structure = settings, parse(settings.structure)
        self.layers = chosen_layers(context, settings.skip, self.structure)
        self.target: dict[str, Tensor] = {}
        self.dual: dict[str, Tensor] = {}
        self.projected = -1
        self.hard = False

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The phase begins that is due; within ADMM, Z and U follow the weights at intervals."""
        if place.progress >= self.settings.harden and not self.hard:
            self._harden()
        elif place.progress >= self.settings.start and not self.hard:
            due = self.projected < 0 or place.step - self.projected >= self.settings.every
            if due:
                self._project()
                self.projected = place.step
        return Batch(x, y)

    @torch.no_grad()
    def _project(self) -> None:
        for name, layer in self.layers.items():
            if name in self.target:
                self.dual[name] += layer.weight - self.target[name]
            else:
                self.dual[name] = torch.zeros_like(layer.weight)
            sought = layer.weight + self.dual[name]
            self.target[name] = sought * projected(sought, self.structure, self.settings.sparsity)

    @torch.no_grad()
    def _harden(self) -> None:
        masks = {name: projected(layer.weight, self.structure, self.settings.sparsity)
                 for name, layer in self.layers.items()}
        install_(self.context, masks, str(self.structure))
        self.target, self.dual, self.hard = {}, {}, True

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """The gradient of rho / 2 |W - Z + U|^2, and the learning rate of the phase: half a cosine down to 0."""
        for name, target in self.target.items():
            weight = self.layers[name].weight
            if weight.grad is not None:
                weight.grad.add_(weight - target + self.dual[name], alpha=self.settings.rho)
        bounds = [0.0, self.settings.start, self.settings.harden, 1.0]
        phase = max(index for index in range(3) if place.progress >= bounds[index])
        passed = (place.progress - bounds[phase]) / (bounds[phase + 1] - bounds[phase])
        share = (1.0 + math.cos(math.pi * passed)) / 2.0 * (self.settings.tune if phase == 2 else 1.0)
        for group in self.context.optimizer.param_groups:
            group["lr"] *= share  # the loop sets it anew before every step

    def end_epoch(self, place: Place) -> None:
        """A training that is too short for its phases still ends with its masks."""
        if place.epoch + 1 == place.epochs and not self.hard:
            self._harden()

    def row(self) -> dict[str, Any]:
        """The phase that the epoch ended in."""
        return {"phase": "hard" if self.hard else "admm" if self.target else "dense"}

    def state_dict(self) -> dict[str, Any]:
        """Z and U, and where they were last renewed."""
        return {"target": dict(self.target), "dual": dict(self.dual), "projected": self.projected, "hard": self.hard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the hard masks itself."""
        device = self.context.example.device
        self.target = {name: value.to(device) for name, value in state["target"].items()}
        self.dual = {name: value.to(device) for name, value in state["dual"].items()}
        self.projected, self.hard = state["projected"], state["hard"]


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Admm(settings, context)
