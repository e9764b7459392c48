"""Whether a saved pruner state belongs to these settings and this network, checked before any of it is used.

The state itself is made and read by Pruner.state_dict and load_state_dict; files are checkpoint.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from simulator.errors import InputError, nearest

SCHEMA = 1


def check_state(
    state: Mapping[str, Any], settings: Mapping[str, Any], names: Iterable[str], parameter: Callable[[str], Tensor]
) -> None:
    """Raises InputError, all mistakes at once, unless `state` fits.

    settings: PrunerConfig.describe() as configured now; total_steps may differ, so that a training can be
    made longer.  names: layers and parameters that may have a mask; parameter: their tensors.
    """
    where = "pruner state"
    meta = state.get("meta", {})
    if meta.get("schema") != SCHEMA:
        raise InputError(f"schema {meta.get('schema')!r}", where=where, expected=str(SCHEMA))
    errors = []
    for key, value in settings.items():
        if key != "total_steps" and meta["config"].get(key) != value:
            errors.append(
                InputError(
                    f"{key} was {meta['config'].get(key)!r}", where=where, expected=f"{value!r} as configured now"
                )
            )
    known = list(names)
    for kind in ("masks", "scores"):
        for name, saved in state[kind].items():
            if name not in known:
                errors.append(
                    InputError(
                        f"{kind} for {name!r}", where=where, expected="a layer of this model", fix=nearest(name, known)
                    )
                )
                continue
            shape = parameter(name).shape
            fits = len(saved) == -(-shape.numel() // 8) if kind == "masks" else saved.shape == shape
            if not fits:
                errors.append(
                    InputError(
                        f"{kind} of shape {list(saved.shape)} for {name!r}",
                        where=where,
                        expected=f"those of a weight of shape {list(shape)}",
                    )
                )
    if errors:
        raise InputError.collect(errors)
