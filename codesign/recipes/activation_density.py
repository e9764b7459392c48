"""Activation-density pruning: a layer keeps as many channels as the share of its activations that is not zero.

Densities are counted while the network trains; where one stands still from an epoch to the next, the
channels of that group go down to density times their number, the least active first, and training goes on
with the smaller network.  Left out: building the network anew at each size.  Read ../probes.py for the
same measure as a criterion.

Source: Foldy-Porto, Venkatesha, Panda, "Activation Density driven Energy-Efficient Pruning in Training", arXiv
2002.02949.  Which channels go is ours: the paper gives their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError

from ..config import Section
from ..coupling import Span, channel_groups
from ..layers import prunable
from ..masks import pack, unpack
from ..method import Context, Method, Place
from ..recipe_parts import remove_channels_
from ..structures import keep_best


class Settings(Section):
    """still: change of a density between two epochs below which it stands still.  enough: density from which a group
    keeps its channels.  until: progress after which nothing is removed."""

    still: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    enough: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75


class ActivationDensity(Method):
    """kept: bool[width] of each channel group.  active: int64[width], values seen this epoch that were not zero, and
    seen: values per channel.  before: density of the last epoch, or None."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.layers = settings, prunable(context.model)
        self.groups = [group for group in channel_groups(context.model, context.example) if group.consumers]
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe activation_density",
                             expected="convolutions or linear layers that follow one another")
        device = context.example.device
        self.kept = [torch.ones(group.width, dtype=torch.bool, device=device) for group in self.groups]
        self.active = [torch.zeros(group.width, dtype=torch.int64, device=device) for group in self.groups]
        self.seen = [0] * len(self.groups)
        self.before: list[float | None] = [None] * len(self.groups)
        for index, group in enumerate(self.groups):
            span = group.consumers[0]
            self.layers[span.layer].register_forward_pre_hook(
                lambda module, inputs, index=index, span=span: self._count(module, inputs[0], index, span))

    @torch.no_grad()
    def _count(self, module: nn.Module, x: Tensor, index: int, span: Span) -> None:
        if not module.training:
            return
        width = self.groups[index].width
        channels = x.movedim(1, 0).flatten(1) if x.dim() == 4 else x.reshape(-1, x.shape[-1]).T
        part = channels[span.start * span.repeat : (span.start + width) * span.repeat].reshape(width, -1)
        self.active[index] += (part != 0).sum(1)
        self.seen[index] += part.shape[1]

    def densities(self) -> list[float]:
        """Of each group: the share of its live channels' values that were not zero, in this epoch so far."""
        return [float(active[kept].sum()) / max(1, seen * int(kept.sum()))
                for active, kept, seen in zip(self.active, self.kept, self.seen, strict=True)]

    def end_epoch(self, place: Place) -> None:
        """Groups whose density stands still shrink; counting starts again."""
        changed = False
        for index, now in enumerate(self.densities()):
            before, self.before[index] = self.before[index], now
            left = int(self.kept[index].sum())
            target = max(1, round(now * left))
            still = before is not None and abs(now - before) < self.settings.still
            early = (place.epoch + 1) / place.epochs <= self.settings.until
            if still and early and now < self.settings.enough and target < left:
                scores = self.active[index].double().masked_fill(~self.kept[index], -1.0)
                self.kept[index] = keep_best(scores, target)
                self.before[index] = None  # another network has another density
                changed = True
        if changed:
            remove_channels_(self.context, self.groups, self.kept)
        self.active = [torch.zeros_like(active) for active in self.active]
        self.seen = [0] * len(self.seen)

    def row(self) -> dict[str, Any]:
        """Channels that are left, and the densities where they are known."""
        return {"channels": [int(kept.sum()) for kept in self.kept], "activation_density": list(self.before)}

    def state_dict(self) -> dict[str, Any]:
        """What was counted this epoch, the last densities, and which channels are left."""
        return {"active": list(self.active), "seen": list(self.seen), "before": list(self.before),
                "kept": [pack(kept) for kept in self.kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        device = self.context.example.device
        self.active, self.seen = [active.to(device) for active in state["active"]], list(state["seen"])
        self.before = list(state["before"])
        self.kept = [unpack(packed, (group.width,)).to(device)
                     for packed, group in zip(state["kept"], self.groups, strict=True)]


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return ActivationDensity(settings, context)
