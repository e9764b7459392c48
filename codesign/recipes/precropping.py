"""PreCropping: a thin dense network from the layer densities that a pruning method at initialisation would choose.

The densities become widths: a layer that should keep d of its weights keeps about the root of d of its inputs
and of its outputs, channels shared with other layers take the mean, and all are scaled to the number of
weights asked for.  Done before the first step.  Left out: which channels, which at random weights is the
first ones; compact.py makes the removal physical.  Read ../coupling.py for what goes together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError

from ..config import Section
from ..coupling import ChannelGroup, channel_groups
from ..layers import prunable
from ..method import Batch, Context, Method, Place
from ..pruner import Pruner
from ..recipe_parts import remove_channels_

HALVINGS = 50


class Settings(Section):
    """by: whose layer densities.  sparsity: share of all weights to do without.  rounds: in which SynFlow prunes."""

    by: Literal["erk", "synflow", "grasp"] = "synflow"
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.75
    rounds: Annotated[int, Field(ge=1)] = 20


class PreCropping(Method):
    """widths: channels left of each group, empty before the first step."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.groups = list(channel_groups(context.model, context.example, tokens=True))
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe precropping",
                             expected="convolutions or linear layers that follow one another")
        self.widths: list[int] = []

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The cropping, before the first step; its batch is the one that GraSP looks at."""
        if not self.widths:
            self.widths = crop(prunable(self.context.model), self.groups, self._densities(x, y),
                               1.0 - self.settings.sparsity)
            device = self.context.example.device
            kept = [torch.arange(group.width, device=device) < width
                    for group, width in zip(self.groups, self.widths, strict=True)]
            remove_channels_(self.context, self.groups, kept)
        return Batch(x, y)

    def _densities(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """What is left of each layer where a copy of the network is pruned weight by weight."""
        sparsity, by = self.settings.sparsity, self.settings.by
        how: dict[str, Any] = {"scope": "erk"} if by == "erk" else {"scope": "global", "criterion": by}
        rounds = self.settings.rounds if by == "synflow" else 1  # the others are published in one
        dense = copy.deepcopy(self.context.model)
        how |= {"structure": "unstructured", "sparsity": sparsity, "schedule": "linear", "update_every": 1}
        pruner = Pruner(dense, how, example_inputs=x[:1], probe=(x, y), total_steps=rounds)
        for _ in range(rounds):
            pruner.step()
        return {name: 1.0 - sparsity for name, sparsity in pruner.realised().items()}

    def row(self) -> dict[str, Any]:
        """Channels of each group."""
        return {"widths": list(self.widths)}

    def state_dict(self) -> dict[str, Any]:
        """That it is done, and how wide the network is."""
        return {"widths": list(self.widths)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.widths = [int(width) for width in state["widths"]]


def crop(layers: Mapping[str, Any], groups: list[ChannelGroup], densities: Mapping[str, float],
         density: float) -> list[int]:
    """How many channels of each group to keep so that about `density` of the weights of all layers are left.

    Each group asks for the geometric mean of the roots of its layers' densities, times one factor for all, found by
    bisection; no group goes below one channel or above its width.
    """
    asked = [math.exp(sum(math.log(max(densities[name], 1e-6)) / 2 for name in group.layers) / len(group.layers))
             for group in groups]

    def widths(factor: float) -> list[int]:
        return [min(group.width, max(1, round(factor * share * group.width)))
                for group, share in zip(groups, asked, strict=True)]

    total = sum(layer.weight.numel() for layer in layers.values())
    low, high = 0.0, 1.0 / min(asked)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if weights_left(layers, groups, widths(middle)) <= density * total else (low, middle)
    return widths(low)


def weights_left(layers: Mapping[str, Any], groups: list[ChannelGroup], widths: list[int]) -> float:
    """Weights of all layers when the groups have these widths."""
    share = dict.fromkeys(layers, 1.0)
    for group, width in zip(groups, widths, strict=True):
        gone = 1.0 - width / group.width
        for span in group.producers:
            share[span.layer] *= 1.0 - gone * group.width / layers[span.layer].weight.shape[0]
        for span in group.consumers:
            share[span.layer] *= 1.0 - gone * group.width * span.repeat / layers[span.layer].weight.shape[1]
    return float(sum(share[name] * layer.weight.numel() for name, layer in layers.items()))


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return PreCropping(settings, context)
