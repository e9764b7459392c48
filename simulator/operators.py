"""Operators that are not GEMMs: pooling, activation, normalisation, softmax, element-wise work, changes of layout.

An operator is how many elements it reads and writes and how many scalar operations it does, counted when the network
ran; which of its values are zero is left out, so sparsity makes no operator cheaper.  Read vector.py for what one
costs on a machine, and codesign/trace.py for how they are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import InputError, nearest
from .workload import INT64_MAX

KINDS = ("pooling", "activation", "normalisation", "softmax", "elementwise", "layout", "unknown")
FUSION = ("none", "producer", "weights")


@dataclass(frozen=True)
class Operator:
    """One run of an operator in a network.

    name: unique among the operators of a trace.  operator: the function's own name, such as "max_pool2d".  kind: one
    of KINDS; "unknown" is priced on no machine, and `macs` are the multiply-accumulates of one that has them.
    reads, writes: elements, of `bits` each.  operations: scalar operations, each of one lane and cycle.
    after: the layer that ran last before it ("" = it ran first).  sources: layers whose outputs it reads, directly or
    through operators.  fusion: "producer" where every output depends on one output of the layer `producer` at the same
    place, so that a fused machine applies it as they leave; `others` are then the elements it reads besides those.
    "weights" where it is a scale and a shift that an inference engine multiplies into the producer's weights
    beforehand.  Raises InputError for a count that is negative or beyond 64 bits, an unknown kind, and a fusion without
    a producer.
    """

    name: str
    operator: str
    kind: str
    reads: int
    writes: int
    operations: int
    bits: int = 8
    after: str = ""
    fusion: str = "none"
    producer: str = ""
    others: int = 0
    macs: int = 0
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"operator {self.name!r}"
        object.__setattr__(self, "sources", tuple(self.sources))
        for item in fields(self):
            value = getattr(self, item.name)
            least, most = (1, 64) if item.name == "bits" else (0, INT64_MAX // 4096)
            if item.type == "int" and (isinstance(value, bool) or not isinstance(value, int)
                                       or not least <= value <= most):
                raise InputError(f"{item.name} = {value!r}", where=where,
                                 expected=f"an integer from {least} to {most}")
            if item.type == "str" and not isinstance(value, str):
                raise InputError(f"{item.name} = {value!r}", where=where, expected="a text")
        for name, known in (("kind", KINDS), ("fusion", FUSION)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} = {getattr(self, name)!r}", where=where,
                                 expected=f"one of {', '.join(known)}", fix=nearest(getattr(self, name), known))
        if self.fusion != "none" and not self.producer:
            raise InputError(f"fusion = {self.fusion!r} without a producer", where=where,
                             expected="the name of the layer that it is fused into")
        if self.others > self.reads:
            raise InputError(f"others = {self.others} of reads = {self.reads}", where=where,
                             expected="no more than it reads in all")

    @property
    def bytes(self) -> int:
        """Bytes that it reads and writes where nothing is fused."""
        return -(-(self.reads + self.writes) * self.bits // 8)
