"""What hardware-aware selection decides for a layer, and the one question that the pruner asks of a cost.

A choice is a record for people and for export; the mask itself is the truth that the simulator prices.
It leaves out how a choice is found: read selection.py for that, pruner.py for who installs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class StructureChoice:
    """layer: module name; structure: as simulator.structure.parse reads it; density: share of weights kept;
    cycles: predicted for this layer; loss: predicted damage, in the unit of the selection's objective."""

    layer: str
    structure: str
    density: float
    cycles: float
    loss: float


class CostModel(Protocol):
    """Whatever can choose structures by cost: HardwareCost, a measured table, a count of operations."""

    def select(
        self, model: nn.Module, example_inputs: Any, saliency: Mapping[str, Tensor], keep_dense: frozenset[str]
    ) -> tuple[Mapping[str, Tensor], Sequence[StructureChoice]]:
        """(masks, choices) for the model as it stands.

        saliency: the criterion's score of every prunable weight, by layer name, in the weight's shape; a
        frozen layer among keep_dense may be missing where the criterion needs gradients.
        keep_dense: layers that must lose nothing of their own (a removed channel of a neighbour may still
        take their filters or inputs along).  masks: bool by layer name for weights, by parameter name for
        biases and batch norm; what is not named stays dense.
        """
        ...
