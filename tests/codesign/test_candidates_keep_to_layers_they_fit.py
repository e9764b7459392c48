"""Patterns are for 3x3 kernels, windows for more than one entry: layers of other kernels choose among the rest."""

import pytest
import torch
from torch import Tensor, nn

from codesign import HardwareCost
from codesign.candidates import layer_trace, priced_options
from codesign.cost import _Selection
from codesign.layers import prunable
from codesign.oracle import Oracle
from codesign.structures import as_matrix
from codesign.trace import trace_model
from simulator import load_machine, simulate
from simulator.structure import conforms

IMAGE = torch.zeros(1, 2, 10, 10)
CANDIDATES = ("pattern 4", "kernel + pattern 4", "window 4", "2:4 of 1x8", "channel")


def network() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 16, 5), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 16, 1),
                          nn.Flatten(), nn.Linear(256, 4))
    return model, {name: layer.weight.detach().square() for name, layer in prunable(model).items()}


@pytest.fixture(scope="module")
def selection() -> _Selection:
    model, scores = network()
    cost = HardwareCost("systolic_ws", target_latency=0.75, candidates=CANDIDATES, densities=(0.75, 0.5))
    return _Selection(cost, model, IMAGE, scores, frozenset())


def test_a_layer_is_offered_what_removes_something_of_its_kernels(selection: _Selection) -> None:
    offered = {site.name: list(dict.fromkeys(str(kind.structure) for kind in site.kinds)) for site in selection.sites}
    assert offered == {
        "0": ["dense", "window 4", "2:4 of 1x8"],  # 5x5: no patterns
        "2": ["dense", "pattern 4", "kernel + pattern 4", "window 4", "2:4 of 1x8"],
        "4": ["dense", "kernel + pattern 4", "2:4 of 1x8"],  # 1x1: kernels may go, parts of them not
        "6": ["dense", "kernel + pattern 4", "2:4 of 1x8"],
    }


def test_a_network_with_every_kernel_size_is_chosen_within_its_target() -> None:
    model, scores = network()
    cost = HardwareCost("systolic_ws", target_latency=0.75, candidates=CANDIDATES, densities=(0.75, 0.5))
    masks, _ = cost.select(model, IMAGE, scores, frozenset())
    assert cost.log[-1]["chosen"]["latency"] <= 0.75
    real = simulate(trace_model(model, IMAGE, {name: masks[name] for name in scores if name in masks}),
                    load_machine("systolic_ws"))
    assert real.cycles == cost.log[-1]["chosen"]["cycles"]


def test_units_across_filters_are_chosen_anew_where_filters_go(selection: _Selection) -> None:
    """2:4 of 1x8: eight filters lose an input together, so which eight there are decides the mask."""
    options = priced_options(selection.sites, selection.kept, selection.oracle, {})
    site, priced = selection.sites[1], options[1]
    removed = [one for one in priced if str(one.kind.structure) == "2:4 of 1x8" and all(one.levels)]
    assert removed
    for one in removed:
        levels = dict(zip(site.groups, one.levels, strict=True))
        out, inputs = site.kept({group: selection.kept[group][level] for group, level in levels.items()})
        mask = site.mask(one.kind, out, inputs)
        assert conforms(as_matrix(mask[out][:, inputs]).numpy(), one.kind.structure, 9)
        assert one.kept_scores == pytest.approx(float((site.scores * mask.reshape(site.scores.shape)).sum()))
        assert one.price == Oracle(selection.machine).price(
            layer_trace(site.calls[0], mask, str(one.kind.structure), {}))
