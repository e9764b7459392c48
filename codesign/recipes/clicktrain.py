"""ClickTrain: patterns and kernels pruned during one ordinary training (Zhang et al., ICS 2021, arXiv 2011.10170).

Four phases: dense; one batch selects, by (w g)^2, the kernels to remove and each 3x3 kernel's pattern; a
group lasso shrinks only what will go; then masks are hard and the rest of training is the fine-tuning.
Left out: mobile code generation, in whose place ../../simulator/machines/pattern_engine.py counts cycles.
Read compression.py for the ratios, docs/recipes/clicktrain.md for what is the paper's and what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator import patterns
from simulator.errors import InputError
from simulator.structure import pattern as pattern_structure

from ..choice import StructureChoice
from ..config import Section
from ..layers import kept_by_default, match, prunable
from ..masks import pack, unpack
from ..method import Batch, Context, Method, Place
from ..structures import as_matrix, keep_best, pattern_scores, project
from .compression import compression

EPSILON = 1e-8
"""Under each square root of the group lasso, as in the authors' released code."""
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
SHORTCUTS = ("*downsample*", "*shortcut*")


class Settings(Section):
    """The [recipe] section.  choose, harden: progress at which kernels and patterns are selected and at which they
    become hard; the paper's are a few epochs after the first and about ten after the last drop of the learning rate.

    library: 4, 8 or 12 patterns.  generated: make the library from all 126 by what this network's kernels would choose,
    instead of the released constants.  kernels: share of kernels removed, one for all 3x3 layers or a table
    {layer pattern: share}, which may name 1x1 layers too.  one_by_one: the share in 1x1 convolutions that no table
    names; they have no patterns, and None leaves them dense.  group_lasso: the paper's
    lambda.  mixup: alpha of the Beta from which examples are mixed once masks are hard; 0 = none.  skip: patterns of
    layers left dense besides the first convolution, linear layers and shortcuts.
    """

    choose: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.33
    harden: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    library: Annotated[int, Field(ge=1, le=126)] = 4
    generated: bool = False
    kernels: Share | dict[str, Share] = 0.5
    one_by_one: Share | None = None
    group_lasso: Annotated[float, Field(ge=0.0)] = 2.5e-4
    mixup: Annotated[float, Field(ge=0.0)] = 0.3
    skip: Annotated[tuple[str, ...], Field(strict=False)] = ()


class ClickTrain(Method):
    """masks: bool of each pruned layer's weight, True where kept, from the selection on."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if settings.harden <= settings.choose:
            raise InputError(f"harden = {settings.harden}", where="recipe",
                             expected=f"a progress after choose = {settings.choose}")
        if not settings.generated and settings.library not in patterns.FIXED:
            raise InputError(f"library = {settings.library}", where="recipe", expected="4, 8 or 12, the released ones",
                             fix="set generated = true for a library of any size")
        self.settings = settings
        self.removed_share = _shares(context.model, settings)
        self.layers = {name: prunable(context.model)[name] for name in self.removed_share}
        self.masks: dict[str, Tensor] = {}
        self.kernels: dict[str, Tensor] = {}
        self.patterns: dict[str, Tensor] = {}
        self.library: tuple[int, ...] = ()
        self.hard = False

    # Which phase

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch | None:
        """Masks become hard at the start of an epoch; examples are mixed from then on."""
        due = place.batch == 0 and place.epoch >= self._epoch(self.settings.harden, place)
        if self.masks and not self.hard and due:
            self._harden()
        if not self.hard or not self.settings.mixup:
            return Batch(x, y)
        share = float(torch.distributions.Beta(self.settings.mixup, self.settings.mixup).sample())
        order = torch.randperm(len(x)).to(x.device)
        return Batch(share * x + (1.0 - share) * x[order], y, y[order], share)

    def penalty(self, place: Place) -> Tensor | None:
        """lambda times the sum over kernels of the norms of what the masks will drop, and of that alone."""
        if not self.masks or self.hard or not self.settings.group_lasso:
            return None
        total = torch.zeros((), device=self.context.example.device)
        for name, layer in self.layers.items():
            kernels = layer.weight.flatten(2)
            outside = (kernels * ~self.patterns[name].flatten(2)).square().sum(2)
            whole = kernels.square().sum(2) * ~self.kernels[name].squeeze(2)
            if kernels.shape[2] > 1:
                total = total + (outside + EPSILON).sqrt().sum()
            total = total + (whole + EPSILON).sqrt().sum()
        return self.settings.group_lasso * total

    def after_backward(self, place: Place) -> None:
        """The selection: one batch, the first of its epoch; its own step is still taken with the plain gradient."""
        if not self.masks and place.batch == 0 and place.epoch >= self._epoch(self.settings.choose, place):
            self._select()

    def end_epoch(self, place: Place) -> None:
        """A training that is too short for its phases still ends with its masks."""
        if place.epoch + 1 == place.epochs and not self.hard:
            if not self.masks:
                raise InputError("training ended before the selection", where="recipe clicktrain",
                                 expected=f"more epochs than choose = {self.settings.choose} of {place.epochs} leaves")
            self._harden()

    @staticmethod
    def _epoch(progress: float, place: Place) -> int:
        return min(place.epochs - 1, max(0, math.ceil(progress * place.epochs - 1e-9)))  # 0.55 of 100 is 55

    # The selection

    @torch.no_grad()
    def _select(self) -> None:
        importance = {name: (layer.weight * layer.weight.grad).square() for name, layer in self.layers.items()
                      if layer.weight.grad is not None}
        missing = self.layers.keys() - importance.keys()
        if missing:
            raise InputError(f"no gradient for {', '.join(sorted(missing))}", where="recipe clicktrain",
                             expected="layers that take part in the loss", fix="skip them")
        self.library = self._library(importance)
        chosen = pattern_structure(self.library)
        for name, score in importance.items():
            per_kernel = score.flatten(2).sum(2)
            total = per_kernel.numel()
            kept = total - math.ceil(self.removed_share[name] * total - 1e-9)  # 0.35 * 20 is 7.000000000000001
            self.kernels[name] = keep_best(per_kernel.double().reshape(-1), kept).reshape(*per_kernel.shape, 1)
            self.patterns[name] = project(score, chosen)
        self._join()

    def _join(self) -> None:
        self.masks = {name: part & self.kernels[name].unsqueeze(3) for name, part in self.patterns.items()}

    def _library(self, importance: Mapping[str, Tensor]) -> tuple[int, ...]:
        if not self.settings.generated:
            return patterns.FIXED[self.settings.library]
        votes = torch.zeros(len(patterns.SETS), dtype=torch.int64)
        for score in importance.values():
            if score.shape[2:].numel() == patterns.WINDOW:
                every = pattern_scores(as_matrix(score).double(), tuple(range(1, len(patterns.SETS) + 1)))
                votes += torch.bincount(every.argmax(0).reshape(-1).cpu(), minlength=len(votes))
        return patterns.library_of(votes.numpy(), self.settings.library)

    def _harden(self) -> None:
        assert self.context.pruner is not None  # train.py makes one for every recipe
        name_of = {9: f"kernel + {pattern_structure(self.library)}"}
        choices = [
            StructureChoice(name, name_of.get(mask.shape[2:].numel(), "kernel"), float(mask.float().mean()), 0.0, 0.0)
            for name, mask in self.masks.items()
        ]
        self.context.pruner.set_masks_(self.masks, choices)
        self.hard = True

    # What is reported and remembered

    def row(self) -> dict[str, Any]:
        """The phase that the next batch is in."""
        return {"phase": "hard" if self.hard else "soft" if self.masks else "dense"}

    def summary(self) -> dict[str, Any]:
        """The compression of all convolutions, as the paper counts it and by the masks themselves, and the library."""
        return {"name": "clicktrain", "library": [patterns.drawn(rank) for rank in self.library],
                **compression(self.context.model, self.masks)}

    def state_dict(self) -> dict[str, Any]:
        """The selection, which cannot be made again."""
        return {"library": list(self.library), "hard": self.hard,
                "kernels": {name: pack(mask) for name, mask in self.kernels.items()},
                "patterns": {name: pack(mask) for name, mask in self.patterns.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the hard masks itself."""
        self.library, self.hard = tuple(state["library"]), state["hard"]
        for name, packed in state["kernels"].items():
            weight = self.layers[name].weight
            self.kernels[name] = unpack(packed, (*weight.shape[:2], 1)).to(weight.device)
            self.patterns[name] = unpack(state["patterns"][name], weight.shape).to(weight.device)
        self._join()


def _shares(model: nn.Module, settings: Settings) -> dict[str, float]:
    """Layer -> share of its kernels to remove, for every convolution that takes part."""
    layers = {name: layer for name, layer in prunable(model).items() if isinstance(layer, nn.Conv2d)}
    skipped = {*kept_by_default(model, list(prunable(model))), *match(settings.skip, layers, "recipe, skip")}
    skipped |= {name for name in layers if any(fnmatchcase(name, shortcut) for shortcut in SHORTCUTS)}
    table = settings.kernels if isinstance(settings.kernels, dict) else {}
    named = {name: table[pattern] for name, pattern in match(table, layers, "recipe, kernels").items()}
    shares = {}
    for name, layer in layers.items():
        window = layer.weight.shape[2:].numel()
        share = settings.one_by_one if window == 1 else 0.0 if table else settings.kernels
        share = named.get(name, share)
        if name in skipped or share is None:
            continue
        if window not in (1, patterns.WINDOW):
            raise InputError(f"layer {name!r} has kernels of {window} entries", where="recipe clicktrain",
                             expected="3x3 or 1x1 kernels", fix=f'skip = ["{name}"]')
        assert isinstance(share, float)  # the table as a whole is asked for only where it is none
        shares[name] = share
    idle = [pattern for pattern in table if not any(fnmatchcase(name, pattern) for name in shares)]
    if idle:
        raise InputError(f"pattern {idle[0]!r} names only layers that stay dense", where="recipe, kernels",
                         expected="convolutions beside the first one and the shortcuts")
    if not shares:
        raise InputError("no convolution to prune", where="recipe clicktrain", expected="3x3 convolutions")
    return shares


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return ClickTrain(settings, context)
