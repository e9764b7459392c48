"""SbF: filters are scored by an attention over the filters themselves, learned end to end, and the lowest go.

Each group of channels has a small attention that reads the flattened filters and gives each a score in (0,
1), by which the channel is multiplied behind its norm; a penalty presses the scores down.  At a point of
training the channels of lowest score are removed, scores are folded into the norm or the filters, and
training goes on plainly.  Left out: several heads.

Source: Babaiee et al., "End-to-End Sensitivity-Based Filter Pruning", arXiv 2204.07412; its sizes are not known to us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError
from simulator.structure import units_kept

from ..budgets import density_of
from ..config import Section
from ..coupling import ChannelGroup, Span, channel_groups
from ..layers import prunable
from ..method import Batch, Context, Method, Place
from ..recipe_parts import Beside, remove_channels_, scale_channels_
from ..structures import keep_best


class Settings(Section):
    """sparsity: share of the channels of each group to remove.  at: progress at which.  penalty: of the mean score of
    all channels.  width: of queries and keys."""

    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    at: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    penalty: Annotated[float, Field(ge=0.0)] = 0.1
    width: Annotated[int, Field(ge=1)] = 8


class Sbf(Method):
    """beside: query, key and value of each group.  done: whether channels are removed and scores folded."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.layers, self.done = settings, prunable(context.model), False
        self.groups = list(channel_groups(context.model, context.example))
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe sbf",
                             expected="convolutions or linear layers that follow one another")
        values: dict[str, Tensor] = {}
        for index, group in enumerate(self.groups):
            length = sum(self.layers[span.layer].weight[0].numel() for span in group.producers)
            for part, columns in (("query", settings.width), ("key", settings.width), ("value", 1)):
                values[f"{index}/{part}"] = torch.randn(length, columns) / length**0.5
        device = context.example.device
        self.beside = Beside({name: value.to(device) for name, value in values.items()})
        self.gated = [module for index, group in enumerate(self.groups) for module in self._gate(index, group)]

    def _gate(self, index: int, group: ChannelGroup) -> list[nn.Module]:
        """Multiply what leaves the group's norms, or its layers where it has none, by the scores."""
        found = []
        for span in group.norms or group.producers:
            module = self.context.model.get_submodule(span.layer)
            module.forward = partial(self._forward, module.forward, index, span)
            found.append(module)
        return found

    def _forward(self, inner: Callable[[Tensor], Tensor], index: int, span: Span, x: Tensor) -> Tensor:
        out = inner(x)  # of the module, or of another group's gate on other channels of it
        scale = torch.ones(out.shape[1], device=out.device)
        scores = self.scores(index).repeat_interleave(span.repeat)
        first = span.start * span.repeat
        scale = torch.cat([scale[:first], scores, scale[first + len(scores) :]])
        return out * scale.reshape(1, -1, *[1] * (out.dim() - 2))

    def scores(self, index: int) -> Tensor:
        """float[width] in (0, 1): of each channel of a group, by what its filters are beside the others."""
        group = self.groups[index]
        parts = [self.layers[span.layer].weight[span.start : span.start + group.width].flatten(1)
                 for span in group.producers]
        filters = torch.cat(parts, 1)
        filters = (filters - filters.mean()) / (filters.std() + 1e-6)
        query, key, value = (self.beside.values[f"{index}/{part}"] for part in ("query", "key", "value"))
        attention = ((filters @ query) @ (filters @ key).T / self.settings.width**0.5).softmax(1)
        own = (filters @ value).flatten()
        return torch.sigmoid(own + attention @ own)

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """When it is time, the channels of lowest score go."""
        if not self.done and place.progress >= self.settings.at:
            self._remove()
            self.rewrites += 1
        return Batch(x, y)

    def penalty(self, place: Place) -> Tensor | None:
        """The mean score of all channels."""
        if self.done:
            return None
        return self.settings.penalty * torch.cat([self.scores(index) for index in range(len(self.groups))]).mean()

    def after_step(self, place: Place) -> None:
        """The attention moves at the network's rate."""
        self.beside.step(self.context.optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def _remove(self) -> None:
        scores = [self.scores(index) for index in range(len(self.groups))]
        kept = []
        for group, score in zip(self.groups, scores, strict=True):
            kept.append(keep_best(score.double(), max(1, units_kept(density_of(self.settings.sparsity), group.width))))
            scale_channels_(self.context, group, score)
        self._plain_()
        remove_channels_(self.context, self.groups, kept)

    def _plain_(self) -> None:
        self.done = True
        for module in self.gated:
            module.__dict__.pop("forward", None)

    def row(self) -> dict[str, Any]:
        """The mean score, while there are scores."""
        with torch.no_grad():
            scores = [] if self.done else [self.scores(index) for index in range(len(self.groups))]
        return {"mean_score": float(torch.cat(scores).mean()) if scores else None}

    def state_dict(self) -> dict[str, Any]:
        """The attention and its momentum, and whether it is over."""
        return {"done": self.done, **self.beside.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.beside.restore_(state)
        if state["done"]:
            self._plain_()


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Sbf(settings, context)
