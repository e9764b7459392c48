"""What the pruner will do to each layer, before it does anything: structure, final sparsity, or why not.

A plan resolves the patterns of the settings against one network, finds the layers kept by default, and,
where the network can be run, the channel groups that decide together.  It leaves out weights and time.
Read pruner.py next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from simulator.errors import InputError
from simulator.structure import CHANNEL, DENSE, Structure, parse

from .budgets import density_of, erk_densities
from .coupling import ChannelGroup, couple
from .layers import Layer, execution_order, kept_by_default, match, prunable
from .settings import PrunerConfig
from .structures import window_of


@dataclass(frozen=True)
class PlanRow:
    """One layer: shape of its weight, structure, final sparsity (share of units removed), and what there is to say."""

    layer: str
    shape: tuple[int, ...]
    structure: str
    sparsity: float
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """rows: one per prunable layer.  layers: (structure, final sparsity) of each layer that decides for
    itself.  groups: (channel group, final share of channels removed) of those that decide together.
    kept: layers that lose nothing of their own.  Printing a plan shows the rows as a table."""

    rows: tuple[PlanRow, ...]
    layers: Mapping[str, tuple[Structure, float]]
    groups: tuple[tuple[ChannelGroup, float], ...] = ()
    kept: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[PlanRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [("layer", "weight", "structure", "sparsity", "note")]
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            cells.append((row.layer or "(the model)", shape, row.structure, f"{row.sparsity:.4g}", row.reason))
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        lines = ["  ".join([*map(str.ljust, line[:4], widths), line[4]]) for line in cells]
        return "\n".join(line.rstrip() for line in lines)


def make_plan(
    model: nn.Module, config: PrunerConfig, example_inputs: object | None = None, chosen_by_cost: bool = False
) -> Plan:
    """The plan of `config` for `model`.

    With `example_inputs`, layers of structure "channel" that share channels decide together, and a removed
    channel takes its filters and batch norm entries along; without, each layer removes input channels for
    itself.  Raises InputError for a pattern that matches no layer, a structure without a sparsity, coupled
    layers that ask for different things, and where nothing is left to prune.
    """
    layers = prunable(model)
    order = execution_order(model, example_inputs)
    default = kept_by_default(model, order) if config.skip is None else {}
    named = {} if config.skip is None else match(config.skip, layers, "skip")
    kept = default | {name: f"skip {pattern!r}" for name, pattern in named.items()}
    if chosen_by_cost:
        chosen = {name: (DENSE, 0.0) for name in layers if name not in kept}
        reasons = kept | dict.fromkeys(chosen, "structure and density chosen by the hardware cost")
        groups: tuple[tuple[ChannelGroup, float], ...] = ()
    else:
        wanted, reasons = _wanted(config, layers, kept)
        if config.scope == "erk":
            _share_by_shape_(wanted, layers)
        groups = _coupled(model, example_inputs, wanted, reasons, default)
        chosen = wanted
    if not chosen and not groups:
        listed = ", ".join(f"{name or 'the model'} ({reason})" for name, reason in reasons.items())
        listed = listed or "it has no Linear or Conv2d"
        raise InputError(
            f"no layer to prune: {listed}",
            where="plan",
            expected="at least one prunable layer",
            fix="skip=() prunes the first convolution and the classifier too",
        )
    return Plan(
        _rows(layers, order, chosen, groups, reasons), chosen if not chosen_by_cost else {}, groups, frozenset(kept)
    )


def _wanted(
    config: PrunerConfig,
    layers: Mapping[str, Layer],
    kept: Mapping[str, str],
) -> tuple[dict[str, tuple[Structure, float]], dict[str, str]]:
    """(structure, sparsity) of every layer that is to be pruned, and the reason of every other."""
    structures: dict[str, Structure] = {}
    if isinstance(config.structure, Mapping):
        found = match(config.structure, layers, "structure")
        structures = {name: parse(config.structure[pattern]) for name, pattern in found.items()}
    else:
        structures = dict.fromkeys(layers, parse(config.structure))
    own = match(config.scope, layers, "scope") if isinstance(config.scope, Mapping) else {}
    wanted: dict[str, tuple[Structure, float]] = {}
    reasons = dict(kept)
    for name, layer in layers.items():
        if name in kept:
            continue
        structure = structures.get(name)
        if structure is None or structure == DENSE:
            reasons[name] = "no structure pattern names it" if structure is None else "structure dense"
            continue
        if structure == CHANNEL and layer.weight.shape[1] == 1:
            reasons[name] = "a single input channel cannot be removed"
            continue
        window = window_of(layer.weight.shape)
        if structure.largest_density(window) == 1.0 and structure.density_on(window) is not None:
            reasons[name] = f"{structure} removes nothing of 1x1 kernels"
            continue
        if not structure.outer and (reason := _too_small(structure, tuple(layer.weight.shape))):
            reasons[name] = reason
            continue
        if any(part.library for part in (structure, structure.outer) if part is not None) and window not in (1, 9):
            raise InputError(f"structure {str(structure)!r} on kernels of {window} entries",
                             where=f"pruner config, layer {name!r}", expected="3x3 or 1x1 kernels",
                             fix="give this layer another structure, or skip it")
        structure.check_parts_nest(window)
        sparsity = config.scope[own[name]] if isinstance(config.scope, Mapping) and name in own else config.sparsity
        fixed = structure.density_on(window)
        if fixed is not None:
            sparsity = 1.0 - fixed
        elif sparsity is None and isinstance(config.scope, Mapping):
            reasons[name] = "no scope pattern names it"
            continue
        elif sparsity is None:
            raise InputError(
                f"no sparsity for structure {str(structure)!r}",
                where=f"pruner config, layer {name!r}",
                expected="sparsity, the share of units removed in the end",
                fix='for example {"sparsity": 0.8}',
            )
        least = 1.0 - structure.largest_density(window)
        if sparsity < least - 1e-9:
            raise InputError(f"sparsity {sparsity:g} for structure {str(structure)!r}",
                             where=f"pruner config, layer {name!r}",
                             expected=f"at least {least:.4g}, what its fixed part removes")
        wanted[name] = (structure, float(sparsity))
    return wanted, reasons


def _too_small(structure: Structure, shape: tuple[int, ...]) -> str:
    """Why a weight of this shape can lose nothing in this structure, or nothing to say."""
    k, n = math.prod(shape[1:]), shape[0]
    unit_k, unit_n = structure.unit_extent(k, n, window_of(shape))
    rows, cols = -(-k // unit_k), -(-n // unit_n)
    if structure.ranks_over_layer and rows * cols == 1:
        return f"the whole layer is one unit of {structure}"
    if structure.keep is not None and isinstance(structure.group[0], int) and rows <= structure.keep:
        return f"{structure} keeps all of its {rows} {'unit' if rows == 1 else 'units'} along k"
    return ""


def _share_by_shape_(wanted: dict[str, tuple[Structure, float]], layers: Mapping[str, Layer]) -> None:
    """Replace one sparsity for all by those of ERK with the same number of weights in total."""
    own = {name for name, (structure, _) in wanted.items() if structure.density_on(9) is None and structure != CHANNEL}
    for structure_sparsity in {wanted[name][1] for name in own}:
        same = [name for name in own if wanted[name][1] == structure_sparsity]
        shapes = {name: tuple(layers[name].weight.shape) for name in sorted(same)}
        largest = {name: wanted[name][0].largest_density(window_of(shape)) for name, shape in shapes.items()}
        for name, density in erk_densities(shapes, density_of(structure_sparsity), largest).items():
            wanted[name] = (wanted[name][0], 1.0 - density)


def _coupled(
    model: nn.Module,
    example_inputs: object | None,
    wanted: dict[str, tuple[Structure, float]],
    reasons: dict[str, str],
    default: Mapping[str, str],
) -> tuple[tuple[ChannelGroup, float], ...]:
    """Move the layers of structure "channel" out of `wanted` into the groups whose channels they read."""
    asking = {name for name, (structure, _) in wanted.items() if structure == CHANNEL}
    if example_inputs is None or not asking:
        return ()
    found = []
    coupling = couple(model, example_inputs, tokens=True)
    for group in coupling.groups:
        readers = {span.layer for span in group.consumers}
        if not readers & asking:
            continue
        blocked = [name for name in group.layers if name not in wanted and name not in default]
        if blocked:
            for name in readers & asking:
                reasons[name] = f"shares its input channels with {blocked[0]!r}, which stays dense"
            continue
        sparsities = {wanted[name][1] for name in readers & asking}
        others = sorted(readers - asking - set(default))
        if others or len(sparsities) > 1:
            names = ", ".join(repr(name) for name in sorted(readers - set(default)))
            raise InputError(
                f"layers {names} read the same channels but ask for different "
                f"{'structures' if others else 'sparsities'}",
                where="plan",
                expected="one answer for all of them",
                fix="give them the same, or skip them all",
            )
        found.append((group, sparsities.pop()))
    reading = {span.layer for group, _ in found for span in group.consumers}
    for name in asking:
        del wanted[name]
        if name not in reading:
            why = coupling.stays.get(name)
            reasons.setdefault(name, "its input channels cannot be removed" + (f": {why}" if why else ""))
    return tuple(found)


def _rows(
    layers: Mapping[str, Layer],
    order: list[str],
    chosen: Mapping[str, tuple[Structure, float]],
    groups: tuple[tuple[ChannelGroup, float], ...],
    reasons: Mapping[str, str],
) -> tuple[PlanRow, ...]:
    rows = []
    for name in order:
        structure, sparsity = chosen.get(name, (DENSE, 0.0))
        notes = [reasons[name]] if name in reasons else []
        for group, share in groups:
            if any(span.layer == name for span in group.consumers):
                structure, sparsity = CHANNEL, share
                notes.append(f"reads {group}")
            if any(span.layer == name for span in group.producers):
                notes.append(f"filters go with {group}")
        rows.append(PlanRow(name, tuple(layers[name].weight.shape), str(structure), sparsity, "; ".join(notes)))
    return tuple(rows)
