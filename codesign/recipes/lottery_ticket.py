"""Lottery tickets with rewinding: train, prune by magnitude, set the survivors back to early values, train again.

All rounds lie within the run: with `rounds` n and `rewind_to` k, one training of T steps and n more from step k on,
each with the learning rates of its steps k to T.  Left out: the order of the data is not set back, so that a later
round sees other batches than the first did; channels, which go together with batch norm.  Read ../method.py for the
hooks.

Sources: Frankle and Carbin, ICLR 2019 (tickets); Frankle et al., ICML 2020 (rewinding to step k, `rewind_to` 0 is the
first paper's); Renda et al., ICLR 2020 (learning rates set back as well).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import CHANNEL, parse

from ..budgets import density_of, global_densities
from ..choice import StructureChoice
from ..config import OptimizeConfig, Section
from ..gradual import project_part_way
from ..layers import prunable
from ..method import Batch, Context, Method, Place
from ..optimize import learning_rate, training_macs
from ..plan import make_plan
from ..settings import PrunerConfig
from ..structures import project, unit_scores
from ..trace import record_calls

SPARSITY = 0.9


class Settings(Section):
    """sparsity: share of units removed in the end, the same share of what is left in each round; None = 0.9, or what
    the structure fixes.  rounds: n, how often it prunes.  rewind_to: k, the optimizer step whose weights come back; 0 =
    the initial ones.

    structure: what is removed, as in [prune]; counts such as n:m come in steps.  scope: "global" ranks the units of all
    layers together, "local" those of each layer.  schedule: of the learning rate in each round, from train.lr as its
    peak; train.schedule and train.warmup_epochs have no part in it.  skip: patterns of layers that stay dense; None =
    the first convolution and the classifier.
    """

    sparsity: Annotated[float | None, Field(gt=0.0, lt=1.0)] = None
    rounds: Annotated[int, Field(ge=1, le=100)] = 3
    rewind_to: Annotated[int, Field(ge=0)] = 0
    structure: str = "unstructured"
    scope: Literal["local", "global"] = "global"
    schedule: Literal["cosine", "one_cycle", "constant"] = "one_cycle"
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


@dataclass(frozen=True)
class Timeline:
    """Where the rounds of a run lie.  total: its optimizer steps; rounds: n; rewind_to: k.

    length: T = floor((total + n k) / (n + 1)), the steps of one training; the last round takes the few that are over.
    """

    total: int
    rounds: int
    rewind_to: int

    def __post_init__(self) -> None:
        if self.length <= self.rewind_to:
            raise InputError(
                f"{self.rounds} rounds and rewind_to = {self.rewind_to} in {self.total} optimizer steps",
                where="recipe lottery_ticket", expected=f"more than {self.rounds + self.rewind_to} steps",
                fix="train for more epochs, or prune in fewer rounds",
            )

    @property
    def length(self) -> int:
        """T."""
        return (self.total + self.rounds * self.rewind_to) // (self.rounds + 1)

    def at(self, step: int) -> tuple[int, int, int]:
        """(round, step within a training of its own, steps of that training) at a step of the run, from 0."""
        if step < self.length:
            return 0, step, self.length
        again = self.length - self.rewind_to
        number = min(self.rounds, 1 + (step - self.length) // again)
        over = self.total - self.length - self.rounds * again if number == self.rounds else 0
        return number, self.rewind_to + step - self.length - (number - 1) * again, self.length + over

    def prunes_after(self, step: int) -> bool:
        """Whether this step is the last of a round that another one follows."""
        return step + 1 < self.total and self.at(step)[0] != self.at(step + 1)[0]


class LotteryTicket(Method):
    """early: every parameter and buffer as it was after `rewind_to` steps, once they are taken.  pruned: a row of each
    time that it pruned."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        assert context.pruner is not None  # train.py makes one for every recipe
        if parse(settings.structure) == CHANNEL:
            raise InputError("structure 'channel'", where="recipe lottery_ticket",
                             expected="a structure within one layer, such as unstructured or filter")
        self.settings, self.pruner = settings, context.pruner
        self.timeline = Timeline(context.total_steps, settings.rounds, settings.rewind_to)
        self.sparsity = settings.sparsity
        if self.sparsity is None and parse(settings.structure).fixed_density is None:
            self.sparsity = SPARSITY
        config = PrunerConfig(structure=settings.structure, sparsity=self.sparsity, skip=settings.skip)
        self.plan = make_plan(context.model, config, context.example).layers
        self.layers = {name: prunable(context.model)[name] for name in self.plan}
        self.calls = record_calls(context.model, context.example)
        self.rates = OptimizeConfig(lr=float(context.optimizer.param_groups[0]["lr"]), schedule=settings.schedule)
        self.early: dict[str, Tensor] = {}
        self.pruned: list[dict[str, Any]] = []
        self.round = 0
        self.per_image = self._macs()
        self.step_per_image = self.per_image
        if settings.rewind_to == 0:
            self._remember()

    # What changes in a step

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The learning rate of this step's round, and what a step costs before the masks change."""
        self.round, step, steps = self.timeline.at(place.step)
        for group in self.context.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1, self.rates)
        self.step_per_image = self.per_image
        return Batch(x, y)

    def after_step(self, place: Place) -> None:
        """After `rewind_to` steps the weights are kept; after a round they are pruned and set back."""
        if place.step + 1 == self.settings.rewind_to:
            self._remember()
        if self.timeline.prunes_after(place.step):
            self._prune_and_rewind_(place.step + 1)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """With the masks of the step itself: rounds do not end with epochs."""
        return self.step_per_image * (0 if batch is None else len(batch.x))

    # Pruning and rewinding

    def _remember(self) -> None:
        self.early = {name: value.detach().clone() for name, value in self.context.model.state_dict().items()}

    @torch.no_grad()
    def _prune_and_rewind_(self, step: int) -> None:
        before = self.pruner.masks
        scores = {name: layer.weight.abs().masked_fill(~before[name], -torch.inf) if name in before
                  else layer.weight.abs() for name, layer in self.layers.items()}
        masks = self._masks(scores, len(self.pruned) + 1)
        self.context.model.load_state_dict(self.early)
        self.rewrites += 1
        self.context.optimizer.state.clear()  # momentum belongs to the weights that are gone
        self.pruner.set_masks_(masks, [
            StructureChoice(name, str(self.plan[name][0]), float(mask.float().mean()), 0.0, 0.0)
            for name, mask in masks.items()])
        self.pruned.append({"step": step, "weight_sparsity": self.pruner.sparsity})
        self.per_image = self._macs()

    def _masks(self, scores: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """The masks of the `number`-th pruning, from 1."""
        ranked: dict[str, float] = {}
        if self.settings.scope == "global" and self.sparsity is not None:
            units = {name: unit_scores(score, self.plan[name][0]) for name, score in scores.items()
                     if self.plan[name][0].ranks_over_layer}
            ranked = global_densities(units, density_of(self.sparsity, self._due(self.sparsity, number)))
        masks = {}
        for name, score in scores.items():
            structure, sparsity = self.plan[name]
            masks[name] = (project(score, structure, ranked[name]) if name in ranked
                           else project_part_way(score, structure, sparsity, self._due(sparsity, number)))
        return masks

    def _due(self, sparsity: float, number: int) -> float:
        """Share of the final sparsity after pruning `number` times, the same part of what is left each time."""
        if number == self.settings.rounds:
            return 1.0
        return (1.0 - (1.0 - sparsity) ** (number / self.settings.rounds)) / sparsity

    def _macs(self) -> int:
        return training_macs(self.calls, self.context.model, self.pruner.masks)[0]

    # What is reported and remembered

    def row(self) -> dict[str, Any]:
        """The round of the last step, from 0: how often the weights of that step had been pruned."""
        return {"round": self.round}

    def summary(self) -> dict[str, Any]:
        """When it pruned, and how sparse the network was then."""
        return {"name": "lottery_ticket", "rewind_to": self.settings.rewind_to, "pruned": self.pruned}

    def state_dict(self) -> dict[str, Any]:
        """The early values; the masks are the pruner's, and the round follows from the step."""
        return {"early": {name: value.clone() for name, value in self.early.items()},
                "pruned": [dict(row) for row in self.pruned]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has its masks already."""
        self.early = {name: value.to(self.context.example.device) for name, value in state["early"].items()}
        self.pruned = [dict(row) for row in state["pruned"]]
        self.per_image = self._macs()


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return LotteryTicket(settings, context)
