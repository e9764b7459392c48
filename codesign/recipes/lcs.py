"""LCS: a line between two sets of weights, dense at one end and sparse at the other, trained as a whole.

Every batch draws a position a on the line; the network is (1 - a) w0 + a w1 with its smallest weights pruned, a
times the final sparsity of each layer, and both ends learn by their share of the gradient.  Half of the batches
are at an end; levels grow from dense over most of training; the ends are pressed apart by the square of their
cosine.  At the end one position goes into the network.  A batch norm's statistics belong to one level: they are
estimated anew from the last batches whenever the network is to be evaluated, where the paper takes group norm.
Left out: lines of norms, biases and layers that stay dense, which all positions share; channels and number
types as levels; and the line itself in the export, which a checkpoint has.  Read ../draws.py for the draw.

Source: Nunez et al., "LCS: Learning Compressible Subspaces", arXiv 2110.04252 (LCS+L, unstructured), and the
authors' released code for how often at an end, how slowly and how far apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.structure import UNSTRUCTURED

from ..config import Section
from ..draws import generator, uniform
from ..method import Batch, Context, Method, Place
from ..recipe_parts import chosen_layers, estimate_norms_, install_, projected
from ..step_macs import layer_macs

SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Positions that the summary tells of."""
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(Section):
    """sparsity: of each layer at the sparse end.  position: what goes into the network, 0 = the dense end.  ends: share
    of the batches that are at an end.  rise: share of training in which levels grow to what they are.  apart: of the
    squared cosine between the ends.  batches: for the statistics of batch norms.  skip: patterns of layers that stay
    dense; None = the first convolution and the classifier."""

    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    position: Unit = 1.0
    ends: Unit = 0.5
    rise: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    apart: Annotated[float, Field(ge=0.0)] = 1.0
    batches: Annotated[int, Field(ge=1)] = 8
    skip: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class Lcs(Method):
    """first, second: the ends, by layer.  masks: of the point that the network shows, which between steps is
    `position`.  last: the last batches.  levels: what the summary tells."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.layers = settings, chosen_layers(context, settings.skip)
        self.work = layer_macs(context.model, context.example)
        self.first = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        # Another draw of whatever the network was initialised with: the same values in another order.
        self.second = {name: nn.Parameter(value.flatten()[torch.randperm(
            value.numel(), generator=generator(context.seed, "lcs", name)).to(value.device)].reshape(value.shape))
            for name, value in self.first.items()}
        context.optimizer.add_param_group({"params": list(self.second.values())})  # with its rate, decay and momentum
        self.masks: dict[str, Tensor] = {}
        self.last: list[tuple[Tensor, Tensor]] = []
        self.levels: list[dict[str, float]] = []
        self.normed = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in context.model.modules())
        self.products = self.looked = 0  # multiply-accumulates of the batch's step on an image, and of estimates
        self._show_(settings.position, 0.0)

    def position(self, step: int) -> float:
        """Where on the line a batch is: at each end in half of `ends` of all cases, else anywhere."""
        drawn, ends = uniform(self.context.seed, "lcs", step), self.settings.ends
        return float(drawn >= ends / 2.0) if drawn < ends else (drawn - ends) / (1.0 - ends)

    @torch.no_grad()
    def _show_(self, position: float, progress: float) -> None:
        level = position * self.settings.sparsity * min(1.0, progress / self.settings.rise)
        for name, layer in self.layers.items():
            layer.weight.copy_(torch.lerp(self.first[name], self.second[name], position))
            self.masks[name] = projected(layer.weight.detach(), UNSTRUCTURED, level)
            layer.weight.masked_fill_(~self.masks[name], 0.0)

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """The network goes to the batch's point of the line."""
        self.last = [*self.last, (x, y)][-self.settings.batches :]
        self._show_(self.position(place.step), place.progress)
        kept = {name: float(mask.double().mean()) for name, mask in self.masks.items()}
        self.products = round(sum((layer.forward + layer.backward) * kept.get(layer.layer, 1.0) for layer in self.work))
        estimated = self.normed and place.batch + 1 == place.batches
        self.looked = sum(len(x) for x, _ in self.last) * sum(layer.forward for layer in self.work) * int(estimated)
        return Batch(x, y)

    @torch.no_grad()
    def after_backward(self, place: Place) -> None:
        """The chain rule to both ends, and what presses them apart: cosine^2 = product^2 / (size0 size1)."""
        position = self.position(place.step)
        ends = [(self.first[name], self.second[name]) for name in self.layers]
        product = sum(float((first * second).sum()) for first, second in ends)
        sizes = [sum(float(pair[end].square().sum()) for pair in ends) for end in (0, 1)]
        pull = 2.0 * self.settings.apart * product / (sizes[0] * sizes[1])
        for name, layer in self.layers.items():
            first, second, gradient = self.first[name], self.second[name], layer.weight.grad
            layer.weight.copy_(first)
            if gradient is not None:
                gradient.masked_fill_(~self.masks[name], 0.0)
                second.grad = position * gradient + pull * (first - product / sizes[1] * second)
                gradient.mul_(1.0 - position).add_(pull * (second - product / sizes[0] * first))

    def after_step(self, place: Place) -> None:
        """Both ends have moved."""
        for name, layer in self.layers.items():
            self.first[name] = layer.weight.detach().clone()
        self._show_(self.settings.position, place.progress)

    def end_epoch(self, place: Place) -> None:
        """What is evaluated gets statistics of its own; at the end it is final, and the masks are the pruner's."""
        if place.epoch + 1 == place.epochs:
            self.levels = [self._level(position) for position in SHOWN]
            self._show_(self.settings.position, 1.0)
            install_(self.context, self.masks, "unstructured")
        estimate_norms_(self.context.model, [x for x, _ in self.last])

    def _level(self, position: float) -> dict[str, float]:
        self._show_(position, 1.0)
        estimate_norms_(self.context.model, [x for x, _ in self.last])
        losses = torch.cat([self.context.losses_of(x, y) for x, y in self.last])
        return {"position": position, "sparsity": position * self.settings.sparsity, "loss": float(losses.mean())}

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """What is pruned at the batch's level is left out of all three products; passes for batch norms come on top."""
        return self.products * (0 if batch is None else len(batch.x)) + self.looked

    def summary(self) -> dict[str, Any]:
        """How the line does on the last training batches, from end to end: what any of its positions would give."""
        return {"name": "lcs", "levels": list(self.levels)}

    def state_dict(self) -> dict[str, Any]:
        """Both ends and the last batches; the point that the network shows is in the network."""
        return {"first": dict(self.first), "second": {name: end.detach().clone() for name, end in self.second.items()},
                "last": list(self.last), "levels": list(self.levels)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        device = self.context.example.device
        for name, value in state["first"].items():
            self.first[name].copy_(value)
            self.second[name].copy_(state["second"][name])
        self.last = [(x.to(device), y.to(device)) for x, y in state["last"]]
        self.levels = list(state["levels"])


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Lcs(settings, context)
