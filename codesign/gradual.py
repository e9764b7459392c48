"""Structures on their way: the mask that is due when a share of the final sparsity is.

A count per group goes down in steps, a fraction goes down with the schedule, a pattern comes at half way; the two
parts of a composition each go their own way.  It leaves out when: schedules.py.  Read structures.py for the
projection itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simulator import patterns
from simulator.structure import DENSE, Structure, compose, n_of_m, parse

from .budgets import density_of
from .structures import project, wholly_pruned, window_of


def project_part_way(scores: Tensor, structure: Structure, sparsity: float, share: float, pool: str = "sum") -> Tensor:
    """The mask at `share` of the way from dense to `structure` at `sparsity`: bool of the scores' shape.

    Masks of growing shares are nested where the score of what was pruned is -inf.  Both parts of a composition are at
    the same share: were the density of the whole split anew each time, a part that comes in steps would give the other
    some of its units back.
    """
    if structure.outer is None:
        return project(scores, part_way(structure, share), density_of(sparsity, share), pool)
    outer, inner = structure.split(density_of(sparsity), window_of(scores.shape))
    # a unit of the outer part of which the inner one has pruned something still competes, with what is left
    alive = torch.where(torch.isneginf(scores) & ~wholly_pruned(scores, structure.outer), 0.0, scores)
    there = project_part_way(alive, structure.outer, 1.0 - outer, share, pool)
    left = scores.masked_fill(~there, -math.inf)
    return there & project_part_way(left, structure.inner, 1.0 - inner, share, pool)


def part_way(structure: Structure, share: float) -> Structure:
    """A structure with counts on its way: n:m keeps m of m at share 0, n at 1; others stay as they are.

    In between it has dropped `share * (m - n)` units of each group, to the nearest count, halves up: a schedule that
    creeps up to 1 must not leave the last step to the last moment of training.  A pattern is there or not, so it
    comes at half way.  DENSE where nothing is dropped yet.
    """
    if structure.outer is not None:
        outer, inner = part_way(structure.outer, share), part_way(structure.inner, share)
        return inner if outer == DENSE else outer if inner == DENSE else compose(outer, inner)
    if structure.library:
        return structure if share >= 0.5 else DENSE
    if structure.keep is None:
        return structure
    slots = structure.group[0]
    if slots == "window":  # counted on 3x3 kernels; smaller ones keep all until the count comes below their size
        left = patterns.WINDOW - math.floor(share * (patterns.WINDOW - structure.keep) + 0.5)
        return parse(f"window {max(left, structure.keep)}")
    assert isinstance(slots, int)  # a counted group has a counted extent
    rows, cols = structure.unit
    assert isinstance(rows, int) and isinstance(cols, int)  # as n_of_m made it
    return n_of_m(slots - math.floor(share * (slots - structure.keep) + 0.5), slots, rows, cols)
