"""What of a network a report has priced: of its operators, its multiply-accumulates and the bytes that they touch.

Bytes are each operand once, as wide as it is stored and dense, whatever a machine makes of them.  What is priced at
zero is named, so that no total passes for a whole network's when it is not.  Read operators.py for what an operator is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .trace import LayerTrace, Trace

if TYPE_CHECKING:
    from .report import OperatorReport


@dataclass(frozen=True)
class Coverage:
    """(priced, in all) of operators, of MACs and of bytes; layers count as operators.

    at_zero: operators that no price was put on, by name, and how often they ran.  folded: those that an inference
    engine multiplies into weights, which rightly cost nothing.  recorded: False where the trace has layers alone and
    nobody knows what ran between them.
    """

    operators: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    at_zero: Mapping[str, int]
    folded: Mapping[str, int]
    recorded: bool

    @property
    def complete(self) -> bool:
        """Is everything that ran priced?"""
        return self.recorded and self.operators[0] == self.operators[1]

    def line(self) -> str:
        """The coverage line of a report."""
        share = ", ".join(f"{_percent(*pair)} of {name}" for name, pair in (
            ("operators", self.operators), ("MACs", self.macs), ("bytes", self.bytes)))
        said = [f"priced: {self.operators[0]} of {self.operators[1]} operators ({share})"]
        if self.at_zero:
            said.append(f"at zero: {_listed(self.at_zero)}")
        if self.folded:
            said.append(f"folded into weights: {_listed(self.folded)}")
        if not self.recorded:
            said.append("what ran between the layers was not recorded")
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """`coverage` of the JSON interface."""
        table: dict[str, Any] = {}
        for name in ("operators", "macs", "bytes"):
            priced, whole = getattr(self, name)
            table[name] = {"priced": priced, "total": whole, "share": priced / whole if whole else 1.0}
        return table | {"priced_at_zero": dict(self.at_zero), "folded": dict(self.folded), "recorded": self.recorded,
                        "line": self.line()}


def coverage(trace: Trace, operators: Sequence[OperatorReport]) -> Coverage:
    """What was priced of a trace, given what became of its operators; every layer is."""
    macs, moved = sum(layer.operation.macs for layer in trace.layers), sum(map(layer_bytes, trace.layers))
    layers, priced = len(trace.layers), [one for one in operators if one.priced]
    return Coverage(
        (layers + len(priced), layers + len(operators)),
        (macs, macs + sum(one.operator.macs for one in operators if not one.priced)),
        (moved + sum(one.operator.bytes for one in priced), moved + sum(one.operator.bytes for one in operators)),
        _by_name([one for one in operators if not one.priced]),
        _by_name([one for one in operators if one.how == "folded"]),
        trace.operators is not None,
    )


def layer_bytes(layer: LayerTrace) -> int:
    """Bytes of a layer's dense operands, each once."""
    operation = layer.operation
    pairs = ((operation.input_shape, layer.input_bits), (operation.weight_shape, layer.weight_bits),
             (operation.output_shape, layer.output_bits))
    return sum(-(-math.prod(shape) * bits // 8) for shape, bits in pairs)


def _by_name(operators: Sequence[OperatorReport]) -> dict[str, int]:
    """How many runs of each operator there are, the most frequent first."""
    found: dict[str, int] = {}
    for one in operators:
        found[one.operator.operator] = found.get(one.operator.operator, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in counts.items())


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that 100 % means all of it."""
    return f"{math.floor(1000 * part / whole) / 10 if whole else 100.0:g} %"
