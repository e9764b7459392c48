"""How a layer is cut into tiles that fit on chip, and in which order they are visited.

A Tiling is in the physical GEMM's coordinates (after removed channels and n:m compaction).  The search
over tilings is in machines/ beside the cost it minimises; this file has the data and the legality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LOOP_ORDERS = ("mnk", "nmk", "mkn", "kmn", "nkm", "knm")  # outermost first; also the order of ties


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in rows of m, k and n, and the loop order over tiles, outermost first."""

    tile_m: int
    tile_k: int
    tile_n: int
    order: str = "mnk"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"m": self.tile_m, "k": self.tile_k, "n": self.tile_n, "order": self.order}
