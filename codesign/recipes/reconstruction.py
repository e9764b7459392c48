"""Reconstruction: layers pruned one after the other, the weights left refitted to what the layer computed before.

After training, or at a point from which training goes on, on a few batches: input channels picked by LASSO
or by how well the rest makes up for them (compensation), or any structure by magnitude (post-training
calibration); then batch norms estimate their statistics anew.  Left out: the search for each layer's share.
Read ../reconstruction.py for the least squares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import CHANNEL, parse, units_kept

from ..budgets import density_of
from ..config import Section
from ..layers import Layer
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, estimate_norms_, install_, projected
from ..reconstruction import contributing_channels, error, input_moments, lasso_channels, refitted
from ..step_macs import layer_macs


class Settings(Section):
    """choose: "lasso" and "contribution" pick channels, "magnitude" any `structure`.  sparsity: of each layer, unless
    the structure fixes it.  at: progress, 1 = after training.  batches: how many of the last ones to look at.  refit:
    False leaves the kept weights as they are, for the ablation.  skip: layers left dense; None = the first convolution
    and the classifier."""

    choose: Literal["lasso", "contribution", "magnitude"] = "lasso"
    structure: str = "channel"
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    at: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    batches: Annotated[int, Field(ge=1)] = 4
    refit: bool = True
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class Reconstruction(Method):
    """last: inputs of the last batches, the newest last.  errors: of each layer's outputs, squared, as a share."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.structure = settings, parse(settings.structure)
        if settings.choose != "magnitude" and self.structure != CHANNEL:
            raise InputError(f"choose = {settings.choose!r} with structure {settings.structure!r}",
                             where="recipe reconstruction", expected="channels", fix='choose = "magnitude"')
        self.layers = {name: layer for name, layer in chosen_layers(context, settings.skip, self.structure).items()
                       if getattr(layer, "groups", 1) == 1}
        if not self.layers:
            raise InputError("no layer to prune", where="recipe reconstruction", expected="layers that are not skipped")
        self.forward_macs = sum(layer.forward for layer in layer_macs(context.model, context.example))
        self.last: list[Tensor] = []
        self.errors: dict[str, float] = {}
        self._due = False

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The batch as it is; its images are remembered."""
        self.last = [*self.last, x][-self.settings.batches :]
        self._due = place.batch + 1 == place.batches and place.epoch + 1 == max(
            1, math.ceil(self.settings.at * place.epochs - 1e-9))
        return Batch(x, y)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """A step as ever; before a reconstruction, its forward passes too: one per layer and one for batch norms."""
        looked = sum(len(x) for x in self.last) * (len(self.layers) + 1) if self._due else 0
        return super().macs(per_image, images, batch) + looked * self.forward_macs

    def end_epoch(self, place: Place) -> None:
        """The reconstruction, once, in the order in which the layers run."""
        if self._due:
            self._reconstruct()
            self.rewrites += 1

    @torch.no_grad()
    def _reconstruct(self) -> None:
        masks: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            moments = input_moments(self.context.model, layer, self.last)
            masks[name] = self._mask(layer, moments)
            new = refitted(layer.weight, masks[name], moments) if self.settings.refit else layer.weight * masks[name]
            self.errors[name] = error(layer.weight, new, moments)
            layer.weight.copy_(new)
        estimate_norms_(self.context.model, self.last)
        install_(self.context, masks, str(self.structure))

    def _mask(self, layer: Layer, moments: Tensor) -> Tensor:
        weight = layer.weight
        if self.settings.choose == "magnitude":
            return projected(weight, self.structure, self.settings.sparsity)
        keep = max(1, units_kept(density_of(self.settings.sparsity), weight.shape[1]))
        pick = lasso_channels if self.settings.choose == "lasso" else contributing_channels
        kept = pick(weight, moments, keep)
        return kept.reshape(1, -1, *[1] * (weight.dim() - 2)).expand_as(weight).clone()

    def summary(self) -> dict[str, Any]:
        """How far each layer's outputs are from what they were, on the inputs it was given."""
        return {"name": "reconstruction", "squared_error_share": dict(self.errors)}

    def state_dict(self) -> dict[str, Any]:
        """The images remembered, and the errors of a reconstruction that is over."""
        return {"last": list(self.last), "errors": dict(self.errors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.last = [x.to(self.context.example.device) for x in state["last"]]
        self.errors = dict(state["errors"])


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Reconstruction(settings, context)
