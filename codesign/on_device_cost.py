"""What one iteration of on-device training costs on a machine: the filter, the examples it lets through, the rest.

Cycles and joules of each part from recorded steps of the real networks on a real batch, with the zeros that
are in them.  Left out: moving weights between the parts.  Read recipes/on_device.py for the method,
simulator/training.py for how a step is charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simulator import Machine
from simulator.training import training_iteration
from simulator.training_state import Updates

from .error_maps import ErrorMapPruning, prune_error_maps_, restore_error_maps_
from .trace_training import trace_training_step


@dataclass(frozen=True)
class Part:
    """One part of an iteration."""

    name: str
    cycles: float
    energy_j: float


def iteration_parts(model: nn.Module, instance_filter: nn.Module, rule: ErrorMapPruning, x: Tensor, y: Tensor,
                    high: int, unsure: int, machine: Machine, updates: Updates | None = None) -> list[Part]:
    """The parts of an iteration on the batch x: float[m, ...], y: int64[m], of which `high` and `unsure` count as such.

    The first is the ordinary iteration on all m, for comparison; the others together are the method's: the filter on
    all, its own training, the large network on `high` with pruned error maps, forward only on `unsure`.
    """
    updates = updates or Updates("sgd_momentum")
    found = [_part("dense", model, x, y, machine, updates),
             _part("filter, forward", instance_filter, x, y.clamp(max=1), machine, updates, phases=("forward",))]
    if high + unsure:
        found.append(_part("filter, trained", instance_filter, x[: high + unsure], y[: high + unsure].clamp(max=1),
                           machine, updates))
    if high:
        kept = kept_channels(model, rule, x[:high], y[:high])
        found.append(_part("high: trained", model, x[:high], y[:high], machine, updates, kept))
    if unsure:
        rest = slice(high, high + unsure)
        found.append(_part("unsure: forward", model, x[rest], y[rest], machine, updates, phases=("forward",)))
    return found


def kept_channels(model: nn.Module, rule: ErrorMapPruning, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Layer -> bool[out channels], True where the rule lets the error of this batch go back; gradients stay as they
    are."""
    if rule.kept == 1.0:
        return {}
    log: list[tuple[str, Tensor]] = []
    names = prune_error_maps_(model, rule, log)
    was_training, before = model.training, {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(nn.functional.cross_entropy(model(x), y), parameters, allow_unused=True)
    finally:
        restore_error_maps_(model)
        model.load_state_dict(before)
        model.train(was_training)
    kept = {}
    for name, channels in log:
        mask = torch.zeros(model.get_submodule(name).out_channels, dtype=torch.bool)  # type: ignore[arg-type]
        mask[channels.cpu()] = True
        kept[name] = mask
    return {name: kept[name] for name in names if name in kept}


def _part(name: str, model: nn.Module, x: Tensor, y: Tensor, machine: Machine, updates: Updates,
          kept: Mapping[str, Tensor] | None = None, phases: tuple[str, ...] | None = None) -> Part:
    trace = trace_training_step(model, x, lambda logits: nn.functional.cross_entropy(logits, y), kept_errors=kept or {})
    report = (training_iteration(trace, machine, updates) if phases is None
              else training_iteration(trace, machine, updates, phases=phases))
    return Part(name, report.cycles, report.energy_j)
