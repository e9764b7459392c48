"""Partition Pruning: fully connected layers cut into P parts that P accelerators run apart (arXiv 1901.11391).

Dense training; one division of the chain's neurons, by what its weights are worth; then training goes on with what lies
within the parts.  Left out: convolutions, which stay dense.  Read ../partition.py for the solvers,
docs/recipes/partition.md for what is the paper's and what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from simulator import load_machine
from simulator.errors import InputError

from ..choice import StructureChoice
from ..config import Section
from ..method import Context, Method, Place
from ..partition import Ints, Places, kept, masks, solve
from ..partition_chain import Chain, chain_of, scores_of
from ..partition_execution import execution, with_arrays
from ..trace import trace_model


class Settings(Section):
    """The [recipe] section.  parts: P; 1 = dense.  at: progress at which the chain is divided, 0 = at once.

    solver: "alternating", "kernighan_lin", "contiguous" or "random", the best of `tries` starts.  score: what a weight
    is worth, "magnitude" |w|, "share" |w| over its layer's sum of them, "squared" w^2 or "taylor" (w g)^2 of one batch.
    layers: patterns of the chain's layers; None = the longest chain there is.  classifier: "partitioned", each part has
    its share of the classes, or "dense", the chain ends before its last layer.  machine: several arrays, on P of which
    the chain is simulated at the end.
    """

    parts: Annotated[int, Field(ge=1)] = 4
    at: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    solver: Literal["alternating", "kernighan_lin", "contiguous", "random"] = "alternating"
    score: Literal["magnitude", "share", "squared", "taylor"] = "magnitude"
    tries: Annotated[int, Field(ge=1)] = 4
    layers: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    classifier: Literal["partitioned", "dense"] = "partitioned"
    machine: str = "multi_array"


class Partitioning(Method):
    """places: the part of each neuron, inputs first, int64 arrays; empty until the chain is divided."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings = settings
        self.chain = _chain(settings, context)
        modules = dict(context.model.named_modules())
        widths = [modules[self.chain.layers[0]].weight.shape[1],
                  *(modules[name].weight.shape[0] for name in self.chain.layers)]
        if settings.parts > min(widths):
            raise InputError(f"parts = {settings.parts}", where="recipe partition",
                             expected=f"at most {min(widths)}, the narrowest of the chain's widths {widths}")
        self.machine = with_arrays(load_machine(settings.machine), settings.parts)
        self.places: Places = []
        self.kept_share = 1.0

    def after_backward(self, place: Place) -> None:
        """The division, on the first batch of its epoch; the optimizer's step is then taken with the masks."""
        due = min(place.epochs - 1, math.ceil(self.settings.at * place.epochs))
        if not self.places and place.batch == 0 and place.epoch >= due:
            self._divide()

    def _divide(self) -> None:
        scores = [score.numpy() for score in scores_of(self.context.model, self.chain, self.settings.score)]
        self.places = solve(scores, self.settings.parts, self.settings.solver, seed=self.context.seed,
                            tries=self.settings.tries)
        self.kept_share = kept(scores, self.places) / max(1e-300, sum(float(one.sum(dtype=np.float64))
                                                                      for one in scores))
        found = dict(zip(self.chain.layers, masks(self.places), strict=True))
        text = f"partition {self.settings.parts}"
        assert self.context.pruner is not None  # train.py makes one for every recipe
        self.context.pruner.set_masks_(
            {name: torch.from_numpy(mask).to(self.context.example.device) for name, mask in found.items()},
            [StructureChoice(name, text, float(mask.mean()), 0.0, 0.0) for name, mask in found.items()])

    def row(self) -> dict[str, Any]:
        """The phase that the next batch is in."""
        return {"phase": "partitioned" if self.places else "dense"}

    def summary(self) -> dict[str, Any]:
        """The share of the worth that the division kept (by chance 1/P), and the chain's cost on one and P arrays."""
        assert self.context.pruner is not None
        text = f"partition {self.settings.parts}"
        trace = trace_model(self.context.model, self.context.example, self.context.pruner.masks,
                            dict.fromkeys(self.chain.layers, text))
        layers = [layer for layer in trace.layers if layer.name in self.chain.layers]
        return {"name": "partition", "parts": self.settings.parts, "solver": self.settings.solver,
                "layers": list(self.chain.layers), "kept_share": self.kept_share,
                "machine": self.machine.name, "execution": execution(layers, self.machine, self.settings.parts)}

    def state_dict(self) -> dict[str, Any]:
        """The division, which cannot be made again."""
        return {"kept_share": self.kept_share,
                "places": {str(index): torch.from_numpy(place) for index, place in enumerate(self.places)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.kept_share = state["kept_share"]
        self.places = [_as_places(state["places"][str(index)]) for index in range(len(state["places"]))]


def _as_places(tensor: torch.Tensor) -> Ints:
    return tensor.cpu().numpy().astype(np.int64)


def _chain(settings: Settings, context: Context) -> Chain:
    found = chain_of(context.model, context.example, settings.layers)
    if settings.classifier == "partitioned":
        return found
    if len(found.layers) < 2:
        raise InputError('classifier = "dense"', where="recipe partition",
                         expected="a chain of more than its classifier")
    return Chain(found.layers[:-1], (*found.norms[:-2], ()))


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Partitioning(settings, context)
