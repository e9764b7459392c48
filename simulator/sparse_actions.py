"""What a machine does with zeros, as data: gated or skipped, at which level, and which operand's zeros decide.

Sparseloop's words (Wu et al., MICRO 2022): a *target* is left out on the *condition* that an operand is zero; *skip*
saves the cycle and the energy, *gate* the energy only.  Each model's Spec states its own; docs/formats.md has them as a
table, and a test holds them against the counts.  Read formats.py for how operands are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LEVELS = ("DRAM", "buffer", "multiplier")


@dataclass(frozen=True)
class SparseAction:
    """action: skip or gate; level: one of LEVELS; condition: weight or input; unit: what has to be zero at once."""

    action: str
    level: str
    target: str
    condition: str
    unit: str = "value"


def stored_without_zeros(operand: str, unit: str = "value") -> tuple[SparseAction, ...]:
    """An operand whose zeros are neither moved nor kept in its buffer."""
    return SparseAction("skip", "DRAM", operand, operand, unit), SparseAction("skip", "buffer", operand, operand, unit)


def skipped(operand: str, unit: str = "value") -> SparseAction:
    """Multiplications left out, with their cycles, because an operand is zero."""
    return SparseAction("skip", "multiplier", "product", operand, unit)


def gated(operand: str, unit: str = "value") -> SparseAction:
    """Multiplications that keep their cycle and do not switch, because an operand is zero."""
    return SparseAction("gate", "multiplier", "product", operand, unit)


def actions_of(array: Any) -> tuple[SparseAction, ...]:
    """What a model's Spec states; nothing where it states nothing."""
    return tuple(getattr(array, "sparse_actions", ()))


def table(machines: Iterable[tuple[str, Any]]) -> str:
    """A row of Markdown per (name, array): how operands are stored, and its actions level by level."""
    lines = ["| machine | stored: weight; input | " + " | ".join(LEVELS) + " |", "|" + "---|" * (len(LEVELS) + 2)]
    for name, array in machines:
        native = getattr(array, "native_formats", {"weight": "dense", "input": "dense"})
        cells = [f"`{name}`", f"{native['weight']}; {native['input']}"]
        for level in LEVELS:
            here = [f"{one.action} {one.target} ← {one.condition} ({one.unit})" for one in actions_of(array)
                    if one.level == level]
            cells.append("<br>".join(here) or "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
