"""Which weights matter: a score for every weight, the larger the more it is worth keeping.

A criterion is a pure function of (weight, gradient) to a tensor of the weight's shape; grouping scores
into units and counting what is kept belong to structures.py.  Criteria that must run the network
themselves are in probes.py; learned scores are left out.  Read structures.py next.

Magnitude: Han et al., NIPS 2015.  Taylor: (w g)^2 is the squared first-order change of the loss when the
weight is removed (Molchanov et al., CVPR 2019); its mean over batches is the diagonal empirical Fisher
information times w^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from .layers import prunable
from .lookup import look_up
from .probes import activation_density, grasp, random, synflow

FISHER_MEMORY = 0.99
"""Weight of the past in the running mean of "fisher": it remembers about 100 batches, so that the large
gradients of the first steps are forgotten by the time a mask is made."""


Probe = Callable[[nn.Module, Tensor, Tensor | None], Mapping[str, Tensor]]
"""(model, inputs, targets) -> scores by layer name: for criteria that need more than a weight and its gradient.

A layer that is left out has no score: it must be one that stays dense.
"""


@dataclass(frozen=True)
class Criterion:
    """score(weight, gradient) -> scores of the weight's shape; gradient is None unless `needs_gradient`.

    memory: 0 = the score of the latest batch; between 0 and 1 the weight of the past in a running mean; 1 = the sum of
    all.  pool: what a unit's score is of its entries', "sum" or "max".  probe: asked instead of `score`, with one
    batch, whenever masks are made.
    """

    score: Callable[[Tensor, Tensor | None], Tensor]
    needs_gradient: bool = False
    memory: float = 0.0
    pool: str = "sum"
    probe: Probe | None = None


def magnitude(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """|w|."""
    return weight.detach().abs()


def magnitude_squared(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """w^2: the same order as |w| for single weights, energy instead of sum of sizes for blocks and channels."""
    return weight.detach().square()


def taylor_squared(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """(w g)^2, the squared first-order estimate of the change of the loss when the weight is removed."""
    return (weight.detach() * _given(gradient, "taylor_squared")).square()


def taylor(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """|w g|, the size of the same estimate; of one batch at initialisation it is SNIP (Lee et al., ICLR 2019)."""
    return (weight.detach() * _given(gradient, "taylor")).abs()


def movement(weight: Tensor, gradient: Tensor | None = None) -> Tensor:
    """-w g: positive where training moves the weight away from zero (Sanh et al., NeurIPS 2020); may be negative."""
    return -weight.detach() * _given(gradient, "movement")


def _given(gradient: Tensor | None, name: str) -> Tensor:
    if gradient is None:
        raise InputError(
            "no gradient",
            where=f"criterion {name!r}",
            expected="a weight after backward()",
            fix="pass optimizer= to the Pruner, or call step() before zero_grad()",
        )
    return gradient.detach()


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude),
    "magnitude_squared": Criterion(magnitude_squared),
    "magnitude_max": Criterion(magnitude, pool="max"),
    "taylor": Criterion(taylor, needs_gradient=True, memory=FISHER_MEMORY),
    "taylor_squared": Criterion(taylor_squared, needs_gradient=True),
    "fisher": Criterion(taylor_squared, needs_gradient=True, memory=FISHER_MEMORY),
    "movement": Criterion(movement, needs_gradient=True, memory=1.0),
    "snip": Criterion(taylor, needs_gradient=True),
    "grasp": Criterion(magnitude, probe=grasp),
    "synflow": Criterion(magnitude, probe=synflow),
    "activation_density": Criterion(magnitude, probe=activation_density),
    "random": Criterion(magnitude, probe=random),
}


def parse_criterion(given: str | Criterion | Callable[[Tensor, Tensor | None], Tensor]) -> Criterion:
    """The criterion that a name, "package.module:Name", a Criterion or a function of (weight, gradient) means.

    A bare function is taken to need no gradient.  Raises InputError for an unknown name.
    """
    found = look_up(given, CRITERIA, "criterion")
    return found if isinstance(found, Criterion) else Criterion(found)


def accumulate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    criterion: str | Criterion = "fisher",
) -> dict[str, Tensor]:
    """Mean score over batches of every prunable layer's weight, without training: {layer: float of its shape}.

    The model runs in its present mode and its gradients are gone afterwards.  Raises InputError where
    `batches` is empty.
    """
    rule = parse_criterion(criterion)
    layers = prunable(model)
    total: dict[str, Tensor] = {}
    count = 0
    for inputs, targets in batches:
        model.zero_grad(set_to_none=True)
        loss_function(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            score = rule.score(layer.weight, layer.weight.grad)
            total[name] = total[name] + score if name in total else score
        count += 1
    model.zero_grad(set_to_none=True)
    if not count:
        raise InputError("no batches", where="accumulate", expected="at least one batch of (inputs, targets)")
    return {name: score / count for name, score in total.items()}


def running_mean(mean: Tensor | None, score: Tensor, memory: float) -> Tensor:
    """The next value of a running mean that starts with its first score; of a running sum where memory is 1."""
    if mean is None or memory == 0.0:
        return score
    if memory == 1.0:
        return mean + score
    return torch.lerp(score, mean, memory)
