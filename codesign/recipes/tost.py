"""ToST: a given sparse mask trains better behind smooth activations and extra skips, both annealed away.

A ReLU is x sigmoid(b x) with b rising until it is a ReLU; convolutions that keep their shape add lambda x,
lambda falling to 0; weights are scaled up once to make up for those that the mask took.  Works with any
[prune] section, "constant" above all.  Label smoothing is `train.label_smoothing`.  Left out: learning the
scales of the initialisation, in whose place the root of the density is used.

Source: Jaiswal et al., "Training Your Sparse Neural Network Better with Any Mask", ICML 2022; the pace is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError

from ..config import Section
from ..layers import prunable
from ..method import Batch, Context, Method, Place
from .fusible import keeps_shape


class Settings(Section):
    """until: progress at which the network is its plain self.  smooth: b at first; it grows like 1 / (1 - t).  skip:
    lambda at first.  rescale: whether weights make up for the density of their mask, once."""

    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    smooth: Annotated[float, Field(gt=0.0)] = 1.0
    skip: Annotated[float, Field(ge=0.0)] = 0.5
    rescale: bool = True


class Tost(Method):
    """left: the share of the way to the plain network that is still to go, 1 to 0."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.left, self.rescaled = settings, 1.0, not settings.rescale
        modules = list(context.model.modules())
        self.smooth = [module for module in modules if isinstance(module, nn.ReLU)]
        self.skips = [module for module in modules if isinstance(module, nn.Conv2d) and keeps_shape(module)]
        if not self.smooth and not self.skips:
            raise InputError("nothing to soften", where="recipe tost",
                             expected="nn.ReLU modules, or convolutions that keep their shape")
        for module in self.smooth:
            module.forward = self._activation  # type: ignore[method-assign,assignment]
        for layer in self.skips:
            layer.forward = partial(self._convolution, layer)  # type: ignore[method-assign]

    def _activation(self, x: Tensor) -> Tensor:
        if not self.left:
            return x.relu()
        return x * torch.sigmoid(self.settings.smooth / self.left * x)

    def _convolution(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        out = nn.Conv2d.forward(layer, x)
        return out + self.settings.skip * self.left * x if self.left else out

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """A step nearer to the plain network; weights are scaled when there are masks for the first time."""
        self.left = max(0.0, 1.0 - place.progress / self.settings.until)
        pruner = self.context.pruner
        if not self.rescaled and pruner is not None and pruner.masks:
            layers = prunable(self.context.model)
            with torch.no_grad():
                for name, mask in pruner.masks.items():
                    layers[name].weight.div_(mask.float().mean().clamp_min(1e-12).sqrt())
            self.rescaled = True
            self.rewrites += 1
        return Batch(x, y)

    def end_epoch(self, place: Place) -> None:
        """After training every module is its plain self."""
        if place.epoch + 1 == place.epochs:
            self.left = 0.0
            for module in (*self.smooth, *self.skips):
                module.__dict__.pop("forward", None)

    def row(self) -> dict[str, Any]:
        """The share of the way still to go."""
        return {"softened": self.left}

    def state_dict(self) -> dict[str, Any]:
        """How far it is, and whether weights have been scaled."""
        return {"left": self.left, "rescaled": self.rescaled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.left, self.rescaled = state["left"], state["rescaled"]


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Tost(settings, context)
