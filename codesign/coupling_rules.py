"""What each operator does to channels: pass them on, tie two, read them, make new ones, or keep them in the network.

A rule takes the channels of an operator's inputs and gives those of its output; it is only as bold as the shapes on
the example allow.  An operator without a rule is no error: what reaches it stays, and its reason is kept.  Read
coupling_ties.py for what channels are, coupling.py for the walk over a network.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import fx, nn

from .coupling_ties import Followed, Ties, Unfollowed, Value

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
OVER_PLACES: set[object] = {
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.max_pool2d, F.interpolate,
}  # fmt: skip
"""Those of the above that mix the last two dimensions: channels must lie in another."""
OVER_CHANNELS: set[object] = {nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, F.layer_norm, F.rms_norm, F.group_norm}
"""Norms whose mean is over channels: with one channel less, all others would change."""
TRANSPOSE: set[object] = {torch.transpose, "transpose"}
PERMUTE: set[object] = {torch.permute, "permute"}
CONCATENATE: set[object] = {torch.cat, torch.concat}
JOIN = ELEMENTWISE | CONCATENATE
"""Those that take several tensors."""


class _NoRule(Exception):
    """What cannot be followed, in words that go after "because"."""


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def through(
    node: fx.Node, modules: Mapping[str, nn.Module], values: Mapping[fx.Node, Value], ties: Ties, tokens: bool
) -> Value:
    """The channels of what a node gives; Unfollowed where those of its inputs must stay.

    Layers on tokens are followed only with `tokens`; see coupling.couple.
    """
    if node.op == "placeholder":
        return Unfollowed("they come from the network's input")
    if node.op == "get_attr":
        return Unfollowed(f"parameter {str(node.target)!r} has as many entries")
    shape, sources = _shape(node), [values[item] for item in node.all_input_nodes if item in values]
    module = modules[str(node.target)] if node.op == "call_module" else None
    try:
        if isinstance(module, nn.Conv2d) and sources:
            return _through_conv(str(node.target), module, _first_shape(node), sources[0], ties)
        if isinstance(module, nn.Linear) and sources:
            return _through_linear(str(node.target), module, _first_shape(node), sources[0], ties, tokens)
        followed = next((value for value in sources if isinstance(value, Followed)), None)
        if followed is None:
            return sources[0] if sources else Unfollowed(f"operator {_name(node)} makes as many entries")
        if shape is None or (len(sources) > 1 and node.target not in JOIN):
            raise _NoRule(f"no rule for {_what(node, module)}")
        if module is not None:
            return _through_module(node, module, followed, ties)
        return _through_function(node, shape, followed, values, ties)
    except _NoRule as reason:
        ties.obstacles[str(reason)] = None
        return Unfollowed(str(reason))


def _through_conv(name: str, conv: nn.Conv2d, shape: tuple[int, ...], source: Value, ties: Ties) -> Followed:
    axis = len(shape) - 3
    if conv.groups == 1:
        _read_by(name, conv.in_channels, axis, source, ties)
        return _made_by(name, conv.out_channels, axis, ties)
    made = _made_by(name, conv.out_channels, axis, ties)
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if depthwise and isinstance(source, Followed) and source == (source.channels, 1, axis):
        ties.tie(source.channels, made.channels)
        return made
    # removing one channel would leave groups of unequal size
    why = source.why if depthwise and isinstance(source, Unfollowed) else f"{name!r} has {conv.groups} groups"
    ties.stay(source, why)
    ties.stay(made, why)
    return made


def _through_linear(
    name: str, linear: nn.Linear, shape: tuple[int, ...], source: Value, ties: Ties, tokens: bool
) -> Followed:
    axis = len(shape) - 1
    if tokens or axis == 1:
        _read_by(name, linear.in_features, axis, source, ties)
        return _made_by(name, linear.out_features, axis, ties)
    why = f"layer {name!r} runs on tokens {list(shape)}, not on [batch, features]"
    ties.obstacles[why] = None
    ties.stay(source, why)
    _read_by(name, linear.in_features, axis, Unfollowed(why), ties)
    made = _made_by(name, linear.out_features, axis, ties)
    ties.stay(made, why)
    return made


def _read_by(name: str, width: int, axis: int, source: Value, ties: Ties) -> None:
    """A layer reads `width` inputs along `axis`: channels of the source, or entries that are none and stay."""
    if isinstance(source, Followed) and (source.axis, source.width) == (axis, width):
        ties.use("consumer", name, source)
        return
    why = source.why if isinstance(source, Unfollowed) else f"layer {name!r} reads across them"
    unread = Followed(ties.fresh(width), 1, axis)
    for value in (source, unread):
        ties.stay(value, why)
    ties.use("consumer", name, unread)  # another run of the layer may read channels with the same weights


def _made_by(name: str, width: int, axis: int, ties: Ties) -> Followed:
    value = Followed(ties.fresh(width), 1, axis)
    ties.use("producer", name, value)
    return value


def _through_module(node: fx.Node, module: nn.Module, source: Followed, ties: Ties) -> Followed:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and (source.axis, source.width) == (1, module.num_features):
        ties.use("norm", str(node.target), source)
        return source
    if isinstance(module, nn.Flatten):
        return _flattened(node, source)
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        ties.stay(source, f"{_what(node, module)} is over all of them")
        return source
    if isinstance(module, SAME_CHANNELS):
        return _same(node, type(module), module, source)
    if type(module) in OVER_CHANNELS:
        raise _NoRule(f"{_what(node, module)} takes its mean over all channels")
    raise _NoRule(f"no rule for {_what(node, module)}")


def _through_function(
    node: fx.Node, shape: tuple[int, ...], source: Followed, values: Mapping[fx.Node, Value], ties: Ties
) -> Followed:
    target = node.target
    if target in SAME_CHANNELS_FUNCTIONS:
        return _same(node, target, None, source)
    if target in SOFTMAX:
        ties.stay(source, f"{_what(node, None)} is over all of them")
        return source
    if target in ELEMENTWISE:
        return _elementwise(node, shape, values, ties)
    if target in FLATTEN:
        if any(isinstance(size, int) and size > 1 for size in _sizes(node)):
            ties.counted.update(source.channels)
        return _flattened(node, source)
    if target in REDUCE:
        return _reduced(node, shape, source)
    if target in TRANSPOSE or target in PERMUTE:
        return _permuted(node, source)
    if target in CONCATENATE:
        return _concatenated(node, source, values, ties)
    if target is operator.getitem:
        return _indexed(node, source, ties)
    if target is F.pad:
        return _padded(node, shape, source, ties)
    if target in OVER_CHANNELS:
        raise _NoRule(f"{_what(node, None)} takes its mean over all channels")
    raise _NoRule(f"no rule for {_what(node, None)}")


def _same(node: fx.Node, kind: object, module: nn.Module | None, source: Followed) -> Followed:
    if kind in OVER_PLACES and source.axis >= len(_first_shape(node)) - 2:
        raise _NoRule(f"no rule for {_what(node, module)} over the channels")
    return source


def _elementwise(
    node: fx.Node, shape: tuple[int, ...], values: Mapping[fx.Node, Value], ties: Ties
) -> Followed:
    """x + y ties the two, channel by channel; a number or a tensor of one channel ties nothing."""
    parts = [(len(_shape(item) or ()), _shape(item) or (), values[item])
             for item in node.all_input_nodes if item in values]
    followed = [(size, value) for size, _, value in parts if isinstance(value, Followed)]
    size, first = next(((size, value) for size, value in followed if value.width > 1), followed[0])
    axis = first.axis - size  # from the right, as shapes are broadcast
    if shape[axis] != first.width:
        raise _NoRule(f"{_what(node, None)} spreads one channel over many")
    for dims, sides, value in parts:
        broadcast = -axis > dims or sides[axis] == 1 < first.width
        if isinstance(value, Unfollowed):
            if not broadcast:
                ties.stay(first, value.why)
        elif broadcast and value.width == 1:
            ties.stay(value, f"{_what(node, None)} spreads it over many")
        elif (value.repeat, len(value.channels), value.axis - dims) != (first.repeat, len(first.channels), axis):
            raise _NoRule(f"no rule for {_what(node, None)} on tensors with different channels")
        else:
            ties.tie(first.channels, value.channels)
    return first._replace(axis=len(shape) + axis)


def _flattened(node: fx.Node, source: Followed) -> Followed:
    """[batch, channels, h, w] to [batch, channels * h * w]: every channel becomes h * w neighbours."""
    before, after, axis = _first_shape(node), _shape(node) or (), source.axis
    if before[: axis + 1] == after[: axis + 1]:
        return source
    if axis == len(before) - 1 and before[-1:] == after[-1:]:  # tokens in other rows, each with all its features
        return source._replace(axis=len(after) - 1)
    if axis == 1 and len(after) == 2 and before[0] == after[0] and after[1] == math.prod(before[1:]):
        return source._replace(repeat=source.repeat * math.prod(before[2:]))
    raise _NoRule(f"no rule for a reshape from {list(before)} to {list(after)} at {_place(node)}")


def _sizes(node: fx.Node) -> tuple[object, ...]:
    """The sizes that a view or reshape names; a flatten has none."""
    if node.target not in ("view", "reshape", torch.reshape):
        return ()
    given = (*node.args[1:], *node.kwargs.values())
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


def _reduced(node: fx.Node, shape: tuple[int, ...], source: Followed) -> Followed:
    before = _first_shape(node)
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    gone = {dim % len(before) for dim in (dims if isinstance(dims, tuple | list) else (dims,)) if isinstance(dim, int)}
    if not gone or source.axis in gone:
        raise _NoRule(f"{_what(node, None)} is over all channels")
    kept_dims = len(shape) == len(before)
    return source._replace(axis=source.axis - (0 if kept_dims else sum(dim < source.axis for dim in gone)))


def _permuted(node: fx.Node, source: Followed) -> Followed:
    size = len(_first_shape(node))
    given = (*node.args[1:], *node.kwargs.values())
    dims = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
    places = [dim % size for dim in dims if isinstance(dim, int)]
    order = list(range(size))
    if node.target in TRANSPOSE and len(places) == 2:
        order[places[0]], order[places[1]] = places[1], places[0]
    elif sorted(places) == order:
        order = places
    else:
        raise _NoRule(f"no rule for {_what(node, None)} to places that are computed")
    return source._replace(axis=order.index(source.axis))


def _concatenated(node: fx.Node, source: Followed, values: Mapping[fx.Node, Value], ties: Ties) -> Followed:
    items = node.args[0] if node.args else node.kwargs["tensors"]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(items, tuple | list) or not isinstance(dim, int):
        raise _NoRule(f"no rule for {_what(node, None)} of what is computed")
    axis, parts = source.axis, []
    for item in items:
        assert isinstance(item, fx.Node)
        sides, value = _shape(item) or (), values[item]
        if isinstance(value, Unfollowed):
            value, why = Followed(ties.fresh(sides[axis]), 1, axis), value.why
            ties.stay(value, why)
        parts.append(value)
    along = dim % len(_first_shape(node)) == axis
    if any(part.axis != axis or (part.repeat != 1 if along else part.width != source.width) for part in parts):
        raise _NoRule(f"no rule for {_what(node, None)} of tensors with different channels")
    if along:
        return Followed(tuple(channel for part in parts for channel in part.channels), 1, axis)
    for part in parts:  # tokens beside tokens: channel c of the one is channel c of the other
        if part.repeat == source.repeat:
            ties.tie(source.channels, part.channels)
        else:
            ties.stay(part, why := f"{_what(node, None)} joins them to others")
            ties.stay(source, why)
    return source


def _indexed(node: fx.Node, source: Followed, ties: Ties) -> Followed:
    """x[:, 1:3], x[:, 0], x[:, :, None]: a range of channels, or all of them in another dimension."""
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    at, axis, channels = 0, source.axis, source.channels
    for entry in index:
        if entry is None:
            axis += at <= source.axis
            continue
        if at == source.axis and entry != slice(None):
            if not isinstance(entry, slice) or source.repeat != 1 or any(
                    isinstance(part, fx.Node) for part in (entry.start, entry.stop, entry.step)):
                raise _NoRule(f"no rule for {_what(node, None)} of single channels")
            ties.counted.update(channels)
            channels = channels[entry]
        elif isinstance(entry, int):
            axis -= at < source.axis
        elif not isinstance(entry, slice):
            raise _NoRule(f"no rule for {_what(node, None)} by a tensor")
        at += 1
    return Followed(channels, source.repeat, axis)


def _padded(node: fx.Node, shape: tuple[int, ...], source: Followed, ties: Ties) -> Followed:
    """Zero channels around, as in the parameter-free shortcut of CIFAR ResNets: they are made by nobody."""
    pads = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
    assert isinstance(pads, tuple | list)
    place = 2 * (len(shape) - 1 - source.axis)  # F.pad counts from the last dimension
    before, after = pads[place : place + 2] if len(pads) > place else (0, 0)
    if not isinstance(before, int) or not isinstance(after, int) or ((before or after) and source.repeat != 1):
        raise _NoRule(f"no rule for a pad of {pads} at {_place(node)}")
    if before or after:
        ties.counted.update(source.channels)
    return source._replace(channels=(*ties.fresh(before), *source.channels, *ties.fresh(after)))


def _first_shape(node: fx.Node) -> tuple[int, ...]:
    """Of the tensor that a node works on."""
    return next(shape for item in node.all_input_nodes if (shape := _shape(item)) is not None)


def _name(node: fx.Node) -> str:
    return repr(getattr(node.target, "__name__", node.target))


def _what(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return f"module {str(node.target)!r} ({type(module).__name__})"
    return f"operator {_name(node)} at {_place(node)}"


def _place(node: fx.Node) -> str:
    """The node, and the module in whose forward() it stands."""
    inside = [path for path in node.meta.get("nn_module_stack", {}) if path]
    return f"{node.name!r}" + (f" in {inside[-1]!r}" if inside else "")
