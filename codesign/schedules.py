"""When to prune: the share of the final sparsity that is due at a progress through training.

A schedule is a pure function of progress in [0, 1] that ends at exactly 1; how much the final sparsity is,
and for which layer, is not its business.  What it leaves out: which weights come back (regrowth.py), and
rates of learning.  Read budgets.py next.

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


@dataclass(frozen=True)
class Era:
    """Nothing before `start`, all from `end` on, and in between t'^`power` reversed: 1 linear, 3 cubic as in AGP.

    Campfire's era: first epoch and last epoch of pruning as shares of training, the structure fixed after it.
    """

    start: float = 0.0
    end: float = 0.5
    power: float = 1.0

    def __post_init__(self) -> None:
        _check_start(self.start)
        if isinstance(self.end, bool) or not isinstance(self.end, int | float) or not self.start < self.end <= 1.0:
            raise InputError(f"end = {self.end!r}", where="schedule",
                             expected=f"a share of training above start = {self.start}, up to 1")
        if isinstance(self.power, bool) or not isinstance(self.power, int | float) or not 0 < self.power <= 10:
            raise InputError(f"power = {self.power!r}", where="schedule", expected="a number above 0, up to 10")

    def __call__(self, progress: float) -> float:
        """1 - (1 - t')^power, t' the share of the era that is over."""
        passed = min(1.0, max(0.0, (progress - self.start) / (self.end - self.start)))
        return 1.0 - (1.0 - passed) ** self.power


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` to the end: slow, fast, slow."""

    start: float = 0.0

    def __post_init__(self) -> None:
        _check_start(self.start)

    def __call__(self, progress: float) -> float:
        """(1 - cos(pi t')) / 2."""
        return (1.0 - math.cos(math.pi * _since(progress, self.start))) / 2.0 if progress < 1.0 else 1.0


@dataclass(frozen=True)
class Alternate:
    """AC/DC (Peste et al., NeurIPS 2021): dense until `warmup`, then compressed and dense phases in turn.

    period: length of a phase as a share of training.  From `finish` on it stays compressed.  The share goes down again:
    the pruner drops its masks in dense phases and makes new ones after, and resets momentum at each switch.
    """

    warmup: float = 0.1
    period: float = 0.05
    finish: float = 0.75

    def __post_init__(self) -> None:
        _check_start(self.warmup)
        for name, low in (("period", 0.0), ("finish", self.warmup)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < 1.0:
                raise InputError(f"{name} = {value!r}", where="schedule", expected=f"a share of training above {low}, "
                                 "below 1")

    @property
    def nested(self) -> bool:
        """False: what is pruned may come back."""
        return False

    def __call__(self, progress: float) -> float:
        """1 in compressed phases, 0 in dense ones."""
        if progress >= self.finish:
            return 1.0
        if progress < self.warmup:
            return 0.0
        # 1e-9: three periods of 0.05 may come out a rounding below 0.15, and must not repeat a phase's first step
        return float((int((progress - self.warmup) / self.period + 1e-9) % 2) == 0)


SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "one_shot": OneShot(),
    "iterative": Iterative(),
    "agp": Agp(),
    "one_cycle": OneCycle(),
    "one_cycle_fasterai": OneCycle(alpha=14.0, beta=6.0),
    "linear": Era(0.0, 1.0),
    "era": Era(),
    "cubic_era": Era(power=3.0),
    "cosine": Cosine(),
    "alternate": Alternate(),
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
