"""Error-map pruning: a convolution whose backward pass skips output channels, in both of its products.

Of every error map only the channels that matter most to this batch are propagated: their kernels get a
gradient and pass the error on, the others are not touched, so the work really shrinks.  Forward and
evaluation are as ever.  Left out: layers other than plain 2-d convolutions, which go back in full.  Read
recipes/on_device.py for who uses it.

Source: early instance filtering and error-map pruning, arXiv 2007.03213 (TCAD 2020); the importance is
gamma1 |W_j|_1 + gamma2 |d_j|_1 per instance, summed over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simulator.errors import InputError

from .error_map_kernel import column_sums
from .precision import as_autocast

VECTOR = 16
"""Channels that a CPU kernel works on at once: as many numbers of 32 bits are in an AVX-512 register."""
CACHED = 1 << 18
"""Numbers of an error map that are summed at a time, 1 MiB, so that their absolute values stay in a core's cache."""


@dataclass(frozen=True)
class ErrorMapPruning:
    """kept: share of a layer's output channels that go back.  weight, error: the paper's gamma1 and gamma2.

    bits: width to which weights, activations and error maps are rounded in training, None = not at all.
    """

    kept: float = 0.4
    weight: float = 0.0
    error: float = 1.0
    bits: int | None = None

    def __post_init__(self) -> None:
        errors = []
        if not 0.0 < self.kept <= 1.0:
            errors.append(InputError(f"kept = {self.kept}", where="error maps", expected="a share above 0, up to 1"))
        if self.weight < 0 or self.error < 0 or self.weight + self.error == 0:
            errors.append(InputError(f"weight = {self.weight}, error = {self.error}", where="error maps",
                                     expected="two numbers of at least 0, one of them above"))
        if self.bits is not None and not 2 <= self.bits <= 16:
            errors.append(InputError(f"bits = {self.bits}", where="error maps", expected="2 to 16, or none"))
        if errors:
            raise InputError.collect(errors)

    def channels(self, count: int) -> int:
        """How many of `count` channels go back: to the nearest, at least one."""
        return max(1, int(self.kept * count + 0.5))


def chosen_channels(error: Tensor, weight: Tensor, rule: ErrorMapPruning) -> Tensor:
    """int64[channels kept], ascending: those of most importance; ties by the lowest number.

    error: float[b, n, h, w].  weight: float[n, c, kh, kw].
    """
    parts = []
    if rule.error:
        parts.append(rule.error * _absolute_sums(error))
    if rule.weight:
        sizes = weight.abs().flatten(1)
        parts.append(rule.weight * len(error) * sizes.sum(1, dtype=_wide(sizes.dtype)).double())
    importance, kept = sum(parts[1:], parts[0]), rule.channels(len(weight))
    if importance.device.type == "cpu":  # numpy starts ten times sooner, which shows at these sizes
        best = np.argsort(-importance.detach().numpy(), kind="stable")[:kept]
        return torch.from_numpy(np.sort(best))
    return importance.sort(descending=True, stable=True).indices[:kept].sort().values


def _absolute_sums(error: Tensor) -> Tensor:
    """float64[n]: of each channel the sum of absolute values, over the batch."""
    if _channels_last(error) and error.device.type == "cpu" and error.dtype == torch.float32:
        return torch.from_numpy(column_sums(_rows(error).numpy()))
    sums = torch.zeros(error.shape[1], dtype=torch.float64, device=error.device)
    for part in error.split(max(1, CACHED * len(error) // max(1, error.numel()))):
        sums += part.abs().sum((0, 2, 3), dtype=_wide(part.dtype)).double()
    return sums


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type to add or round numbers of this type in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def prune_error_maps_(
    model: nn.Module, rule: ErrorMapPruning, log: list[tuple[str, Tensor]] | None = None
) -> list[str]:
    """Let every convolution of `model` go back by `rule` while it trains; returns their names.

    Modules, parameters and state_dict keys stay as they are.  log: where each backward pass leaves (layer, channels
    kept), if given.  Grouped convolutions go back in full.
    """
    taken = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and isinstance(module.padding, tuple):
            module.forward = partial(_forward, module, rule, name, log)  # type: ignore[method-assign]
            taken.append(name)
    return taken


def restore_error_maps_(model: nn.Module) -> None:
    """Undo `prune_error_maps_`."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.__dict__.pop("forward", None)


def _forward(conv: nn.Conv2d, rule: ErrorMapPruning, name: str, log: list[tuple[str, Tensor]] | None,
             inputs: Tensor) -> Tensor:
    if not conv.training or not torch.is_grad_enabled():
        return nn.Conv2d.forward(conv, inputs)
    weight, padding = conv.weight, conv.padding
    if rule.bits is not None:
        inputs, weight = _Rounded.apply(inputs, rule.bits), _Rounded.apply(weight, rule.bits)
    if conv.padding_mode != "zeros":  # as nn.Conv2d does it: the edge is made first, and its gradient is the padding's
        inputs, padding = F.pad(inputs, conv._reversed_padding_repeated_twice, conv.padding_mode), (0, 0)
    out: Tensor = _PrunedBackward.apply(*as_autocast(inputs, weight, conv.bias), conv.stride, padding, conv.dilation,
                                        rule, name, log)
    return out


class _PrunedBackward(torch.autograd.Function):
    """A convolution; backward gathers the chosen channels and runs the ordinary products on those alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
                rule: ErrorMapPruning, name: str, log: list[tuple[str, Tensor]] | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.how = stride, padding, dilation, rule, name, log, bias is not None
        return F.conv2d(inputs, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, rule, name, log, has_bias = ctx.how
        error = errors[0]
        if rule.bits is not None:
            error = rounded(error, rule.bits, stochastic=True)
        channels = chosen_channels(error, weight, rule)
        if log is not None:
            log.append((name, channels))
        whole = len(channels) == len(weight)
        part = (error, weight) if whole else (_take(error, channels), weight.index_select(0, channels))
        to_input, to_weight, to_bias = _products(part[0], inputs, part[1], stride, padding, dilation,
                                                 (*ctx.needs_input_grad[:2], has_bias))
        if not whole:
            if to_weight is not None:
                to_weight = torch.zeros_like(weight).index_copy_(0, channels, to_weight)
            if to_bias is not None:
                to_bias = torch.zeros(len(weight), dtype=to_bias.dtype, device=to_bias.device).index_copy_(
                    0, channels, to_bias)
        return to_input, to_weight, to_bias, None, None, None, None, None, None


def _take(error: Tensor, channels: Tensor) -> Tensor:
    """Those channels of an error map, in its own memory format: where channels lie last, rows of a matrix are cut."""
    if not _channels_last(error):
        return error.index_select(1, channels)
    part = _rows(error).index_select(1, channels)  # four times as fast as error.index_select(1)
    return part.reshape(len(error), *error.shape[2:], len(channels)).permute(0, 3, 1, 2)


def _rows(values: Tensor) -> Tensor:
    """[b, n, h, w] in channels_last -> its view [b h w, n]."""
    return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])


def _channels_last(values: Tensor) -> bool:
    return values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()


def _products(error: Tensor, inputs: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any,
              wanted: tuple[bool, bool, bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of inputs, weight and bias, those that are wanted; error: float[b, kept, h, w].

    A CPU's backward kernels work on 16 output channels at a time, so that 6 of 16 take as long as all.  With stride 1
    the same products have a form in which all input channels are the outputs: the input's gradient is a convolution of
    the error with the kernels turned around, and the weight's gradient is that of this convolution, turned around.
    """
    bias = error.sum((0, 2, 3)) if wanted[2] else None
    around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]

    def products(error: Tensor, rows: Tensor, weight: Tensor, pads: Any, which: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(error, rows, weight, None, stride, pads, dilation, False, [0, 0], 1,
                                                   which)

    if set(stride) != {1} or min(around) < 0 or error.device.type != "cpu":
        to_input, to_weight, _ = products(error, inputs, weight, padding, [wanted[0], wanted[1], False])
        return to_input, to_weight, bias
    last = _channels_last(inputs)
    turned = weight.flip(2, 3).transpose(0, 1).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format)
    to_input = F.conv2d(error, turned, None, 1, around, dilation) if wanted[0] else None
    if not wanted[1]:
        return to_input, None, bias
    if weight.shape[1] >= VECTOR and (last or weight.shape[0] < VECTOR):
        to_weight = products(inputs, error, turned, around, [False, True, False])[1].flip(2, 3).transpose(0, 1)
    else:
        to_weight = products(error, inputs, weight, padding, [False, True, False])[1]
    return to_input, to_weight, bias


class _Rounded(torch.autograd.Function):
    """Rounding in the forward pass, straight through in the backward one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: int) -> Tensor:
        return rounded(values, bits)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        return errors[0], None


def rounded(values: Tensor, bits: int, stochastic: bool = False) -> Tensor:
    """`values` on 2^bits - 1 levels symmetric about 0, scaled by the largest; stochastic: rounded up by chance.

    The 8-bit scheme of Banner et al. (NeurIPS 2018) in its essentials: 8-bit weights, activations and errors, errors
    rounded stochastically; its range batch norm is left out.
    """
    given, values = values.dtype, values.to(_wide(values.dtype))  # bfloat16 has no room for a fraction beside 7 bits
    largest = values.detach().abs().amax()
    levels = 2 ** (bits - 1) - 1
    scale = torch.where(largest > 0, largest / levels, torch.ones_like(largest))
    scaled = values / scale
    down = (scaled + torch.rand_like(scaled)).floor() if stochastic else scaled.round()
    return (down.clamp(-levels, levels) * scale).to(given)
