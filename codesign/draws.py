"""Random numbers that are functions of where training is: a resumed run draws what an uninterrupted one does."""

from __future__ import annotations

import hashlib

import torch


def uniform(*place: int | str) -> float:
    """A number in [0, 1) for one place, such as (seed, step, question); those of other places are independent."""
    return float(torch.rand((), generator=generator(*place), dtype=torch.float64))


def generator(*place: int | str) -> torch.Generator:
    """A CPU generator for one place: hashed, since sums such as seed + step give different runs the same stream."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # 63 bits: it takes an int64
