"""Scores and masks of whole channels: what a decision to keep or remove channel j means for every weight.

Removing a channel of a group zeroes the filters that make it (with their bias and batch norm entries) and
the inputs that read it.  It leaves out which channels to remove, and the smaller network that results.
Read coupling.py for the groups, pruner.py for the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .coupling import ChannelGroup, Span


def channel_scores(group: ChannelGroup, scores: Mapping[str, Tensor]) -> Tensor:
    """float64[width]: the summed score of each channel, over its producers' filters and its consumers' inputs.

    scores: layer -> scores of the weight's shape.
    """
    return sum(
        (part.double().sum(1) for part in channel_entries(group, scores)),
        start=torch.zeros(group.width, dtype=torch.float64, device=next(iter(scores.values())).device),
    )


def channel_entries(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Iterable[Tensor]:
    """For every layer of the group, the entries that belong to each channel: [width, entries]."""
    for span in group.producers:
        yield tensors[span.layer][span.start : span.start + group.width].reshape(group.width, -1)
    for span in group.consumers:
        first, last = span.start * span.repeat, (span.start + group.width) * span.repeat
        part = tensors[span.layer].transpose(0, 1)[first:last]
        yield part.reshape(group.width, -1)


def group_masks(model: nn.Module, kept: Sequence[tuple[ChannelGroup, Tensor]]) -> dict[str, Tensor]:
    """The masks that remove channels: by layer name for weights, by parameter name for biases and batch norm.

    kept: for each group bool[width], True where the channel stays.  A layer that reads one group and makes
    another has the product of both.  Layers that lose nothing are left out.
    """
    modules = dict(model.named_modules())
    masks: dict[str, Tensor] = {}
    for group, keep in kept:
        for span in group.producers:
            mask = _mask_of(masks, span.layer, modules[span.layer].weight)
            mask[span.start : span.start + group.width] &= keep.reshape(-1, *[1] * (mask.dim() - 1))
            _mask_entries(masks, modules, span, keep, ("bias",))
        for span in group.norms:
            _mask_entries(masks, modules, span, keep, ("weight", "bias"))
        for span in group.consumers:
            mask = _mask_of(masks, span.layer, modules[span.layer].weight)
            inputs = keep.repeat_interleave(span.repeat)
            first = span.start * span.repeat
            mask[:, first : first + len(inputs)] &= inputs.reshape(1, -1, *[1] * (mask.dim() - 2))
    return masks


def _mask_entries(
    masks: dict[str, Tensor], modules: Mapping[str, nn.Module], span: Span, keep: Tensor, names: tuple[str, ...]
) -> None:
    for name in names:
        parameter = getattr(modules[span.layer], name, None)
        if parameter is not None:
            entries = keep.repeat_interleave(span.repeat)
            first = span.start * span.repeat
            _mask_of(masks, f"{span.layer}.{name}", parameter)[first : first + len(entries)] &= entries


def _mask_of(masks: dict[str, Tensor], key: str, tensor: Tensor) -> Tensor:
    if key not in masks:
        masks[key] = torch.ones_like(tensor, dtype=torch.bool)
    return masks[key]
