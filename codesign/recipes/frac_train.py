"""FracTrain's progressive precision: few bits at first, more whenever the loss stops falling.

Weights, activations and error maps of the convolutions are rounded to the bits of the present stage; a stage
ends when a window of steps lowers the loss by less than a share of what the first one did.  Left out: the
gate that picks bits per layer and input, the paper's other half.  Read ../error_maps.py for the rounding.

Source: Fu et al., "FracTrain: Fractionally Squeezing Bit Savings Both Temporally and Spatially", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from simulator.errors import InputError

from ..config import Section
from ..error_maps import ErrorMapPruning, prune_error_maps_
from ..method import Batch, Context, Method, Place
from ..step_macs import layer_macs

FULL_BITS = 32
"""A product of b by b bits counts (b / 32)^2 of a full one, the paper's effective MACs."""


class Settings(Section):
    """bits: of each stage, rising, 2 to 16.  window: steps over which the loss is averaged.  flat: share of the loss of
    the first window by which a window must lower it.  last: share of training that the last stage has at least."""

    bits: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (4, 6, 8, 12)
    window: Annotated[int, Field(ge=1)] = 50
    flat: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    last: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25


class FracTrain(Method):
    """stage: counts from 0; losses: sum, steps, of this window; first, before: mean loss of those windows."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if list(settings.bits) != sorted(set(settings.bits)):
            raise InputError(f"bits = {list(settings.bits)}", where="recipe frac_train", expected="rising numbers")
        self.settings, self.stage = settings, -1
        self.sum, self.steps = 0.0, 0
        self.first: float | None = None
        self.before: float | None = None
        self.products = self.effective = 0.0
        self._go_to(len(settings.bits) - 1)  # the most bits must be legal as well as the fewest
        rounded = set(self._go_to(0))
        work = layer_macs(context.model, context.example)
        total = sum(layer.forward + layer.backward for layer in work)
        self.rounded_share = sum(layer.forward + layer.backward for layer in work if layer.layer in rounded) / total

    def _go_to(self, stage: int) -> list[str]:
        self.stage = stage
        return prune_error_maps_(self.context.model, ErrorMapPruning(1.0, bits=self.settings.bits[stage]))

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The next stage where the last window was flat, the last one where training is about to end."""
        last = len(self.settings.bits) - 1
        if self.stage < last and place.progress >= 1.0 - self.settings.last:
            self._go_to(last)
        elif self.steps == self.settings.window:
            now = self.sum / self.steps
            self.first = now if self.first is None else self.first
            if self.stage < last and self.before is not None and self.before - now < self.settings.flat * self.first:
                self._go_to(self.stage + 1)
                self.before = None  # another precision has another loss: its first window is compared with nothing
            else:
                self.before = now
            self.sum, self.steps = 0.0, 0
        return Batch(x, y)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean, which is also what the stages follow."""
        loss = super().loss(logits, batch)
        self.sum += float(loss.detach())
        self.steps += 1
        return loss

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """As many as ever: what is saved is bits, which `summary` counts."""
        whole = super().macs(per_image, images, batch)
        narrow = (self.settings.bits[self.stage] / FULL_BITS) ** 2
        self.products += whole
        self.effective += whole * (1.0 - self.rounded_share * (1.0 - narrow))
        return whole

    def row(self) -> dict[str, Any]:
        """The bits that the epoch ended with."""
        return {"bits": self.settings.bits[self.stage]}

    def summary(self) -> dict[str, Any]:
        """Products weighed by their bits, as a share of all at 32."""
        return {"name": "frac_train", "effective_macs_share": self.effective / max(1.0, self.products)}

    def state_dict(self) -> dict[str, Any]:
        """The stage, the window so far, and what was spent."""
        return {"stage": self.stage, "sum": self.sum, "steps": self.steps, "first": self.first, "before": self.before,
                "products": self.products, "effective": self.effective}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._go_to(state["stage"])
        for name in ("sum", "steps", "first", "before", "products", "effective"):
            setattr(self, name, state[name])


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return FracTrain(settings, context)
