"""GaP, grow and prune: the layers of one group after the other become dense, train, and are pruned back.

All other groups stay sparse meanwhile, so that every weight has a chance to come back at the price of one
dense group.  The rest of training fine-tunes the last masks.  Left out: the parallel variant, which grows
every group on a machine of its own.  Read ../method.py for when each hook is called.

Source: Ma et al., "Effective Model Sparsification by Scheduled Grow-and-Prune Methods", ICLR 2022 (cyclic GaP); the
lengths of its phases follow the network there, ours are shares of training.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import parse

from ..config import Section
from ..masks import pack, unpack
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, install_, projected


class Settings(Section):
    """structure, sparsity: what each layer is pruned back to (sparsity: unless the structure fixes it).  groups: K, of
    neighbouring layers.  rounds: how often each group grows.  until: share of training that the rounds take.  skip:
    patterns of layers that stay dense; None = the first convolution and the classifier."""

    structure: str = "unstructured"
    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    groups: Annotated[int, Field(ge=1)] = 3
    rounds: Annotated[int, Field(ge=1)] = 2
    until: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class GrowAndPrune(Method):
    """groups: names of layers, in the order in which they run.  phase: the group that is dense now counts from 0 over
    all rounds; -1 before the first batch, groups * rounds when all are sparse for good."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.structure = settings, parse(settings.structure)
        self.layers = chosen_layers(context, settings.skip, self.structure)
        names = list(self.layers)
        if len(names) < settings.groups:
            raise InputError(f"groups = {settings.groups}", where="recipe grow_and_prune",
                             expected=f"at most {len(names)}, the layers to prune")
        bounds = [round(index * len(names) / settings.groups) for index in range(settings.groups + 1)]
        self.groups = [names[first:last] for first, last in itertools.pairwise(bounds)]
        self.masks: dict[str, Tensor] = {}
        self.phase = -1

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """At the start of a phase the group that was dense is pruned back and the next one grows."""
        phases = self.settings.rounds * len(self.groups)
        now = min(phases, int(place.progress / self.settings.until * phases + 1e-9))
        if now != self.phase:
            self._go_to(now)
        return Batch(x, y)

    @torch.no_grad()
    def _go_to(self, phase: int) -> None:
        for name, layer in self.layers.items():
            if name not in self.masks:  # the start, and whatever grew
                self.masks[name] = projected(layer.weight, self.structure, self.settings.sparsity)
        if phase < self.settings.rounds * len(self.groups):
            for name in self.groups[phase % len(self.groups)]:
                del self.masks[name]
        self.phase = phase
        install_(self.context, self.masks, str(self.structure))

    def end_epoch(self, place: Place) -> None:
        """A training that is too short for its phases still ends with all layers sparse."""
        if place.epoch + 1 == place.epochs and self.phase < self.settings.rounds * len(self.groups):
            self._go_to(self.settings.rounds * len(self.groups))

    def row(self) -> dict[str, Any]:
        """The group that is dense, counted from 0, or None."""
        done = self.phase >= self.settings.rounds * len(self.groups)
        return {"dense_group": None if done else self.phase % len(self.groups)}

    def state_dict(self) -> dict[str, Any]:
        """The masks, and which group is dense."""
        return {"phase": self.phase, "masks": {name: pack(mask) for name, mask in self.masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.phase = state["phase"]
        for name, packed in state["masks"].items():
            weight = self.layers[name].weight
            self.masks[name] = unpack(packed, weight.shape).to(weight.device)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return GrowAndPrune(settings, context)
