"""The sizes of a network that has lost channels: what a builder cannot know, written down and applied again.

A compact network is what its builder makes, but for the sizes of some modules; {module: {attribute: size}} says which.
It leaves out the weights, which come from a file, and how the sizes came about: read compact.py for that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simulator.errors import InputError, nearest

Sizes = Mapping[str, Mapping[str, int]]

SIZED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
    nn.BatchNorm1d: ("num_features",),
}
"""The attributes of a module that follow from the shapes of its tensors."""
HEADS = ("heads",)
"""The same of an attention module that spells its heads out; it has no tensors of its own."""


def sizes_of(module: nn.Module) -> dict[str, int]:
    """The sizes of one module, empty where it has none that channels change."""
    return {name: getattr(module, name) for name in _attributes(module)}


def resize_(model: nn.Module, sizes: Sizes, where: str = "sizes") -> None:
    """Give modules other sizes; their tensors become empty ones of the new shapes, to be loaded.

    Raises InputError, all mistakes at once, for a module or an attribute that the network does not have, and for a size
    that is not a whole number above 0.
    """
    modules = dict(model.named_modules())
    errors = []
    for name, table in sizes.items():
        if name not in modules:
            errors.append(InputError(f"sizes of {name!r}", where=where, expected="a module of the network",
                                     fix=nearest(name, modules)))
            continue
        known = _attributes(modules[name])
        for key, size in table.items():
            if key not in known or isinstance(size, bool) or not isinstance(size, int) or size < 1:
                errors.append(InputError(f"{name}.{key} = {size!r}", where=where,
                                         expected=f"a whole number above 0 for one of {', '.join(known) or 'nothing'}"))
    if errors:
        raise InputError.collect(errors)
    for name, table in sizes.items():
        module = modules[name]
        for key, size in table.items():
            setattr(module, key, size)
        for key, shape in _shapes(module).items():
            old = getattr(module, key)
            if isinstance(old, Tensor):
                empty = torch.zeros(shape, dtype=old.dtype, device=old.device)
                setattr(module, key, nn.Parameter(empty, old.requires_grad) if key in module._parameters else empty)


def _attributes(module: nn.Module) -> tuple[str, ...]:
    for kind, names in SIZED.items():
        if isinstance(module, kind):
            return names
    return HEADS if all(isinstance(getattr(module, name, None), int) for name in HEADS) else ()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, nn.Conv2d):
        weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        return {"weight": weight, "bias": (module.out_channels,)}
    if isinstance(module, nn.Linear):
        return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))
    return {}
