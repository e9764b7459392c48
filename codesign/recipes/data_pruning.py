"""Dynamic data pruning: every few epochs a bandit picks the examples to train on, by how unsure the network is.

An example's uncertainty is a running mean over the times it was trained on.  Epsilon-greedy takes the most
uncertain and a few at random; UCB adds what the uncertainty has varied by; random is the control.  Left
out: other scores than 1 - confidence.  Read ../example_choice.py for what is remembered.

Source: Raju, Daruwalla, Lipasti, "Accelerating Deep Learning with Dynamic Data Pruning", arXiv 2111.12621.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..config import Section
from ..draws import generator
from ..example_choice import ExampleChoice
from ..method import Context, Method, Place


class Settings(Section):
    """keep: share of the examples to train on.  every: epochs between two choices.  by: the bandit.  explore: share of
    the choice that epsilon-greedy makes at random.  bonus: standard deviations that UCB adds."""

    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    every: Annotated[int, Field(ge=1)] = 2
    by: Literal["epsilon_greedy", "ucb", "random"] = "ucb"
    explore: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    bonus: Annotated[float, Field(ge=0.0)] = 1.0


class DataPruning(ExampleChoice):
    """The first epoch trains on everything: nothing is known yet."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings

    def choose(self, place: Place) -> Tensor:
        """A new choice every few epochs, the last one in between."""
        if (place.epoch - 1) % self.settings.every:
            return self.taken
        images = len(self.taken)
        budget = max(1, int(self.settings.keep * images + 1e-9))
        at_random = {"random": budget, "ucb": 0, "epsilon_greedy": int(self.settings.explore * budget)}[
            self.settings.by]
        score = self.memory["uncertainty"].clone()
        if self.settings.by == "ucb":
            score += self.settings.bonus * self.memory["spread"].sqrt()
        order = score.sort(descending=True, stable=True).indices
        rest = order[budget - at_random :]
        drawn = rest[torch.randperm(len(rest), generator=generator(self.context.seed, "data", place.epoch))][:at_random]
        taken = torch.zeros(images, dtype=torch.bool)
        taken[order[: budget - at_random]] = True
        taken[drawn] = True
        return taken


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return DataPruning(settings, context)
