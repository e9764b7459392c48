"""Methods that leave easy examples out: what is remembered of each training image, and batches filled up again.

A subclass says once an epoch which images to train on; those wait until they are a whole batch, so that
fewer examples are fewer steps of the same size.  Left out: the data itself, which the loop still loads.
Read recipes/kakurenbo.py and recipes/data_pruning.py for the two that choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .method import Batch, Context, Method, Place
from .step_macs import layer_macs

COLUMNS = ("loss", "confidence", "right", "uncertainty", "spread", "seen")


class ExampleChoice(Method):
    """memory: float[images] for each of COLUMNS.  taken: bool[images], what this epoch trains on.

    loss: when last seen.  confidence: the largest softmax; right: whether it was the label's.  uncertainty: running
    mean of 1 - confidence, spread: of its squared deviation.  seen: how often.
    """

    numbered = True
    remembers = 0.7
    """Weight of the past in the running means (ours)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.memory = {name: torch.zeros(0) for name in COLUMNS}
        self.taken = torch.zeros(0, dtype=torch.bool)
        self.waiting: tuple[Tensor, Tensor, Tensor] | None = None
        self.size = 0
        self.hidden = self.refreshed = 0
        self.forward_macs = sum(layer.forward for layer in layer_macs(context.model, context.example))
        self._numbers = torch.zeros(0, dtype=torch.int64)

    def choose(self, place: Place) -> Tensor:
        """bool[images]: what the epoch that begins trains on; images never seen are taken whatever this says."""
        raise NotImplementedError

    def look(self, x: Tensor, y: Tensor, numbers: Tensor) -> None:
        """What to do with examples that are left out; nothing by default."""

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch | None:
        """The next whole batch of taken examples, or None while there are too few."""
        assert place.examples is not None  # numbered
        numbers = place.examples.cpu()
        if place.batch == 0 and len(self.taken):
            self.taken = self.choose(place) | (self.memory["seen"] == 0)
        self._make_room(int(numbers.max()) + 1)
        self.size = max(self.size, len(x))
        kept = self.taken[numbers]
        self.hidden += int((~kept).sum())
        self.refreshed = 0
        if not bool(kept.all()):
            out = ~kept
            self.look(x[out.to(x.device)], y[out.to(y.device)], numbers[out])
            x, y, numbers = x[kept.to(x.device)], y[kept.to(y.device)], numbers[kept]
        if self.waiting is not None:
            x, y, numbers = (torch.cat(pair) for pair in zip(self.waiting, (x, y, numbers), strict=True))
        last = place.batch + 1 == place.batches and place.epoch + 1 == place.epochs
        take = self.size if len(x) >= self.size else len(x) if last else 0
        self.waiting = (x[take:], y[take:], numbers[take:]) if take < len(x) else None
        self._numbers = numbers[:take]
        return Batch(x[:take], y[:take]) if take else None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean; what the network said of each example is remembered."""
        self.remember(logits, batch.y, self._numbers)
        return super().loss(logits, batch)

    @torch.no_grad()
    def remember(self, logits: Tensor, y: Tensor, numbers: Tensor) -> None:
        """Write down what the network says of these examples now."""
        confidence, answer = (part.cpu() for part in logits.softmax(1).max(1))
        before, first = self.memory["uncertainty"][numbers], self.memory["seen"][numbers] == 0
        apart = (1.0 - confidence) - before
        share = torch.where(first, 1.0, 1.0 - self.remembers)
        self.memory["uncertainty"][numbers] = before + share * apart
        spread = (1.0 - share) * (self.memory["spread"][numbers] + share * apart.square())  # an exponential variance
        for name, value in (("loss", self.context.losses(logits, y).cpu()), ("confidence", confidence),
                            ("right", (answer == y.cpu()).float()), ("spread", spread)):
            self.memory[name][numbers] = value
        self.memory["seen"][numbers] += 1.0

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """The examples of the batch as ever, those looked at forward."""
        return super().macs(per_image, images, batch) + self.refreshed * self.forward_macs

    def row(self) -> dict[str, Any]:
        """How many examples the epoch left out."""
        hidden, self.hidden = self.hidden, 0
        return {"examples_left_out": hidden}

    def _make_room(self, size: int) -> None:
        more = size - len(self.taken)
        if more > 0:
            self.taken = torch.cat([self.taken, torch.ones(more, dtype=torch.bool)])
            self.memory = {name: torch.cat([value, torch.zeros(more)]) for name, value in self.memory.items()}

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, what is taken, and the examples that wait."""
        return {"memory": dict(self.memory), "taken": self.taken.to(torch.uint8), "size": self.size,
                "hidden": self.hidden, "waiting": None if self.waiting is None else list(self.waiting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.memory, self.taken = dict(state["memory"]), state["taken"].bool()
        self.size, self.hidden = state["size"], state["hidden"]
        if state["waiting"] is not None:
            x, y, numbers = state["waiting"]
            self.waiting = x.to(self.context.example.device), y.to(self.context.example.device), numbers
