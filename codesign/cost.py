"""Hardware cost in the loop: the machine says what each choice costs, the network what each would hurt.

`HardwareCost.select` prices every candidate of every layer with its projected mask, takes the choice of least
predicted damage within the target, prices the whole network from its real zeros and corrects until the target
holds.  It leaves out when to choose (pruner.py) and training itself.  Read candidates.py for what a layer can
become, selection.py for the choice, judge.py for how finalists are compared by a short training.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simulator import Machine, load_machine, simulate
from simulator.errors import InputError, nearest
from simulator.structure import DENSE, Structure, parse

from .candidates import (
    DENSE_KIND,
    DENSITIES,
    OBJECTIVES,
    Kind,
    Objective,
    Priced,
    channel_levels,
    exploited,
    kept_channels,
    kinds_of,
    priced_options,
    sites_of,
)
from .channels import group_masks
from .choice import StructureChoice
from .coupling import ChannelGroup, channel_groups
from .layers import prunable
from .oracle import Oracle, Price
from .selection import Item, Option, Problem, Solution, cheapest, solve_within, without_dominated
from .trace import Call, measure_activations, record_calls, trace_model
from .uniform import largest_uniform

Masks = dict[str, Tensor]
JUDGE_NOISE = 0.02
"""Judged losses closer than this share count as equal: a short training and a thousand images can say no more."""
Judge = Callable[[nn.Module, Mapping[str, Tensor]], float]
"""judge(model, masks): how good the network would be with these masks after some training; smaller is better."""


@dataclass(frozen=True, eq=False)
class Finalist:
    """A whole network within the target.  label: where it came from.  loss: predicted, by the first objective.

    costs: real, as (cycles, picojoules).  predicted: what the table said, a number per target; None for networks that
    were priced as a whole only.  judged: what the judge said of it, if it was asked.
    """

    label: str
    masks: Mapping[str, Tensor]
    choices: tuple[StructureChoice, ...]
    loss: float
    costs: Price
    predicted: tuple[float, ...] | None = None
    judged: float | None = None


@dataclass(frozen=True, eq=False)
class HardwareCost:
    """A cost for `Pruner(cost=...)`: each layer's structure and density so that the network meets a target.

    machine: a preset's name, a file or a Machine.  target_latency, target_energy: shares of the dense network's on
    that machine, in (0, 1]; one or both.  candidates: structures as texts ("channel" removes channels in coupled
    groups); None = all that the machine gains from.  densities: shares kept where a structure fixes none, channels
    among them.  objective: a name of OBJECTIVES, the predicted damage that is minimised.  finalists: how many
    distinct networks (from every objective, and the best uniform one of each structure) the judge compares; without
    a judge the first is taken.  only: the label of the one network to take instead, an objective's name or "uniform
    STRUCTURE", for comparisons.  log: one row per selection, with a part that the inputs determine and "seconds".

    Raises InputError for a machine, target, structure or objective that is not one.
    """

    machine: str | Path | Machine
    target_latency: float | None = None
    target_energy: float | None = None
    candidates: Sequence[str] | None = None
    densities: Sequence[float] = DENSITIES
    objective: str = "fisher_log"
    finalists: int = 6
    judge: Judge | None = None
    only: str | None = None
    log: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        machine = self.machine if isinstance(self.machine, Machine) else load_machine(self.machine)
        object.__setattr__(self, "machine", machine)
        object.__setattr__(self, "_oracle", Oracle(machine))
        errors = _target_errors({"target_latency": self.target_latency, "target_energy": self.target_energy})
        candidates = exploited(machine) if self.candidates is None else tuple(self.candidates)
        object.__setattr__(self, "candidates", candidates)
        object.__setattr__(self, "densities", tuple(self.densities))
        if not self.densities or not all(0.0 < density <= 1.0 for density in self.densities):
            errors.append(InputError(f"densities = {self.densities!r}", where="HardwareCost",
                                     expected="shares in (0, 1]"))
        if self.objective not in OBJECTIVES:
            errors.append(InputError(f"objective {self.objective!r}", where="HardwareCost",
                                     expected="a known objective", fix=nearest(str(self.objective), OBJECTIVES)))
        if isinstance(self.finalists, bool) or not isinstance(self.finalists, int) or self.finalists < 1:
            errors.append(InputError(f"finalists = {self.finalists!r}", where="HardwareCost",
                                     expected="an integer of at least 1"))
        labels = [*OBJECTIVES, *(f"uniform {text}" for text in candidates)]
        if self.only is not None and self.only not in labels:
            errors.append(InputError(f"only = {self.only!r}", where="HardwareCost", expected="a finalist's label",
                                     fix=nearest(self.only, labels)))
        try:
            kinds_of(candidates, self.densities, machine)
        except InputError as error:
            errors.append(error)
        if errors:
            raise InputError.collect(errors)

    def select(
        self, model: nn.Module, example_inputs: Any, saliency: Mapping[str, Tensor], keep_dense: frozenset[str]
    ) -> tuple[Mapping[str, Tensor], Sequence[StructureChoice]]:
        """(masks, choices) of a network whose real cost is within every target.

        As CostModel.select; of a batch of example inputs only the first is looked at, since latency is that of one.
        Raises InputError where no choice reaches the target, with the least share that can be reached.
        """
        return _Selection(self, model, example_inputs, saliency, keep_dense).run()


class _Selection:
    """One selection event: what is known of the network, and the steps in their order (`run`)."""

    def __init__(self, cost: HardwareCost, model: nn.Module, example_inputs: Any, saliency: Mapping[str, Tensor],
                 keep_dense: frozenset[str]) -> None:
        started = time.perf_counter()
        assert isinstance(cost.machine, Machine)  # __post_init__ has resolved what the user gave
        assert cost.candidates is not None
        self.cost, self.model, self.machine = cost, model, cost.machine
        self.oracle: Oracle = cost._oracle  # type: ignore[attr-defined]
        self.example = example_inputs[:1] if isinstance(example_inputs, Tensor) else example_inputs
        self.calls: list[Call] = record_calls(model, self.example)
        self.activations = measure_activations(model, [self.example]) if _sees_activations(self.machine) else {}
        self.scores = _complete(model, saliency)
        self.groups = self._channel_groups()
        self.kinds = kinds_of(cost.candidates, cost.densities, self.machine)
        columns = getattr(self.machine.array, "cols", None)
        self.kept = [kept_channels(group, self.scores, channel_levels(group.width, cost.densities, columns))
                     for group in self.groups]
        self.sites = sites_of(model, self.calls, self.scores, self.groups, self.kinds, keep_dense)
        self.dense = self._real({})
        self.targets = (cost.target_latency, cost.target_energy)
        self.budgets = tuple(share * whole for share, whole in zip(self.targets, self.dense, strict=True)
                             if share is not None)
        self.seconds = {"prepare": time.perf_counter() - started}

    def run(self) -> tuple[Masks, tuple[StructureChoice, ...]]:
        started = time.perf_counter()
        options = priced_options(self.sites, self.kept, self.oracle, self.activations)
        self.seconds["price"] = time.perf_counter() - started
        started = time.perf_counter()
        only = self.cost.only
        if only is not None and only not in OBJECTIVES:
            structure = only.removeprefix("uniform ")
            first = self._uniform(DENSE if structure == "channel" else parse(structure))
        else:
            first = self._solved(only or self.cost.objective, options)
        if first is None:
            raise self._infeasible(options)
        found = [first]
        if only is None and self.cost.judge is not None and self.cost.finalists > 1:
            others = [self._solved(name, options) for name in OBJECTIVES if name != self.cost.objective]
            structures = dict.fromkeys(kind.structure for kind in self.kinds)
            uniform = sorted((one for structure in structures if (one := self._uniform(structure)) is not None),
                             key=lambda one: one.loss)
            # Uniform networks stand before the other objectives: they are strong, and simple where they win.
            found = _distinct([first, *uniform, *(one for one in others if one is not None)])
        found = found[: self.cost.finalists]
        self.seconds["solve"] = time.perf_counter() - started
        started = time.perf_counter()
        if self.cost.judge is not None and len(found) > 1:
            found = [replace(one, judged=float(self.cost.judge(self.model, one.masks))) for one in found]
        self.seconds["judge"] = time.perf_counter() - started
        best = self._winner(found)
        self._log(best, found)
        return dict(best.masks), best.choices

    # From options to networks

    def _winner(self, found: Sequence[Finalist]) -> Finalist:
        """The cheapest, in what a target is set for, among those that the judge cannot tell from its best."""
        best = min(0.0 if one.judged is None else one.judged for one in found)
        level = [one for one in found if (0.0 if one.judged is None else one.judged) <= best + JUDGE_NOISE * abs(best)]
        return min(level, key=lambda one: (self._budgeted(one.costs), one.loss))

    def _solved(self, objective: str, options: Sequence[Sequence[Priced]]) -> Finalist | None:
        problem, rows = self._problem(objective, options)

        def network(solution: Solution) -> list[Priced]:
            return [row[index] for row, index in zip(rows, solution.options, strict=True)]

        def reprice(solution: Solution) -> tuple[float, ...]:
            return self._budgeted(self._real(self._masks(self._states(network(solution)))))

        found = solve_within(problem, self.budgets, reprice)
        if found is None:
            return None
        return replace(self._finalist(objective, self._states(network(found[0]))), predicted=found[0].costs)

    def _problem(self, objective: str, options: Sequence[Sequence[Priced]]) -> tuple[Problem, list[list[Priced]]]:
        """The table for the solver and, per item, which priced candidate each of its options is."""
        rule = OBJECTIVES[objective]
        items, rows = [], []
        mean = self._mean(rule)
        for site, priced in zip(self.sites, options, strict=True):
            total = float(site.importance(rule).sum())
            made = [Option(one.levels, rule.damage(total, one.kept(rule, total), mean),
                           self._budgeted(one.price)) for one in priced]
            kept = without_dominated(made)
            items.append(Item(site.name, site.groups, tuple(made[index] for index in kept)))
            rows.append([priced[index] for index in kept])
        return Problem(tuple(len(levels) for levels in self.kept), tuple(items)), rows

    def _mean(self, rule: Objective) -> float:
        """Importance of the mean layer."""
        return sum(float(site.importance(rule).sum()) for site in self.sites) / len(self.sites)

    def _states(self, network: Sequence[Priced]) -> _State:
        channels: dict[int, Tensor] = {}
        for site, one in zip(self.sites, network, strict=True):
            channels |= {group: self.kept[group][level] for group, level in zip(site.groups, one.levels, strict=True)}
        return channels, {site.name: one.kind for site, one in zip(self.sites, network, strict=True)}

    def _uniform(self, structure: Structure) -> Finalist | None:
        """One structure everywhere at the largest share that meets the target, if there is one."""
        state = largest_uniform(structure, self.sites, self.groups, self.scores, self._fits)
        if state is None:
            return None
        return self._finalist(f"uniform {'channel' if structure == DENSE else structure}", state)

    def _fits(self, state: _State) -> bool:
        real = self._budgeted(self._real(self._masks(state)))
        return all(value <= budget for value, budget in zip(real, self.budgets, strict=True))

    def _masks(self, state: _State) -> Masks:
        """By layer name for weights, by parameter name for biases and batch norms; what loses nothing is left out."""
        channels, kinds = state
        removed = [(self.groups[index], kept.to(self._device)) for index, kept in sorted(channels.items())
                   if not bool(kept.all())]
        masks = {name: mask.cpu() for name, mask in group_masks(self.model, removed).items()}
        for site in self.sites:
            if kinds[site.name] != DENSE_KIND:
                masks[site.name] = site.mask(kinds[site.name], *site.kept(channels))
        return {name: mask for name, mask in masks.items() if not bool(mask.all())}

    def _finalist(self, label: str, state: _State) -> Finalist:
        masks = self._masks(state)
        rule = OBJECTIVES[self.cost.objective]
        choices = []
        for site in self.sites:
            mask = masks.get(site.name)
            importance = site.importance(rule)
            flat = torch.ones_like(importance, dtype=torch.bool) if mask is None else mask.reshape(importance.shape)
            kind = state[1][site.name]
            structure = str(kind.structure) if kind != DENSE_KIND else "dense" if mask is None else "channel"
            loss = rule.damage(float(importance.sum()), float((importance * flat).sum()), self._mean(rule))
            choices.append(StructureChoice(site.name, structure, float(flat.double().mean()), 0.0, loss))
        structures = {one.layer: one.structure for one in choices}
        report = simulate(self._trace(masks, structures), self.machine, compare_dense=False)
        layer_of = {call.name: call.layer for call in self.calls}  # attention's products are no layer's
        cycles = dict.fromkeys(structures, 0.0)
        for layer in report.layers:
            if layer.name in layer_of:
                cycles[layer_of[layer.name]] += layer.total.cycles
        choices = [replace(one, cycles=cycles[one.layer]) for one in choices]
        return Finalist(label, masks, tuple(choices), sum(one.loss for one in choices),
                        Price(float(report.total.cycles), report.total.energy_pj))

    # Prices of whole networks

    def _trace(self, masks: Mapping[str, Tensor], structures: Mapping[str, str] | None = None) -> Any:
        weights = {name: mask for name, mask in masks.items() if name in self.scores}
        return trace_model(self.model, self.example, weights, structures, self.activations)

    def _real(self, masks: Mapping[str, Tensor]) -> Price:
        """The whole network with these masks, through simulate()."""
        total = simulate(self._trace(masks), self.machine, compare_dense=False).total
        return Price(float(total.cycles), total.energy_pj)

    def _budgeted(self, price: Price) -> tuple[float, ...]:
        """The parts of a price that a target is set for."""
        return tuple(value for value, target in zip(price, self.targets, strict=True) if target is not None)

    # The rest

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _channel_groups(self) -> tuple[ChannelGroup, ...]:
        assert self.cost.candidates is not None
        if "channel" not in self.cost.candidates:
            return ()
        try:
            return tuple(group for group in channel_groups(self.model, self.example, tokens=True) if group.width > 1)
        except InputError as error:
            warnings.warn(f"no channels are removed: {error}", stacklevel=5)
            return ()

    def _infeasible(self, options: Sequence[Sequence[Priced]]) -> InputError:
        """What cannot be met, the least that can, and the layers that hold it up."""
        problem, rows = self._problem(self.cost.objective, options)
        names = [name for name, share in zip(("latency", "energy"), self.targets, strict=True) if share is not None]
        wanted = [share for share in self.targets if share is not None]
        whole = self._budgeted(self.dense)
        errors = []
        for index, name in enumerate(names):
            network = [row[at] for row, at in zip(rows, cheapest(problem, index).options, strict=True)]
            least = self._budgeted(self._real(self._masks(self._states(network))))[index] / whole[index]
            if least <= wanted[index]:
                continue
            parts = sorted(((self._budgeted(one.price)[index] / whole[index], site) for one, site in
                            zip(network, self.sites, strict=True)), key=lambda part: -part[0])[:3]
            held = ", ".join(f"{site.name} {share:.3f}{' (kept dense)' if site.kept_dense else ''}"
                             for share, site in parts)
            errors.append(InputError(
                f"target_{name} = {wanted[index]:g} cannot be met on {self.machine.name!r}: the least that the "
                f"candidates reach is {least:.4f} of the dense network's {name}", where="HardwareCost",
                expected=f"a target of at least {math.ceil(least * 1000) / 1000:.3f}",
                fix=f"most of it is in {held}; allow more candidates or smaller densities, or keep fewer layers dense"))
        if not errors:
            errors.append(InputError(f"target_latency = {wanted[0]:g} and target_energy = {wanted[-1]:g} cannot be met "
                                     f"together on {self.machine.name!r}", where="HardwareCost",
                                     expected="targets that one network reaches", fix="relax one of them"))
        return InputError.collect(errors)

    def _log(self, best: Finalist, found: Sequence[Finalist]) -> None:
        def brief(one: Finalist) -> dict[str, Any]:
            return {"label": one.label, "loss": one.loss, "cycles": one.costs.cycles, "energy_pj": one.costs.energy_pj,
                    "latency": one.costs.cycles / self.dense.cycles,
                    "energy": one.costs.energy_pj / self.dense.energy_pj, "judged": one.judged}

        targets = zip(("latency", "energy"), self.targets, strict=True)
        self.cost.log.append({
            "machine": self.machine.name,
            "target": {name: share for name, share in targets if share is not None},
            "dense_cycles": self.dense.cycles, "dense_energy_pj": self.dense.energy_pj,
            "chosen": brief(best) | {"predicted": best.predicted},
            "finalists": [brief(one) for one in found],
            "prices_asked": self.oracle.asked, "layers_simulated": self.oracle.simulated,
            "seconds": dict(self.seconds),
        })


_State = tuple[dict[int, Tensor], dict[str, Kind]]
"""Kept channels (bool[width]) by group, and the kind of every site: what masks are made from."""


def _target_errors(targets: Mapping[str, float | None]) -> list[InputError]:
    errors = []
    if all(share is None for share in targets.values()):
        errors.append(InputError("no target", where="HardwareCost", expected="target_latency or target_energy",
                                 fix="for example target_latency=0.5, half of the dense network's latency"))
    for name, share in targets.items():
        if share is None:
            continue
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            errors.append(InputError(f"{name} = {share!r}", where="HardwareCost",
                                     expected="a share of the dense network's, above 0 and at most 1"))
    return errors


def _sees_activations(machine: Machine) -> bool:
    """Zeros among the inputs change nothing on a systolic array that does not gate."""
    return machine.model != "systolic" or getattr(machine.array, "gating", "none") != "none"


def _complete(model: nn.Module, saliency: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float64 scores on the CPU for every layer; a frozen layer without any is taken to be worth nothing of its own."""
    return {name: saliency[name].detach().cpu().double() if name in saliency
            else torch.zeros(layer.weight.shape, dtype=torch.float64) for name, layer in prunable(model).items()}


def _distinct(finalists: Sequence[Finalist]) -> list[Finalist]:
    """The first of every set of finalists with equal masks."""
    found: dict[bytes, Finalist] = {}
    for one in finalists:
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(one.masks):
            digest.update(name.encode() + one.masks[name].numpy().tobytes())
        found.setdefault(digest.digest(), one)
    return list(found.values())
