"""Where a training runs, and that it gives the same bits there every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from simulator.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device of "auto", "cpu" or "cuda".  Raises InputError for CUDA where there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name!r}", expected='"auto", "cpu" or "cuda"')
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device 'cuda', but PyTorch sees no CUDA device",
            expected="a CUDA device and a CUDA build of PyTorch",
            fix="use --device cpu",
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Only algorithms that give the same bits every time; what was set before is set again afterwards."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # cuBLAS reads this when it starts; without it its results may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On a GPU a few backward passes have no such algorithm: there a warning is better than no training.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
