"""A training step as a trace: the network with the zeros of its weights, activations and error maps in that step.

One forward and one backward pass in training mode, beside what trace.py records; the model, its gradients, its buffers
and the random state are left as they were.  Optimiser and loss are left out.  Read simulator/training.py for what such
a trace costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulator import LayerTrace, Trace
from simulator.errors import InputError, nearest
from simulator.workload import Conv2d

from .layers import as_arguments, prunable
from .trace import Mask, to_numpy, trace_model


def trace_training_step(
    model: nn.Module,
    inputs: Any,
    loss: Callable[[Any], Tensor],
    masks: Mapping[str, Mask] | None = None,
    structures: Mapping[str, str] | None = None,
    kept_errors: Mapping[str, Mask] | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Trace:
    """The layers of `model` in one training step on the mini-batch `inputs`, with masks of all three operands.

    loss: the model's outputs -> the scalar that is differentiated.  masks, structures: as in trace_model.  kept_errors:
    layer -> bool[out channels], True where a method that prunes error maps keeps the channel: its own backward
    function drops the others after the point where they can be seen here.  A layer whose output got no gradient has an
    empty error map.  Raises InputError for a name that is no layer, a mask of a wrong shape, a loss that is no scalar.
    """
    trace = trace_model(model, inputs, masks, structures, provenance=provenance)
    seen_inputs, seen_errors = _zeros_of_a_step(model, inputs, loss)
    names = list(seen_inputs)
    if unknown := [name for name in kept_errors or () if name not in prunable(model)]:
        raise InputError(f"kept_errors name {unknown[0]!r}, which is no layer", fix=nearest(unknown[0], names))
    layers = []
    for layer in trace.layers:
        if layer.name not in seen_inputs:
            layers.append(layer)
            continue
        errors = seen_errors.get(layer.name)
        if errors is None:
            errors = np.zeros(layer.operation.output_shape, dtype=bool)
        kept = (kept_errors or {}).get(layer.name.split("@")[0])
        if kept is not None:
            errors = errors & _of_channels(kept, layer)
        layers.append(layer.replace(input_mask=seen_inputs[layer.name].reshape(layer.operation.input_shape),
                                    error_mask=errors.reshape(layer.operation.output_shape)))
    return dataclasses.replace(trace, layers=layers)


def _zeros_of_a_step(
    model: nn.Module, inputs: Any, loss: Callable[[Any], Tensor]
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """({call: where its input is not zero}, {call: where its output's gradient is not zero})."""
    seen: dict[str, NDArray[np.bool_]] = {}
    errors: dict[str, NDArray[np.bool_]] = {}
    times: dict[str, int] = {}

    def look(name: str, given: tuple[Tensor, ...], output: Tensor) -> None:
        times[name] = times.get(name, 0) + 1
        call = name if times[name] == 1 else f"{name}@{times[name]}"
        seen[call] = to_numpy(given[0] != 0)
        if output.requires_grad:
            # On the tensor, not on the module: what follows may change the output in place, as ReLU does.
            output.register_hook(lambda gradient: errors.__setitem__(call, to_numpy(gradient != 0)))

    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    mode = [(module, module.training) for module in model.modules()]
    handles = [layer.register_forward_hook(lambda _, given, output, name=name: look(name, given, output))
               for name, layer in prunable(model).items()]
    for parameter in model.parameters():
        parameter.grad = None  # backward() would add to what is there, in place
    try:
        model.train()
        with torch.random.fork_rng(), torch.enable_grad():
            value = loss(model(*as_arguments(inputs)))
            if value.numel() != 1:
                raise InputError(f"a loss of shape {list(value.shape)}", where="training step", expected="a scalar",
                                 fix="take its mean")
            value.backward()
    finally:
        for handle in handles:
            handle.remove()
        for module, training in mode:
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
    return seen, errors


def _of_channels(kept: Mask, layer: LayerTrace) -> NDArray[np.bool_]:
    """bool[channels] in a shape that spreads over the layer's error map; InputError where the number is wrong."""
    mask = to_numpy(kept) if isinstance(kept, Tensor) else np.asarray(kept)
    conv = isinstance(layer.operation, Conv2d)
    channels = layer.operation.output_shape[1 if conv else -1]
    if mask.shape != (channels,) or mask.dtype != np.bool_:
        raise InputError(f"kept_errors of {mask.dtype} {list(mask.shape)}", where=f"layer {layer.name!r}",
                         expected=f"bool [{channels}], a value for each output channel")
    return mask[None, :, None, None] if conv else mask
