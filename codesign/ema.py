"""A running average of the weights beside the weights: what is validated and exported, while training goes on.

After every optimizer step average = d * average + (1 - d) * weights, with d = min(decay, (1 + t) / (10 + t)) at step
t, so that the first averages are not mostly the start.  Batch norm statistics are averaged alike, counters copied.
Pruned weights are zero in the average too.  It starts again where a method replaces the weights, and before the last
epoch ends it takes their place, so that what a method makes of the network in the end it makes of the average.  Left
out: what a method trains beside the network.  Read train.py for where it is used.

Source: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992; the rise of d is TensorFlow's
tf.train.ExponentialMovingAverage(num_updates=...).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """The average of `model`'s parameters and buffers; decay in (0, 1)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self.model.state_dict().items():
            mean = self.average[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)

    @torch.no_grad()
    def restart_(self) -> None:
        """The average is the present weights, as before the first step."""
        self.updates = 0
        for name, value in self.model.state_dict().items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def mask_(self, masks: Mapping[str, Tensor]) -> None:
        """Zero what is pruned; masks: bool by layer name or by parameter name, True where kept."""
        for name, mask in masks.items():
            mean = self.average[name if name in self.average else f"{name}.weight"]
            mean.masked_fill_(~mask.to(mean.device), 0.0)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average inside, and its own weights again, to the bit, afterwards."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.put_in_()
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def put_in_(self) -> None:
        """Replace the model's weights by the average."""
        self.model.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it has."""
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.updates = int(state["updates"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
