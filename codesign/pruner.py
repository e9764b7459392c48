"""The pruner: schedule -> budget -> score -> project -> apply, beside an ordinary PyTorch training loop.

Weights stay plain parameters under unchanged names; masks are applied in place after every optimizer step,
together with the optimizer's momentum, so that what is pruned stays zero.  It leaves out the choice of
structures by hardware cost (cost.py, selection.py) and physically smaller layers (export.py).  Read
structures.py, schedules.py and budgets.py for the parts, plan.py for what happens to which layer.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from simulator.errors import InputError
from simulator.structure import units_kept

from .budgets import density_of, global_densities
from .channels import channel_entries, channel_scores, group_masks
from .choice import CostModel, StructureChoice
from .closures import call_with_gradients
from .criteria import Criterion, parse_criterion, running_mean
from .ddp import agreed
from .gradual import project_part_way
from .layers import prunable
from .masks import apply_mask_, check_masks, kept_bits, pack, unpack
from .plan import Plan, make_plan
from .regrowth import parse_regrowth, random_growth, regrown
from .schedules import parse_schedule
from .settings import UPDATES_PER_TRAINING, PrunerConfig
from .state import SCHEMA, check_state
from .structures import keep_best, project, unit_scores


class Pruner:
    """Prunes `model` while it trains.

    config: a PrunerConfig or a dictionary of its fields.  optimizer: masks follow each of its steps.
    example_inputs: a batch for the model; lets layers that share channels decide together.  cost: a
    CostModel that chooses every layer's structure and density at `select_at`; `structure`, `sparsity`,
    `schedule` and `scope` are then not used.  total_steps: optimizer steps of the whole training; it may
    stand in the config instead.  probe: (inputs, targets), a batch for criteria that run the network themselves; by
    default example_inputs without targets.

    Call `step()` after each `optimizer.step()`.  The schedule needs to know how far training is: from
    total_steps, or from `step(progress=...)`.  With neither, the pruner warns and goes to the final
    sparsity at its first step, so that the network still trains with its masks.  `finalize()` enforces the
    final sparsity whatever the schedule has reached.

    Raises InputError for a mistake in the settings, with everything that is wrong at once.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | PrunerConfig | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        example_inputs: Any = None,
        cost: CostModel | None = None,
        total_steps: int | None = None,
        probe: tuple[Tensor, Tensor | None] | None = None,
    ) -> None:
        settings = PrunerConfig.from_dict({} if config is None else config)
        self.config = settings if total_steps is None else replace(settings, total_steps=total_steps)
        self.model, self.optimizer, self.example_inputs, self.cost = model, optimizer, example_inputs, cost
        if cost is not None:
            self._check_cost()
        self._layers = prunable(model)
        self._plan = make_plan(model, self.config, example_inputs, chosen_by_cost=cost is not None)
        self._schedule = parse_schedule(self.config.schedule)
        default = "magnitude" if cost is None else "fisher"
        self._criterion: Criterion = parse_criterion(self.config.criterion or default)
        self._probe = (example_inputs, None) if probe is None else probe
        if self._criterion.probe is not None and self._probe[0] is None:
            raise InputError(f"criterion {self.config.criterion!r} without a batch", where="Pruner",
                             expected="example_inputs or probe=(inputs, targets)", fix="pass example_inputs=x")
        self._masks: dict[str, Tensor] = {}  # by layer name for weights, by parameter name for the rest
        self._bits: dict[str, Tensor] = {}  # the same as apply_mask_ takes them
        self._kept_channels: list[Tensor | None] = [None] * len(self._plan.groups)
        self._scores: dict[str, Tensor] = {}
        self._given_scores = False
        self._regrowth = None if self.config.regrow is None else parse_regrowth(self.config.regrow)
        self._growth: dict[str, Tensor] = {}
        self._nested = getattr(self._schedule, "nested", True)
        self._steps = 0
        self._progress = 0.0
        self._share = 0.0
        self._events_done = 0
        self._frozen = False
        self._warned = False
        self.installs = 0  # how often masks were replaced, by whomever: whoever counts work looks at it
        self.history: list[dict[str, Any]] = []
        self.choices: tuple[StructureChoice, ...] = ()
        if self._regrowth is not None and self._plan.groups:
            raise InputError("regrow with channels that several layers share", where="Pruner",
                             expected="a structure within one layer", fix="leave regrow out")
        self._follow(optimizer)

    @classmethod
    def for_given_masks(cls, model: nn.Module, optimizer: torch.optim.Optimizer | None, example_inputs: Any) -> Pruner:
        """A pruner that makes no masks of its own: it keeps those that `set_masks_` gives it, dense until then."""
        pruner = cls(model, {"sparsity": 0.0, "skip": ()}, optimizer, example_inputs, total_steps=1)
        pruner._frozen = True
        return pruner

    def _follow(self, optimizer: torch.optim.Optimizer | None) -> None:
        if optimizer is not None:
            optimizer.register_step_pre_hook(self._before_optimizer_step)
            optimizer.register_step_post_hook(self._after_optimizer_step)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pruner:
        """A pruner of the copied network beside the copied optimizer, which torch copies without its hooks."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in vars(self).items():
            setattr(twin, name, copy.deepcopy(value, memo))
        twin._follow(twin.optimizer)
        return twin

    # What a user sees

    @property
    def masks(self) -> dict[str, Tensor]:
        """bool of the weight's shape, True where kept, for every layer that has lost something; by layer name."""
        return {name: mask for name, mask in self._masks.items() if name in self._layers}

    @property
    def parameter_masks(self) -> dict[str, Tensor]:
        """The same for biases and batch norm entries of removed channels, by parameter name."""
        return {name: mask for name, mask in self._masks.items() if name not in self._layers}

    @property
    def progress(self) -> float:
        """How far training was at the last step, in [0, 1]."""
        return self._progress

    @property
    def sparsity(self) -> float:
        """Share of all prunable weights of the network that are masked now."""
        masked = sum(mask.numel() - int(mask.count_nonzero()) for mask in self.masks.values())
        return masked / sum(layer.weight.numel() for layer in self._layers.values())

    def realised(self) -> dict[str, float]:
        """Share of masked weights of every prunable layer, counted on the masks."""
        masks = self.masks
        return {
            name: int((~masks[name]).sum()) / masks[name].numel() if name in masks else 0.0 for name in self._layers
        }

    def plan(self) -> Plan:
        """What is going to happen to each layer, and why not; printing it shows a table."""
        return self._plan

    def step(self, progress: float | None = None) -> None:
        """Advance by one optimizer step: new masks where the schedule asks for them.

        progress: how far training is, in [0, 1]; without it, steps / total_steps.  Raises InputError for
        NaN scores, and for a criterion that needs gradients that are not there.
        """
        now = self._now(progress)
        if self.optimizer is None:
            self._look()
        self._steps += 1
        self._progress = now
        if self.cost is not None:
            self._select_if_due(now)
        elif self._due(now):
            self._update(self._schedule_share(now), "update")
        if self._growth:
            self._regrow(now)
        if self.optimizer is None:
            self.apply_masks_()

    def finalize(self, scores: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Enforce the final sparsity and zero what is masked; returns `realised()`.

        The masks are then final: they go on being applied after optimizer steps, so that fine-tuning revives
        no weights.
        scores: importance of each weight by layer name, where the criterion should not be asked.
        """
        if scores is not None:
            self._scores, self._given_scores = dict(scores), True
        if not self._frozen and self.cost is None and self._share < 1.0:
            before = self.sparsity
            self._update(1.0, "finalize")
            if self._steps and self.sparsity > before + 1e-9:
                warnings.warn(
                    f"finalize() raised sparsity from {before:.4f} to {self.sparsity:.4f} after the last "
                    f"training step, at progress {self._progress:.3f}: train on, or set total_steps to "
                    "the steps you run",
                    stacklevel=2,
                )
        elif self.cost is not None and not self._events_done and not self._frozen:
            self._select(1.0)
        self._frozen = True
        self.apply_masks_()
        return self.realised()

    def set_masks_(self, masks: Mapping[str, Tensor], choices: Iterable[StructureChoice] = ()) -> None:
        """Install masks from elsewhere, apply them, and stop scheduling: they are final until set again.

        masks: bool by layer name (weights) or by parameter name (biases, batch norm); what is not named
        becomes dense.  Raises InputError for an unknown name, a wrong shape or a type that is not bool.
        """
        check_masks(masks, self._names(), self._parameter)
        self._install({self._key(name): mask.clone() for name, mask in masks.items()})
        self.choices = tuple(choices)
        self._frozen = True

    def apply_masks_(self) -> None:
        """Zero every masked parameter and its optimizer state."""
        for name, bits in self._bits.items():
            parameter = self._parameter(name)
            if bits.device != parameter.device:  # the model was moved after the mask was made
                bits = self._bits[name] = bits.to(parameter.device)
            apply_mask_(parameter, bits, self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if uninterrupted.

        "masks" and "channels": packed uint8 tensors; "scores": the criterion's running scores; "meta":
        plain JSON-able data.  Tensors are only in the first three, by flat names.
        """
        return {
            "masks": {name: pack(mask) for name, mask in self._masks.items()},
            "channels": {str(index): pack(kept) for index, kept in enumerate(self._kept_channels) if kept is not None},
            "scores": {name: score.clone() for name, score in self._scores.items()},
            "meta": {
                "schema": SCHEMA,
                "steps": self._steps,
                "progress": self._progress,
                "share": self._share,
                "events_done": self._events_done,
                "frozen": self._frozen,
                "config": self.config.describe(),
                "history": [dict(entry) for entry in self.history],
                "choices": [asdict(choice) for choice in self.choices],
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`: masks are installed and applied.

        Raises InputError where the state belongs to other settings (total_steps may differ) or another network.
        """
        check_state(state, self.config.describe(), self._names(), self._parameter)
        meta = state["meta"]
        self._install({name: unpack(packed, self._parameter(name).shape) for name, packed in state["masks"].items()})
        for index, (group, _) in enumerate(self._plan.groups):
            packed = state["channels"].get(str(index))
            device = self._parameter(group.layers[0]).device
            self._kept_channels[index] = None if packed is None else unpack(packed, (group.width,)).to(device)
        self._scores = {
            name: score.to(self._parameter(name).device, copy=True) for name, score in state["scores"].items()
        }
        self._steps, self._progress, self._share = meta["steps"], meta["progress"], meta["share"]
        self._events_done, self._frozen = meta["events_done"], meta["frozen"]
        self.history = [dict(entry) for entry in meta["history"]]
        self.choices = tuple(StructureChoice(**choice) for choice in meta["choices"])

    # When

    def _now(self, progress: float | None) -> float:
        if progress is not None:
            if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0.0 <= progress <= 1.0:
                raise InputError(f"progress = {progress!r}", where="Pruner.step", expected="a number in [0, 1]")
            return float(progress)
        if self.config.total_steps is not None:
            return min(1.0, (self._steps + 1) / self.config.total_steps)
        if not self._warned and (self.cost is not None or self._schedule_share(0.0) < 1.0):
            self._warned = True
            warnings.warn(
                "the pruner does not know how long training is and goes to its final sparsity at once: give "
                "total_steps=epochs * len(loader) to Pruner, or call step(progress=...)",
                stacklevel=3,
            )
        return 1.0

    def _schedule_share(self, now: float) -> float:
        share = float(self._schedule(now))
        if not 0.0 <= share <= 1.0:
            raise InputError(f"share {share} at progress {now}", where="schedule", expected="a share in [0, 1]")
        return share

    def _due(self, now: float) -> bool:
        """True where the schedule asks for more than there is, at an update step or at the schedule's end."""
        share = self._schedule_share(now)
        if not self._nested and not self._frozen and share != self._share:
            return True
        if self._frozen or share <= self._share:
            return False
        if share >= 1.0:
            return True
        if self.config.update_every is not None:
            return self._steps % self.config.update_every == 0
        last = self.history[-1]["progress"] if self.history else -1.0
        return int(now * UPDATES_PER_TRAINING) > int(last * UPDATES_PER_TRAINING)

    def _select_if_due(self, now: float) -> None:
        events = self.config.select_events
        due = sum(1 for event in events if now >= event)
        if due > self._events_done and (not self._frozen or self._events_done):
            self._select(now)
            self._events_done = due

    def _select(self, now: float) -> None:
        assert self.cost is not None
        started = time.perf_counter()
        if self._criterion.probe is not None:
            self._scores = dict(self._criterion.probe(self.model, *self._probe))
        partial = self._criterion.needs_gradient or self._criterion.probe is not None
        without = self._plan.kept - self._scores.keys() if partial else frozenset()
        saliency = {name: self._score(name) for name in self._layers if name not in without}
        masks, choices = self.cost.select(self.model, self.example_inputs, saliency, keep_dense=self._plan.kept)
        self.set_masks_(masks, choices)
        self._events_done = max(1, self._events_done)
        self._log("select", now, 1.0, seconds=time.perf_counter() - started)

    # How much, which, and the mask

    @torch.no_grad()
    def _update(self, share: float, event: str) -> None:
        """Project every layer to the sparsity due at `share`; of a nested schedule, what is pruned stays pruned."""
        if not self._nested:
            self._start_again_()
        if self._criterion.probe is not None and not self._given_scores:
            self._scores = dict(self._criterion.probe(self.model, *self._probe))
        scores = {name: self._score(name) for name in self._scored_layers()}
        layer_scores = {
            name: scores[name] if name not in self._masks else torch.where(self._masks[name], scores[name], -torch.inf)
            for name in self._plan.layers
        }
        channels = [
            channel_scores(group, scores)
            if kept is None
            else channel_scores(group, scores).masked_fill(~kept, -torch.inf)
            for (group, _), kept in zip(self._plan.groups, self._kept_channels, strict=True)
        ]
        densities = self._densities(layer_scores, channels, scores, share)
        masks = {name: self._due_mask(name, score, densities, share) for name, score in layer_scores.items()}
        for index, ((group, _), score) in enumerate(zip(self._plan.groups, channels, strict=True)):
            self._kept_channels[index] = keep_best(score, units_kept(densities[_group_key(index)], group.width))
        removed = group_masks(
            self.model,
            [
                (group, kept)
                for (group, _), kept in zip(self._plan.groups, self._kept_channels, strict=True)
                if kept is not None
            ],
        )
        # a layer with a structure of its own keeps it: removed filters would break its blocks or its n:m count
        masks |= {name: mask for name, mask in removed.items() if name not in masks}
        self._share = share
        self._install(masks)
        self._log(event, self._progress, share)

    def _start_again_(self) -> None:
        """No masks, and no momentum of the phase before."""
        self._masks, self._bits = {}, {}
        self._kept_channels = [None] * len(self._plan.groups)
        if self.optimizer is not None:
            for name in self._scored_layers():
                parameter = self._parameter(name)
                for value in self.optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value.zero_()

    def _regrow(self, now: float) -> None:
        """Let a share of each layer's kept units change places with those that `_growth` favours."""
        assert self._regrowth is not None
        share, changed = self._regrowth.share(now), 0
        masks = dict(self._masks)
        for name, growth in self._growth.items():
            structure, _ = self._plan.layers[name]
            before = masks[name]
            masks[name] = regrown(before, self._score(name), growth, structure, share, self._criterion.pool)
            changed += int((masks[name] & ~before).sum())
        self._growth = {}
        self._install(masks)
        self._log("regrow", now, self._share, regrown=changed)

    def _due_mask(self, name: str, score: Tensor, densities: Mapping[str, float], share: float) -> Tensor:
        structure, sparsity = self._plan.layers[name]
        if name in densities:  # a ranking over all layers has said how much
            return project(score, structure, densities[name], self._criterion.pool)
        return project_part_way(score, structure, sparsity, share, self._criterion.pool)

    def _densities(
        self, layer_scores: Mapping[str, Tensor], channels: Sequence[Tensor], scores: Mapping[str, Tensor], share: float
    ) -> dict[str, float]:
        """The density due for each channel group by its key, and for each layer that a global ranking decides."""
        due = {_group_key(index): density_of(sparsity, share) for index, (_, sparsity) in enumerate(self._plan.groups)}
        if self.config.scope != "global" or self.config.sparsity is None:
            return due
        units = {
            name: unit_scores(score, self._plan.layers[name][0], self._criterion.pool)
            for name, score in layer_scores.items()
            if self._plan.layers[name][0].ranks_over_layer
        }
        for index, ((group, _), score) in enumerate(zip(self._plan.groups, channels, strict=True)):
            weights = sum(entries.shape[1] for entries in channel_entries(group, scores))
            units[_group_key(index)] = score, torch.full((group.width,), weights, device=score.device)
        return due | global_densities(units, density_of(self.config.sparsity, share))

    def _scored_layers(self) -> list[str]:
        wanted = set(self._plan.layers) | {name for group, _ in self._plan.groups for name in group.layers}
        return [name for name in self._layers if name in wanted]

    def _score(self, name: str) -> Tensor:
        where = f"layer {name!r}"
        if name in self._scores:
            score = self._scores[name]
        elif self._criterion.probe is not None:
            raise InputError(
                f"criterion {self.config.criterion!r} has no score",
                where=where,
                expected="a layer that runs and is not frozen",
                fix="skip it",
            )
        elif not self._criterion.needs_gradient:
            score = self._criterion.score(self._layers[name].weight.detach(), None)
        else:
            raise InputError(
                "no gradient was seen",
                where=where,
                expected="a backward pass before the masks are made",
                fix="pass optimizer= to the Pruner, or call step() before zero_grad(); skip frozen layers",
            )
        if bool(torch.isnan(score).any()):
            raise InputError(
                "a score is NaN", where=where, expected="finite weights and gradients", fix="did training diverge?"
            )
        return score

    @torch.no_grad()
    def _observe(self) -> None:
        """Take the gradients into the running scores, where the criterion uses them and masks are still to be made."""
        more_selections = self.cost is not None and self._events_done < len(self.config.select_events)
        if not self._criterion.needs_gradient or not (more_selections or (self._share < 1.0 and not self._frozen)):
            return
        for name, layer in self._layers.items():
            if layer.weight.grad is not None:
                score = self._criterion.score(layer.weight.detach(), layer.weight.grad)
                self._scores[name] = running_mean(self._scores.get(name), score, self._criterion.memory)

    def _look_for_growth(self) -> None:
        """Remember what would grow, where the coming step is one that regrows."""
        rule = self._regrowth
        if rule is None or self._frozen or (self._steps + 1) % rule.every or not rule.share(self._progress):
            return
        masked = [name for name in self._plan.layers if name in self._masks]
        for name in masked:
            weight = self._layers[name].weight
            if rule.by == "random":
                self._growth[name] = random_growth(weight)
            elif weight.grad is not None:
                self._growth[name] = weight.grad.detach().abs().clone()

    # Apply

    def _before_optimizer_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return call_with_gradients(self._look, args, kwargs)

    def _look(self) -> None:
        # here the weight and the gradient belong together, and a later zero_grad() has not cleared it yet
        self._observe()
        self._look_for_growth()

    def _after_optimizer_step(self, *_: Any) -> None:
        self.apply_masks_()

    def _install(self, masks: dict[str, Tensor]) -> None:
        """Replace all masks and zero what they drop; a mask that keeps everything is no mask.

        Between processes all take those of rank 0.
        """
        masks = agreed(masks)
        placed = {name: mask.to(self._parameter(name).device) for name, mask in masks.items() if not bool(mask.all())}
        self.installs += 1
        self._masks = placed
        self._bits = {name: kept_bits(mask, self._parameter(name).dtype) for name, mask in placed.items()}
        self.apply_masks_()

    def _names(self) -> list[str]:
        """Everything that a mask can be for: layers by name, other parameters by theirs."""
        return [*self._layers, *dict(self.model.named_parameters())]

    def _parameter(self, name: str) -> Tensor:
        return self._layers[name].weight if name in self._layers else self.model.get_parameter(name)

    def _key(self, name: str) -> str:
        """A weight named as a parameter ("conv1.weight") goes by its layer's name."""
        layer = name.removesuffix(".weight")
        return layer if layer in self._layers else name

    def _log(self, event: str, progress: float, share: float, **more: float) -> None:
        self.history.append(
            {
                "event": event,
                "step": self._steps,
                "progress": progress,
                "share": share,
                "sparsity": self.sparsity,
                **more,
            }
        )

    def _check_cost(self) -> None:
        if self.example_inputs is None:
            raise InputError(
                "a cost without example_inputs",
                where="Pruner",
                expected="a batch to trace the model with",
                fix="pass example_inputs=x",
            )
        if self.config.structure != PrunerConfig.structure:
            warnings.warn(
                f"structure {self.config.structure!r} is not used: the cost chooses each layer's structure",
                stacklevel=3,
            )


def _group_key(index: int) -> str:
    """The place of a channel group among the layer names in tables of densities; no module name has brackets."""
    return f"channels[{index}]"
