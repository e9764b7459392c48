"""A finished run, or an exported network, made smaller on disk: same answers, fewer channels, a trace of its own.

It puts together what compact.py, export.py and the run's configuration have.  Activations are measured anew where the
run says on which images; of a directory without a run nothing is known of them, and the trace says so by having none.
Read compact.py for what is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simulator.errors import InputError

from .compact import compact
from .config import load_config
from .evaluate import load_network
from .export import export, load_exported
from .lookup import look_up
from .run_directory import RunDirectory
from .trace import Activations, measure_activations, record_activation_masks, trace_model

MEASURED_IMAGES = 256


@dataclass(frozen=True)
class CompactRun:
    """What `compact_run` wrote, and how many parameters the network had and has."""

    out: Path
    before: int
    after: int
    removed: Mapping[str, int]
    kept: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """What `espalier compact --json` prints."""
        return {"schema": 1, "model": str(self.out), "parameters_before": self.before, "parameters": self.after,
                "removed": dict(self.removed), "kept": dict(self.kept)}


def compact_run(run: str | Path, out: str | Path | None = None, build: str | None = None) -> CompactRun:
    """Write the network of a run or exported directory without its empty channels into `out` (default RUN/compact).

    Raises InputError where there is no finished network, where `out` holds one already, and as compact() does.
    """
    path = Path(run)
    exported, _ = load_network(path, build)
    folder = path / "compact" if out is None else Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), expected="a new or empty directory",
                         fix="choose another --out")
    model, architecture = exported.model, exported.architecture
    masks = {name: torch.from_numpy(mask) for name, mask in exported.masks.items()}
    example = torch.zeros(architecture.input_shape)
    small = compact(model, example, masks)
    masks = dict(small.masks)
    structures = {name: text for name, text in architecture.structures.items() if name in masks}
    smaller = replace(architecture, structures=structures, sizes=_joined(architecture.sizes, small.sizes))
    activations = _activations(path, small.model)
    export(small.model, folder, smaller, masks, activations,
           [choice for choice in exported.choices if choice.layer in masks], exported.provenance)
    trace_model(small.model, example, masks, structures, activations,
                provenance=exported.provenance).save(folder / "trace.safetensors")
    load_exported(folder, build or architecture.build)  # what cannot be read back is not called written
    before = sum(parameter.numel() for parameter in model.parameters())
    return CompactRun(folder, before, small.parameters, small.removed, small.kept)


def _joined(first: Mapping[str, Mapping[str, int]], then: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The sizes of a network that was compact already and has been made smaller again."""
    return {name: {**first.get(name, {}), **then.get(name, {})} for name in sorted({*first, *then})}


def _activations(path: Path, model: torch.nn.Module) -> Activations:
    """Measured as the run measured them, on the same validation images."""
    run = RunDirectory(path)
    if not run.config.is_file():
        return {}
    config = load_config(str(run.config))
    if config.output.activations == "none":
        return {}
    how = config.data
    limits = {"limit": how.limit, "test_limit": how.test_limit}
    load, hold_out = look_up(how.load, {}, "data.load"), look_up(how.split, {}, "data.split")
    data = load(how.source, **{key: value for key, value in limits.items() if value is not None})
    split = hold_out(data, how.validation, torch.Generator().manual_seed(config.seed))
    batches: Any = look_up(how.batches, {}, "data.batches")
    images, _ = next(batches(split.validation_images[:MEASURED_IMAGES], split.validation_labels[:MEASURED_IMAGES],
                             MEASURED_IMAGES, 0, 0, mean=data.mean, std=data.std))
    if config.output.activations == "density":
        return measure_activations(model, [images])
    return record_activation_masks(model, images[:1])
