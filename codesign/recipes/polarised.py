"""Polarised sub-networks: channel gates computed from the input are driven to 0 or 1 and to one answer for all inputs.

A gate reads the mean of each channel of what its layer reads and multiplies what leaves the layer's norm; three
terms press it towards 0 or 1, towards the same for every image of the batch, and towards the share of
channels asked for.  At a point of training the gates' running means decide which channels stay, for good.
Left out: gates on single connections; the weights of the terms are ours.

Source: "polarised consensus" sub-networks from a single run, known to us by description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError

from ..config import Section
from ..coupling import Span, channel_groups
from ..layers import execution_order, prunable
from ..method import Batch, Context, Method, Place
from ..recipe_parts import Beside, remove_channels_, scale_channels_
from ..structures import keep_best

REMEMBERS = 0.98
"""Weight of the past in the running mean of the gates: about fifty batches."""


class Settings(Section):
    """sparsity: share of the channels that gates are pressed to close.  at: progress at which they become masks.
    polarise, agree, budget: weights of the three terms."""

    sparsity: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    at: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    polarise: Annotated[float, Field(ge=0.0)] = 0.1
    agree: Annotated[float, Field(ge=0.0)] = 0.1
    budget: Annotated[float, Field(ge=0.0)] = 1.0


class Polarised(Method):
    """gates: float[b, width] of each group, of the pass that runs.  means: float[width], their running means."""

    makes_masks = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        self.settings, self.done = settings, False
        layers, order = prunable(context.model), execution_order(context.model, context.example)
        self.groups = list(channel_groups(context.model, context.example))
        if not self.groups:
            raise InputError("the network has no channels that can be removed", where="recipe polarised",
                             expected="convolutions or linear layers that follow one another")
        values: dict[str, Tensor] = {}
        device = context.example.device
        self.gates: list[Tensor] = [torch.empty(0)] * len(self.groups)
        self.means = [torch.full((group.width,), 0.5, device=device) for group in self.groups]
        self.handles: list[Any] = []
        self.gated: list[nn.Module] = []
        for index, group in enumerate(self.groups):
            first = min((span.layer for span in group.producers), key=order.index)  # runs before all that it gates
            inputs = layers[first].weight.shape[1]
            values[f"{index}/weight"] = torch.randn(inputs, group.width) / inputs**0.5
            values[f"{index}/bias"] = torch.ones(group.width)  # open at first: sigmoid(1) = 0.73
            self.handles.append(layers[first].register_forward_pre_hook(
                lambda module, given, index=index: self._look(index, given[0])))
            for span in group.norms or group.producers:
                module = context.model.get_submodule(span.layer)
                module.forward = partial(self._forward, module.forward, index, span)
                self.gated.append(module)
        self.beside = Beside({name: value.to(device) for name, value in values.items()})

    def _look(self, index: int, x: Tensor) -> None:
        seen = x.flatten(2).mean(2) if x.dim() > 2 else x
        gate = torch.sigmoid(seen @ self.beside.values[f"{index}/weight"] + self.beside.values[f"{index}/bias"])
        self.gates[index] = gate
        if torch.is_grad_enabled():
            self.means[index] = REMEMBERS * self.means[index] + (1.0 - REMEMBERS) * gate.detach().mean(0)

    def _forward(self, inner: Callable[[Tensor], Tensor], index: int, span: Span, x: Tensor) -> Tensor:
        out = inner(x)
        gate = self.gates[index].repeat_interleave(span.repeat, 1)
        before = span.start * span.repeat
        rest = torch.ones(len(gate), out.shape[1] - before - gate.shape[1], device=out.device)
        whole = torch.cat([torch.ones(len(gate), before, device=out.device), gate, rest], 1)
        return out * whole.reshape(*whole.shape, *[1] * (out.dim() - 2))

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """When it is time, open gates become channels and closed ones are gone."""
        if not self.done and place.progress >= self.settings.at:
            self._decide()
            self.rewrites += 1
        return Batch(x, y)

    def penalty(self, place: Place) -> Tensor | None:
        """What is not 0 or 1, what the images of the batch disagree about, and what is off the budget."""
        if self.done:
            return None
        gates = torch.cat(self.gates, 1)
        # Sums over channels: a gate is pressed as hard in a wide network as in a narrow one.
        halves, spread = (gates * (1.0 - gates)).mean(0).sum(), gates.var(0, correction=0).sum()
        off = gates.shape[1] * (gates.mean() - (1.0 - self.settings.sparsity)).square()
        return self.settings.polarise * halves + self.settings.agree * spread + self.settings.budget * off

    def after_step(self, place: Place) -> None:
        """The gates move at the network's rate."""
        self.beside.step(self.context.optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def _decide(self) -> None:
        kept = [(mean > 0.5) | keep_best(mean.double(), 1) for mean in self.means]
        for group, mean in zip(self.groups, self.means, strict=True):
            scale_channels_(self.context, group, mean)
        self._plain_()
        remove_channels_(self.context, self.groups, kept)

    def _plain_(self) -> None:
        self.done = True
        for module in self.gated:
            module.__dict__.pop("forward", None)
        for handle in self.handles:
            handle.remove()

    def row(self) -> dict[str, Any]:
        """Share of the gates that are open in the mean."""
        means = torch.cat(self.means)
        return {"open": float((means > 0.5).float().mean())}

    def state_dict(self) -> dict[str, Any]:
        """The gates' parameters, momentum and running means, and whether they are masks by now."""
        return {"done": self.done, "means": list(self.means), **self.beside.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; the pruner has the masks itself."""
        self.beside.restore_(state)
        self.means = [mean.to(self.context.example.device) for mean in state["means"]]
        if state["done"]:
            self._plain_()


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return Polarised(settings, context)
