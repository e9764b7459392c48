"""A recorded training step has the zeros of that step: inputs, weights, error maps; the model does not notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codesign.trace_training import trace_training_step
from simulator import InputError, Trace, load_machine
from simulator.training import training_iteration


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(6 * 16, 3),
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])


def step(model: nn.Module, **more: object) -> Trace:
    x, y = batch()
    return trace_training_step(model, x, lambda out: nn.functional.cross_entropy(out, y), **more)  # type: ignore[arg-type]


def test_error_maps_are_the_gradients_of_the_outputs() -> None:
    model = network()
    trace = step(model)
    # the same step by hand, gradients kept by autograd itself
    x, y = batch()
    model.train()
    with torch.random.fork_rng():
        first = model[0](x)
        middle = nn.functional.relu(model[1](first))
        second = model[3](middle)
        out = model[7](model[6](model[5](nn.functional.relu(second))))
        for tensor in (first, second, out):
            tensor.retain_grad()
        nn.functional.cross_entropy(out, y).backward()
    expected = {"0": (x, first), "3": (middle, second)}
    for layer in trace.layers[:2]:
        given, output = expected[layer.name]
        assert np.array_equal(layer.input_mask, (given != 0).numpy())
        assert np.array_equal(layer.error_mask, (output.grad != 0).numpy())
    assert 0.05 < trace.layers[1].error_density < 0.6  # ReLU and dropout close most of them
    assert trace.layers[2].error_density == 1.0
    assert [layer.operation.output_shape[0] for layer in trace.layers] == [5, 5, 5]


def test_the_model_is_left_as_it_was() -> None:
    model = network()
    model[0].eval()
    model[3].weight.grad = torch.full_like(model[3].weight, 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, y = batch()
    state = torch.get_rng_state()
    trace_training_step(model, x, lambda out: nn.functional.cross_entropy(out, y))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model[3].weight.grad, torch.full_like(model[3].weight, 7.0))
    assert model[7].weight.grad is None
    assert not model[0].training and model[1].training
    assert not model[0]._forward_hooks


def test_weight_masks_and_pruned_error_channels_come_along() -> None:
    model = network()
    mask = torch.rand(6, 4, 3, 3) < 0.5
    kept = torch.tensor([True, False, True, False, False, True])
    trace = step(model, masks={"3": mask}, kept_errors={"3": kept})
    layer = trace.layers[1]
    assert np.array_equal(layer.weight_mask, mask.numpy())
    assert layer.error_mask.any(axis=(0, 2, 3)).tolist() == kept.tolist()
    assert np.array_equal(layer.error_mask[:, kept.numpy()], step(model).layers[1].error_mask[:, kept.numpy()])


def test_a_recorded_step_is_costed_and_saved(tmp_path: Path) -> None:
    kept = torch.tensor([True, False, True, False, False, True])
    whole, pruned = step(network()), step(network(), kept_errors={"3": kept})
    pruned.save(tmp_path / "step.safetensors")
    again = Trace.load(tmp_path / "step.safetensors")
    machine = load_machine("systolic_ws")
    reports = [training_iteration(trace, machine) for trace in (whole, pruned, again)]
    assert reports[0].layers[0].phases.keys() == {"forward", "weight_gradient", "optimiser"}
    macs = [report.phases["weight_gradient"].to_dict()["dense_macs"] for report in reports]
    assert macs[1] == macs[2] < macs[0]
    assert reports[1].energy_j == reports[2].energy_j < reports[0].energy_j


def test_mistakes_are_named() -> None:
    x, _ = batch()
    with pytest.raises(InputError, match=r"a loss of shape \[5, 3\]; expected a scalar"):
        trace_training_step(network(), x, lambda out: out)
    with pytest.raises(InputError, match="kept_errors name '9', which is no layer"):
        step(network(), kept_errors={"9": torch.ones(6, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"layer '3': kept_errors of bool \[5\]; expected bool \[6\]"):
        step(network(), kept_errors={"3": torch.ones(5, dtype=torch.bool)})
