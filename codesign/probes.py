"""Criteria that run the network on one batch themselves: GraSP, SynFlow, activations, and a random control.

Each is a function of (model, inputs, targets) to a score of every prunable weight, by layer name; the
model's mode, parameters and gradients are afterwards as they were.  GraSP and SynFlow leave out layers that no
gradient reaches, being frozen or unused.  Left out: how many rounds are made, which is the schedule's business
(SynFlow is published with a hundred).  Read criteria.py for the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from .draws import generator
from .layers import prunable

GRASP_TEMPERATURE = 200.0
"""What the authors divide logits by (their released code); it evens out the loss of an untrained network."""


def grasp(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """-w (H g): how much removing a weight would lower the gradient's flow, with its sign (Wang et al., ICLR 2020).

    inputs: a batch; targets: int64[b], its labels.  One Hessian-vector product.  The paper keeps the weights whose
    removal would harm the flow most; its own score is -w (H g), removed from the top, so ours is the opposite: large is
    worth keeping.  The flow is that of the weights that have a gradient.  Raises InputError without labels.
    """
    if targets is None:
        raise InputError("no labels", where="criterion 'grasp'", expected="a batch with its labels",
                         fix="pass probe=(inputs, targets) to the Pruner")
    weights = {name: layer.weight for name, layer in prunable(model).items()}
    with _as_it_was(model), torch.enable_grad():
        loss = nn.functional.cross_entropy(model(inputs) / GRASP_TEMPERATURE, targets)
        gradients = _gradients(loss, weights, create_graph=True)
        flow = sum(((gradient * gradient.detach()).sum() for gradient in gradients.values()), torch.zeros(()).to(loss))
        products = _gradients(flow, {name: weights[name] for name in gradients})
    return {name: (weights[name] * product).detach() for name, product in products.items()}


def synflow(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """|w| dR/d|w| of R = the sum of the outputs for an input of ones and weights |w| (Tanaka et al., NeurIPS 2020).

    Data-free: of inputs only the shape is used.  In evaluation mode, batch norms with their statistics as they are.
    """
    parameters = list(model.parameters())
    signs = [parameter.detach().sign() for parameter in parameters]
    with _as_it_was(model), torch.enable_grad():
        model.eval()
        try:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.abs_()
            weights = {name: layer.weight for name, layer in prunable(model).items()}
            gradients = _gradients(model(torch.ones_like(inputs[:1])).sum(), weights)
            scores = {name: (weights[name] * gradient).detach() for name, gradient in gradients.items()}
        finally:
            with torch.no_grad():
                for parameter, sign in zip(parameters, signs, strict=True):
                    parameter.mul_(sign)
    return scores


def activation_density(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """Of every weight: the share of the values of its input channel that is not zero (Foldy-Porto et al., 2002.02949).

    For structures that remove input channels: all weights of one have the same score.  A layer that does not run on the
    batch scores 0.
    """
    layers = prunable(model)
    shares: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> None:
        channel = 1 if isinstance(layers[name], nn.Conv2d) else x.dim() - 1
        shares[name] = (x != 0).movedim(channel, 0).flatten(1).double().mean(1)

    handles = [layer.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
               for name, layer in layers.items()]
    try:
        with _as_it_was(model), torch.no_grad():
            model.eval()
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    scores = {}
    for name, layer in layers.items():
        weight = layer.weight
        share = shares.get(name, torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device))
        if len(share) != weight.shape[1]:  # groups: filter j of `out` reads the channels of its group
            share = share.reshape(-1, weight.shape[1]).repeat_interleave(
                weight.shape[0] * weight.shape[1] // len(share), 0)
        scores[name] = share.reshape(-1, weight.shape[1], *[1] * (weight.dim() - 2)).expand_as(weight).to(weight.dtype)
    return scores


def random(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """The control: a fixed uniform draw for every weight, from the layer's name and shape alone.

    The same at every update, so that what is pruned stays pruned; torch's own generator is not touched.
    """
    def drawn(name: str, weight: Tensor) -> Tensor:
        return torch.rand(weight.shape, generator=generator(name, *weight.shape)).to(weight.device)

    return {name: drawn(name, layer.weight) for name, layer in prunable(model).items()}


def _gradients(value: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    """Of a scalar, by each weight that it depends on and that is not frozen."""
    free = {name: weight for name, weight in weights.items() if weight.requires_grad}
    if not free or not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, list(free.values()), create_graph=create_graph, allow_unused=True)
    return {name: gradient for name, gradient in zip(free, found, strict=True) if gradient is not None}


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Mode, buffers (batch norm statistics) and torch's generator are put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
