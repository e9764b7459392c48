"""A trained network as files that another process, or another tool, can read without running any code.

model.safetensors has the parameters under their PyTorch names, masks.safetensors the masks and measured
activations as packed bits, architecture.json how to build the network, choices.json what was chosen for
each layer, provenance.json where it came from.  Weights are stored in full, zeros included.  Every file is
checked on loading.  Read trace.py for how a network becomes a Trace, evaluate.py for what scores it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulator import Trace, files
from simulator.errors import InputError, nearest
from simulator.trace import PackedMask

from .choice import StructureChoice
from .compact_sizes import resize_
from .lookup import look_up
from .run_directory import write_whole
from .trace import Activations, Mask, from_numpy, to_numpy, trace_model

SCHEMA = 1
MADE_BY = "`espalier train` or codesign.export.export"
TRUSTED = "models."
"""Builders in this package are run when a file names them; any other must be named by the user too, since a
file that can call what it likes is a program."""


@dataclass(frozen=True)
class Architecture:
    """How to build the network and show it one image.

    build: "package.module:name", called with kwargs.  input_shape: of one input, batch included.
    structures: layer -> the structure its mask was made by.  mean, std: per channel, of inputs in 0..1.
    sizes: what compact() has made smaller than the builder makes it, as {module: {attribute: size}}.
    """

    build: str
    kwargs: Mapping[str, Any]
    input_shape: tuple[int, ...]
    structures: Mapping[str, str]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exported:
    """A network read back: masks are bool of the weight's shape, by layer name; a layer without one is dense."""

    model: nn.Module
    architecture: Architecture
    masks: Mapping[str, NDArray[np.bool_]]
    activations: Activations
    choices: tuple[StructureChoice, ...]
    provenance: Mapping[str, Any]

    def trace(self) -> Trace:
        """The network as it runs on one input, with its masks and what was measured of its activations."""
        example = torch.zeros(self.architecture.input_shape)
        return trace_model(
            self.model, example, self.masks, self.architecture.structures, self.activations, provenance=self.provenance
        )


def export(
    model: nn.Module,
    directory: str | Path,
    architecture: Architecture,
    masks: Mapping[str, Mask],
    activations: Activations | None = None,
    choices: Iterable[StructureChoice] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the network into `directory`, made if need be; returns it.

    masks: bool by layer name, of the weight's shape.  Raises InputError where a masked weight is not zero,
    because such a network would compute something else than what its masks are charged for.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: to_numpy(mask) if isinstance(mask, Tensor) else np.asarray(mask) for name, mask in masks.items()}
    _check_masks(model, arrays, "export")
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}
    files.save(folder / "model.safetensors", "model", {"schema": SCHEMA}, parameters)
    tensors: dict[str, NDArray[Any]] = {}
    header: dict[str, Any] = {"schema": SCHEMA, "weights": {}, "inputs": {}}
    for name, mask in arrays.items():
        header["weights"][name] = list(mask.shape)
        tensors[f"weight/{name}"] = PackedMask.pack(mask).bits
    for name, measured in (activations or {}).items():
        if isinstance(measured, np.ndarray):
            header["inputs"][name] = list(measured.shape)
            tensors[f"input/{name}"] = PackedMask.pack(measured).bits
        else:
            header["inputs"][name] = measured
    files.save(folder / "masks.safetensors", "masks", header, tensors)
    write_json(folder / "architecture.json", {"schema": SCHEMA, **asdict(architecture)})
    write_json(folder / "choices.json", {"schema": SCHEMA, "choices": [asdict(choice) for choice in choices]})
    write_json(folder / "provenance.json", {"schema": SCHEMA, **dict(provenance or {})})
    return folder


def is_exported(directory: str | Path) -> bool:
    """Whether `directory` looks like one that `export` wrote."""
    return (Path(directory) / "architecture.json").is_file()


def load_exported(directory: str | Path, build: str | Callable[..., nn.Module] | None = None) -> Exported:
    """The network in `directory`, in evaluation mode on the CPU.

    build: the builder to use instead of the one that architecture.json names; needed where that one is
    outside the package `models`.  Raises InputError for a missing, truncated, damaged or foreign file, a
    builder that is not trusted or fails, and names or shapes that do not fit the network built.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError("no such directory", where=str(folder), expected=f"a directory written by {MADE_BY}")
    table = read_json(folder / "architecture.json")
    try:
        architecture = Architecture(
            build=str(table["build"]),
            kwargs=dict(table["kwargs"]),
            input_shape=tuple(table["input_shape"]),
            structures=dict(table["structures"]),
            mean=tuple(table["mean"]),
            std=tuple(table["std"]),
            classes=tuple(table["classes"]),
            sizes={name: dict(sizes) for name, sizes in table.get("sizes", {}).items()},
        )
        choices = tuple(StructureChoice(**row) for row in read_json(folder / "choices.json")["choices"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"a field is missing or of a wrong type ({type(error).__name__}: {error})",
            where=str(folder),
            expected=f"files written by {MADE_BY}",
        ) from None
    model = _build(architecture, build, str(folder / "architecture.json"))
    resize_(model, architecture.sizes, str(folder / "architecture.json"))
    _, parameters = files.load(folder / "model.safetensors", "model", MADE_BY)
    _load_parameters_(model, parameters, str(folder / "model.safetensors"))
    masks, activations = _read_masks(folder / "masks.safetensors")
    _check_masks(model, masks, str(folder / "masks.safetensors"))
    provenance = {key: value for key, value in read_json(folder / "provenance.json").items() if key != "schema"}
    return Exported(model.eval(), architecture, masks, activations, choices, provenance)


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """Write a table as JSON with a sha256 of itself; the file appears whole or not at all."""
    body = json.dumps(table, sort_keys=True)
    whole = {**json.loads(body), "sha256": hashlib.sha256(body.encode()).hexdigest()}
    write_whole(path, json.dumps(whole, sort_keys=True, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The table that `write_json` wrote.  Raises InputError for a missing, damaged or foreign file."""
    where = str(path)
    if not path.is_file():
        raise InputError("no such file", where=where, expected=f"a file written by {MADE_BY}")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        found = whole.pop("sha256")
        schema = whole["schema"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not a JSON file of ours ({type(error).__name__}: {error})",
            where=where,
            expected=f"a file written by {MADE_BY}",
            fix="copy it again or export again",
        ) from None
    if found != hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest():
        raise InputError(
            "its checksum does not match its content",
            where=where,
            expected="an undamaged, unedited file",
            fix="copy it again or export again",
        )
    if schema != SCHEMA:
        raise InputError(
            f"schema {schema}",
            where=where,
            expected=f"schema {SCHEMA}",
            fix="use the version of espalier that wrote it, or export again",
        )
    return dict(whole)


def _build(architecture: Architecture, build: str | Callable[..., nn.Module] | None, where: str) -> nn.Module:
    named = architecture.build
    if build is None and not named.startswith(TRUSTED):
        raise InputError(
            f"the builder is {named!r}, code that did not come with espalier",
            where=where,
            expected="a builder that you trust",
            fix=f"if you do, pass it yourself: --build {named}",
        )
    make: Callable[..., Any] = look_up(build or named, {}, "builder")
    try:
        model = make(**architecture.kwargs)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{build or named} refuses the arguments {dict(architecture.kwargs)} ({error})",
            where=where,
            expected="arguments that it takes",
        ) from None
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{build or named} returned a {type(model).__name__}", where=where, expected="a torch.nn.Module"
        )
    return model


def _load_parameters_(model: nn.Module, parameters: Mapping[str, NDArray[Any]], where: str) -> None:
    """Put the parameters and buffers into the model; all misfits in one error."""
    wanted = model.state_dict()
    errors = [
        InputError(f"tensor {name!r} is in the file but not in the network", where=where, fix=nearest(name, wanted))
        for name in parameters
        if name not in wanted
    ]
    for name, value in wanted.items():
        if name not in parameters:
            errors.append(InputError(f"tensor {name!r} is missing", where=where, fix=nearest(name, parameters)))
        elif tuple(parameters[name].shape) != tuple(value.shape):
            errors.append(
                InputError(
                    f"tensor {name!r} has shape {list(parameters[name].shape)}",
                    where=where,
                    expected=f"{list(value.shape)}, as the network has it",
                )
            )
    if errors:
        raise InputError.collect(errors)
    model.load_state_dict({name: from_numpy(parameters[name]) for name in wanted})


def _read_masks(path: Path) -> tuple[dict[str, NDArray[np.bool_]], dict[str, float | NDArray[np.bool_]]]:
    header, tensors = files.load(path, "masks", MADE_BY)

    def unpack(name: str, shape: list[int]) -> NDArray[np.bool_]:
        if tensors[name].size != -(-math.prod(shape) // 8):
            raise ValueError(f"{name} has {tensors[name].size} bytes for shape {shape}")
        return PackedMask(tuple(shape), tensors[name]).unpack()

    try:
        masks = {name: unpack(f"weight/{name}", shape) for name, shape in header["weights"].items()}
        inputs = {
            name: unpack(f"input/{name}", known) if isinstance(known, list) else float(known)
            for name, known in header["inputs"].items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"header and tensors disagree ({error})",
            where=str(path),
            expected=f"a file written by {MADE_BY}",
            fix="export again",
        ) from None
    return masks, inputs


def _check_masks(model: nn.Module, masks: Mapping[str, NDArray[np.bool_]], where: str) -> None:
    modules = dict(model.named_modules())
    errors = []
    for name, mask in masks.items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor):
            errors.append(
                InputError(
                    f"mask of {name!r}", where=where, expected="a layer with a weight", fix=nearest(name, modules)
                )
            )
        elif mask.dtype != np.bool_ or mask.shape != tuple(weight.shape):
            errors.append(
                InputError(
                    f"mask of {name!r} is {mask.dtype} {list(mask.shape)}",
                    where=where,
                    expected=f"bool {list(weight.shape)}",
                )
            )
        elif bool((to_numpy(weight)[~mask] != 0).any()):
            errors.append(
                InputError(
                    f"layer {name!r} has nonzero weights where its mask says pruned",
                    where=where,
                    expected="weights with the mask applied",
                    fix="call pruner.finalize() first",
                )
            )
    if errors:
        raise InputError.collect(errors)
