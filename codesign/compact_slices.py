"""The cut itself: modules, masks and the optimizer's state without the entries that go.

Each parameter that loses entries is replaced by a new one, in the module and at the same place of the optimizer's
groups; whatever the optimizer remembers entry by entry (momentum, Adam's moments) is cut alike.  It leaves out what
goes; read compact.py for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Cuts:
    """What stays: bool[outputs] and bool[inputs] by module name, and heads by attention module."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)

    def drop(self, where: dict[str, Tensor], name: str, size: int, places: Tensor) -> None:
        """Mark the entries `places` (int64) of one side of a module as gone."""
        where.setdefault(name, torch.ones(size, dtype=torch.bool))[places.reshape(-1)] = False


def slice_(
    model: nn.Module, cuts: Cuts, masks: dict[str, Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Cut modules, masks (by layer or parameter name) and the optimizer's state to what stays."""
    modules = dict(model.named_modules())
    for name in dict.fromkeys((*cuts.outputs, *cuts.inputs)):
        module, rows, columns = modules[name], cuts.outputs.get(name), cuts.inputs.get(name)
        for key in ("weight", "bias"):
            parameter = module._parameters.get(key)
            if parameter is None:
                continue
            inner = columns if parameter.dim() > 1 else None
            new = nn.Parameter(_cut(parameter.detach(), rows, inner), parameter.requires_grad)
            setattr(module, key, new)
            for mask in (name, f"{name}.{key}") if key == "weight" else (f"{name}.{key}",):
                if mask in masks and masks[mask].shape == parameter.shape:
                    masks[mask] = _cut(masks[mask], rows, inner)
            if optimizer is not None:
                _replace_(optimizer, parameter, new, rows, inner)
        for key in ("running_mean", "running_var"):
            if isinstance(value := module._buffers.get(key), Tensor):
                setattr(module, key, _cut(value, rows, None))
        _resize_(module)
    for name, count in cuts.heads.items():
        modules[name].heads = count  # type: ignore[assignment]


def _cut(value: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    if rows is not None:
        value = value[rows.to(value.device)]
    if columns is not None:
        value = value[:, columns.to(value.device)]
    return value.contiguous()


def _replace_(
    optimizer: torch.optim.Optimizer, old: Tensor, new: nn.Parameter, rows: Tensor | None, columns: Tensor | None
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        state: Mapping[str, object] = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: _cut(value, rows, columns) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in state.items()
        }


def _resize_(module: nn.Module) -> None:
    """The numbers that a module says of itself, from the shapes of its tensors."""
    weight = module.weight
    if isinstance(module, nn.Conv2d):
        module.out_channels = weight.shape[0]
        if module.groups > 1:  # depthwise: a filter and an input channel go together
            module.groups = weight.shape[0]
        module.in_channels = weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        assert isinstance(module.running_mean, Tensor) or isinstance(weight, Tensor)
        module.num_features = len(weight if isinstance(weight, Tensor) else module.running_mean)
