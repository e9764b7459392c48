"""The optimizer, the learning rate as a function of the step, and what a training step costs in MACs.

All three are functions of the configuration and of numbers that a checkpoint has, so nothing of them needs
to be remembered.  It leaves out what is trained on what; read train.py for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import OptimizeConfig
from .trace import Call

ONE_CYCLE_RISE = 0.3
"""Share of training in which one_cycle rises; it starts at lr / 25 and ends at lr / 25e4.  All three are the
defaults of torch.optim.lr_scheduler.OneCycleLR, after Smith and Topin, arXiv:1708.07120."""
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 25e4


def make_optimizer(model: nn.Module, settings: OptimizeConfig) -> torch.optim.Optimizer:
    """SGD or Adam over all parameters."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def learning_rate(step: int, total_steps: int, steps_per_epoch: int, settings: OptimizeConfig) -> float:
    """The learning rate of optimizer step `step`, counted from 0."""
    progress = step / max(1, total_steps - 1)
    if settings.schedule == "constant":
        share = 1.0
    elif settings.schedule == "cosine":
        share = _cosine(1.0, 0.0, progress)
    elif progress < ONE_CYCLE_RISE:
        share = _cosine(ONE_CYCLE_START, 1.0, progress / ONE_CYCLE_RISE)
    else:
        share = _cosine(1.0, ONE_CYCLE_END, (progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE))
    warmup = settings.warmup_epochs * steps_per_epoch
    return settings.lr * share * min(1.0, (step + 1) / warmup if warmup else 1.0)


def training_macs(calls: list[Call], model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[int, int]:
    """(MACs of one training step on one image with these masks, the same dense).

    A layer whose weight has w kept entries, each used at m output positions, does m * w products forward,
    m * w for the gradient of its input (none for the first layer, whose input is the image) and m * w for
    the gradient of its kept weights: 3 m w, or 2 m w.  That is what a machine that skips pruned weights
    needs; PyTorch itself computes all of them.
    """
    modules = dict(model.named_modules())
    sparse = dense = 0
    for index, call in enumerate(calls):
        weight = modules[call.layer].weight
        assert isinstance(weight, Tensor)
        kept = int(masks[call.layer].sum()) if call.layer in masks else weight.numel()
        passes = 2 if index == 0 else 3
        sparse += passes * call.operation.gemm().m * kept
        dense += passes * call.operation.gemm().m * weight.numel()
    return sparse, dense


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1.0 + math.cos(math.pi * progress)) / 2.0
