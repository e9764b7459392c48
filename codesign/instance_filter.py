"""Early instance filtering: a small network says which examples are worth a training step of the large one.

It predicts whether an example's loss will be high; those go forward and backward, the unsure among the rest
go forward only, to learn their loss, and the others are dropped before the large network sees them.  The
threshold between high and low follows the share of high ones that is asked for.  A filter may learn the classes
beside, and judge by them: then it sees which images are ambiguous.  Read recipes/on_device.py for the whole method.

Source: arXiv 2007.03213 (TCAD 39(11), 2020).  Its a1, a2, window, entropy threshold and first threshold are
not given in the text: the defaults here are ours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HIGH, LOW = 0, 1
PROBES = 16
"""Where a batch would be dropped whole, the most unsure 1 in PROBES of it runs forward: a filter that says "low" to
everything with confidence would otherwise never be told that it is wrong (ours, not the paper's)."""


LEAST = 1e-6
"""T_l falls no further, unless told otherwise (ours): smaller losses are the rounding of 32-bit logits, and nothing
can learn to predict them."""


HIDDEN = 32
"""Units between the class scores and the answer of a ClassifyingFilter."""


FLOOR = math.log(1e-12)
"""Below it one class's share is as good as another's.  So low because a filter that has trained for long is surer than
1e-4 of most images, and would tell them apart no more."""


class ClassifyingFilter(nn.Module):
    """A filter that scores the classes and reads high or low off those scores by two small layers.

    The paper says that its filter ends in as many outputs as there are classes, and computes with two: this one has
    both.  How it is joined, and that it learns from the labels too, is ours.  network: images -> float[m, classes].
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.judge = nn.Sequential(nn.Linear(classes, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(float[m, 2], the scores of high and low; float[m, classes])."""
        scores: Tensor = self.network(x)
        shares = scores.detach().log_softmax(1).clamp_min(FLOOR) / FLOOR
        return self.judge(shares.sort(1).values), scores

    def forward(self, x: Tensor) -> Tensor:
        """The scores of high and low, as any filter gives them."""
        return self.both(x)[0]


@dataclass(frozen=True, eq=False)
class Prediction:
    """high: bool[m], predicted of high loss.  unsure: bool[m], predicted low with an entropy above the threshold."""

    high: Tensor
    unsure: Tensor


@dataclass
class Threshold:
    """T_l, the loss from which an example counts as high: it rises while more than `ratio` of the examples are.

    Over the last `window` batches R_TH is the share of examples predicted high that were high; T_l is multiplied by
    `up` where R_TH >= ratio, else by `down`, but is at least `least`.  adaptive: False leaves it where it is, for the
    ablation.
    """

    ratio: float
    value: float = 0.5
    up: float = 1.05
    down: float = 0.95
    window: int = 10
    adaptive: bool = True
    least: float = LEAST

    def __post_init__(self) -> None:
        self.seen: deque[tuple[int, int]] = deque(maxlen=self.window)

    def update(self, true_high: int, examples: int) -> None:
        """One batch: how many of its `examples` were predicted high and were."""
        self.seen.append((true_high, examples))
        if not self.adaptive:
            return
        share = sum(high for high, _ in self.seen) / sum(count for _, count in self.seen)
        self.value = max(self.least, self.value * (self.up if share >= self.ratio else self.down))


def predict(logits: Tensor, entropy_threshold: float) -> Prediction:
    """What the filter's logits float[m, 2] say; entropy in nats, at most ln 2 = 0.693."""
    shares = logits.softmax(1)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(1)
    high = shares[:, HIGH] > shares[:, LOW]
    unsure = ~high & (entropy > entropy_threshold)
    if not bool((high | unsure).any()):
        unsure[entropy.topk(-(-len(logits) // PROBES)).indices] = True
    return Prediction(high, unsure)


def filter_loss(logits: Tensor, is_high: Tensor, ratio: float, weighting: float = 1.0) -> Tensor:
    """Cross-entropy of the filter: high examples weigh 1 / ratio, low ones 1 / (1 - ratio), normalised over the batch.

    logits: float[n, 2]; is_high: bool[n].  weighting: power of these weights; 1 is the paper's, 0 counts all alike, its
    ablation.
    """
    labels = torch.where(is_high, HIGH, LOW)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    weights = torch.where(is_high, 1.0 / ratio, 1.0 / (1.0 - ratio)) ** weighting
    return (losses * weights / weights.sum()).sum()


def threshold_state(threshold: Threshold) -> dict[str, Any]:
    """The controller's state as JSON values."""
    return {"value": threshold.value, "seen": [list(item) for item in threshold.seen]}


def restore_threshold_(threshold: Threshold, state: Mapping[str, Any]) -> None:
    """Put `threshold_state` back."""
    threshold.value = state["value"]
    threshold.seen.clear()
    threshold.seen.extend((int(high), int(count)) for high, count in state["seen"])
