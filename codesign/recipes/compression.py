"""How far convolutions are compressed: the ratio as ClickTrain counts it, and the count of the masks themselves.

The paper counts convolution weights, the stem included, 1x1 shortcuts and linear layers left out, and takes
each pruned layer at (1 - r) q of its weights.  Left out here: index bits; simulator/formats.py ("fkw")
stores them and the pattern engine is charged for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Counted:
    """One convolution: weights, share of kernels removed, share of a kept kernel's entries that stay (4/9, or 1)."""

    weights: int
    removed: float = 0.0
    entries: float = 1.0


def ratio(layers: Iterable[Counted]) -> float:
    """Weights over weights left: sum n / sum n (1 - r) q."""
    counted = list(layers)
    return sum(layer.weights for layer in counted) / sum(
        layer.weights * (1.0 - layer.removed) * layer.entries for layer in counted)


def compression(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights over weights kept, by the masks: "compression" of all convolutions but shortcuts, "layers" of each."""
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    counted = {name: module for name, module in convolutions.items()
               if not any(word in name for word in ("downsample", "shortcut"))}
    weights = {name: module.weight.numel() for name, module in counted.items()}
    kept = {name: int(masks[name].sum()) if name in masks else total for name, total in weights.items()}
    return {"compression": sum(weights.values()) / sum(kept.values()),
            "layers": {name: weights[name] / max(1, kept[name]) for name in weights}}
