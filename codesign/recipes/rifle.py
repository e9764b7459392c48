"""RIFLE: when a trained network learns a new task, its classifier starts anew several times, and the rate with it.

Gradients of a classifier that has fitted soon say little to the layers below; a fresh one stirs them again.
Training is cut into cycles, each with a new classifier and a learning rate that falls by half a cosine.  Left
out: the pre-training, which is any other run: `weights` names its directory.

Source: Li et al., "RIFLE: Backpropagation in Depth for Deep Transfer Learning through Re-Initializing the Fully-
connected LayEr", ICML 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError

from ..config import Section
from ..draws import generator
from ..layers import execution_order, prunable
from ..method import Batch, Context, Method, Place


class Settings(Section):
    """cycles: how often the classifier starts anew, the beginning included.  weights: directory of an exported network
    of the same shape but for the classifier, to start from; None = the network as it was built.  anneal: whether the
    learning rate falls in every cycle (with train.schedule = "constant")."""

    cycles: Annotated[int, Field(ge=1)] = 3
    weights: str | None = None
    anneal: bool = True


class Rifle(Method):
    """head: the layer that runs last.  cycle: the one that training is in, -1 before the first step."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.cycle = settings, -1
        self.head_name = execution_order(context.model, context.example)[-1]
        self.head = prunable(context.model)[self.head_name]
        if settings.weights is not None:
            self._load_(Path(settings.weights))

    @torch.no_grad()
    def _load_(self, directory: Path) -> None:
        from ..export import load_exported

        given = load_exported(directory).model.state_dict()
        mine = self.context.model.state_dict()
        body = [name for name in mine if not name.startswith(f"{self.head_name}.")]
        wrong = [name for name in body if name not in given or given[name].shape != mine[name].shape]
        if wrong:
            raise InputError(f"{wrong[0]!r} is not in it or has another shape", where=f"recipe rifle, {directory}",
                             expected="a network that differs in its classifier only")
        for name in body:
            mine[name].copy_(given[name])

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """At the start of a cycle the classifier is drawn anew."""
        cycle = int(place.progress * self.settings.cycles + 1e-9)
        if cycle != self.cycle:
            self.cycle = cycle
            self._start_head_()
            self.rewrites += 1
        return Batch(x, y)

    @torch.no_grad()
    def _start_head_(self) -> None:
        """Uniform within 1 / sqrt(inputs), torch's own for linear layers; its optimizer remembers nothing."""
        draw = generator(self.context.seed, "rifle", self.cycle)
        bound = 1.0 / math.sqrt(self.head.weight[0].numel())
        for parameter in self.head.parameters():
            fresh = torch.rand(parameter.shape, generator=draw) * 2.0 - 1.0
            parameter.copy_(fresh.to(parameter.device) * bound)
            self.context.optimizer.state.pop(parameter, None)

    def after_backward(self, place: Place) -> None:
        """The rate within the cycle; the loop sets it anew before every step."""
        if self.settings.anneal:
            passed = place.progress * self.settings.cycles - self.cycle
            for group in self.context.optimizer.param_groups:
                group["lr"] *= (1.0 + math.cos(math.pi * passed)) / 2.0

    def row(self) -> dict[str, Any]:
        """The cycle, counted from 0."""
        return {"cycle": self.cycle}

    def state_dict(self) -> dict[str, Any]:
        """The cycle; the rest is in the network."""
        return {"cycle": self.cycle}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.cycle = int(state["cycle"])


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Rifle(settings, context)
