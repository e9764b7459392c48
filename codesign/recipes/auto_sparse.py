"""AutoSparse: every layer learns the threshold below which its weights are zero, and gradients still reach those.

The forward pass sees sign(w) max(|w| - sigmoid(s), 0); s is learned with the weights.  What is zero gets its
gradient times alpha, which falls to 0 in the course of training; alpha = 0 throughout is STR.  How sparse
the network gets is an outcome, set by the decay of s.  Left out: sparse kernels.  Read sr_ste.py for the
same way of keeping the weights behind what the network shows.

Source: Kundu et al., "AutoSparse", arXiv 2304.06941; Kusupati et al., "Soft Threshold Weight Reparameterization",
ICML 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, install_
from ..step_macs import layer_macs, macs_around_zeros


class Settings(Section):
    """start: s at first, sigmoid(-5) = 0.0067 being the first threshold.  decay: of s, which raises the threshold.
    lr: of s, as a multiple of the weights'.  alpha: share of its gradient that a zero weight gets at first; it ends by
    a cosine at progress `until`.  skip: patterns of layers that stay dense; None = the first and the last."""

    start: Annotated[float, Field(ge=-100.0, le=10.0)] = -5.0
    decay: Annotated[float, Field(ge=0.0)] = 5e-4
    lr: Annotated[float, Field(gt=0.0)] = 1.0
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class AutoSparse(Method):
    """behind: the weights that are trained; between steps the network has them thresholded.  s: float[layers].

    kept: bool of each weight, where it is above its threshold.
    """

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.layers = chosen_layers(context, settings.skip)
        self.s = torch.full((len(self.layers),), settings.start, dtype=torch.float64)
        self.behind: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.work = layer_macs(context.model, context.example)
        self._threshold_()

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """The chain rule through the threshold, for the weights behind and for s."""
        alpha = self.alpha(place.progress)
        lr = self.settings.lr * self.context.optimizer.param_groups[0]["lr"]
        for index, (name, layer) in enumerate(self.layers.items()):
            active, shown = layer.weight != 0, layer.weight.sign()
            layer.weight.copy_(self.behind[name])
            gradient = layer.weight.grad
            if gradient is None:
                continue
            squeezed = float(torch.sigmoid(self.s[index]))
            slope = -float((gradient * shown).sum()) * squeezed * (1.0 - squeezed)
            gradient.mul_(torch.where(active, 1.0, alpha))
            self.s[index] -= lr * (slope + self.settings.decay * float(self.s[index]))

    def alpha(self, progress: float) -> float:
        """The share of its gradient that a zero weight gets: half a cosine from `alpha` to 0."""
        done = min(1.0, progress / self.settings.until)
        return self.settings.alpha * (1.0 + math.cos(math.pi * done)) / 2.0

    def after_step(self, place: Place) -> None:
        """What the network shows of the weights that moved."""
        self._threshold_()

    def end_epoch(self, place: Place) -> None:
        """At the end of training what is zero stays zero, and the masks are the pruner's."""
        if place.epoch + 1 == place.epochs:
            install_(self.context, self.kept, "unstructured")

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """Weights that are zero are left out forward and in the gradient of the input, not in their own gradient."""
        shown = {name: layer.weight for name, layer in self.layers.items()}
        return macs_around_zeros(self.work, shown) * (0 if batch is None else len(batch.x))

    def row(self) -> dict[str, Any]:
        """How sparse the network is that was just evaluated, and the thresholds."""
        total = sum(layer.weight.numel() for layer in self.layers.values())
        zero = total - sum(int(layer.weight.count_nonzero()) for layer in self.layers.values())
        return {"masked": zero / total, "thresholds": torch.sigmoid(self.s).tolist()}

    def state_dict(self) -> dict[str, Any]:
        """The weights behind and the thresholds; what the network shows follows from them."""
        return {"behind": {name: value.clone() for name, value in self.behind.items()}, "s": self.s.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.s = state["s"].clone()
        with torch.no_grad():
            for name, value in state["behind"].items():
                self.layers[name].weight.copy_(value)
        self._threshold_()

    @torch.no_grad()
    def _threshold_(self) -> None:
        for layer_s, (name, layer) in zip(torch.sigmoid(self.s), self.layers.items(), strict=True):
            self.behind[name] = layer.weight.clone()
            size = (layer.weight.abs() - float(layer_s)).clamp_min(0.0)
            self.kept[name] = size > 0
            layer.weight.copy_(torch.where(size > 0, layer.weight.sign() * size, 0.0))  # no -0.0, which is another bit


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return AutoSparse(settings, context)
