"""When to prune: the share of the final sparsity that is due at a progress through training.

A schedule is a pure function of progress in [0, 1] that ends at exactly 1; how much the final sparsity is,
and for which layer, is not its business.  What it leaves out: regrowth, and rates of learning.  Read
budgets.py next.

Formulas and defaults: one-cycle from arXiv 2107.02086 (alpha 14, beta 5; the fasterai library ships beta
6), AGP from arXiv 1710.01878, start points from the one-cycle author's comparison on an equal budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from simulator.errors import InputError, nearest

from .lookup import look_up

Schedule = Callable[[float], float]
"""progress in [0, 1] -> share of the final sparsity in [0, 1]; 1 at progress 1."""


def _since(progress: float, start: float) -> float:
    """t': the time since `start` over the time left after it, in [0, 1]."""
    return min(1.0, max(0.0, (progress - start) / (1.0 - start)))


def _check_start(start: float) -> None:
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0.0 <= start < 1.0:
        raise InputError(f"start = {start!r}", where="schedule", expected="a share of training in [0, 1)")


@dataclass(frozen=True)
class Constant:
    """The final sparsity from the first step on."""

    def __call__(self, progress: float) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True)
class OneShot:
    """Dense until `start`, then the final sparsity at once."""

    start: float = 0.4

    def __post_init__(self) -> None:
        _check_start(self.start)

    def __call__(self, progress: float) -> float:
        """0 before `start`, 1 from it on."""
        return 1.0 if progress >= self.start else 0.0


@dataclass(frozen=True)
class Iterative:
    """`steps` equal steps, the first right after `start`: ceil(steps * t') / steps."""

    start: float = 0.2
    steps: int = 3

    def __post_init__(self) -> None:
        _check_start(self.start)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps = {self.steps!r}", where="schedule", expected="an integer of at least 1")

    def __call__(self, progress: float) -> float:
        """A staircase with `steps` stairs."""
        # 1e-9: t' = 1/3 may come out a rounding above a third, and must not start the next stair
        return min(self.steps, max(0, math.ceil(self.steps * _since(progress, self.start) - 1e-9))) / self.steps


@dataclass(frozen=True)
class Agp:
    """Automated gradual pruning: 1 - (1 - t')^3, fast at first, slow at the end."""

    start: float = 0.2

    def __post_init__(self) -> None:
        _check_start(self.start)

    def __call__(self, progress: float) -> float:
        """A cubic ramp."""
        return 1.0 - (1.0 - _since(progress, self.start)) ** 3


@dataclass(frozen=True)
class OneCycle:
    """One sigmoid over the whole training: (1 + e^(beta - alpha)) / (1 + e^(beta - alpha t)).

    alpha: slope; beta: offset; the turning point is at t = beta / alpha.
    """

    alpha: float = 14.0
    beta: float = 5.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
                raise InputError(f"{name} = {value!r}", where="schedule", expected="a number above 0 and below 100")

    def __call__(self, progress: float) -> float:
        """A sigmoid scaled to end at exactly 1; it starts at 0.0067 for beta 5."""
        return (1.0 + math.exp(self.beta - self.alpha)) / (1.0 + math.exp(self.beta - self.alpha * progress))


SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "one_shot": OneShot(),
    "iterative": Iterative(),
    "agp": Agp(),
    "one_cycle": OneCycle(),
    "one_cycle_fasterai": OneCycle(alpha=14.0, beta=6.0),
}


def parse_schedule(given: str | Mapping[str, object] | Schedule) -> Schedule:
    """The schedule that a name, {"name": ..., parameter: value}, "package.module:Name" or a function means.

    Raises InputError for an unknown name or parameter, with the nearest known one.
    """
    if not isinstance(given, Mapping):
        return look_up(given, SCHEDULES, "schedule")
    schedule = look_up(given.get("name", ""), SCHEDULES, "schedule")
    parameters = {str(key): value for key, value in given.items() if key != "name"}
    if not parameters:
        return schedule
    known = [item.name for item in fields(schedule)]  # type: ignore[arg-type]
    for key, value in parameters.items():
        if key not in known:
            raise InputError(
                f"unknown parameter {key!r}",
                where=f"schedule {given['name']!r}",
                expected="a parameter of this schedule",
                fix=nearest(key, known) if known else "it has none",
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{key} = {value!r}", where=f"schedule {given['name']!r}", expected="a number")
    return replace(schedule, **parameters)  # type: ignore[type-var]
