"""What hardware-aware selection decided for one layer: its structure, its density and what that costs.

A choice is a record for people and for export; the mask itself is the truth that the simulator prices.
It leaves out how it was found: read selection.py for that, pruner.py for who installs it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StructureChoice:
    """layer: module name; structure: as simulator.structure.parse reads it; density: share of weights kept;
    cycles: predicted for this layer; loss: predicted damage, in the unit of the selection's objective."""

    layer: str
    structure: str
    density: float
    cycles: float
    loss: float
