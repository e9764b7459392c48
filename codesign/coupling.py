"""Which channels of a network live or die together: the groups that removing a channel must decide as one.

The network is traced with torch.fx and run once on an example; every channel of every tensor carries the
number of the filter that made it, additions and depthwise convolutions declare two numbers the same, and
what remains are groups: the filters that make channel j, the batch norm entries that scale it and the
inputs that read it.  It leaves out layers whose channels cannot be followed: a model that cannot be traced,
or an operator without a rule, is an InputError that names it.  Read channels.py for scores and masks.

Channels of the network's input and output, and those of grouped (not depthwise) convolutions, stay: their
groups are not returned.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from simulator.errors import InputError

from .layers import as_arguments


class Span(NamedTuple):
    """Channels start, start + 1, ... of a module; as an input, channel c is the `repeat` entries from c * repeat on."""

    layer: str
    start: int = 0
    repeat: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """`width` channels that are removed one by one, each from all of these at once.

    producers: filters start + j of each layer (depthwise ones included).  norms: entries of batch norms.
    consumers: input channels of each layer; `repeat` is how many inputs one channel is, kh * kw after a
    flatten of [channels, h, w].
    """

    width: int
    producers: tuple[Span, ...]
    consumers: tuple[Span, ...]
    norms: tuple[Span, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose weights lose something with a channel, each once."""
        return tuple(dict.fromkeys(span.layer for span in (*self.producers, *self.consumers)))

    def __str__(self) -> str:
        return f"channels of {' + '.join(span.layer for span in self.producers)}"


class _Value(NamedTuple):
    """The channels (dimension 1) of one tensor in the graph: a number per channel, and how often each repeats."""

    channels: tuple[int, ...]
    repeat: int = 1


@dataclass
class _Ties:
    """Union-find over channel numbers, and who makes, scales and reads each."""

    parent: list[int] = field(default_factory=list)
    stays: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)  # the code of forward() names how many of these there are
    uses: dict[int, list[tuple[str, str, int, int]]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[tuple[str, str], _Value] = field(default_factory=dict)

    def fresh(self, width: int) -> tuple[int, ...]:
        start = len(self.parent)
        self.parent.extend(range(start, start + width))
        return tuple(range(start, start + width))

    def root(self, channel: int) -> int:
        while self.parent[channel] != channel:
            self.parent[channel] = self.parent[self.parent[channel]]
            channel = self.parent[channel]
        return channel

    def tie(self, left: Iterable[int], right: Iterable[int]) -> None:
        for a, b in zip(left, right, strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self.parent[high] = low

    def use(self, role: str, layer: str, value: _Value) -> None:
        if (first := self.seen.setdefault((role, layer), value)) is not value:
            self.tie(first.channels, value.channels)  # a module that runs twice has one weight for both
            return
        for index, channel in enumerate(value.channels):
            self.uses[channel].append((role, layer, index, value.repeat))

    def stay(self, value: _Value) -> None:
        self.stays.update(value.channels)


SAME_CHANNELS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.ZeroPad2d,
)
SAME_CHANNELS_FUNCTIONS: set[object] = {
    F.relu,
    torch.relu,
    torch.relu_,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.gelu,
    F.silu,
    F.hardswish,
    F.sigmoid,
    F.tanh,
    torch.sigmoid,
    torch.tanh,
    torch.clamp,
    F.dropout,
    F.dropout2d,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    torch.max_pool2d,
    F.interpolate,
    operator.neg,
    torch.abs,
    "relu",
    "relu_",
    "sigmoid",
    "tanh",
    "clamp",
    "contiguous",
    "clone",
    "detach",
    "to",
    "float",
    "abs",
}
ELEMENTWISE: set[object] = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.isub,
    operator.mul,
    operator.imul,
    operator.truediv,
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    torch.minimum,
    "add",
    "add_",
    "sub",
    "mul",
    "mul_",
    "div",
}
FLATTEN: set[object] = {torch.flatten, "flatten", "view", "reshape", torch.reshape, torch.squeeze, "squeeze"}
SOFTMAX: set[object] = {F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"}
REDUCE: set[object] = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}


def channel_groups(
    model: nn.Module, example_inputs: object, *, resizable: bool = False
) -> tuple[ChannelGroup, ...]:
    """The removable channel groups of `model`, in the order in which their first producer runs.

    example_inputs: a tensor [batch, ...], or a tuple of the model's arguments.  resizable: leave out channels
    whose number is written into the code of forward() (a slice, a pad, a reshape to a given size): they can be
    masked but not taken out.  Parameters, batch norm statistics and the training mode are left as they were.
    Raises InputError naming the operator or the layer where the channels cannot be followed.
    """
    graph = trace_graph(model, example_inputs)
    modules = dict(graph.named_modules())
    ties = _Ties()
    values: dict[fx.Node, _Value] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                if source in values:
                    ties.stay(values[source])
            continue
        shape = _shape(node)
        if shape is None or len(shape) < 2:
            continue  # a size, a number: it carries no channels
        if node.op in ("placeholder", "get_attr"):
            values[node] = _Value(ties.fresh(shape[1]))
            ties.stay(values[node])
        elif node.op == "call_module":
            values[node] = _through_module(str(node.target), modules[str(node.target)], node, values, ties)
        else:
            values[node] = _through_function(node, shape, values, ties)
    if resizable:
        ties.stays |= ties.counted
    return _collect(ties)


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


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def _through_module(name: str, module: nn.Module, node: fx.Node, values: dict[fx.Node, _Value], ties: _Ties) -> _Value:
    source = _source(node, values)
    if isinstance(module, nn.Conv2d):
        return _through_conv(name, module, source, ties)
    if isinstance(module, nn.Linear):
        if len(source.channels) * source.repeat != module.in_features or len(_shape(node) or ()) != 2:
            raise _no_rule(f"layer {name!r}, a Linear on something other than [batch, features],")
        ties.use("consumer", name, source)
        return _made_by(name, module.out_features, ties)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        ties.use("norm", name, source)
        return source
    if isinstance(module, nn.Flatten):
        return _flattened(node, source)
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        ties.stay(source)
        return source
    if isinstance(module, SAME_CHANNELS):
        return source
    raise _no_rule(f"module {name!r} ({type(module).__name__})")


def _through_conv(name: str, conv: nn.Conv2d, source: _Value, ties: _Ties) -> _Value:
    if conv.groups == 1:
        ties.use("consumer", name, source)
        return _made_by(name, conv.out_channels, ties)
    made = _made_by(name, conv.out_channels, ties)
    if conv.groups == conv.in_channels == conv.out_channels:
        ties.tie(source.channels, made.channels)
    else:  # removing one channel would leave groups of unequal size
        ties.stay(source)
        ties.stay(made)
    return made


def _through_function(node: fx.Node, shape: tuple[int, ...], values: dict[fx.Node, _Value], ties: _Ties) -> _Value:
    target = node.target
    if target in SAME_CHANNELS_FUNCTIONS:
        return _source(node, values)
    if target in SOFTMAX:  # each channel's result depends on all of them
        ties.stay(_source(node, values))
        return _source(node, values)
    if target in ELEMENTWISE:
        return _elementwise(node, values, ties)
    if target in FLATTEN:
        source = _source(node, values)
        if any(isinstance(size, int) and size > 1 for size in _sizes(node)):
            ties.counted.update(source.channels)
        return _flattened(node, source)
    if target in REDUCE:
        before = _shape(node.all_input_nodes[0])
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        reduced = dims if isinstance(dims, tuple | list) else (dims,)
        if before is not None and all(isinstance(dim, int) and dim % len(before) >= 2 for dim in reduced):
            return _source(node, values)
    if target in (torch.cat, torch.concat) and _cat_dimension(node) % len(shape) == 1:
        parts = [values[item] for item in node.all_input_nodes]
        if all(part.repeat == 1 for part in parts):
            return _Value(tuple(channel for part in parts for channel in part.channels))
    if target is operator.getitem and isinstance(node.args[1], tuple):
        source = _source(node, values)
        channels = node.args[1][1] if len(node.args[1]) > 1 else slice(None)
        if isinstance(channels, slice) and node.args[1][0] == slice(None) and source.repeat == 1:
            if channels != slice(None):
                ties.counted.update(source.channels)
            return _Value(source.channels[channels])
    if target is F.pad:
        return _padded(node, shape, _source(node, values), ties)
    raise _no_rule(f"operator {getattr(target, '__name__', target)!r} at {node.name!r}")


def _elementwise(node: fx.Node, values: dict[fx.Node, _Value], ties: _Ties) -> _Value:
    """x + y ties the two, channel by channel; a number or a tensor of one channel ties nothing."""
    tensors = [values[item] for item in node.all_input_nodes if item in values]
    wide = [value for value in tensors if len(value.channels) * value.repeat > 1] or tensors
    for other in wide[1:]:
        if other.repeat != wide[0].repeat or len(other.channels) != len(wide[0].channels):
            raise _no_rule(
                f"operator {getattr(node.target, '__name__', node.target)!r} at {node.name!r}, "
                "on tensors with different channels,"
            )
        ties.tie(wide[0].channels, other.channels)
    return wide[0]


def _flattened(node: fx.Node, source: _Value) -> _Value:
    """[batch, channels, h, w] to [batch, channels * h * w]: every channel becomes h * w neighbours."""
    before, after = _shape(node.all_input_nodes[0]), _shape(node)
    assert before is not None and after is not None  # only tensors come here
    if before[:2] == after[:2]:
        return source
    if len(after) == 2 and before[0] == after[0] and after[1] == math.prod(before[1:]):
        return _Value(source.channels, source.repeat * math.prod(before[2:]))
    raise _no_rule(f"a reshape from {list(before)} to {list(after)} at {node.name!r}")


def _sizes(node: fx.Node) -> tuple[object, ...]:
    """The sizes that a view or reshape names; a flatten has none."""
    if node.target not in ("view", "reshape", torch.reshape):
        return ()
    given = (*node.args[1:], *node.kwargs.values())
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


def _padded(node: fx.Node, shape: tuple[int, ...], source: _Value, ties: _Ties) -> _Value:
    """Zero channels around, as in the parameter-free shortcut of CIFAR ResNets: they are made by nobody."""
    pads = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    assert isinstance(pads, tuple | list)
    place = 2 * (len(shape) - 2)  # F.pad counts from the last dimension
    before, after = pads[place : place + 2] if len(pads) > place else (0, 0)
    if not isinstance(before, int) or not isinstance(after, int) or ((before or after) and source.repeat != 1):
        raise _no_rule(f"a pad of {pads} at {node.name!r}")
    if before or after:
        ties.counted.update(source.channels)
    return _Value((*ties.fresh(before), *source.channels, *ties.fresh(after)), source.repeat)


def _made_by(name: str, width: int, ties: _Ties) -> _Value:
    value = _Value(ties.fresh(width))
    ties.use("producer", name, value)
    return value


def _source(node: fx.Node, values: dict[fx.Node, _Value]) -> _Value:
    return next(values[item] for item in node.all_input_nodes if item in values)


def _cat_dimension(node: fx.Node) -> int:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    assert isinstance(dim, int)  # torch.cat takes nothing else
    return dim


def _no_rule(what: str) -> InputError:
    return InputError(
        f"no rule for {what} when following channels",
        where="channel coupling",
        expected="convolutions, linear layers, batch norm, activations, pooling, additions and flatten",
        fix="leave example_inputs out to let each layer decide on its own input channels",
    )


def _collect(ties: _Ties) -> tuple[ChannelGroup, ...]:
    """Channels with the same users, at consecutive places in all of them, are one group."""
    members: dict[int, list[int]] = defaultdict(list)
    for channel in range(len(ties.parent)):
        members[ties.root(channel)].append(channel)
    groups: list[list[list[tuple[str, str, int, int]]]] = []
    for root in sorted(members):
        uses = [use for channel in members[root] for use in ties.uses.get(channel, ())]
        roles = {role for role, *_ in uses}
        if {"producer", "consumer"} - roles or any(channel in ties.stays for channel in members[root]):
            continue
        last = groups[-1][-1] if groups else []
        if uses == [(role, layer, index + 1, repeat) for role, layer, index, repeat in last]:
            groups[-1].append(uses)
        else:
            groups.append([uses])
    return tuple(_group(channels) for channels in groups)


def _group(channels: list[list[tuple[str, str, int, int]]]) -> ChannelGroup:
    spans: dict[str, list[Span]] = {"producer": [], "consumer": [], "norm": []}
    for role, layer, index, repeat in channels[0]:
        spans[role].append(Span(layer, index, repeat))
    return ChannelGroup(len(channels), tuple(spans["producer"]), tuple(spans["consumer"]), tuple(spans["norm"]))
