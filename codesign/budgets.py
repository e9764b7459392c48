"""How much: from one final sparsity to a density for every layer.

Local gives each layer the same share; global lets the units of all layers compete in one ranking; ERK
gives small layers more; a table of name patterns gives each its own.  n:m structures fix their own
density and never enter a ranking.  What it leaves out: budgets in cycles or joules, which selection.py
solves.  Read pruner.py next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from simulator.errors import InputError
from simulator.structure import units_kept

from .structures import keep_best


@lru_cache(maxsize=1024)
def density_of(sparsity: float, share: float = 1.0) -> float:
    """The density left when `share` of the final `sparsity` is due.

    In decimals: 1 - 0.9 is meant as 0.1, where binary subtraction gives 0.09999999999999998 and with it
    another count of units.
    """
    return float(1 - Fraction(str(float(sparsity))) * Fraction(str(float(share))))


def check_sparsity(value: object, where: str) -> float:
    """The value as a sparsity in [0, 1).  Raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise InputError(f"sparsity {value!r}", where=where, expected="a share of weights removed, in [0, 1)")
    return float(value)


def global_densities(units: Mapping[str, tuple[Tensor, Tensor]], density: float) -> dict[str, float]:
    """The density of each layer when the units of all of them compete in one ranking.

    units: layer -> (summed score float64[units], number of weights int64[units]).  A unit ranks by its
    mean score per weight, so that blocks of different sizes compare; ties by layer order, then by index.
    Every layer keeps its best unit, so that none is cut through; then units are kept down the ranking while
    their weights fit into `units_kept(density, all weights)`.  With units of one weight that is exact.
    """
    if not units:
        return {}
    means, sizes, first = [], [], []
    for score, size in units.values():
        mean = score.double() / size
        means.append(mean)
        sizes.append(size)
        first.append(keep_best(mean, 1))
    mean, size, seed = torch.cat(means), torch.cat(sizes), torch.cat(first)
    budget = units_kept(density, int(size.sum()))
    order = torch.sort(-mean, stable=True).indices
    order = torch.cat([order[seed[order]], order[~seed[order]]])
    fits = size[order].cumsum(0) <= budget
    kept = seed.clone()
    kept[order[fits]] = True
    kept &= seed | ~torch.isneginf(mean)  # what is already pruned stays so, even where a small unit would still fit
    shares = torch.split(kept, [len(item) for item in means])
    return {name: int(share.sum()) / len(share) for name, share in zip(units, shares, strict=True)}


def erk_densities(
    shapes: Mapping[str, tuple[int, ...]], density: float, largest: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Erdos-Renyi-Kernel: layer densities in proportion to (out + in + kh + kw) / (out in kh kw), `density` over all.

    shapes: layer -> shape of its weight.  A layer that would exceed 1 is dense and the rest share what is left (Evci et
    al., ICML 2020, as in the authors' released code; without kernels it is Mocanu's Erdos-Renyi).  largest: the most
    that a layer can keep, where its structure sets it below 1.
    """
    most = {name: 1.0 if largest is None else largest[name] for name in shapes}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    budget = density * sum(sizes.values())
    while True:
        rest = [name for name in shapes if name not in dense]
        if not rest:
            return most
        spent = sum(most[name] * sizes[name] for name in dense)
        scale = (budget - spent) / sum(raw[name] * sizes[name] for name in rest)
        over = {name for name in rest if scale * raw[name] > most[name]}
        if not over:
            return {name: most[name] if name in dense else scale * raw[name] for name in shapes}
        # only the fullest is fixed at a time: fixing one lowers the share of the others
        dense.add(max(over, key=lambda name: raw[name] / most[name]))
