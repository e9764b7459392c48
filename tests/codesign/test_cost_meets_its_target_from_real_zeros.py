"""A network chosen by cost is within its target when the zeros of its weights are simulated, not what a table said.

A small residual network: a stem, a block around which channels are tied, a block with a 1x1 shortcut, a classifier.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import HardwareCost, Pruner
from codesign.candidates import kinds_of, layer_trace, priced_options
from codesign.cost import _Selection
from codesign.coupling import channel_groups
from codesign.layers import execution_order, kept_by_default, prunable
from codesign.oracle import Oracle
from codesign.trace import record_calls, trace_model
from simulator import load_machine, simulate
from simulator.structure import conforms, parse

IMAGE = (1, 2, 8, 8)


class Residual(nn.Module):
    """Widths 16 and 32, so that a 16 x 16 array has something to skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a1, self.abn1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a2, self.abn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b1, self.bbn1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.b2, self.bbn2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.abn2(self.a2(F.relu(self.abn1(self.a1(x))))))
        y = self.bbn2(self.b2(F.relu(self.bbn1(self.b1(x)))))
        return self.fc(F.relu(y + self.shortcut(x)).mean((2, 3)))


def make(seed: int = 0) -> Residual:
    torch.manual_seed(seed)
    return Residual()


def train(model: nn.Module, cost: HardwareCost, steps: int = 8) -> Pruner:
    """A few steps on random images; the choice falls at a quarter of them."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(model, {}, optimizer, example_inputs=torch.zeros(IMAGE), cost=cost, total_steps=steps)
    for _ in range(steps):
        x, y = torch.randn(16, *IMAGE[1:], generator=generator), torch.randint(0, 3, (16,), generator=generator)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    pruner.finalize()
    return pruner


def saliency_of(model: nn.Module, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (layer.weight.detach() * torch.randn(layer.weight.shape, generator=generator)).square()
            for name, layer in prunable(model).items()}


def kept(model: nn.Module) -> frozenset[str]:
    return frozenset(kept_by_default(model, execution_order(model, torch.zeros(IMAGE))))


def chosen(
    machine: str, model: nn.Module | None = None, **settings: object
) -> tuple[HardwareCost, Mapping[str, Tensor]]:
    model = make() if model is None else model
    cost = HardwareCost(machine, **settings)  # type: ignore[arg-type]
    masks, _ = cost.select(model, torch.zeros(IMAGE), saliency_of(model), kept(model))
    return cost, masks


@pytest.mark.parametrize(("machine", "target"), [
    ("nm_array", 0.7), ("nm_array", 0.5), ("nm_array", 0.35), ("block_array", 0.6), ("block_array", 0.4),
    ("systolic_ws", 0.5), ("systolic_os", 0.6)])
def test_trained_weights_cost_at_most_the_target(machine: str, target: float) -> None:
    model = make()
    cost = HardwareCost(machine, target_latency=target)
    pruner = train(model, cost)
    # masks=None: where the weights themselves are zero
    real = simulate(trace_model(model, torch.zeros(IMAGE)), load_machine(machine))
    assert real.cycles <= target * real.dense.cycles
    assert real.cycles == cost.log[-1]["chosen"]["cycles"]
    assert sum(choice.cycles for choice in pruner.choices) == real.cycles
    assert real.cycles > 0.75 * target * real.dense.cycles  # the budget is there to be used


def test_an_energy_target_is_met_in_picojoules() -> None:
    model = make()
    train(model, HardwareCost("nm_array", target_energy=0.5))
    real = simulate(trace_model(model, torch.zeros(IMAGE)), load_machine("nm_array"))
    assert real.energy_pj <= 0.5 * real.dense.energy_pj


def test_two_targets_are_met_together() -> None:
    cost, masks = chosen("nm_array", target_latency=0.6, target_energy=0.4)
    real = simulate(trace_model(make(), torch.zeros(IMAGE), only_weights(masks)), load_machine("nm_array"))
    assert real.cycles <= 0.6 * real.dense.cycles
    assert real.energy_pj <= 0.4 * real.dense.energy_pj
    assert cost.log[-1]["target"] == {"latency": 0.6, "energy": 0.4}


def only_weights(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = prunable(make())
    return {name: mask for name, mask in masks.items() if name in names}


@pytest.mark.parametrize("machine", ["nm_array", "block_array", "systolic_ws"])
def test_masks_have_the_structure_that_the_choice_names(machine: str) -> None:
    model = make()
    cost = HardwareCost(machine, target_latency=0.4)
    masks, choices = cost.select(model, torch.zeros(IMAGE), saliency_of(model), kept(model))
    assert [choice.layer for choice in choices] == execution_order(model, torch.zeros(IMAGE))
    for choice in choices:
        mask = masks.get(choice.layer)
        if choice.structure == "dense":
            assert mask is None
            continue
        assert mask is not None
        assert float(mask.double().mean()) == pytest.approx(choice.density)
        # what is left after removed channels are gone: all kept, or of the structure
        array = mask.reshape(*mask.shape[:2], -1).numpy()
        left = array[array.any((1, 2))][:, array.any((0, 2))]
        matrix = left.reshape(left.shape[0], -1).T
        if choice.structure == "channel":
            assert matrix.all()
        elif not choice.structure.startswith("block"):  # removing a dropped block's rows moves what is left
            assert conforms(matrix, parse(choice.structure))


def test_tied_channels_are_removed_everywhere_at_once() -> None:
    """Filter j of stem and a2, its batch norm entries, and input j of a1, b1 and the shortcut go together."""
    model = make()
    _, masks = chosen("systolic_ws", model, target_latency=0.45)
    groups = channel_groups(model, torch.zeros(IMAGE))
    removed = 0
    for group in groups:
        everything = torch.ones(group.width, dtype=torch.bool)
        live = [masks[span.layer].flatten(1).any(1) if span.layer in masks else everything for span in group.producers]
        live += [masks[span.layer].transpose(0, 1).flatten(1).any(1) if span.layer in masks else everything
                 for span in group.consumers]
        assert all(torch.equal(one, live[0]) for one in live)
        for span in group.norms:
            for name in ("weight", "bias"):
                norm = masks.get(f"{span.layer}.{name}", everything)
                assert torch.equal(norm, live[0])
        removed += int((~live[0]).sum())
    assert removed > 0


def test_layers_kept_dense_lose_nothing_but_neighbours_channels() -> None:
    _, masks = chosen("nm_array", target_latency=0.35)
    for name in ("stem", "fc"):
        if name in masks:
            array = masks[name].reshape(*masks[name].shape[:2], -1).numpy()
            outer = array.any((1, 2))[:, None, None] & array.any((0, 2))[None, :, None]
            assert np.array_equal(array, np.broadcast_to(outer, array.shape))


def test_the_same_inputs_give_the_same_choice() -> None:
    first_cost, first = chosen("nm_array", target_latency=0.5)
    second_cost, second = chosen("nm_array", target_latency=0.5)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first_cost.log[-1] | {"seconds": None} == second_cost.log[-1] | {"seconds": None}


def test_a_second_choice_of_the_same_network_simulates_nothing_anew() -> None:
    model = make()
    cost, _ = chosen("nm_array", model, target_latency=0.5)
    simulated = cost.log[-1]["layers_simulated"]
    cost.select(model, torch.zeros(IMAGE), saliency_of(model), kept(model))
    assert cost.log[-1]["layers_simulated"] == simulated


@pytest.mark.parametrize("machine", ["nm_array", "systolic_ws", "systolic_os"])
def test_pricing_by_shape_is_pricing_by_mask(machine: str) -> None:
    """What the table says of a layer with removed channels is what the simulator says of its mask, to the digit."""
    model = make()
    cost = HardwareCost(machine, target_latency=0.5, densities=(0.6, 0.25))
    selection = _Selection(cost, model, torch.zeros(IMAGE), saliency_of(model), kept(model))
    options = priced_options(selection.sites, selection.kept, selection.oracle, {})
    checked = 0
    for site, priced in zip(selection.sites, options, strict=True):
        for one in priced[:: max(1, len(priced) // 9)]:
            levels = dict(zip(site.groups, one.levels, strict=True))
            out, inputs = site.kept({group: selection.kept[group][level] for group, level in levels.items()})
            mask = site.mask(one.kind, out, inputs)
            fresh = Oracle(selection.machine).price(layer_trace(site.calls[0], mask, str(one.kind.structure), {}))
            assert fresh == one.price
            assert one.kept_scores == pytest.approx(float((site.scores * mask.reshape(site.scores.shape)).sum()))
            checked += 1
    assert checked > 30


def test_dense_is_always_among_the_candidates_and_a_target_of_one_keeps_everything() -> None:
    assert str(kinds_of(("2:4",), (0.5,), load_machine("nm_array"))[0]) == "dense"
    cost, masks = chosen("nm_array", target_latency=1.0)
    assert not masks
    assert cost.log[-1]["chosen"]["latency"] == 1.0


def test_a_batch_of_examples_is_priced_as_one_image() -> None:
    model = make()
    cost = HardwareCost("nm_array", target_latency=0.5)
    cost.select(model, torch.zeros(16, *IMAGE[1:]), saliency_of(model), kept(model))
    calls = record_calls(model, torch.zeros(IMAGE))
    dense = simulate(trace_model(model, torch.zeros(IMAGE), {}), load_machine("nm_array"))
    assert len(calls) == 7
    assert cost.log[-1]["dense_cycles"] == dense.cycles
