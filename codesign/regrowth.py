"""Which weights come back: drop some of the survivors, let as many others grow, at unchanged sparsity.

A rule is data: what lets a weight grow (its gradient, or chance), how large a share of the survivors changes
places, and until when.  New weights start at zero, where the mask has held them.  It leaves out how sparse
the network is, which the schedule says: with "constant" and scope "erk" it is RigL or SET, with a cubic
ramp GraNet.  Read gradual.py for the masks that only shrink.

SET: Mocanu et al., Nature Communications 2018.  RigL: Evci et al., ICML 2020.  GraNet: Liu et al., NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from simulator.errors import InputError, nearest
from simulator.structure import Structure

from .structures import project, unit_scores


@dataclass(frozen=True)
class Regrowth:
    """by: "gradient" (largest |g|) or "random".  fraction: of the survivors that change places at first; until:
    progress at which it ends; decay: "cosine" from `fraction` to 0, or "constant".  every: optimizer steps between."""

    by: str = "gradient"
    fraction: float = 0.3
    until: float = 0.75
    decay: str = "cosine"
    every: int = 100

    def __post_init__(self) -> None:
        choices = {"by": ("gradient", "random"), "decay": ("cosine", "constant")}
        errors = [InputError(f"{name} = {getattr(self, name)!r}", where="regrow", expected=" or ".join(known))
                  for name, known in choices.items() if getattr(self, name) not in known]
        for name in ("fraction", "until"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
                errors.append(InputError(f"{name} = {value!r}", where="regrow", expected="a share above 0, up to 1"))
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            errors.append(InputError(f"every = {self.every!r}", where="regrow", expected="an integer of at least 1"))
        if errors:
            raise InputError.collect(errors)

    def share(self, progress: float) -> float:
        """The share of the survivors that changes places at a progress through training; 0 from `until` on."""
        if progress >= self.until:
            return 0.0
        if self.decay == "constant":
            return self.fraction
        return self.fraction * (1.0 + math.cos(math.pi * progress / self.until)) / 2.0


REGROWTHS: dict[str, Regrowth] = {
    "rigl": Regrowth(),
    "set": Regrowth("random", 0.3, 1.0, "constant"),
    "granet": Regrowth("gradient", 0.5, 1.0),
}


def parse_regrowth(given: str | Mapping[str, object] | Regrowth) -> Regrowth:
    """The rule that a name, {"name": ..., parameter: value} or a Regrowth means; InputError for what is unknown."""
    if isinstance(given, Regrowth):
        return given
    table = {"name": given} if isinstance(given, str) else dict(given)
    name = str(table.pop("name", ""))
    if name not in REGROWTHS:
        raise InputError(f"unknown regrow rule {name!r}", where="regrow", expected="a known name",
                         fix=nearest(name, REGROWTHS))
    known = [item.name for item in fields(Regrowth)]
    for key in table:
        if key not in known:
            raise InputError(f"unknown parameter {key!r}", where=f"regrow {name!r}", expected="a parameter of the rule",
                             fix=nearest(key, known))
    return replace(REGROWTHS[name], **table)  # type: ignore[arg-type]


@torch.no_grad()
def regrown(mask: Tensor, scores: Tensor, growth: Tensor, structure: Structure, share: float, pool: str) -> Tensor:
    """The mask after a share of the kept units has changed places; as many are kept as before, group by group.

    mask: bool, True where kept now.  scores, growth: float of its shape; units stay by the former and come back by the
    latter.  As published, a unit that was just dropped may grow again at once.
    """
    kept, _ = unit_scores(mask, structure)
    density = int((kept > 0).sum()) / len(kept)
    survivors = project(scores.masked_fill(~mask, -math.inf), structure, density * (1.0 - share), pool) & mask
    again = torch.where(survivors, torch.inf, growth.to(torch.float64))
    return project(again, structure, density, pool)


def random_growth(weight: Tensor) -> Tensor:
    """A uniform draw per weight from torch's own generator, which checkpoints keep."""
    return torch.rand(weight.shape).to(weight.device)
