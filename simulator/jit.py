"""numba.njit with the settings that every kernel of ours needs.

Compiled code is cached under a folder named by the hash of all kernel sources and of counts.py, whose indices
they hold: numba's own cache looks at one file's date only, so an edited callee would leave a stale caller
behind.  The folder is the user's cache directory ($ESPALIER_CACHE_DIR, else $XDG_CACHE_HOME/espalier, else
~/.cache/espalier), which also serves an installation that cannot be written to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def cache_root() -> Path:
    """The folder under which compiled kernels are kept."""
    chosen = os.environ.get("ESPALIER_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "espalier"


@lru_cache(maxsize=1)
def cache_dir() -> Path:
    """The folder of compiled kernels for this version of the sources."""
    state = hashlib.sha256(numba.__version__.encode())
    package = Path(__file__).parent
    for path in [*sorted(package.rglob("*kernel*.py")), package / "counts.py"]:
        state.update(path.name.encode() + path.read_bytes())
    return cache_root() / f"numba-{state.hexdigest()[:16]}"


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` without the GIL, cached on disk; NUMBA_DISABLE_JIT=1 leaves it plain Python."""
    # The cache folder is fixed when a function is decorated; the user's own setting is put back.
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(cache_dir())
    try:
        return numba.njit(function, cache=True, nogil=True)
    finally:
        settings.CACHE_DIR = before
