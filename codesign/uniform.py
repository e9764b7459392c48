"""The same structure everywhere: the strong baselines that a choice per layer has to beat.

A uniform network has one structure at one density on every layer that may be pruned, and one share of every
channel group.  Left out: its masks and its price (cost.py).  Read cost.py for who compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from simulator.structure import Structure

from .candidates import DENSE_KIND, Kind, Site
from .channels import channel_scores
from .coupling import ChannelGroup
from .structures import keep_best

STEPS = 32
"""Shares are tried in steps of 1/32: fine enough that a uniform network is not beaten by its own rounding."""

State = tuple[dict[int, Tensor], dict[str, Kind]]


def largest_uniform(
    structure: Structure,
    sites: Sequence[Site],
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    fits: Callable[[State], bool],
) -> State | None:
    """The uniform network of `structure` that keeps the most and fits, or None.

    dense: every group keeps the largest share of its channels.  A structure that fixes its density: likewise, on top
    of the structure, so that 2:4 also has a network below the cost of 2:4 alone.  Any other structure: all channels,
    at the largest density.  `fits` is asked by bisection, as if monotone; what is returned was asked and fits.
    """
    fixed = structure.fixed_density

    def state(step: int) -> State:
        share = step / STEPS
        kind = Kind(structure, share if fixed is None else fixed)
        kept = 1.0 if fixed is None else share
        channels = {index: keep_best(channel_scores(group, scores), max(1, math.floor(group.width * kept + 0.5)))
                    for index, group in enumerate(groups)}
        allowed = {site.name: structure in {one.structure for one in site.kinds} for site in sites}
        return channels, {name: kind if may else DENSE_KIND for name, may in allowed.items()}

    found = state(STEPS)
    if fits(found):
        return found
    if fixed is not None and not groups:
        return None
    low, high, best = 0, STEPS, None
    while high - low > 1:
        middle = (low + high) // 2
        tried = state(middle)
        if fits(tried):
            low, best = middle, tried
        else:
            high = middle
    return best
