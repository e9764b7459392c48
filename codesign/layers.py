"""Which layers of a network can be pruned, which are kept dense by default, and how patterns name them.

A prunable layer is an nn.Linear or nn.Conv2d whose `weight` is a plain parameter.  It leaves out embeddings,
recurrent layers and attention projections held as one fused parameter.  Read settings.py next.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from simulator.errors import InputError, nearest

from .aten import tensors_in

Layer = nn.Linear | nn.Conv2d


def prunable(model: nn.Module) -> dict[str, Layer]:
    """Layers by module name, in the order of registration; a weight that two modules share appears once."""
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or not isinstance(
            module._parameters.get("weight"), nn.Parameter
        ):
            continue
        if id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = module
    return found


def execution_order(model: nn.Module, example_inputs: object | None) -> list[str]:
    """Names of all prunable layers as they first run on the example, or as registered without one.

    A layer that does not run in evaluation, such as an auxiliary classifier, stands before the last one: the last is
    always the layer that answers.  The model runs once in evaluation mode without gradients, and is left in the mode it
    was in.
    """
    layers = prunable(model)
    if example_inputs is None:
        return list(layers)
    order: dict[str, None] = {}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: order.setdefault(name)) for name, layer in layers.items()
    ]
    try:
        with _Uses({id(layer.weight): name for name, layer in layers.items()}, order):
            run_example(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    ran = list(order)
    return [*ran[:-1], *(name for name in layers if name not in order), *ran[-1:]]


class _Uses(TorchFunctionMode):
    """Adds the layers to `order` whose weights an operator takes without a call of their module.

    nn.MultiheadAttention does so with its last projection, and tied classifiers do.
    """

    def __init__(self, names: dict[int, str], order: dict[str, None]) -> None:
        super().__init__()
        self.names, self.order = names, order

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # a look at weight.dtype or weight.shape computes nothing
            for tensor in tensors_in([args, kwargs or {}]):
                if id(tensor) in self.names:
                    self.order.setdefault(self.names[id(tensor)])
        return func(*args, **(kwargs or {}))


def run_example(model: nn.Module, example_inputs: object) -> object:
    """One forward pass in evaluation mode, so that no batch norm statistic or dropout generator moves."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return model(*as_arguments(example_inputs))
    finally:
        for module, training in modes.items():
            module.training = training


def as_arguments(example_inputs: object) -> tuple[object, ...]:
    """A tensor, or a tuple or list of the model's arguments, as arguments."""
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)


def kept_by_default(model: nn.Module, order: list[str]) -> dict[str, str]:
    """{layer: reason} of the two layers that stay dense unless `skip` says otherwise.

    order: as `execution_order` gives it.
    """
    layers = prunable(model)
    kept = {}
    first = next((name for name in order if isinstance(layers[name], nn.Conv2d)), None)
    if first is not None:
        kept[first] = "first convolution, kept by default"
    if order:
        kept.setdefault(order[-1], "final classifier, kept by default")
    return kept


def match(patterns: Iterable[str], names: Iterable[str], where: str) -> dict[str, str]:
    """{layer: the first pattern that matches it}.  Raises InputError for each pattern that matches no layer."""
    known = list(names)
    found: dict[str, str] = {}
    errors = []
    for pattern in patterns:
        hits = [name for name in known if fnmatchcase(name, pattern)]
        if not hits:
            errors.append(
                InputError(
                    f"pattern {pattern!r} matches no layer",
                    where=where,
                    expected="a layer name or a pattern such as 'layer1.*'",
                    fix=nearest(pattern, known),
                )
            )
        for name in hits:
            found.setdefault(name, pattern)
    if errors:
        raise InputError.collect(errors)
    return found
