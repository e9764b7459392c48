"""Low rank as a structure: a weight as the product of two thin ones, and the two small layers that replace it.

A weight [out, in * kh * kw] of rank r is a layer with r outputs followed by one that mixes them (1x1 for a
convolution); it pays where r < out * rest / (out + rest).  Left out: convolutions in groups, and ranks over
spatial axes.  Read recipes/trained_rank_pruning.py for training towards it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from .layers import Layer, prunable


def rank_for_energy(singular: Tensor, energy: float) -> int:
    """The least rank whose squared singular values (float[r], falling) hold `energy` of their sum; at least 1."""
    share = singular.double().square().cumsum(0) / singular.double().square().sum()
    return min(len(singular), int((share < energy - 1e-12).sum()) + 1)


def low_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left float[out, rank], right float[rank, rest]) whose product is nearest to the weight seen as [out, rest]."""
    u, s, v = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    return u[:, :rank] * s[:rank], v[:rank]


def pays(weight: Tensor, rank: int) -> bool:
    """Whether two layers of this rank hold fewer weights than the one."""
    rows, rest = weight.flatten(1).shape
    return rank * (rows + rest) < rows * rest


def factorised(layer: Layer, rank: int) -> nn.Sequential:
    """Two layers that compute what a layer with its weight at `rank` does; the second has the bias.

    Raises InputError for a convolution in groups.
    """
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        raise InputError(f"a convolution in {layer.groups} groups", where="low rank", expected="one group",
                         fix="leave the layer as it is, as `factorise` does")
    left, right = low_rank(layer.weight, rank)
    first: Layer
    second: Layer
    if isinstance(layer, nn.Conv2d):
        first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding,  # type: ignore[arg-type]
                          layer.dilation, bias=False, padding_mode=layer.padding_mode)  # type: ignore[arg-type]
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    else:
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_(right.reshape(first.weight.shape))
        second.weight.copy_(left.reshape(second.weight.shape))
        if layer.bias is not None:
            assert second.bias is not None
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second).to(layer.weight.device)


def factorise(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """A copy of the network in which every named layer that gains by it is two; it can be traced and simulated.

    Convolutions in groups stay as they are.
    """
    small = copy.deepcopy(model)
    for name, layer in prunable(small).items():
        if name in ranks and getattr(layer, "groups", 1) == 1 and pays(layer.weight, ranks[name]):
            parent, _, last = name.rpartition(".")
            setattr(small.get_submodule(parent), last, factorised(layer, ranks[name]))
    return small
