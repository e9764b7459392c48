"""What a masked network computes whatever its input: channels whose value no image can change.

A filter without a weight left gives its bias everywhere, batch norm and ReLU turn that into another constant, and
whoever reads it could have the number in its own bias.  The network is run once, node by node, with NaN for
everything that depends on the input; a NaN that meets a pruned weight is dropped.  It leaves out which channels
to remove; read compact.py for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layers import as_arguments


def constant_inputs(
    graph: fx.GraphModule, example_inputs: object, live: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Layer -> float[inputs]: the constant that each input channel (feature, of a Linear) has, NaN where it has none.

    graph: as `coupling.trace_graph` gives it.  live(layer, weight) -> bool of the weight's shape, True where a weight
    is not pruned.  A channel counts as constant where it is the same at every place of every image.
    """
    walk = _Constants(graph, live)
    modes = {module: module.training for module in graph.modules()}
    graph.eval()
    try:
        with torch.no_grad():
            walk.run(*as_arguments(example_inputs))
    finally:
        for module, training in modes.items():
            module.training = training
    return walk.inputs


class _Constants(fx.Interpreter):
    """Runs the graph on NaN; layers with weights are told which of their products exist."""

    def __init__(self, graph: fx.GraphModule, live: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__(graph)
        self.live = live
        self.inputs: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op in ("placeholder", "get_attr"):
            return _unknown(result)
        return _even(result) if isinstance(result, Tensor) and result.dim() == 4 else result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, nn.Conv2d | nn.Linear) and len(args) == 1:
            return self._layer(target, module, args[0])
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and len(args) == 1:
            return module(args[0])
        return super().call_module(target, args, dict(kwargs))

    def _layer(self, name: str, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        self._remember(name, layer, x)
        unknown = torch.isnan(x)
        weight, bias = layer.weight, layer.bias
        touches = self.live(name, weight).to(x.dtype)
        value = _apply(layer, x.nan_to_num(), weight, bias)
        depends = _apply(layer, unknown.to(x.dtype), touches, None)
        return value.masked_fill(depends > 0, torch.nan)

    def _remember(self, name: str, layer: nn.Module, x: Tensor) -> None:
        channels = x.movedim(1, -1) if isinstance(layer, nn.Conv2d) else x
        rows = channels.reshape(-1, channels.shape[-1])
        found = torch.where((rows == rows[0]).all(0), rows[0], torch.nan)  # NaN equals nothing, itself included
        if name in self.inputs:  # a module that runs twice has one weight, and one bias to take a constant
            found = torch.where(found == self.inputs[name], found, torch.nan)
        self.inputs[name] = found


def _apply(layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    return layer._conv_forward(x, weight, bias)  # knows the padding modes, which functional.conv2d does not


def _unknown(value: Any) -> Any:
    return torch.full_like(value, torch.nan) if isinstance(value, Tensor) and value.is_floating_point() else value


def _even(value: Tensor) -> Tensor:
    """NaN in every channel that differs from place to place: such a constant would belong to one image size only."""
    first = value[:1, :, :1, :1]
    return torch.where((value == first).flatten(2).all(2).all(0)[None, :, None, None], value, torch.nan)
