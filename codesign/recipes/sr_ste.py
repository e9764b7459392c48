"""SR-STE: n:m sparsity learned from scratch, every weight alive behind its mask (Zhou et al., ICLR 2021).

The forward pass sees the masked weights; their gradient goes straight through to all weights, and those
that the mask drops are pulled towards zero, so that masks settle.  What is left out: layers of other
structures, which the pruner does.  Read ../method.py for when each hook is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.structure import parse

from ..choice import StructureChoice
from ..config import Section
from ..layers import kept_by_default, match, prunable
from ..method import Context, Method, Place
from ..structures import project


class Settings(Section):
    """structure: an n:m (or any that fixes its density).  decay: the paper's lambda_W.  skip: patterns of layers that
    stay dense; None = the first and the last."""

    structure: str = "2:4"
    decay: Annotated[float, Field(ge=0.0)] = 2e-4
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class SrSte(Method):
    """Between steps the weights lie masked, as the network is evaluated; what they are behind the mask is kept here."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.structure, self.decay = parse(settings.structure), settings.decay
        layers = prunable(context.model)
        kept = kept_by_default(context.model, list(layers)) if settings.skip is None else match(
            settings.skip, layers, "skip")
        self.layers = {name: layer for name, layer in layers.items() if name not in kept}
        self.behind: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        self._mask_()

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """The gradient was taken at the masked weights; it moves the ones behind."""
        for name, layer in self.layers.items():
            layer.weight.copy_(self.behind[name])
            if layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight * ~self.masks[name], alpha=self.decay)

    def after_step(self, place: Place) -> None:
        """New masks from the weights that moved."""
        self._mask_()

    def end_epoch(self, place: Place) -> None:
        """At the end of training the masks are final, and the pruner's."""
        if place.epoch + 1 == place.epochs and self.context.pruner is not None:
            choices = [StructureChoice(name, str(self.structure), float(mask.float().mean()), 0.0, 0.0)
                       for name, mask in self.masks.items()]
            self.context.pruner.set_masks_(self.masks, choices)

    def row(self) -> dict[str, Any]:
        """How sparse the network is that was just evaluated."""
        total = sum(mask.numel() for mask in self.masks.values())
        return {"masked": sum(int((~mask).sum()) for mask in self.masks.values()) / total}

    def state_dict(self) -> dict[str, Any]:
        """The weights behind the masks; the masks follow from them."""
        return {"behind": {name: value.clone() for name, value in self.behind.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        with torch.no_grad():
            for name, value in state["behind"].items():
                self.layers[name].weight.copy_(value)
        self._mask_()

    @torch.no_grad()
    def _mask_(self) -> None:
        for name, layer in self.layers.items():
            self.behind[name] = layer.weight.clone()
            self.masks[name] = project(layer.weight.abs(), self.structure)
            layer.weight.masked_fill_(~self.masks[name], 0.0)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return SrSte(settings, context)
