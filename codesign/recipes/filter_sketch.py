"""FilterSketch: a layer's filters are replaced by fewer that have the same second moments, then training goes on.

The sketch is made by frequent directions: B of l rows with B^T B near W^T W for the n filters W, one pass, no
data.  The new filters stand in the first channels, the others are removed from their readers as well.  Left
out: the search for each layer's share.  Read ../coupling.py for what goes together.

Sources: Lin et al., "Filter Sketch for Network Pruning", TNNLS 2021; Liberty, "Simple and Deterministic Matrix
Sketching", KDD 2013.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import units_kept

from ..budgets import density_of
from ..config import Section
from ..coupling import channel_groups
from ..layers import prunable
from ..method import Context, Method, Place
from ..recipe_parts import remove_channels_


class Settings(Section):
    """sparsity: share of the channels of each group to remove.  at: progress at which, the end of an epoch."""

    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    at: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5


class FilterSketch(Method):
    """done: whether the filters have been replaced."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.groups = list(channel_groups(context.model, context.example, tokens=True))
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe filter_sketch",
                             expected="convolutions or linear layers that follow one another")
        self.done = False

    def end_epoch(self, place: Place) -> None:
        """The sketch, once."""
        if not self.done and place.epoch + 1 >= max(1, math.ceil(self.settings.at * place.epochs - 1e-9)):
            self._sketch()
            self.rewrites += 1
            self.done = True

    @torch.no_grad()
    def _sketch(self) -> None:
        layers, kept = prunable(self.context.model), []
        for group in self.groups:
            width = max(1, units_kept(density_of(self.settings.sparsity), group.width))
            for span in group.producers:
                weight = layers[span.layer].weight
                part = weight[span.start : span.start + group.width]
                part[:width] = sketch(part.flatten(1), width).reshape(width, *weight.shape[1:])
            kept.append(torch.arange(group.width, device=self.context.example.device) < width)
        remove_channels_(self.context, self.groups, kept)

    def state_dict(self) -> dict[str, Any]:
        """Whether it is done."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.done = state["done"]


def sketch(rows: Tensor, size: int) -> Tensor:
    """float[size, d] whose B^T B is at most A^T A and at least that less |A|_F^2 / (size + 1), A = float[n, d].

    Frequent directions, shrunk at every row by the smallest singular value: one row is added, one is freed.
    """
    kept = torch.zeros(size, rows.shape[1], dtype=torch.float64, device=rows.device)
    for row in rows.detach().double():
        _, s, v = torch.linalg.svd(torch.cat([kept, row[None]]), full_matrices=False)
        squares = s.square()
        if len(s) > size:
            squares = (squares - squares[size]).clamp_min(0.0)
        shrunk = squares.sqrt()[:size, None] * v[:size]
        kept = torch.zeros_like(kept)
        kept[: len(shrunk)] = shrunk
    return kept.to(rows.dtype)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return FilterSketch(settings, context)
