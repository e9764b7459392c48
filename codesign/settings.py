"""What a user may ask of the pruner, checked at the door: structure, schedule, sparsity, criterion, scope.

The settings are plain data, the same from a dictionary, a TOML table or keyword arguments; a mistake is
answered with everything that is wrong at once.  It leaves out the network: patterns are matched in plan.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import FunctionType
from typing import Any

from simulator.errors import InputError, nearest
from simulator.structure import CHANNEL, Structure, of_one_layer, parse

from .budgets import check_sparsity
from .criteria import Criterion, parse_criterion
from .regrowth import Regrowth, parse_regrowth
from .schedules import parse_schedule

UPDATES_PER_TRAINING = 100
"""Masks are made again about this often unless `update_every` says otherwise: making them costs 6 to 27 %
of a step, applying them 0 to 3 %, and a hundredth of the training is finer than any schedule needs."""


@dataclass(frozen=True)
class PrunerConfig:
    """structure: what pattern, a text of simulator.structure.parse or {layer pattern: text}, first match
    first, layers that no pattern names stay dense.  schedule: when, a name of SCHEDULES, {"name": ...,
    parameter: value} or a function.  sparsity: how much in the end, the share of units removed; n:m fixes
    its own.  criterion: which weights, a name of CRITERIA or a function; None = "magnitude", or "fisher"
    with a hardware cost.  scope: "local", "global" (one ranking), "erk" (layer densities by their shape,
    Erdos-Renyi with kernels) or {layer pattern: sparsity}.  regrow: which weights come back, a name of REGROWTHS or
    {"name": ..., parameter: value}; None = none.  skip:
    patterns of layers that stay dense; None = the first convolution and the final classifier, () = none.
    total_steps: optimizer steps of the whole training, which the schedule needs.  update_every: steps
    between two mask updates; None = a hundred updates in all.  select_at: progress at which a hardware cost
    chooses, one number or several.
    """

    structure: str | Structure | Mapping[str, str] = "unstructured"
    schedule: str | Mapping[str, Any] | Callable[[float], float] = "one_cycle"
    sparsity: float | None = None
    criterion: str | Criterion | Callable[..., Any] | None = None
    scope: str | Mapping[str, float] = "local"
    regrow: str | Mapping[str, Any] | Regrowth | None = None
    skip: tuple[str, ...] | None = None
    total_steps: int | None = None
    update_every: int | None = None
    select_at: float | tuple[float, ...] = 0.25

    def __post_init__(self) -> None:
        if isinstance(self.skip, str):
            object.__setattr__(self, "skip", (self.skip,))
        for name in ("skip", "select_at"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        errors: list[InputError] = []
        for check in (self._check_structure, self._check_parts, self._check_sparsity, self._check_steps):
            try:
                check()
            except InputError as error:
                if str(error) not in map(str, errors):  # two checks may stumble over the same word
                    errors.append(error)
        if errors:
            raise InputError.collect(errors)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | PrunerConfig) -> PrunerConfig:
        """The settings in a dictionary.  Raises InputError that names the nearest key for each unknown one."""
        if isinstance(given, PrunerConfig):
            return given
        if not isinstance(given, Mapping):
            raise InputError(f"{given!r}", where="pruner config", expected="a dictionary or a PrunerConfig")
        known = [item.name for item in fields(cls)]
        unknown = [
            InputError(
                f"unknown key {key!r}",
                where="pruner config",
                expected="a key of PrunerConfig",
                fix=nearest(str(key), known),
            )
            for key in given
            if key not in known
        ]
        if unknown:
            raise InputError.collect(unknown)
        return cls(**given)

    @property
    def select_events(self) -> tuple[float, ...]:
        """`select_at` as an ascending tuple."""
        return tuple(sorted(self.select_at)) if isinstance(self.select_at, tuple) else (self.select_at,)

    def describe(self) -> dict[str, Any]:
        """The settings as JSON-able data, to compare with those of a checkpoint; functions by name, objects by repr."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def _check_structure(self) -> None:
        if isinstance(self.structure, Mapping):
            for text in self.structure.values():
                of_one_layer(text)
        else:
            of_one_layer(self.structure)

    def _check_parts(self) -> None:
        parse_schedule(self.schedule)
        if self.criterion is not None:
            parse_criterion(self.criterion)
        named = self.structure.values() if isinstance(self.structure, Mapping) else [self.structure]
        self._check_scope([parse(text) for text in named])
        if self.regrow is not None:
            parse_regrowth(self.regrow)
            fixed = [str(text) for text in named if parse(text).density_on(9) is not None or parse(text).outer]
            if fixed:
                raise InputError(f"regrow with structure {fixed[0]!r}", where="pruner config",
                                 expected="structures whose density the schedule sets",
                                 fix='for n:m, the recipe "sr_ste" lets weights come back')

    def _check_scope(self, structures: list[Structure]) -> None:
        """A scope that a structure could not follow is refused: it would be another one, without a word."""
        free = [structure for structure in structures if structure.density_on(9) is None]
        if self.scope == "global" and (counted := [item for item in free if not item.ranks_over_layer]):
            raise InputError(f"scope 'global' with structure {str(counted[0])!r}", where="pruner config",
                             expected="structures whose units compete over the whole layer: unstructured, block, "
                             "channel, filter, kernel; or n:m, which fixes its own density",
                             fix='scope = "local" or "erk"')
        if self.scope == "erk" and CHANNEL in free:
            raise InputError("scope 'erk' with structure 'channel'", where="pruner config",
                             expected="structures within one layer: several layers read the same channels",
                             fix='scope = "local" or "global"')

    def _check_sparsity(self) -> None:
        where = "pruner config"
        if isinstance(self.scope, Mapping):
            for pattern, value in self.scope.items():
                check_sparsity(value, f"{where}, scope[{pattern!r}]")
        elif self.scope not in ("local", "global", "erk"):
            raise InputError(
                f"scope {self.scope!r}",
                where=where,
                expected='"local", "global", "erk" or {layer pattern: sparsity}',
                fix=nearest(str(self.scope), ["local", "global", "erk"]),
            )
        if self.sparsity is not None:
            check_sparsity(self.sparsity, where)
            if not isinstance(self.structure, Mapping):
                fixed = parse(self.structure).fixed_density
                if fixed is not None and abs(1 - fixed - self.sparsity) > 1e-9:
                    raise InputError(
                        f"sparsity {self.sparsity} with structure {str(self.structure)!r}",
                        where=where,
                        expected=f"{1 - fixed:g}, which this structure fixes",
                        fix="leave sparsity out, or choose another structure",
                    )

    def _check_steps(self) -> None:
        errors = []
        for name in ("total_steps", "update_every"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                errors.append(
                    InputError(f"{name} = {value!r}", where="pruner config", expected="an integer of at least 1")
                )
        for event in self.select_at if isinstance(self.select_at, tuple) else (self.select_at,):
            if isinstance(event, bool) or not isinstance(event, int | float) or not 0.0 <= event <= 1.0:
                errors.append(
                    InputError(f"select_at = {event!r}", where="pruner config", expected="a progress in [0, 1]")
                )
        if errors:
            raise InputError.collect(errors)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, FunctionType):  # its repr has an address, which the next process does not
        return f"{value.__module__}.{value.__qualname__}"
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
