"""Safetensors files that know when they are damaged.

Safetensors notices a truncated file but not a flipped bit, and a flipped bit in a mask is a wrong cycle
count that nobody sees.  Every file of ours therefore carries a sha256 over its JSON header and its
tensors; nothing that is read can run code.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Arrays = dict[str, NDArray[Any]]


def is_file(path: str | Path) -> bool:
    """Is there such a file?  False too for a text that no file can have as its name, such as one of 5,000 letters."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table of a TOML text; InputError for everything that Python's own reader may raise."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and integers of more digits than Python converts
        raise InputError(f"not valid TOML ({error})", where=where, fix="correct the line it names") from None
    except RecursionError:
        raise InputError("not valid TOML (nested too deeply)", where=where) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table of a TOML file; InputError where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not valid TOML ({error})", where=str(path), expected="UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), expected="a readable file") from None
    return parse_toml(text, str(path))


def digest(header: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over the header text and every tensor's name, type, shape and bytes, in order of name."""
    state = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        state.update(f"\n{name} {array.dtype.str} {list(tensors[name].shape)}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def save(path: str | Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write `tensors` with a JSON `header` under the name `kind`; the file appears whole or not at all."""
    from safetensors.numpy import save as pack

    text = json.dumps(header, sort_keys=True)
    # 0-d arrays keep their shape; ascontiguousarray would make them 1-d.
    arrays = {name: array if array.ndim == 0 else np.ascontiguousarray(array) for name, array in tensors.items()}
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    # One key: safetensors writes several in any order, and equal files shall have equal bytes.
    sealed = json.dumps({"header": header, "sha256": digest(text, arrays)}, sort_keys=True)
    partial.write_bytes(pack(arrays, {f"espalier_{kind}": sealed}))
    partial.replace(target)


def load(path: str | Path, kind: str, made_by: str) -> tuple[dict[str, Any], Arrays]:
    """Header and tensors of a file written by `save` under `kind`.

    Raises InputError for a missing, truncated, damaged or foreign file; `made_by` says what writes one.
    """
    where = str(path)
    tensors, metadata = read(path)
    text = metadata.get(f"espalier_{kind}")
    if text is None:
        raise InputError(f"holds no Espalier {kind}", where=where, expected=f"a file written by {made_by}")
    try:
        sealed = json.loads(text)
        header, checksum = sealed["header"], sealed["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        header, checksum = None, None
    if checksum is None or checksum != digest(json.dumps(header, sort_keys=True), tensors):
        raise InputError("its checksum does not match its content", where=where, expected="an undamaged file",
                         fix=f"copy it again or make it again with {made_by}")
    return header, tensors


def read(path: str | Path) -> tuple[Arrays, dict[str, str]]:
    """All tensors and the text metadata of any safetensors file; InputError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    where = str(path)
    if not is_file(path):
        raise InputError("no such file", where=where, expected="a safetensors file")
    try:
        with safe_open(where, framework="numpy") as handle:
            names = handle.keys()  # a safetensors handle is no dictionary: it cannot be iterated
            return {name: handle.get_tensor(name) for name in names}, dict(handle.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"cannot be read as safetensors ({error})", where=where,
                         expected="an undamaged safetensors file", fix="copy or write it again") from None
