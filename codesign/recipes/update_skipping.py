"""Weight-update skipping: while accuracy stands still, weights get no gradients and only biases are trained.

Training accuracy is averaged over windows of steps; where a window gains less than a threshold over the one
before, the next ones leave the gradient products of all weights out, a few at most.  Errors still go back
through every layer, for the biases and norms.  Left out: the weight's optimizer state, which rests too.

Source: Safayenikoo and Akturk, "Weight Update Skipping", arXiv 2012.02792.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ..config import Section
from ..layers import prunable
from ..method import Batch, Context, Method, Place
from ..step_macs import layer_macs


class Settings(Section):
    """window: steps over which accuracy is averaged.  flat: gain in points of accuracy below which a window is flat.
    most: windows skipped in a row before weights are trained again."""

    window: Annotated[int, Field(ge=1)] = 20
    flat: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5
    most: Annotated[int, Field(ge=1)] = 1


class UpdateSkipping(Method):
    """skipping: windows skipped in a row, 0 while weights are trained.  before: accuracy of the last window, %."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.layers = settings, list(prunable(context.model).values())
        work = layer_macs(context.model, context.example)
        self.weight_share = sum(layer.forward for layer in work) / sum(layer.forward + layer.backward for layer in work)
        self.right = self.seen = self.steps = self.skipping = self.skipped = 0
        self.before: float | None = None

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """At the end of a window the next one is decided; weights that rest get no gradient at all."""
        if self.steps == self.settings.window:
            self._decide()
        self.steps += 1
        for layer in self.layers:
            layer.weight.requires_grad_(not self.skipping)
        return Batch(x, y)

    def _decide(self) -> None:
        now = 100.0 * self.right / self.seen
        flat = self.before is not None and now - self.before < self.settings.flat
        self.skipping = self.skipping + 1 if flat and self.skipping < self.settings.most else 0
        self.before, self.right, self.seen, self.steps = now, 0, 0, 0

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean; right answers are counted."""
        self.right += int((logits.detach().argmax(1) == batch.y).sum())
        self.seen += len(batch.y)
        return super().loss(logits, batch)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """Of the three products of a layer the weight's gradient is left out where weights rest."""
        self.skipped += int(bool(self.skipping))
        whole = super().macs(per_image, images, batch)
        return round(whole * (1.0 - self.weight_share)) if self.skipping else whole

    def end_epoch(self, place: Place) -> None:
        """After training every parameter is as trainable as before."""
        if place.epoch + 1 == place.epochs:
            for layer in self.layers:
                layer.weight.requires_grad_(True)

    def row(self) -> dict[str, Any]:
        """Steps of the epoch without weight gradients."""
        skipped, self.skipped = self.skipped, 0
        return {"steps_without_weight_gradients": skipped}

    def state_dict(self) -> dict[str, Any]:
        """The window so far, and the decision in force."""
        return {"right": self.right, "seen": self.seen, "steps": self.steps, "skipping": self.skipping,
                "skipped": self.skipped, "before": self.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return UpdateSkipping(settings, context)
