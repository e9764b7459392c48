"""Online hard example mining: of every batch the network trains on the examples of highest loss only.

The whole batch runs forward to learn its losses, the hard part of it forward and backward.  It is the
baseline that on-device training is compared with.  Left out: the region sampling of the detector it was
made for.  Read ../method.py for the hooks.

Source: Shrivastava, Gupta, Girshick, "Training Region-based Object Detectors with Online Hard Example Mining", CVPR
2016.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..config import Section
from ..method import Batch, Context, Method, Place
from ..step_macs import layer_macs


class Settings(Section):
    """ratio: share of each batch to train on, at least one example."""

    ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3


class Ohem(Method):
    """forward_macs: what the pass that finds the hard examples takes for one."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.ratio = settings.ratio
        self.forward_macs = sum(layer.forward for layer in layer_macs(context.model, context.example))

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The hardest examples, in the order in which they came; of equal losses the first."""
        losses = self.context.losses_of(x, y)
        hard = losses.sort(descending=True, stable=True).indices[: max(1, round(self.ratio * len(x)))].sort().values
        return Batch(x[hard], y[hard])

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """All images forward, those of the batch once more and backward."""
        return images * self.forward_macs + super().macs(per_image, images, batch)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Ohem(settings, context)
