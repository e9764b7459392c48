"""The whole state of a training run in one file that is either old or new, never half.

Any nesting of dictionaries, lists, tuples, tensors and JSON values goes into one checked safetensors file:
the tensors as tensors, the rest as its JSON header.  Nothing that is read can run code: there is no pickle
here.  It leaves out which state there is; resume.py gathers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from simulator import files
from simulator.errors import InputError

from .trace import from_numpy, to_numpy

SCHEMA = 1
FILE = "state.safetensors"
MADE_BY = "`espalier train`"


def save_checkpoint(directory: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` into `directory`.  The file is replaced in one step, so a kill leaves the last one whole."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    header = {"schema": SCHEMA, "state": _strip(state, "state", tensors)}
    files.save(folder / FILE, "checkpoint", header, {name: to_numpy(value) for name, value in tensors.items()})


def has_checkpoint(directory: str | Path) -> bool:
    """Whether `directory` holds a checkpoint, sound or not."""
    return (Path(directory) / FILE).is_file()


def load_checkpoint(directory: str | Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, tensors on the CPU.

    Raises InputError for a missing, truncated, damaged or foreign file, or one of another schema.
    """
    path = Path(directory) / FILE
    header, arrays = files.load(path, "checkpoint", MADE_BY)
    if header.get("schema") != SCHEMA:
        raise InputError(
            f"schema {header.get('schema')}",
            where=str(path),
            expected=f"schema {SCHEMA}",
            fix="use the version of espalier that wrote it, or start the run again",
        )
    state = _fill(header["state"], {name: from_numpy(array) for name, array in arrays.items()})
    assert isinstance(state, dict)  # save_checkpoint takes a mapping, and the checksum has been checked
    return state


def _strip(value: Any, path: str, tensors: dict[str, Any]) -> Any:
    """`value` as JSON; every tensor moves to `tensors` and leaves its name, every container its kind."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        # A list of pairs: keys of an optimizer's state are integers, which JSON would turn into texts.
        return {
            "items": [
                [_strip(key, f"{path}/key", tensors), _strip(item, f"{path}/{key}", tensors)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        items = [_strip(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a checkpoint cannot hold a {type(value).__name__}")


def _fill(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_strip`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {_fill(key, tensors): _fill(item, tensors) for key, item in content}
    items = [_fill(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
