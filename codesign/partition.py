"""Dividing a chain of fully connected layers into P independent parts that keep most of the weights' worth.

A weight stays if both its neurons are in one part, and every layer of neurons is divided evenly: a balanced P-way
minimum cut of the layered graph, which is NP-hard, so the solvers here find local optima.  Left out: which layers are
a chain (partition_chain.py), and training (recipes/partition.py).  Read partition_swaps.py for the refinement.

`scores` are one float[out, in] for every layer, not negative; `places` one int64[neurons] for every layer of neurons,
inputs first: the part of each, 0 to P - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import InputError, nearest

from .partition_swaps import refined

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Places = list[Ints]
LEAST_GAIN = 1e-9
"""What an improvement must be worth, as a share of all scores: sums of floats are not exact."""


def contiguous(scores: Sequence[Floats], parts: int, random: np.random.Generator) -> Places:
    """Neurons in their order, cut into P pieces: the baseline that looks at nothing."""
    return [np.sort(_even(size, parts)) for size in widths(scores)]


def shuffled(scores: Sequence[Floats], parts: int, random: np.random.Generator) -> Places:
    """A random even division of every layer: the control of every solver."""
    return [random.permutation(_even(size, parts)) for size in widths(scores)]


def alternating(scores: Sequence[Floats], parts: int, random: np.random.Generator) -> Places:
    """From a random start, each layer in turn divided as is best for its neighbours as they stand, until none gains."""
    places = shuffled(scores, parts, random)
    least = LEAST_GAIN * sum(float(one.sum(dtype=np.float64)) for one in scores)
    before, now = -math.inf, kept(scores, places)
    while now > before + least:
        for layer in range(len(places)):
            places[layer] = assigned(pulls(scores, places, layer, parts))
        before, now = now, kept(scores, places)
    return places


def kernighan_lin(scores: Sequence[Floats], parts: int, random: np.random.Generator) -> Places:
    """What `alternating` finds, refined by sequences of swaps that may get worse before they get better."""
    return refined(scores, alternating(scores, parts, random), parts)


SOLVERS: dict[str, Callable[[Sequence[Floats], int, np.random.Generator], Places]] = {
    "alternating": alternating,
    "kernighan_lin": kernighan_lin,
    "contiguous": contiguous,
    "random": shuffled,
}
"""Name in a configuration -> solver(scores, parts, random generator) -> places."""


def solve(
    scores: Sequence[Floats], parts: int, solver: str = "alternating", *, seed: int = 0, tries: int = 1
) -> Places:
    """The best of `tries` divisions by a solver: every layer of neurons in P parts of equal size, or one apart.

    Raises InputError for an unknown solver, more parts than a layer has neurons, and layers that make no chain.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r}", where="partition", expected="a known solver",
                         fix=nearest(solver, SOLVERS))
    sizes = widths(scores)
    if not 1 <= parts <= min(sizes):
        raise InputError(f"parts = {parts}", where="partition",
                         expected=f"1 to {min(sizes)}, the neurons of the chain's narrowest layer")
    if tries < 1:
        raise InputError(f"tries = {tries}", where="partition", expected="at least 1")
    found = [SOLVERS[solver](scores, parts, np.random.default_rng([seed, one])) for one in range(tries)]
    return max(found, key=lambda places: kept(scores, places))  # of equals the first


def widths(scores: Sequence[NDArray[Any]]) -> list[int]:
    """Neurons of every layer, inputs first.  Raises InputError for layers that do not fit one another."""
    shapes = [one.shape for one in scores]
    if not shapes or any(before[0] != after[1] for before, after in pairwise(shapes)):
        raise InputError(f"layers of shapes {shapes}", where="partition",
                         expected="a chain: every layer [out, in] with as many inputs as the one before has outputs")
    return [shapes[0][1], *(shape[0] for shape in shapes)]


def kept(scores: Sequence[Floats], places: Sequence[Ints]) -> float:
    """The summed score of the weights that stay."""
    return float(sum(_mass(score, after, before)
                     for score, before, after in zip(scores, places[:-1], places[1:], strict=True)))


def masks(places: Sequence[Ints]) -> list[NDArray[np.bool_]]:
    """bool[out, in] of every layer, True where a weight stays."""
    return [after[:, None] == before[None] for before, after in pairwise(places)]


def places_of(given: Sequence[NDArray[np.bool_]]) -> Places:
    """The division that masks (bool[out, in] of every layer) are of, parts numbered by their first input.

    Raises InputError where they are of none that has every weight within its parts.
    """
    widths(given)
    alike, kind = np.unique(given[0], axis=0, return_inverse=True)  # outputs of one part read the same inputs
    first = alike.argmax(axis=1)
    number = np.empty(len(alike), dtype=np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(alike))
    places = [number[alike.argmax(axis=0)], number[kind.reshape(-1)]]
    for mask in given[1:]:
        places.append(places[-1][mask.argmax(axis=1)])
    if any(not np.array_equal(one, other) for one, other in zip(given, masks(places), strict=True)):
        raise InputError("these masks are no partition of the chain", where="partition",
                         expected="every weight kept whose neurons are in one part, and no other")
    return places


def pulls(scores: Sequence[Floats], places: Sequence[Ints], layer: int, parts: int) -> NDArray[np.float64]:
    """float64[neurons, parts]: what each neuron of a layer would keep in each part, its neighbours where they are."""
    found = np.zeros((len(places[layer]), parts))
    if layer:
        found += scores[layer - 1] @ _members(places[layer - 1], parts, scores[layer - 1].dtype)
    if layer < len(scores):
        found += (_members(places[layer + 1], parts, scores[layer].dtype).T @ scores[layer]).T
    return found


def assigned(gain: NDArray[np.float64]) -> Ints:
    """The even assignment int64[n] of n neurons to P parts with the largest sum of gain[n, P].

    Exact: a transport problem whose residual graph has one node for each part.  It begins greedily, the neurons first
    that have most to lose, and moves neurons around cycles of parts until none gains.
    """
    count, parts = gain.shape
    place = _greedy(gain)
    size = np.bincount(place, minlength=parts)
    floor = count // parts
    least = LEAST_GAIN * max(1e-300, float(np.abs(gain).max(initial=0.0)))
    change = np.full((parts, parts), -np.inf)  # [from, to]: the most that moving one neuron gains
    mover = np.zeros((parts, parts), dtype=np.int64)
    stale = list(range(parts))
    while True:
        for part in stale:
            members = np.flatnonzero(place == part)
            change[part] = -np.inf
            if len(members):
                gained = gain[members] - gain[members, part][:, None]
                mover[part] = members[gained.argmax(axis=0)]
                change[part] = gained.max(axis=0)
        # Where not all parts have one size, a part that has fewer may hand its shortage to one that has more.
        shortage = np.where((size[:, None] == floor) & (size[None] > floor), 0.0, -np.inf)
        cycle = _gaining_cycle(np.maximum(change, shortage), least)
        if not cycle:
            return place
        for origin, target in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            if change[origin, target] >= shortage[origin, target]:
                place[mover[origin, target]] = target
        size = np.bincount(place, minlength=parts)
        stale = cycle


def _greedy(gain: NDArray[np.float64]) -> Ints:
    """Each neuron to its best part that has room, first those whose best is furthest from their second best."""
    count, parts = gain.shape
    floor, larger = divmod(count, parts)
    room = np.full(parts, floor)
    top = np.sort(gain, axis=1)
    order = np.argsort(top[:, -2] - top[:, -1], kind="stable") if parts > 1 else np.arange(count)
    place = np.zeros(count, dtype=np.int64)
    for neuron in order:
        open_parts = (room > 0) | ((room == 0) & (larger > 0))
        part = int(np.where(open_parts, gain[neuron], -np.inf).argmax())
        larger -= int(room[part] == 0)
        room[part] -= 1
        place[neuron] = part
    return place


def _gaining_cycle(change: NDArray[np.float64], least: float) -> list[int]:
    """Parts in the order of a cycle whose changes sum to more than `least`, or [] (Bellman and Ford)."""
    parts = len(change)
    arcs = change.copy()
    np.fill_diagonal(arcs, -np.inf)
    best, before = np.zeros(parts), np.full(parts, -1, dtype=np.int64)
    for _ in range(parts):
        reached = best[:, None] + arcs
        origin, value = reached.argmax(axis=0), reached.max(axis=0)
        better = value > best + least
        if not better.any():
            return []
        best, before = np.where(better, value, best), np.where(better, origin, before)
    node = int(np.flatnonzero(better)[0])
    for _ in range(parts):  # back onto the cycle
        node = int(before[node])
    cycle = [node]
    while before[cycle[-1]] != node:
        cycle.append(int(before[cycle[-1]]))
    return cycle[::-1]


def _even(size: int, parts: int) -> Ints:
    return np.arange(size, dtype=np.int64) % parts


def _members(place: Ints, parts: int, dtype: np.dtype[Any]) -> Floats:
    members: Floats = (place[:, None] == np.arange(parts)[None]).astype(dtype)
    return members


def _mass(score: Floats, rows: Ints, columns: Ints) -> float:
    parts = int(max(rows.max(), columns.max())) + 1
    return sum(float(score[np.ix_(rows == part, columns == part)].sum(dtype=np.float64)) for part in range(parts))
