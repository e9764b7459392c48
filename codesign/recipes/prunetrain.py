"""PruneTrain: group lasso over channels from the first step on, and channels that became small removed for good.

All weights of a channel, in the layers that make it and those that read it, are one group; the strength of
the lasso is set once so that it is a given share of the first loss.  At intervals the groups whose every
weight is below a threshold go.  Left out: the larger batches that the paper makes of the memory won; layers
become physically smaller in compact.py, here they are masked and counted as removed.

Source: Lym et al., "PruneTrain: Fast Neural Network Training by Dynamic Sparse Model Reconfiguration", SC 2019.  Its
threshold is 1e-4 and its lasso about a fifth of the loss, as we remember it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError

from ..channels import channel_entries
from ..config import Section
from ..coupling import channel_groups
from ..layers import prunable
from ..masks import pack, unpack
from ..method import Context, Method, Place
from ..recipe_parts import remove_channels_
from ..structures import keep_best

EPSILON = 1e-12
"""Under the square roots: a channel of zeros has a gradient too."""


class Settings(Section):
    """share: what the lasso is of the sum of loss and lasso in the first step.  threshold: size below which every
    weight of a channel must be for it to go.  every: epochs between two removals."""

    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    threshold: Annotated[float, Field(ge=0.0)] = 1e-4
    every: Annotated[int, Field(ge=1)] = 1


class PruneTrain(Method):
    """kept: bool[width] for each channel group.  strength: lambda, from the first step on."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.layers = settings, prunable(context.model)
        self.groups = list(channel_groups(context.model, context.example, tokens=True))
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe prunetrain",
                             expected="convolutions or linear layers that follow one another")
        device = context.example.device
        self.kept = [torch.ones(group.width, dtype=torch.bool, device=device) for group in self.groups]
        self.strength: float | None = None
        self._loss = 0.0

    def loss(self, logits: Tensor, batch: Any) -> Tensor:
        """The mean; the first one sets how strong the lasso is."""
        loss = super().loss(logits, batch)
        if self.strength is None:
            self._loss = float(loss.detach())
        return loss

    def penalty(self, place: Place) -> Tensor | None:
        """lambda times the sum over channels of the norm of all their weights."""
        weights = {name: layer.weight for name, layer in self.layers.items()}
        norms = torch.zeros((), device=self.context.example.device)
        for group in self.groups:
            square = sum(part.square().sum(1) for part in channel_entries(group, weights))
            norms = norms + (square + EPSILON).sqrt().sum()  # type: ignore[union-attr]
        if self.strength is None:
            share = self.settings.share
            self.strength = share / (1.0 - share) * self._loss / float(norms.detach())
        return self.strength * norms

    def end_epoch(self, place: Place) -> None:
        """The removal, at intervals and at the end of training."""
        if (place.epoch + 1) % self.settings.every == 0 or place.epoch + 1 == place.epochs:
            self._remove()

    @torch.no_grad()
    def _remove(self) -> None:
        weights = {name: layer.weight for name, layer in self.layers.items()}
        for index, group in enumerate(self.groups):
            largest = torch.stack([part.abs().amax(1) for part in channel_entries(group, weights)]).amax(0)
            # one channel stays: a layer without any would cut the network through
            self.kept[index] &= (largest >= self.settings.threshold) | keep_best(largest.double(), 1)
        remove_channels_(self.context, self.groups, self.kept)

    def row(self) -> dict[str, Any]:
        """Channels that are left, of all that could be removed."""
        return {"channels": sum(int(kept.sum()) for kept in self.kept),
                "channels_at_first": sum(group.width for group in self.groups)}

    def state_dict(self) -> dict[str, Any]:
        """Which channels are left, and lambda."""
        return {"strength": self.strength, "kept": [pack(kept) for kept in self.kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.strength = state["strength"]
        self.kept = [unpack(packed, (group.width,)).to(self.context.example.device)
                     for packed, group in zip(state["kept"], self.groups, strict=True)]


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return PruneTrain(settings, context)
