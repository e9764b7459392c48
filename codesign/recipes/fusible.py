"""Fusible residual convolutions: every layer learns how much of it is convolution and how much the identity.

While training, a convolution that keeps its shape computes c conv(x) + i x with learned scales and an l1
penalty on c; in the end both are one kernel again, and where c is small the identity alone is left: the
layer is pruned to one weight per channel.  Left out: taking the emptied layer out of the graph.

Source: Xu et al., "Layer Pruning via Fusible Residual Convolutional Block for Deep Neural Networks", arXiv 2011.14356.
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
from ..method import Context, Method, Place
from ..recipe_parts import Beside, install_


class Settings(Section):
    """penalty: of the sum of |c|.  identity: i at first; c starts at 1.  remove: |c| below this share of |i| is no
    convolution."""

    penalty: Annotated[float, Field(ge=0.0)] = 1e-3
    identity: Annotated[float, Field(gt=0.0)] = 1.0
    remove: Annotated[float, Field(ge=0.0)] = 0.05


def keeps_shape(module: nn.Module) -> bool:
    """Whether a layer is a convolution to whose output its input can be added."""
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    same = all(2 * pad == dilation * (size - 1) for pad, dilation, size in
               zip(module.padding, module.dilation, module.kernel_size, strict=True))
    return same and module.in_channels == module.out_channels and set(module.stride) == {1} and module.groups == 1


class Fusible(Method):
    """scales: float[2] of each layer: c and i."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.layers = {name: module for name, module in context.model.named_modules() if keeps_shape(module)}
        if not self.layers:
            raise InputError("no convolution keeps its shape", where="recipe fusible",
                             expected="layers with as many outputs as inputs, stride 1 and padding that keeps the size")
        self.fused = False
        start = torch.tensor([1.0, settings.identity], device=context.example.device)
        self.scales = Beside({name: start for name in self.layers})
        for name, layer in self.layers.items():
            layer.forward = partial(self._forward, name, layer)

    def _forward(self, name: str, layer: nn.Conv2d, x: Tensor) -> Tensor:
        convolution, identity = self.scales.values[name]
        out: Tensor = convolution * nn.Conv2d.forward(layer, x) + identity * x
        return out

    def penalty(self, place: Place) -> Tensor:
        """The l1 norm of what is convolution in every layer."""
        sizes = [self.scales.values[name][0].abs() for name in self.layers]
        return self.settings.penalty * torch.stack(sizes).sum()

    def after_step(self, place: Place) -> None:
        """The scales move at the network's rate."""
        self.scales.step(self.context.optimizer.param_groups[0]["lr"])

    def end_epoch(self, place: Place) -> None:
        """At the end of training every layer is one kernel again."""
        if place.epoch + 1 == place.epochs:
            self._fuse()

    @torch.no_grad()
    def _fuse(self) -> None:
        masks = {}
        for name, layer in self.layers.items():
            assert isinstance(layer, nn.Conv2d)
            convolution, identity = self.scales.values[name].tolist()
            if abs(convolution) < self.settings.remove * abs(identity):
                convolution = 0.0
                masks[name] = (one := _identity(layer)) != 0
            else:
                one = _identity(layer)
            layer.weight.mul_(convolution).add_(one, alpha=identity)
            if layer.bias is not None:
                layer.bias.mul_(convolution)
        install_(self.context, masks, "unstructured")
        self._plain_()

    def _plain_(self) -> None:
        self.fused = True
        for layer in self.layers.values():
            layer.__dict__.pop("forward", None)

    def row(self) -> dict[str, Any]:
        """c / i of each layer."""
        return {"convolution_over_identity": {name: float((value[0] / value[1]).detach())
                                              for name, value in self.scales.values.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The scales and their momentum, and whether they are in the kernels for good."""
        return {"fused": self.fused, **self.scales.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.scales.restore_(state)
        if state["fused"]:
            self._plain_()


def _identity(layer: nn.Conv2d) -> Tensor:
    """The kernel that gives back its input: 1 at the centre of each channel's own window."""
    one = torch.zeros_like(layer.weight)
    channels = torch.arange(layer.out_channels, device=one.device)
    one[channels, channels, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
    return one


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Fusible(settings, context)
