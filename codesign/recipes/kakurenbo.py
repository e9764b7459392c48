"""KAKURENBO: every epoch hides the training examples of lowest loss that the network is sure and right about.

Up to a share of them is hidden; of those the mispredicted and the unsure move back.  Hidden examples run
forward only, for their loss, and the learning rate grows by 1 / (1 - share hidden).  Left out: the refresh at
the end of the epoch in one go; ours is made as the hidden examples come by.  Read ../example_choice.py.

Source: Nguyen et al., "KAKURENBO: Adaptively Hiding Samples in Deep Neural Network Training", NeurIPS 2023.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..example_choice import ExampleChoice
from ..method import Context, Method, Place


class Settings(Section):
    """hide: largest share of the examples to hide.  sure: confidence below which an example is not hidden.  start:
    progress before which nothing is.  scale_lr: whether the learning rate makes up for the steps that are gone."""

    hide: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    sure: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    scale_lr: bool = True


class Kakurenbo(ExampleChoice):
    """Nothing is hidden in the first epoch: no loss is known."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings

    def choose(self, place: Place) -> Tensor:
        """All but the easiest `hide` of them, as far as those are right and sure."""
        taken = torch.ones(len(self.taken), dtype=torch.bool)
        if place.progress >= self.settings.start:
            easiest = self.memory["loss"].sort(stable=True).indices[: int(self.settings.hide * len(taken) + 1e-9)]
            easy = (self.memory["right"][easiest] > 0) & (self.memory["confidence"][easiest] >= self.settings.sure)
            taken[easiest[easy]] = False
        return taken

    def look(self, x: Tensor, y: Tensor, numbers: Tensor) -> None:
        """Hidden examples run forward, as the network evaluates them."""
        self.remember(self.context.logits_of(x), y, numbers)
        self.refreshed = len(x)

    def after_backward(self, place: Place) -> None:
        """The loop sets the learning rate anew before every step."""
        if self.settings.scale_lr and len(self.taken):
            for group in self.context.optimizer.param_groups:
                group["lr"] /= max(1e-9, float(self.taken.float().mean()))


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Kakurenbo(settings, context)
