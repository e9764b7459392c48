"""What each layer can become on a machine: structures at densities, jointly with the channels its neighbours leave it.

Channels are removed group by group, in the order of their importance, down to a few levels; a layer's options are
every structure at every combination of the levels of the groups it makes or reads, each with its real mask.  Left
out: which option is taken (selection.py).  Read coupling.py for the groups, oracle.py for the prices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simulator import LayerTrace, Machine
from simulator.errors import InputError
from simulator.structure import CHANNEL, DENSE, Structure, of_one_layer, parse
from simulator.workload import Gemm, Operation

from .channels import channel_scores
from .coupling import ChannelGroup
from .layers import prunable
from .oracle import Oracle, Price
from .structures import keep_best, project
from .trace import Call, to_numpy

DENSITIES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
"""Shares of channels kept, and of units kept where a structure fixes none: eighths, which on power-of-two widths
are multiples of the array for wide layers and fine enough for narrow ones."""
PRICED_ENTRIES = 200_000_000
"""Mask entries that free-form structures (block, kernel ...) may be projected to and simulated with; beyond it they
are combined with fewer levels of the channel groups: see `_ladders`."""
ENTRIES_PER_PRICE = 100_000
"""What one simulation costs beside the entries of its mask, in entries."""
LEAST_SHARE = 1e-6
"""The kept share of importance that a layer is taken to have at least: -log of nothing is not a number to add."""


@dataclass(frozen=True)
class Kind:
    """A structure at a density; for n:m and dense the density is the structure's own."""

    structure: Structure
    density: float

    def __str__(self) -> str:
        return str(self.structure) if self.by_shape else f"{self.structure} at {self.density:g}"

    @property
    def by_shape(self) -> bool:
        """True where the structure alone says how many weights are where, as far as a regular array can see: it fixes
        its density, and every filter is masked for itself."""
        parts = (self.structure.inner, self.structure.outer or DENSE)
        return self.structure.fixed_density is not None and all(part.unit[1] == 1 for part in parts)


DENSE_KIND = Kind(DENSE, 1.0)


@dataclass(frozen=True)
class Objective:
    """damage(total, kept, mean) of a layer with importance `total` of which `kept` is left; mean: over all layers."""

    damage: Callable[[float, float, float], float]
    of: str = "scores"  # the importance: the pruner's criterion, "weights" (w^2) or "count" (every weight is one)


def lost(total: float, kept: float, mean: float) -> float:
    """What is dropped, additively."""
    return max(total - kept, 0.0)


def bottleneck(total: float, kept: float, mean: float) -> float:
    """total * -log(kept share): what is dropped while little is, and ever more as the layer runs dry."""
    return total * _dryness(total, kept)


def balanced(total: float, kept: float, mean: float) -> float:
    """The bottleneck's price with half of a layer's weight its own importance and half that of the mean layer.

    Early importance says what a layer does now; training still to come can use any layer that is left wide enough.
    """
    return (total + mean) / 2.0 * _dryness(total, kept)


def capacity(total: float, kept: float, mean: float) -> float:
    """-log(kept share), the same for every layer: no layer may be a bottleneck, whatever it is worth today."""
    return _dryness(total, kept)


def _dryness(total: float, kept: float) -> float:
    return math.log(1.0 / max(kept / total, LEAST_SHARE)) if kept < total else 0.0


OBJECTIVES: dict[str, Objective] = {
    "fisher_log": Objective(bottleneck),
    "fisher_balanced": Objective(balanced),
    "capacity": Objective(capacity, of="count"),
    "taylor": Objective(lost),
    "magnitude_squared": Objective(lost, of="weights"),
}


@dataclass(frozen=True, eq=False)
class Site:
    """A layer where something is to be chosen.

    scores, weights: float64[out, in, window], the criterion's importance and w^2.  calls: its runs in one inference.
    made, read: (group, first channel, repeat) whose channels are its filters, or its input channels.  kept_dense: it
    may lose channels with its neighbours and nothing else.
    """

    name: str
    scores: Tensor
    weights: Tensor
    shape: tuple[int, ...]
    calls: tuple[Call, ...]
    made: tuple[tuple[int, int, int], ...]
    read: tuple[tuple[int, int, int], ...]
    kinds: tuple[Kind, ...]
    kept_dense: bool

    @property
    def groups(self) -> tuple[int, ...]:
        """Indices of the groups it makes or reads, each once."""
        return tuple(sorted({group for group, _, _ in (*self.made, *self.read)}))

    def kept(self, kept: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """(bool[out], bool[in]): the filters and input channels that the groups leave; kept: bool[width] by group."""
        out = torch.ones(self.shape[0], dtype=torch.bool)
        inputs = torch.ones(self.shape[1], dtype=torch.bool)
        for group, first, _ in self.made:
            out[first : first + len(kept[group])] &= kept[group]
        for group, first, repeat in self.read:
            expanded = kept[group].repeat_interleave(repeat)
            inputs[first * repeat : first * repeat + len(expanded)] &= expanded
        return out, inputs

    def mask(self, kind: Kind, out: Tensor, inputs: Tensor) -> Tensor:
        """bool of the weight's shape: `kind` projected on the smaller weight that is left, zeros around it.

        On the smaller weight, because that is what an array sees that removes empty channels: four neighbours of a
        2:4 group are neighbours after the removal.
        """
        small = self.smaller_mask(kind, out, inputs)
        full = torch.zeros(self.scores.shape, dtype=torch.bool)
        full[out.nonzero(), inputs.nonzero().T] = small.reshape(*small.shape[:2], -1)
        return full.reshape(self.shape)

    def smaller_mask(self, kind: Kind, out: Tensor, inputs: Tensor) -> Tensor:
        """The same without the zeros around it: bool[kept filters, kept inputs, ...]."""
        small = self.scores[out][:, inputs]
        return project(small.reshape(*small.shape[:2], *self.shape[2:]), kind.structure, kind.density)

    def importance(self, objective: Objective) -> Tensor:
        """float64[out, in, window]."""
        if objective.of == "count":
            return torch.ones_like(self.scores)
        return self.weights if objective.of == "weights" else self.scores


@dataclass(frozen=True, eq=False)
class Priced:
    """A site at one combination of levels (one per `site.groups`) in one kind: price and importance kept."""

    levels: tuple[int, ...]
    kind: Kind
    price: Price
    kept_scores: float
    kept_weights: float
    density: float

    def kept(self, objective: Objective, total: float) -> float:
        """What is left of an importance that was `total`."""
        return {"scores": self.kept_scores, "weights": self.kept_weights, "count": self.density * total}[objective.of]


def kinds_of(candidates: Sequence[str], densities: Sequence[float], machine: Machine) -> tuple[Kind, ...]:
    """The structures (channels aside) among the candidates, dense always with them, at every density they leave open.

    Raises InputError for a text that names no structure and for an n:m pattern that the machine has not.
    """
    found = [DENSE_KIND]
    errors: list[InputError] = []
    known = getattr(machine.array, "nm", None)
    for text in candidates:
        try:
            structure = of_one_layer(text)
        except InputError as error:
            errors.append(error)
            continue
        if structure.is_plain_n_of_m and known is not None and str(structure) not in known:
            errors.append(InputError(
                f"machine {machine.name!r} does not know the structure {str(structure)!r}", where="candidates",
                expected=f"an n:m pattern that it has: {', '.join(known) or 'none'}",
                fix="choose another candidate or another machine"))
        elif structure.fixed_density is not None:
            found.append(Kind(structure, structure.fixed_density))
        elif structure != CHANNEL:
            found += [Kind(structure, density) for density in densities]
    if errors:
        raise InputError.collect(errors)
    return tuple(dict.fromkeys(found))


def exploited(machine: Machine) -> tuple[str, ...]:
    """The candidates that `machine` gains from, by its own fields."""
    array = machine.array
    patterns = [text for text in getattr(array, "nm", ()) if (parse(text).fixed_density or 1.0) < 1.0]
    blocks = [f"block {array.rows}x{array.cols}"] if getattr(array, "skip_zero_blocks", False) else []
    return ("dense", *patterns, *blocks, *(["channel"] if getattr(array, "compact_channels", True) else []))


def channel_levels(width: int, densities: Sequence[float], columns: int | None) -> tuple[int, ...]:
    """Numbers of channels that a group may keep, all first: shares of the width, and multiples of the array's columns.

    The multiples matter where the width is none: there a share would leave the last columns of the array idle.
    """
    counts = {width} | {max(1, math.floor(width * share + 0.5)) for share in densities}
    if columns and width % columns and width // columns <= 8:
        counts |= {columns * times for times in range(1, width // columns + 1)}
    return tuple(sorted(counts, reverse=True))


def kept_channels(group: ChannelGroup, scores: Mapping[str, Tensor], levels: Sequence[int]) -> tuple[Tensor, ...]:
    """For each level bool[width]: the most important channels, nested; ties go to the lowest index."""
    values = channel_scores(group, scores)
    return tuple(keep_best(values, count) for count in levels)


def sites_of(
    model: nn.Module,
    calls: Sequence[Call],
    scores: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    kinds: tuple[Kind, ...],
    keep_dense: frozenset[str],
) -> tuple[Site, ...]:
    """Every layer that runs, in order, with its importance on the CPU; layers of keep_dense get no structure, others
    those of `kinds` that remove something of their kernels."""
    layers = prunable(model)
    found = []
    for name in dict.fromkeys(call.layer for call in calls):
        weight = layers[name].weight.detach().cpu().double()
        conv_groups = getattr(layers[name], "groups", 1)
        own = (DENSE_KIND,) if name in keep_dense else tuple(
            kind for kind in kinds if kind == DENSE_KIND or kind.structure.prunes(math.prod(weight.shape[2:])))
        if conv_groups > 1:  # a block or a kernel would reach across groups that share no input
            own = tuple(kind for kind in own if kind.by_shape)
        made, read = ([(index, span.start, span.repeat) for index, group in enumerate(groups)
                       for span in (group.producers if role == "made" else group.consumers) if span.layer == name]
                      for role in ("made", "read"))
        flat = (weight.shape[0], weight.shape[1], -1)
        found.append(Site(name, scores[name].reshape(flat), weight.square().reshape(flat), tuple(weight.shape),
                          tuple(call for call in calls if call.layer == name), tuple(made), tuple(read), own,
                          name in keep_dense))
    return tuple(found)


def priced_options(
    sites: Sequence[Site], kept: Sequence[Sequence[Tensor]], oracle: Oracle, activations: Mapping[str, Any]
) -> list[list[Priced]]:
    """Per site, every kind at every combination of its groups' levels, priced with the mask it would have.

    kept: per group, per level, bool[width].
    """
    ladder = _ladder(sites, kept)
    return [list(_priced_site(site, kept, oracle, activations, ladder)) for site in sites]


def _ladder(sites: Sequence[Site], kept: Sequence[Sequence[Tensor]]) -> list[set[int]]:
    """Per group the levels that free-form structures are combined with: all, or all / 3/4 / 1/2 of the channels, or
    all / 1/2, whichever is the first that can be priced in reasonable time."""
    ladders = [[set(range(len(levels))) for levels in kept],
               [{0, _nearest(levels, 0.75), _nearest(levels, 0.5)} for levels in kept],
               [{0, _nearest(levels, 0.5)} for levels in kept]]
    for ladder in ladders[:-1]:
        entries = sum((site.scores.numel() + ENTRIES_PER_PRICE) * math.prod(len(ladder[g]) for g in site.groups)
                      * sum(not kind.by_shape for kind in site.kinds) for site in sites)
        if entries <= PRICED_ENTRIES:
            return ladder
    return ladders[-1]


def _nearest(levels: Sequence[Tensor], share: float) -> int:
    counts = [int(level.sum()) for level in levels]
    return min(range(len(counts)), key=lambda index: (abs(counts[index] - share * counts[0]), index))


def _priced_site(
    site: Site,
    kept: Sequence[Sequence[Tensor]],
    oracle: Oracle,
    activations: Mapping[str, Any],
    ladder: Sequence[set[int]],
) -> Iterator[Priced]:
    cache: dict[tuple[Kind, bytes], _OnAllFilters] = {}
    for levels in itertools.product(*(range(len(kept[group])) for group in site.groups)):
        chosen = {group: kept[group][level] for group, level in zip(site.groups, levels, strict=True)}
        out, inputs = site.kept(chosen)
        everything = torch.ones_like(out)
        on_ladder = all(level in ladder[g] for g, level in zip(site.groups, levels, strict=True))
        for kind in site.kinds:
            if not kind.by_shape and not on_ladder:
                continue
            if kind.by_shape:
                # Each filter is projected by itself, so one projection serves every number of filters.
                key = kind, to_numpy(inputs).tobytes()
                if key not in cache:
                    cache[key] = _on_all_filters(site, kind, everything, inputs)
                whole = cache[key]
                live = whole.occupied[out]
                full = bool(live.any(1).all()) and bool(live.any(0).all())
                price = _price(site, kind, out, inputs, whole.mask, oracle, activations, by_shape=full)
                scores, weights, count = whole.scores, whole.weights, whole.nonzeros
            else:
                mask = site.mask(kind, out, inputs)
                flat = mask.reshape(site.scores.shape)
                scores, weights, count = ((values * flat).sum((1, 2)) for values in
                                          (site.scores, site.weights, torch.ones_like(site.scores)))
                price = _price_mask(site, mask, str(kind.structure), oracle, activations)
            yield Priced(levels, kind, price, float(scores[out].sum()), float(weights[out].sum()),
                         float(count[out].sum()) / site.scores.numel())


class _OnAllFilters(NamedTuple):
    """A kind's mask bool[out, kept inputs, ...] on all filters; where any weight of a window is kept, bool[out, kept
    inputs]; and score, w^2 and number of weights kept per filter."""

    mask: Tensor
    occupied: Tensor
    scores: Tensor
    weights: Tensor
    nonzeros: Tensor


def _on_all_filters(site: Site, kind: Kind, out: Tensor, inputs: Tensor) -> _OnAllFilters:
    mask = site.smaller_mask(kind, out, inputs)
    flat = mask.reshape(*mask.shape[:2], -1)
    return _OnAllFilters(mask, flat.any(2), (site.scores[:, inputs] * flat).sum((1, 2)),
                         (site.weights[:, inputs] * flat).sum((1, 2)), flat.sum((1, 2)).double())


def _price(site: Site, kind: Kind, out: Tensor, inputs: Tensor, small: Tensor, oracle: Oracle,
           activations: Mapping[str, Any], *, by_shape: bool) -> Price:
    """By (structure, kept filters, kept inputs) where an array must take the same time for all such masks.

    small: the mask bool[out, kept inputs, ...] on all filters.
    """
    if not by_shape or oracle.machine.model != "systolic":
        return _price_mask(site, site.mask(kind, out, inputs), str(kind.structure), oracle, activations)
    compacts = bool(oracle.machine.array.compact_channels)
    structure, filters, channels = str(kind.structure), int(out.sum()), int(inputs.sum())
    total = Price(0.0, 0.0)
    for call in site.calls:

        def make(call: Call = call) -> LayerTrace:
            if not compacts or call.operation.groups > 1:
                return layer_trace(call, site.mask(kind, out, inputs), structure, activations)
            # The array runs what is left as a smaller layer; asking for that one spares lowering the large mask.
            return layer_trace(replace(call, operation=smaller(call.operation, filters, channels)),
                               small[out], structure, activations)

        total += oracle.price_by((call.operation, activations.get(call.name), structure, filters, channels), make)
    return total


def _price_mask(site: Site, mask: Tensor, structure: str, oracle: Oracle, activations: Mapping[str, Any]) -> Price:
    total = Price(0.0, 0.0)
    for call in site.calls:
        total += oracle.price(layer_trace(call, mask, structure, activations))
    return total


def layer_trace(call: Call, mask: Tensor, structure: str, activations: Mapping[str, Any]) -> LayerTrace:
    """One run of a layer under a mask (bool of the torch weight's shape), as trace_model would make it."""
    array = None if bool(mask.all()) else to_numpy(mask.T if isinstance(call.operation, Gemm) else mask)
    return LayerTrace(call.name, call.operation, array, input_density=activations.get(call.name), structure=structure)


def smaller(operation: Operation, filters: int, channels: int) -> Operation:
    """An ungrouped layer with fewer filters and input channels."""
    if isinstance(operation, Gemm):
        return Gemm(operation.m, channels, filters)
    return replace(operation, in_channels=channels, out_channels=filters)
