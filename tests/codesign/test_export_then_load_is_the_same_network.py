"""What export writes, load_exported reads back: weights, masks, choices and the trace, and nothing that was damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codesign import Pruner
from codesign.choice import StructureChoice
from codesign.export import Architecture, export, load_exported, read_json, write_json
from codesign.trace import measure_activations, record_activation_masks, trace_model
from simulator import Trace, load_machine, simulate
from simulator.errors import InputError

X = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(5))


def _network(seed: int = 0) -> nn.Module:
    from importlib import import_module

    return import_module("models.nets").build("resnet8", in_channels=1, num_classes=10, widths=[8, 8, 16], seed=seed)


def _exported(folder: Path, settings: dict[str, object], **more: object) -> tuple[Trace, Path]:
    model = _network()
    pruner = Pruner(model, {"schedule": "constant", **settings}, example_inputs=X)
    pruner.finalize()
    structures = {row.layer: row.structure for row in pruner.plan()}
    kwargs = {"name": "resnet8", "in_channels": 1, "num_classes": 10, "widths": [8, 8, 16]}
    activations = more.get("activations", measure_activations(model, [X]))
    trace = trace_model(model, X[:1], pruner.masks, structures, activations)
    architecture = Architecture("models.nets:build", kwargs, (1, 1, 28, 28), structures)
    choices = [StructureChoice("fc", "dense", 1.0, 12.0, 0.25)]
    export(model, folder, architecture, pruner.masks, activations, choices, {"seed": 7})
    return trace, folder


def _same(one: Trace, other: Trace) -> bool:
    for a, b in zip(one.layers, other.layers, strict=True):
        if (a.name, a.operation, a.structure, a.input_density, a.weight_bits) != (
            b.name,
            b.operation,
            b.structure,
            b.input_density,
            b.weight_bits,
        ):
            return False
        for mask_a, mask_b in ((a.weight_mask, b.weight_mask), (a.input_mask, b.input_mask)):
            if (mask_a is None) != (mask_b is None) or (mask_a is not None and not np.array_equal(mask_a, mask_b)):
                return False
    return tuple(one.edges) == tuple(other.edges)


@pytest.mark.parametrize(
    "settings",
    [
        {"structure": "2:4"},
        {"structure": "1:4", "skip": ()},
        {"structure": "block 8x8", "sparsity": 0.5},
        {"structure": "channel", "sparsity": 0.5},
        {"structure": "filter", "sparsity": 0.25},
        {"structure": "kernel", "sparsity": 0.5, "scope": "global"},
        {"structure": "unstructured", "sparsity": 0.9, "scope": "global"},
    ],
    ids=lambda settings: str(settings["structure"]),
)
def test_the_trace_of_a_loaded_network_is_that_of_the_exported_one(settings: dict[str, object], tmp_path: Path) -> None:
    trace, folder = _exported(tmp_path / "model", settings)
    loaded = load_exported(folder)
    assert any(layer.structure == settings["structure"] for layer in trace.layers)
    assert _same(trace, loaded.trace())
    assert loaded.choices == (StructureChoice("fc", "dense", 1.0, 12.0, 0.25),)
    assert loaded.provenance == {"seed": 7}
    machine = load_machine("nm_array")
    assert simulate(loaded.trace(), machine).to_dict() == simulate(trace, machine).to_dict()


def test_activation_masks_travel_with_the_network(tmp_path: Path) -> None:
    masks = record_activation_masks(_network(), X[:1])
    trace, folder = _exported(tmp_path / "model", {"structure": "2:4"}, activations=masks)
    assert trace.layers[3].input_mask is not None
    assert 0 < trace.layers[3].input_density < 1
    assert _same(trace, load_exported(folder).trace())


def test_a_network_computes_the_same_after_loading(tmp_path: Path) -> None:
    model = _network(seed=3).train()
    model(X)  # moves the batch norm statistics
    export(
        model,
        tmp_path,
        Architecture(
            "models.nets:build",
            {"name": "resnet8", "in_channels": 1, "num_classes": 10, "widths": [8, 8, 16]},
            (1, 1, 28, 28),
            {},
        ),
        {},
    )
    assert torch.equal(load_exported(tmp_path).model(X), model.eval()(X))


def test_a_mask_that_the_weights_do_not_have_is_refused(tmp_path: Path) -> None:
    mask = torch.zeros(8, 1, 3, 3, dtype=torch.bool)
    with pytest.raises(InputError, match=r"layer 'conv1' has nonzero weights where its mask says pruned.*finalize"):
        export(_network(), tmp_path, Architecture("models.nets:build", {}, (1, 1, 28, 28), {}), {"conv1": mask})


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _flip_header_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["model.safetensors", "masks.safetensors"])
@pytest.mark.parametrize("damage", [_truncate, _flip_last_bit, _flip_header_bit])
def test_a_damaged_tensor_file_is_an_error_that_names_it(
    file: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    _, folder = _exported(tmp_path / "model", {"structure": "2:4"})
    damage(folder / file)
    with pytest.raises(InputError, match=file):
        load_exported(folder)


@pytest.mark.parametrize("file", ["architecture.json", "choices.json", "provenance.json"])
def test_an_edited_or_cut_json_file_is_an_error_that_names_it(file: str, tmp_path: Path) -> None:
    _, folder = _exported(tmp_path / "model", {"structure": "2:4"})
    whole = (folder / file).read_text()
    (folder / file).write_text(whole.replace("1", "2", 1))
    with pytest.raises(InputError, match=rf"{file}.*(checksum does not match|schema)"):
        load_exported(folder)
    (folder / file).write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"{file}.*not a JSON file of ours"):
        load_exported(folder)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "masks.safetensors", "architecture.json", "choices.json", "provenance.json"]
)
def test_a_missing_file_is_an_error_that_names_it(file: str, tmp_path: Path) -> None:
    _, folder = _exported(tmp_path / "model", {"structure": "2:4"})
    (folder / file).unlink()
    with pytest.raises(InputError, match=rf"{file}.*no such file; expected a .*file"):
        load_exported(folder)


def test_weights_of_another_network_are_refused_with_every_name(tmp_path: Path) -> None:
    _, folder = _exported(tmp_path / "model", {"structure": "2:4"})
    table = {key: value for key, value in read_json(folder / "architecture.json").items() if key != "schema"}
    table["kwargs"]["widths"] = [8, 8, 8]
    write_json(folder / "architecture.json", {"schema": 1, **table})
    with pytest.raises(InputError) as caught:
        load_exported(folder)
    assert "tensor 'layer3.0.conv1.weight' has shape [16, 8, 3, 3]; expected [8, 8, 3, 3]" in str(caught.value)
    assert "tensor 'fc.weight'" in str(caught.value)


def test_a_builder_from_elsewhere_runs_only_when_the_user_names_it(tmp_path: Path) -> None:
    _, folder = _exported(tmp_path / "model", {"structure": "2:4"})
    table = json.loads((folder / "architecture.json").read_text())
    del table["sha256"]
    (folder / "ran").mkdir()
    write_json(folder / "architecture.json", {**table, "build": "os:rmdir", "kwargs": {"path": str(folder / "ran")}})
    with pytest.raises(
        InputError, match=r"builder is 'os:rmdir', code that did not come with espalier.*--build os:rmdir"
    ):
        load_exported(folder)
    assert (folder / "ran").exists()
    loaded = load_exported(_exported(tmp_path / "second", {"structure": "2:4"})[1], build="models.nets:build")
    assert loaded.masks
