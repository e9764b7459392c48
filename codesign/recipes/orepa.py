"""OREPA: several linear branches per convolution while training, folded into one kernel before each forward pass.

Beside the layer's own kernel there are a 1x1 branch, a 1x1 followed by an average, and a 1x1 followed by a
KxK; each has a scale per output channel in the place of a norm, which is what lets them fold.  A step costs
one convolution and the folding; after training the folded kernel is the layer.  Left out: the paper's
frequency and depthwise-separable branches.

Source: Hu et al., "Online Convolutional Re-parameterization", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError

from ..config import Section
from ..layers import match
from ..method import Batch, Context, Method, Place
from ..recipe_parts import Beside
from ..step_macs import layer_macs


class Settings(Section):
    """layers: patterns of the convolutions that get branches; those of 1x1 never do.  scale: of the added branches at
    first; the layer's own starts at 1."""

    layers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("*",)
    scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25


class Orepa(Method):
    """beside: parameters of the branches, by layer and name."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        wide = {name: module for name, module in context.model.named_modules() if isinstance(module, nn.Conv2d)
                and module.groups == 1 and module.kernel_size[0] * module.kernel_size[1] > 1}
        self.layers = {name: wide[name] for name in match(settings.layers, wide, "recipe, layers")}
        if not self.layers:
            raise InputError("no convolution wider than 1x1", where="recipe orepa", expected="one at least")
        values = {}
        for name, layer in self.layers.items():
            out, inner = layer.weight.shape[:2]
            scales = torch.full((4, out), settings.scale)
            scales[0] = 1.0
            values[f"{name}/scales"] = scales
            for part, shape in (("one", (out, inner)), ("average", (out, inner)), ("first", (inner, inner)),
                                ("second", tuple(layer.weight.shape))):
                values[f"{name}/{part}"] = nn.init.kaiming_normal_(torch.empty(shape))
            layer.forward = partial(self._forward, name, layer)  # type: ignore[method-assign]
        device = context.example.device
        self.beside = Beside({name: value.to(device) for name, value in values.items()})
        self.folded = False
        self.folding = sum(layer.weight.numel() * layer.in_channels for layer in self.layers.values())
        self.per_image = sum(layer.forward + layer.backward for layer in layer_macs(context.model, context.example))

    def kernel(self, name: str) -> Tensor:
        """The branches of a layer as one kernel of its shape."""
        own, part = self.layers[name].weight, {
            key: self.beside.values[f"{name}/{key}"] for key in ("scales", "one", "average", "first", "second")}
        rows, cols = own.shape[2:]
        centre = F.pad(part["one"][:, :, None, None], ((cols - 1) // 2, cols // 2, (rows - 1) // 2, rows // 2))
        average = part["average"][:, :, None, None].expand(-1, -1, rows, cols) / (rows * cols)
        chain = torch.einsum("omhw,mi->oihw", part["second"], part["first"])
        branches = torch.stack([own, centre, average, chain])
        return (part["scales"][:, :, None, None, None] * branches).sum(0)

    def _forward(self, name: str, layer: nn.Conv2d, x: Tensor) -> Tensor:
        return layer._conv_forward(x, self.kernel(name), layer.bias)

    def after_step(self, place: Place) -> None:
        """The branches move at the network's rate."""
        self.beside.step(self.context.optimizer.param_groups[0]["lr"])

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """As without branches, and three products of the folding: forward and for both of its factors."""
        return super().macs(per_image, images, batch) + 3 * self.folding

    @torch.no_grad()
    def end_epoch(self, place: Place) -> None:
        """After training the folded kernel is the layer."""
        if place.epoch + 1 == place.epochs:
            for name, layer in self.layers.items():
                layer.weight.copy_(self.kernel(name))
            self._plain_()

    def _plain_(self) -> None:
        self.folded = True
        for layer in self.layers.values():
            layer.__dict__.pop("forward", None)

    def summary(self) -> dict[str, Any]:
        """Products of the folding as a share of a step on one image."""
        return {"name": "orepa", "folding_share_of_one_image": 3 * self.folding / self.per_image}

    def state_dict(self) -> dict[str, Any]:
        """The branches and their momentum, and whether they are folded for good."""
        return {"folded": self.folded, **self.beside.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.beside.restore_(state)
        if state["folded"]:
            self._plain_()


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Orepa(settings, context)
