"""Stochastic mini-batch dropping: every batch is left out by the toss of a coin.

Half the batches at chance 0.5, so half the training; a baseline for methods that choose what to leave out.
Left out: the selective layer update and the low precision of the paper it is from.  Read ../method.py.

Source: Wang et al., "E2-Train: Training State-of-the-art CNNs with Over 80 % Energy Savings", NeurIPS 2019.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..config import Section
from ..draws import uniform
from ..method import Batch, Context, Method, Place


class Settings(Section):
    """drop: chance of a batch to be left out."""

    drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5


class BatchDropping(Method):
    """The draws are of (seed, step) alone, so that a run resumed anywhere drops the same."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.drop = settings.drop

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch | None:
        """The batch or nothing."""
        return None if uniform(self.context.seed, place.step) < self.drop else Batch(x, y)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return BatchDropping(settings, context)
