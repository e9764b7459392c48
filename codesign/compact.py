"""Real removal: a network without the channels, hidden units and attention heads that its masks have emptied.

A channel goes where nobody needs it: every reader has pruned the weights that read it, or its value is the same for
every image and the reader's bias can hold what it adds.  The result computes what the masked network computes, with
smaller layers, and its optimizer has the state of what is left.  It leaves out what is only partly pruned, and
whatever it cannot follow, which it names with the reason.  Read compact_groups.py for who is removed together,
compact_constants.py for constants, compact_sizes.py for how a file remembers the sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from simulator.errors import InputError

from .compact_constants import constant_inputs
from .compact_groups import Group, groups_of
from .compact_sizes import sizes_of
from .compact_slices import Cuts, slice_
from .coupling import trace_graph
from .layers import as_arguments, prunable
from .masks import check_masks

TOLERANCE = 1e-5
"""Of the largest output, or of 1: what a sum in another order may change."""
MOST_ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Compact:
    """A smaller network that computes the same.

    optimizer: the one given, of the same kind and settings, over the new parameters with the state of what is left.
    masks: those that still remove something, by layer name; the pruner that goes on with them is
    `Pruner.for_given_masks`.  sizes: what architecture.json needs beside the builder.  removed: how many channels each
    group lost, by the layers that make them.  kept: what had to stay although it is pruned, and why.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    masks: Mapping[str, Tensor]
    sizes: Mapping[str, Mapping[str, int]]
    removed: Mapping[str, int]
    kept: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers are left to learn."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def compact(
    model: nn.Module,
    example_inputs: object,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Compact:
    """`model` without what its masks have emptied; the model and the optimizer that are given stay as they are.

    example_inputs: a batch, or a tuple of the model's arguments.  masks: bool by layer name (or parameter name), True
    where kept, as `Pruner.masks`; None takes every weight that is zero as pruned.  Equal in evaluation mode to 1e-5
    of the largest output, which is checked on the example before the result is returned; where a constant went into a
    batch norm's running mean, training sees the batch's own mean, as before.

    Raises InputError for masks that do not fit or are not applied, for a model that torch.fx cannot trace, and where
    the smaller network does not run or computes something else.
    """
    layers = prunable(model)
    if masks is None:
        masks = {name: layer.weight != 0 for name, layer in layers.items()}
    else:
        check_masks(masks, [*layers, *dict(model.named_parameters())],
                    lambda name: layers[name].weight if name in layers else model.get_parameter(name))
        _check_applied(model, masks, layers)
    with torch.no_grad():
        small, small_optimizer = copy.deepcopy((model, optimizer))
        left = {name: mask.clone() for name, mask in masks.items()}
        removed: dict[str, int] = {}
        kept: dict[str, str] = {}
        for _ in range(MOST_ROUNDS):  # what is gone makes others needless: a filter's inputs, and so on upwards
            graph = trace_graph(small, example_inputs)
            kept = {}
            count = _round_(small, graph, example_inputs, small_optimizer, left, removed, kept)
            if not count:
                break
        _check_same(model, small, example_inputs)
    before = {name: sizes_of(module) for name, module in model.named_modules()}
    sizes = {name: now for name, module in small.named_modules() if (now := sizes_of(module)) != before[name]}
    return Compact(small, small_optimizer, {name: mask for name, mask in left.items() if not bool(mask.all())}, sizes,
                   removed, kept)


def _round_(
    model: nn.Module,
    graph: fx.GraphModule,
    example_inputs: object,
    optimizer: torch.optim.Optimizer | None,
    masks: dict[str, Tensor],
    removed: dict[str, int],
    kept: dict[str, str],
) -> int:
    """Remove what can go now from model, optimizer and masks; returns how many channels went."""
    modules = dict(model.named_modules())

    def live(name: str, weight: Tensor) -> Tensor:
        return masks.get(name, torch.ones_like(weight, dtype=torch.bool))

    groups, refused = groups_of(model, example_inputs)
    kept |= refused
    constants = constant_inputs(graph, example_inputs, live)
    bearers = _bias_bearers(graph, modules)
    cuts, went = Cuts(), 0
    for group in groups:
        if group.attention:
            name, value = _attended_constants(group, modules, masks)
            constants[name] = value
        gone, reason = _needless(group, modules, masks, constants, bearers)
        if reason:
            kept[str(group)] = reason
        if not bool(gone.any()):
            continue
        for name, index in group.read_by:
            columns = torch.zeros(_inputs(modules[name]), dtype=torch.bool)
            columns[index[gone].reshape(-1)] = True
            _hold_constant_(modules[name], columns, constants.get(name), bearers.get(name))
            cuts.drop(cuts.inputs, name, len(columns), index[gone])
        for name, index in (*group.made_by, *group.scaled_by):
            cuts.drop(cuts.outputs, name, _outputs(modules[name]), index[gone])
        if group.attention:
            cuts.heads[group.attention] = group.width - int(gone.sum())
        removed[str(group)] = removed.get(str(group), 0) + int(gone.sum())
        went += int(gone.sum())
    slice_(model, cuts, masks, optimizer)
    return went


def _needless(
    group: Group,
    modules: Mapping[str, nn.Module],
    masks: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    bearers: Mapping[str, nn.Module | None],
) -> tuple[Tensor, str]:
    """(bool[width], True where a channel can go; why others that are empty cannot, or "")."""
    gone = torch.ones(group.width, dtype=torch.bool)
    empty = torch.ones(group.width, dtype=torch.bool)
    for name, index in group.made_by:
        mask = masks.get(name)
        rows = torch.zeros(_outputs(modules[name]), dtype=torch.bool) if mask is None else ~mask.flatten(1).any(1).cpu()
        empty &= rows[index].all(1)
    why = ""
    for name, index in group.read_by:
        mask, value = masks.get(name), constants.get(name)
        nothing = torch.zeros(_inputs(modules[name]), dtype=torch.bool)
        unread = nothing if mask is None else ~mask.transpose(0, 1).flatten(1).any(1).cpu()
        zero, known = (nothing, nothing) if value is None else ((value == 0).cpu(), ~torch.isnan(value).cpu())
        holds = _takes_constants(modules[name]) and bearers.get(name) is not None
        allowed = (unread | zero | (known & holds))[index].all(1)
        stuck = empty & gone & ~allowed
        if bool(stuck.any()):
            if bool(known[index].all(1)[stuck].any()):
                where = "has no bias to hold it" if _takes_constants(modules[name]) else "pads it with zeros"
                reason = f"{name!r} reads a constant from them and {where}"
            else:
                reason = f"{name!r} reads other values there too"
            why = f"{int(stuck.sum())} pruned where they are made, but {reason}"
        gone &= allowed
    if bool(gone.all()):
        gone[0] = False  # a layer of no channels is no layer
    return gone, why


def _attended_constants(
    group: Group, modules: Mapping[str, nn.Module], masks: Mapping[str, Tensor]
) -> tuple[str, Tensor]:
    """(project, float[inputs]): a head whose values are all one vector gives that vector, as attention sums to 1."""
    ((qkv, made),), ((project, read),) = group.made_by, group.read_by
    layer = modules[qkv]
    values = made[:, 2 * read.shape[1] :]  # the third part of qkv's outputs
    found = torch.full((_inputs(modules[project]),), torch.nan, dtype=layer.weight.dtype)
    if qkv in masks:
        bias = torch.zeros(_outputs(layer)) if layer.bias is None else layer.bias.detach().cpu()
        pruned = ~masks[qkv].any(1).cpu()
        found[read] = torch.where(pruned[values], bias[values].to(found.dtype), torch.nan)
    return project, found


def _outputs(module: nn.Module) -> int:
    return int(module.num_features if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) else len(module.weight))


def _inputs(module: nn.Module) -> int:
    return int(module.weight.shape[1])


def _takes_constants(layer: nn.Module) -> bool:
    """Whether a constant input adds the same at every place: zero padding would add less at the edge."""
    if not isinstance(layer, nn.Conv2d):
        return True
    return layer.padding_mode != "zeros" or layer.padding == "valid" or not any(
        isinstance(pad, str) or pad for pad in ((layer.padding,) if isinstance(layer.padding, str) else layer.padding))


def _bias_bearers(graph: fx.GraphModule, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module | None]:
    """Layer -> the module whose bias or running mean can hold a constant: itself, or the batch norm that follows."""
    found: dict[str, nn.Module | None] = {}
    for node in graph.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        bearer: nn.Module | None = layer if layer.bias is not None else None
        if bearer is None and len(node.users) == 1:
            user = next(iter(node.users))
            after = modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) and after.running_mean is not None:
                bearer = after
        name = str(node.target)
        found[name] = bearer if found.get(name, bearer) is bearer else None
    return found


def _hold_constant_(
    layer: nn.Module, columns: Tensor, values: Tensor | None, bearer: nn.Module | None
) -> None:
    """Add what the inputs `columns` contribute to the bias, or take it from the running mean."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if values is None or bearer is None:
        return  # then nothing but zeros and unread values went
    columns, values = columns.to(weight.device), values.to(weight.device)
    known = torch.where(columns & ~torch.isnan(values), values, 0.0)
    if not bool(known.any()):
        return
    added = (weight.flatten(2).sum(2) if weight.dim() > 2 else weight) @ known.to(weight.dtype)
    if bearer is layer:
        assert isinstance(layer.bias, Tensor)
        layer.bias.add_(added)
    else:
        assert isinstance(bearer.running_mean, Tensor)
        bearer.running_mean.sub_(added)


def _check_applied(model: nn.Module, masks: Mapping[str, Tensor], layers: Mapping[str, Any]) -> None:
    errors = []
    for name, mask in masks.items():
        parameter = layers[name].weight if name in layers else model.get_parameter(name)
        if bool((parameter.detach()[~mask.to(parameter.device)] != 0).any()):
            errors.append(InputError(f"{name!r} has nonzero weights where its mask says pruned", where="compact",
                                     expected="weights with the mask applied", fix="call pruner.finalize() first"))
    if errors:
        raise InputError.collect(errors)


def _check_same(model: nn.Module, small: nn.Module, example_inputs: object) -> None:
    """Raises InputError unless both give the same on the example and on noise of its shape."""
    noise = torch.Generator().manual_seed(0)
    drawn = tuple(
        torch.randn(value.shape, generator=noise).to(value) if isinstance(value, Tensor) and value.is_floating_point()
        else value for value in as_arguments(example_inputs))
    modes = {module: module.training for net in (model, small) for module in net.modules()}
    model.eval()
    small.eval()
    try:
        for arguments in (as_arguments(example_inputs), drawn):
            before, after = model(*arguments), small(*arguments)
            if not isinstance(before, Tensor):
                raise InputError(f"the network returns a {type(before).__name__}", where="compact", expected="a tensor")
            difference = float((before - after).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(before.abs().max())):
                raise InputError(f"the smaller network differs by {difference:.3g}", where="compact",
                                 expected="the same outputs", fix="this is a fault of ours: please report it")
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the smaller network does not run: {str(error).splitlines()[0]}", where="compact",
                         expected="a forward() that takes its sizes from its tensors",
                         fix="write -1 for the channels in view and reshape") from error
    finally:
        for module, training in modes.items():
            module.training = training
