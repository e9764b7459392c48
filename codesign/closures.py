"""Where gradients are looked at when the optimizer makes them itself: `optimizer.step(closure)`.

A hook before such a step sees the gradients of the step before, or half accumulated ones; only after the closure do
weight and gradient belong together.  It leaves out what is done with them.  Read pruner.py for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def call_with_gradients(
    observe: Callable[[], None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Call `observe` now, or after the closure among the arguments of `optimizer.step`.

    args: the optimizer, then what step() was given; kwargs: the rest, as a step pre hook gets them.  Returns the
    arguments with the closure replaced, as such a hook may, or None where there is no closure.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        observe()
        return None

    def observed() -> Any:
        loss = closure()
        observe()
        return loss

    return (args[0], observed, *args[2:]), {name: value for name, value in kwargs.items() if name != "closure"}
