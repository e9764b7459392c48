"""The chain of fully connected layers in a network: which linear layers hand their features on, each to the next alone.

Between two layers of a chain only operators stand that work on each feature for itself, so that features of different
parts never meet.  Left out: chains that fork, and the convolutions before the chain, whose outputs are any layer's
features.  Read coupling.py for how features are followed, partition.py for what a chain is divided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from simulator.errors import InputError

from .coupling import channel_groups
from .layers import execution_order, match, prunable

SCORES = {
    "magnitude": lambda weight, gradient: weight.abs(),
    "share": lambda weight, gradient: weight.abs() / weight.abs().sum(),
    "squared": lambda weight, gradient: weight.square(),
    "taylor": lambda weight, gradient: (weight * gradient).square(),
}
"""What a weight is worth to a partition: score(weight, gradient); by "share" all layers are worth the same."""


@dataclass(frozen=True)
class Chain:
    """layers: names of linear layers, in order.  norms: for each the batch norms between it and the next."""

    layers: tuple[str, ...]
    norms: tuple[tuple[str, ...], ...]


def chain_of(model: nn.Module, example_inputs: object, layers: Sequence[str] | None = None) -> Chain:
    """The longest chain of linear layers; of equals the first.

    layers: patterns of layers to choose among.  One layer is a chain only where it alone is named.  Raises InputError
    where no two layers hand on their features, for a pattern that matches nothing, and named layers that are none.
    """
    known = {name: layer for name, layer in prunable(model).items() if isinstance(layer, nn.Linear)}
    allowed = set(known) if layers is None else set(match(layers, known, "partition, layers"))
    following = _links(model, example_inputs)
    order = [name for name in execution_order(model, example_inputs) if name in allowed]
    longest: dict[str, tuple[str, ...]] = {}
    for name in reversed(order):
        longest[name] = (name, *longest.get(following.get(name, ("", ()))[0], ()))
    found = max((longest[name] for name in order), key=len, default=())
    if layers is not None and len(found) < len(order):
        raise InputError(f"layers {', '.join(order)} are no chain", where="partition",
                         expected="linear layers of which each alone reads all features of the one before",
                         fix=f"layers = {list(found)}")
    if len(found) < 2 and layers is None:
        raise InputError("no chain of linear layers", where="partition",
                         expected="two or more, such as the three of LeNet-5 or VGG-16",
                         fix="name a single layer in `layers`, or take another structure")
    return Chain(found, tuple(following[name][1] if place + 1 < len(found) else () for place, name in enumerate(found)))


def scores_of(model: nn.Module, chain: Chain, score: str = "magnitude") -> list[Tensor]:
    """The worth of every weight of a chain, float32[out, in] of each layer, on the CPU.

    Raises InputError where `score` needs gradients that are not there.
    """
    layers, found = prunable(model), []
    for name in chain.layers:
        weight = layers[name].weight
        if score == "taylor" and weight.grad is None:
            raise InputError(f"no gradient for {name!r}", where=f"partition, score {score!r}",
                             expected="gradients of a batch", fix='score = "magnitude"')
        gradient = weight if weight.grad is None else weight.grad
        found.append(SCORES[score](weight.detach(), gradient.detach()).float().cpu())
    return found


def _links(model: nn.Module, example_inputs: object) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Linear layer -> (the linear layer that alone reads all its outputs, batch norms between the two)."""
    found = {}
    layers = prunable(model)
    for group in channel_groups(model, example_inputs):
        if len(group.producers) == len(group.consumers) == 1:
            maker, reader = group.producers[0], group.consumers[0]
            first, second = layers[maker.layer], layers[reader.layer]
            if (isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and reader.repeat == 1
                    and group.width == first.out_features == second.in_features):
                found[maker.layer] = reader.layer, tuple(norm.layer for norm in group.norms)
    return found
