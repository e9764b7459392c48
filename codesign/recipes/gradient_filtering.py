"""Gradient filtering: the backward pass of a convolution sees one error per patch of the map, and kernels by their sum.

The error map is averaged over patches of r x r; the gradient of the input is that value times the kernel's
sum, the same for a whole patch; the gradient of a kernel is one number for all its taps, the patch errors
times the summed inputs.  Forward and evaluation are as ever.  Left out: grouped convolutions, which go back
in full.  Read ../error_maps.py for the sibling that drops channels instead.

Source: Yang, Li, Marculescu, "Efficient On-device Training via Gradient Filtering", CVPR 2023.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from simulator.workload import Conv2d

from ..config import Section
from ..layers import match
from ..method import Batch, Context, Method
from ..precision import as_autocast
from ..step_macs import layer_macs
from ..trace import record_calls


class Settings(Section):
    """patch: r.  layers: patterns of the convolutions whose backward pass is filtered."""

    patch: Annotated[int, Field(ge=1)] = 2
    layers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("*",)


class GradientFiltering(Method):
    """filtered: layer -> share of its backward products that is left."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        convolutions = {name: module for name, module in context.model.named_modules()
                        if isinstance(module, nn.Conv2d) and module.groups == 1 and isinstance(module.padding, tuple)}
        wanted = match(settings.layers, convolutions, "recipe, layers")
        self.filtered: dict[str, Fraction] = {}
        for call in record_calls(context.model, context.example):
            if call.layer in wanted:
                operation = call.operation
                assert isinstance(operation, Conv2d)
                patches = -(-operation.out_h // settings.patch) * -(-operation.out_w // settings.patch)
                taps = operation.kernel_h * operation.kernel_w
                self.filtered[call.layer] = Fraction(patches, operation.out_h * operation.out_w * taps)
        for name in self.filtered:
            module = convolutions[name]
            module.forward = partial(_forward, module, settings.patch)  # type: ignore[method-assign]
        work = layer_macs(context.model, context.example, self.filtered)
        self.step_macs = sum(layer.forward + layer.backward for layer in work)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """All of the forward products, and what the patches leave of the backward ones; averaging is not counted."""
        return self.step_macs * (0 if batch is None else len(batch.x))

    def summary(self) -> dict[str, Any]:
        """The share of each layer's backward products that is left."""
        return {"name": "gradient_filtering",
                "backward_share": {name: float(share) for name, share in self.filtered.items()}}


def _forward(conv: nn.Conv2d, patch: int, inputs: Tensor) -> Tensor:
    if not conv.training or not torch.is_grad_enabled():
        return nn.Conv2d.forward(conv, inputs)
    out: Tensor = _FilteredBackward.apply(  # type: ignore[no-untyped-call]
        *as_autocast(inputs, conv.weight, conv.bias), conv, patch)
    return out


class _FilteredBackward(torch.autograd.Function):
    """A convolution that keeps only its inputs' patch sums for the way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, patch: int) -> Tensor:
        out = conv._conv_forward(inputs, weight, bias)  # with its padding, of whatever mode; the way back has no edges
        # On the grid of the outputs, so that strided layers are as others; the identity where the sizes are the same.
        seen = F.adaptive_avg_pool2d(inputs, (out.shape[2], out.shape[3]))
        ctx.save_for_backward(_sums(seen, patch), weight)
        ctx.how = patch, inputs.shape, bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        seen, weight = ctx.saved_tensors
        patch, shape, has_bias = ctx.how
        error = errors[0]
        rows, cols = error.shape[2:]
        mean = _sums(error, patch) / _sums(torch.ones_like(error[:1, :1]), patch)
        to_weight = torch.einsum("bnhw,bchw->nc", mean, seen)[:, :, None, None].expand_as(weight)
        to_input = None
        if ctx.needs_input_grad[0]:
            coarse = torch.einsum("bnhw,nc->bchw", mean, weight.sum((2, 3)))
            fine = coarse.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, :rows, :cols]
            to_input = F.interpolate(fine, shape[2:]) * (rows * cols / (shape[2] * shape[3]))
        return to_input, to_weight.contiguous(), error.sum((0, 2, 3)) if has_bias else None, None, None


def _sums(values: Tensor, patch: int) -> Tensor:
    """[b, c, h, w] -> the sum over each patch, those at the edge smaller."""
    rows, cols = values.shape[2:]
    padded = F.pad(values, (0, -cols % patch, 0, -rows % patch))
    return F.avg_pool2d(padded, patch) * patch**2


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return GradientFiltering(settings, context)
