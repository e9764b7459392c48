"""Partition Pruning: the chain is found, trained in parts, run on P arrays, and really cut into P small chains."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.config import load_config
from codesign.export import load_exported
from codesign.layers import prunable
from codesign.method import Context, Place
from codesign.partition import masks, places_of, shuffled, solve
from codesign.partition_blocks import compacted, load_chains, save_chains
from codesign.partition_chain import chain_of, scores_of
from codesign.partition_execution import as_blocks, execution, with_arrays
from codesign.pruner import Pruner
from codesign.recipes import recipe, settings_of
from codesign.trace import trace_model
from codesign.train import run_training
from models.nets import build
from simulator import Gemm, LayerTrace, load_machine, simulate
from simulator.errors import InputError
from simulator.structure import conforms, parse
from simulator.trace import Trace

IMAGE = torch.zeros(1, 1, 28, 28)


class Normed(nn.Module):
    """A chain with batch norms and dropout between its layers, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b, self.c = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 14), nn.Linear(14, 9), nn.Linear(9, 5)
        self.na, self.nb, self.drop = nn.BatchNorm1d(14), nn.BatchNorm1d(9), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(F.relu(self.conv(x)), 1)
        return self.c(F.relu(self.nb(self.b(self.drop(F.relu(self.na(self.a(x))))))))


def normed() -> Normed:
    torch.manual_seed(0)
    model = Normed()
    model(torch.randn(16, 1, 8, 8))  # statistics that differ from feature to feature
    for norm in (model.na, model.nb):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    return model.eval()


# The chain

def test_the_chain_is_the_layers_that_hand_on_their_features() -> None:
    assert chain_of(build("lenet5"), IMAGE).layers == ("fc1", "fc2", "fc3")
    slim = build("tiny_vgg16", widths=[2, 2, 3, 3, 12, 9])
    assert chain_of(slim, torch.zeros(1, 3, 64, 64)).layers == ("fc1", "fc2", "fc3")
    chain = chain_of(normed(), torch.zeros(2, 1, 8, 8))
    assert chain.layers == ("a", "b", "c") and chain.norms == (("na",), ("nb",), ())
    assert chain_of(build("lenet5"), IMAGE, ("fc2", "fc3")).layers == ("fc2", "fc3")
    assert chain_of(build("lenet5"), IMAGE, ("fc2",)).layers == ("fc2",)


class Forked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        return self.d(F.relu(self.b(x) + self.c(x)))


@pytest.mark.parametrize(("model", "example", "layers", "said"), [
    (build("resnet8", in_channels=1), IMAGE, None, "no chain of linear layers"),
    (Forked(), torch.zeros(1, 8), None, "no chain of linear layers"),
    (build("lenet5"), IMAGE, ("fc1", "fc3"), "are no chain"),
    (build("lenet5"), IMAGE, ("fc9",), "matches no layer"),
])
def test_what_is_no_chain_is_refused(model: nn.Module, example: torch.Tensor, layers: tuple[str, ...] | None,
                                     said: str) -> None:
    with pytest.raises(InputError, match=said):
        chain_of(model, example, layers)


# Real removal

@pytest.mark.parametrize("parts", [2, 3, 4])
def test_the_small_chains_give_the_outputs_of_the_masked_network(parts: int, tmp_path: Path) -> None:
    model, x = normed(), torch.randn(7, 1, 8, 8)
    chain = chain_of(model, x)
    places = solve([score.numpy() for score in scores_of(model, chain)], parts, "random")
    for name, mask in zip(chain.layers, masks(places), strict=True):
        model.get_submodule(name).weight.data *= torch.from_numpy(mask)
    small = compacted(model, chain, places)
    torch.testing.assert_close(small(x), model(x), rtol=0.0, atol=1e-5)
    weights = sum(block.weight.numel() for name in chain.layers for block in small.get_submodule(name).blocks)
    assert weights == sum(int(mask.sum()) for mask in masks(places))
    assert simulate(trace_model(small, x[:1]), load_machine("systolic_ws")).cycles > 0  # it runs, and is recorded
    # training goes on
    F.cross_entropy(small.train()(x), torch.zeros(7, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_saved_chains_are_all_that_a_machine_of_its_own_needs(tmp_path: Path) -> None:
    """Each part with numpy alone: its inputs in, its share of the outputs out."""
    model = build("lenet5", seed=1, widths=[2, 3, 12, 9]).eval()
    chain = chain_of(model, IMAGE)
    places = solve([score.numpy() for score in scores_of(model, chain)], 3)
    for name, mask in zip(chain.layers, masks(places), strict=True):
        model.get_submodule(name).weight.data *= torch.from_numpy(mask)
    save_chains(tmp_path / "chains.safetensors", model, chain, places)
    features = torch.randn(4, 75)
    whole = model.fc3(F.relu(model.fc2(F.relu(model.fc1(features))))).detach().numpy()
    outputs = np.full_like(whole, np.nan)
    for part in load_chains(tmp_path / "chains.safetensors"):
        values = features.numpy()[:, part["inputs"]]
        for name in chain.layers:
            values = values @ part[f"{name}.weight"].T + part[f"{name}.bias"]
            values = values if name == "fc3" else np.maximum(values, 0.0)
        outputs[:, part["outputs"]] = values
    np.testing.assert_allclose(outputs, whole, atol=1e-5)
    with pytest.raises(InputError, match="no such file"):
        load_chains(tmp_path / "other.safetensors")


def test_a_network_that_is_not_masked_is_not_cut() -> None:
    model = normed()
    chain = chain_of(model, torch.zeros(2, 1, 8, 8))
    places = solve([score.numpy() for score in scores_of(model, chain)], 2)
    with pytest.raises(InputError, match="between its parts"):
        compacted(model, chain, places)


# Execution

def layers_of(sizes: list[int], parts: int, seed: int) -> list[LayerTrace]:
    scores = [np.ones((after, before)) for before, after in pairwise(sizes)]
    found = masks(shuffled(scores, parts, np.random.default_rng(seed)))
    return [LayerTrace(f"fc{index}", Gemm(1, *mask.T.shape), np.ascontiguousarray(mask.T))
            for index, mask in enumerate(found)]


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_run_apart_with_one_scatter_and_one_gather(parts: int) -> None:
    layers = layers_of([256, 128, 64, 32], parts, 0)
    found = execution(layers, load_machine("multi_array"), parts)
    ours = found[f"partitioned on {parts}"]
    assert ours["link_bytes"] == 256 + 32  # inputs once, outputs once, 8 bits each, nothing between the layers
    assert found[f"dense on {parts}"]["link_bytes"] > ours["link_bytes"]
    assert found["masked on one"]["cycles"] == found["dense on one"]["cycles"]  # zeros in place gain nothing
    blocks = simulate(as_blocks(layers), with_arrays(load_machine("multi_array"), 1))
    assert sum(layer.layer.operation.macs for layer in blocks.layers) * parts == 256 * 128 + 128 * 64 + 64 * 32
    gain = {name: row["speedup"] for name, row in found.items()}
    assert gain[f"partitioned on {parts}"] > max(gain[f"dense on {parts}"], gain["partitioned on one"]) > 1.0
    assert found["partitioned on one"]["energy_ratio"] == pytest.approx(ours["energy_ratio"], rel=0.01)


def test_which_neurons_are_in_a_part_changes_no_cycle() -> None:
    machine = load_machine("multi_array")
    first, second = (execution(layers_of([60, 48, 24], 3, seed), machine, 3) for seed in (1, 2))
    assert first == second


def test_a_machine_without_arrays_side_by_side_is_refused() -> None:
    with pytest.raises(InputError, match="several arrays"):
        with_arrays(load_machine("nm_array"), 4)


# The recipe

def made(**keys: object) -> tuple[nn.Module, Pruner, object]:
    model = build("lenet5", seed=0, widths=[2, 3, 12, 8], num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner.for_given_masks(model, optimizer, IMAGE)
    context = Context(model, optimizer, pruner, IMAGE, 5, F.cross_entropy, nn.CrossEntropyLoss(reduction="none"), 0, 40)
    return model, pruner, recipe("partition").make(settings_of({"name": "partition", "parts": 2, **keys}), context)


@pytest.mark.parametrize("score", ["magnitude", "share", "squared", "taylor"])
def test_the_chain_is_divided_by_what_its_weights_are_worth_then(score: str) -> None:
    model, pruner, method = made(score=score, at=0.5)
    F.cross_entropy(model(torch.randn(6, 1, 28, 28)), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    before = {name: (layer.weight.detach().clone(), layer.weight.grad.clone())
              for name, layer in prunable(model).items()}
    method.after_backward(Place(1, 4, 0, 10))
    assert not pruner.masks
    method.after_backward(Place(2, 4, 0, 10))
    worth = {"magnitude": lambda w, g: w.abs(), "squared": lambda w, g: w**2, "taylor": lambda w, g: (w * g) ** 2,
             "share": lambda w, g: w.abs() / w.abs().sum()}
    scores = [worth[score](*before[name]).numpy() for name in ("fc1", "fc2", "fc3")]
    expected = dict(zip(("fc1", "fc2", "fc3"), masks(solve(scores, 2, tries=4)), strict=True))
    assert pruner.masks.keys() == expected.keys()
    for name, mask in expected.items():
        assert np.array_equal(pruner.masks[name].numpy(), mask)
        assert not model.get_submodule(name).weight[~pruner.masks[name]].any()


def test_a_dense_classifier_ends_the_chain_before_it() -> None:
    assert made(classifier="dense")[2].chain.layers == ("fc1", "fc2")
    assert made(classifier="dense", parts=8)[2].chain.layers == ("fc1", "fc2")


@pytest.mark.parametrize(("keys", "said"), [
    ({"parts": 6}, "at most 5"), ({"parts": 0}, "greater than or equal to 1"), ({"solver": "spectral"}, "alternating"),
    ({"machine": "nm_array"}, "several arrays"), ({"layers": ["fc1", "fc3"]}, "are no chain"),
    ({"layers": ["fc3"], "classifier": "dense"}, "more than its classifier"), ({"at": 1.0}, "less than 1"),
])
def test_a_mistake_is_answered(keys: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(**keys)


SHORT = ["data.limit=300", "data.test_limit=100", "train.epochs=4", "train.checkpoint_every=2",
         "output.cost_per_epoch=false", "model.kwargs={ widths = [4, 8, 32, 16] }"]


def test_the_shipped_configuration_runs_and_resumes_bit_for_bit(
    tmp_path: Path, train_until: Callable[..., None], assert_same_run: Callable[[Path, Path], None]
) -> None:
    result = run_training(load_config("partition", SHORT), tmp_path / "run")
    trace = Trace.load(tmp_path / "run" / "trace.safetensors")
    for name in ("fc1", "fc2", "fc3"):
        layer = next(layer for layer in trace.layers if layer.name == name)
        assert layer.structure == "partition 4" and conforms(layer.weight_matrix()[0], parse("partition 4"))
    summary = result.table["recipe"]
    assert summary["layers"] == ["fc1", "fc2", "fc3"] and summary["kept_share"] > 0.25
    assert summary["execution"]["partitioned on 4"]["speedup"] > summary["execution"]["dense on 4"]["speedup"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["dense", "dense", "partitioned", "partitioned"]
    exported = load_exported(tmp_path / "run" / "model")
    chain = chain_of(exported.model, IMAGE, tuple(exported.masks))
    x, small = torch.randn(5, 1, 28, 28), compacted(
        exported.model, chain, places_of([exported.masks[name] for name in chain.layers]))
    torch.testing.assert_close(small(x), exported.model(x), rtol=0.0, atol=1e-5)
    train_until(load_config("partition", SHORT), tmp_path / "part", 8)
    again = run_training(None, tmp_path / "part", resume=True)
    assert again.table["recipe"] == summary
    assert_same_run(tmp_path / "run", tmp_path / "part")
