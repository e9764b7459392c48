"""TRP, trained rank pruning: every few steps the weights are cut to the rank that holds most of their energy.

In between training goes on in full rank, with the sub-gradient of the nuclear norm pulling small singular
values down.  Training ends in weights of low rank exactly; the report has each layer's rank and what the
network of factors costs on the machines.  Left out: factors over spatial axes.  Read ../low_rank.py.

Source: Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field

from simulator import load_machine, simulate

from ..config import Section, Texts
from ..layers import prunable
from ..low_rank import factorise, low_rank, rank_for_energy
from ..method import Context, Method, Place
from ..recipe_parts import chosen_layers
from ..trace import trace_model


class Settings(Section):
    """energy: share of the squared singular values that a truncation keeps.  every: steps between two.  nuclear: weight
    of the nuclear norm's sub-gradient.  machines: what the factors are simulated on at the end.  skip: patterns of
    layers left alone; None = the first convolution and the classifier."""

    energy: Annotated[float, Field(gt=0.0, le=1.0)] = 0.98
    every: Annotated[int, Field(ge=1)] = 20
    nuclear: Annotated[float, Field(ge=0.0)] = 3e-4
    machines: Texts = ("systolic_ws",)
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class TrainedRankPruning(Method):
    """ranks: of each layer at the last truncation."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.machines = [load_machine(name) for name in settings.machines]
        self.layers = {name: layer for name, layer in chosen_layers(context, settings.skip).items()
                       if getattr(layer, "groups", 1) == 1}
        self.ranks: dict[str, int] = {}

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """Of W = U S V the sub-gradient U V, over the singular values that are not zero, on top of the loss's."""
        if not self.settings.nuclear or place.step % self.settings.every:
            return  # with a truncation's singular vectors at hand only: once per interval, weighed for all its steps
        for layer in self.layers.values():
            if layer.weight.grad is not None:
                u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
                alive = s > 1e-6 * s[0]
                pull = (u[:, alive] @ v[alive]).reshape(layer.weight.shape)
                layer.weight.grad.add_(pull, alpha=self.settings.nuclear * self.settings.every)

    def after_step(self, place: Place) -> None:
        """The truncation, when it is due."""
        if (place.step + 1) % self.settings.every == 0:
            self._truncate_()

    def end_epoch(self, place: Place) -> None:
        """Training ends with weights of low rank."""
        if place.epoch + 1 == place.epochs:
            self._truncate_()

    @torch.no_grad()
    def _truncate_(self) -> None:
        for name, layer in self.layers.items():
            self.ranks[name] = rank_for_energy(torch.linalg.svdvals(layer.weight.flatten(1)), self.settings.energy)
            left, right = low_rank(layer.weight, self.ranks[name])
            layer.weight.copy_((left @ right).reshape(layer.weight.shape))

    def row(self) -> dict[str, Any]:
        """The rank of each layer at the last truncation."""
        return {"ranks": dict(self.ranks)}

    def summary(self) -> dict[str, Any]:
        """Ranks, weights before and after, and cycles of the network of factors against the one that was trained."""
        small = factorise(self.context.model, self.ranks)
        traces = [trace_model(net, self.context.example, {}) for net in (self.context.model, small)]
        weights = [sum(layer.weight.numel() for layer in prunable(net).values()) for net in (self.context.model, small)]
        cycles = {machine.name: [simulate(trace, machine).cycles for trace in traces] for machine in self.machines}
        return {"name": "trained_rank_pruning", "ranks": dict(self.ranks), "weights": weights, "cycles": cycles}

    def state_dict(self) -> dict[str, Any]:
        """The ranks; everything else is a function of the step."""
        return {"ranks": dict(self.ranks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.ranks = {name: int(rank) for name, rank in state["ranks"].items()}


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return TrainedRankPruning(settings, context)
