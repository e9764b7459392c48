"""Pruning in one call, without training: `sparsify(model, "2:4")`.

It is the pruner with its schedule at the end from the start; it leaves out recovery, so expect accuracy to
drop until the model is trained again.  Read pruner.py next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from simulator.errors import InputError
from simulator.structure import Structure

from .criteria import Criterion, accumulate, parse_criterion
from .pruner import Pruner
from .settings import PrunerConfig


def sparsify(
    model: nn.Module,
    structure: str | Structure | Mapping[str, str] = "2:4",
    sparsity: float | None = None,
    criterion: str | Criterion = "magnitude",
    *,
    scope: str | Mapping[str, float] = "local",
    skip: tuple[str, ...] | None = None,
    example_inputs: Any = None,
    batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    loss_function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> dict[str, Tensor]:
    """Prune `model` in place, once, without training; returns the masks by layer name.

    batches: (inputs, targets) to take gradients on, for a criterion that needs them.  Everything else as in
    PrunerConfig.  Keep pruned weights at zero in later training with Pruner.set_masks_.
    """
    config = PrunerConfig(
        structure=structure, schedule="constant", sparsity=sparsity, criterion=criterion, scope=scope, skip=skip
    )
    pruner = Pruner(model, config, example_inputs=example_inputs)
    scores = None
    if parse_criterion(criterion).needs_gradient:
        if batches is None:
            raise InputError(
                f"criterion {criterion!r} without batches",
                where="sparsify",
                expected="batches of (inputs, targets) to take gradients on",
                fix="pass batches=loader",
            )
        scores = accumulate(model, batches, loss_function, criterion)
    pruner.finalize(scores)
    return pruner.masks
