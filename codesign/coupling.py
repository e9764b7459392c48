"""Which channels of a network live or die together: the groups that removing a channel must decide as one.

The network is traced with torch.fx and run once on an example; every channel of every tensor carries the
number of the filter that made it, additions and depthwise convolutions declare two numbers the same, and
what remains are groups: the filters that make channel j, the batch norm entries that scale it and the
inputs that read it.  Read coupling_rules.py for what each operator does to channels, channels.py for scores and
masks.

Channels stay, and are in no group, where removing them would change what is computed elsewhere or cannot be
followed: those of the network's input and output, of grouped (not depthwise) convolutions, under a layer norm,
and whatever reaches an operator without a rule here.  Only a network in which nothing is left is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from simulator.errors import InputError

from .coupling_rules import through
from .coupling_ties import ChannelGroup, Span, Ties, Unfollowed, Value
from .layers import as_arguments

__all__ = ["ChannelGroup", "Coupling", "Span", "channel_groups", "couple", "trace_graph"]


@dataclass(frozen=True)
class Coupling:
    """groups: what can be removed, in the order in which their first producer runs.  stays: {layer: why} for layers
    that read a channel which cannot go.  obstacles: what could not be followed, in the order in which it runs."""

    groups: tuple[ChannelGroup, ...]
    stays: Mapping[str, str]
    obstacles: tuple[str, ...]


def channel_groups(
    model: nn.Module, example_inputs: object, *, resizable: bool = False, tokens: bool = False
) -> tuple[ChannelGroup, ...]:
    """The groups of `couple`."""
    return couple(model, example_inputs, resizable=resizable, tokens=tokens).groups


def couple(
    model: nn.Module, example_inputs: object, *, resizable: bool = False, tokens: bool = False
) -> Coupling:
    """The removable channel groups of `model`, and why other channels stay.

    example_inputs: a tensor [batch, ...], or a tuple of the model's arguments.  resizable: leave out channels
    whose number is written into the code of forward() (a slice, a pad, a reshape to a given size): they can be
    masked but not taken out.  tokens: also groups of linear layers on [batch, tokens, features], for callers that look
    at weights alone; without it, channels are dimension 1 of every activation that a group's layers read or make.
    Parameters, batch norm statistics and the training mode are left as they were.

    Raises InputError for a model that cannot be traced, and where something could not be followed and no group is left.
    """
    graph = trace_graph(model, example_inputs)
    modules = dict(graph.named_modules())
    ties = Ties()
    values: dict[fx.Node, Value] = {}
    for node in graph.graph.nodes:
        sources = [values[item] for item in node.all_input_nodes if item in values]
        if node.op == "output":
            for source in sources:
                ties.stay(source, "the network returns them")
        elif "tensor_meta" in node.meta:  # others are sizes and numbers: they carry no channels
            value = through(node, modules, values, ties, tokens)
            if isinstance(value, Unfollowed):
                for source in sources:
                    ties.stay(source, value.why)
            values[node] = value
    found = Coupling(ties.groups(resizable), ties.reasons(), tuple(ties.obstacles))
    if found.obstacles and not found.groups:
        raise InputError(
            f"no channel can be removed: {some(found.obstacles)}",
            where="channel coupling",
            expected="convolutions, linear layers, batch norm, activations, pooling, additions and flatten",
            fix="leave example_inputs out to let each layer decide on its own input channels",
        )
    return found


def some(obstacles: tuple[str, ...], most: int = 3) -> str:
    """The first obstacles, and how many there are besides."""
    more = f"; and {len(obstacles) - most} more" if len(obstacles) > most else ""
    return "; ".join(obstacles[:most]) + more


def trace_graph(model: nn.Module, example_inputs: object) -> fx.GraphModule:
    """`model` as a torch.fx graph in evaluation mode, each node with the shape it has on the example.

    Raises InputError for a model that torch.fx cannot trace or that does not run on the example.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        graph = fx.symbolic_trace(model)
        with torch.no_grad():
            ShapeProp(graph).propagate(*as_arguments(example_inputs))
    except Exception as error:  # whatever forward() raises under tracing, the user must hear which model and why
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"cannot follow the channels of {type(model).__name__}: {reason[0]}",
            where="channel coupling",
            expected="a model that torch.fx can trace and that runs on example_inputs",
            fix="leave example_inputs out to let each layer decide on its own input channels",
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    return graph
