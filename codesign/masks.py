"""Masks on parameters: applied in place together with the optimizer's state, packed to bits for a checkpoint.

A parameter stays an ordinary parameter; a mask is a boolean tensor of its shape, True where it is kept.
What it leaves out: where masks come from.  Read pruner.py next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from simulator.errors import InputError, nearest

BIT_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)


INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a number."""


def kept_bits(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What `apply_mask_` takes: integers as wide as dtype, every bit set where the mask keeps."""
    return mask.to(INTEGERS[dtype.itemsize]).neg_()


@torch.no_grad()
def apply_mask_(parameter: Tensor, bits: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Zero `parameter` and every per-weight optimizer state (momentum, Adam's moments) where `bits` are not set.

    bits: `kept_bits` of its mask.  Numbers are cut bit by bit rather than multiplied, so that a NaN or infinity under a
    mask cannot survive; that takes a seventh of the time of masked_fill_.
    """
    _cut_(parameter, bits)
    if optimizer is None:
        return
    # .get: asking the default dict itself would create an entry for a parameter the optimizer does not hold
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            _cut_(value, bits)


def _cut_(value: Tensor, bits: Tensor) -> None:
    if value.element_size() != bits.element_size():  # a state of another precision than its parameter
        bits = kept_bits(bits != 0, value.dtype)
    value.view(bits.dtype).bitwise_and_(bits)


def pack(mask: Tensor) -> Tensor:
    """bool of any shape -> uint8[ceil(entries / 8)], in numpy.packbits' order: first entry in the highest bit."""
    bits = mask.detach().reshape(-1).cpu().to(torch.uint8)
    bits = nn.functional.pad(bits, (0, -bits.numel() % 8)).reshape(-1, 8)
    return (bits * torch.tensor(BIT_VALUES, dtype=torch.uint8)).sum(1, dtype=torch.int64).to(torch.uint8)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The mask that `pack` packed."""
    bits = packed.cpu().reshape(-1, 1).bitwise_and(torch.tensor(BIT_VALUES, dtype=torch.uint8)) != 0
    return bits.reshape(-1)[: math.prod(shape)].reshape(shape)


def check_masks(masks: Mapping[str, Tensor], names: Iterable[str], parameter: Callable[[str], Tensor]) -> None:
    """Raises InputError, all mistakes at once, unless every mask is bool, of the shape of a known parameter."""
    known = list(names)
    errors = []
    for name, mask in masks.items():
        if name not in known:
            expected = "a layer or parameter of the model"
            errors.append(InputError(f"mask for {name!r}", where="masks", expected=expected, fix=nearest(name, known)))
        elif not isinstance(mask, Tensor):
            expected = "a torch.bool tensor"
            errors.append(InputError(f"{type(mask).__name__} for {name!r}", where="masks", expected=expected))
        elif mask.dtype != torch.bool or mask.shape != parameter(name).shape:
            expected = f"torch.bool {list(parameter(name).shape)}"
            errors.append(InputError(f"{mask.dtype} {list(mask.shape)} for {name!r}", where="masks", expected=expected))
    if errors:
        raise InputError.collect(errors)
