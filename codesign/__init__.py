"""Codesign: training that prunes a network to fit a machine, with the simulator as its oracle.

It holds the pruner, the hardware cost that feeds it, the training loop and the command line; it leaves the
machines to `simulator` and the nets to `models`.  Read pruner.py next.

Names load on first use, so that `import codesign` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cost import HardwareCost as HardwareCost
    from .once import sparsify as sparsify
    from .pruner import Pruner as Pruner

_HOMES = {"Pruner": "pruner", "sparsify": "once", "HardwareCost": "cost"}

__all__ = ["HardwareCost", "Pruner", "sparsify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'codesign' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
