"""A mistake in what is asked of a hardware cost is answered with what, where, what was expected and what to do."""

import pytest
import torch
from torch import nn

from codesign import HardwareCost
from codesign.layers import prunable
from simulator.errors import InputError


@pytest.mark.parametrize(("settings", "said"), [
    ({}, ["no target", "target_latency or target_energy", "target_latency=0.5"]),
    ({"target_latency": 1.5}, ["target_latency = 1.5", "above 0 and at most 1"]),
    ({"target_latency": 0}, ["target_latency = 0", "above 0 and at most 1"]),
    ({"target_latency": True}, ["target_latency = True"]),
    ({"target_energy": "half"}, ["target_energy = 'half'"]),
    ({"target_latency": 0.5, "objective": "fischer_log"}, ["fischer_log", "did you mean 'fisher_log'"]),
    ({"target_latency": 0.5, "densities": (0.5, 2.0)}, ["densities", "shares in (0, 1]"]),
    ({"target_latency": 0.5, "densities": ()}, ["densities"]),
    ({"target_latency": 0.5, "finalists": 0}, ["finalists = 0", "at least 1"]),
    ({"target_latency": 0.5, "candidates": ("blok 4x4",)}, ["blok 4x4"]),
    ({"target_latency": 0.5, "candidates": ("1:8",)},
     ["'nm_array' does not know the structure '1:8'", "1:4, 2:4, 4:4"]),
    ({"target_latency": -1, "finalists": 0, "candidates": ("1:8",)},
     ["3 mistakes", "target_latency", "finalists", "1:8"]),
])
def test_settings(settings: dict, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        HardwareCost("nm_array", **settings)
    assert all(text in str(caught.value) for text in said)


def test_an_unknown_machine_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'nm_array'"):
        HardwareCost("nm_aray", target_latency=0.5)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 3))


def test_a_target_out_of_reach_says_the_least_that_can_be_reached_and_what_holds_it_up() -> None:
    model, x = network(), torch.zeros(1, 1, 8, 8)
    saliency = {name: layer.weight.detach().square() for name, layer in prunable(model).items()}
    with pytest.raises(InputError) as caught:
        HardwareCost("nm_array", target_latency=0.01).select(model, x, saliency, frozenset({"0", "4"}))
    said = str(caught.value)
    assert "target_latency = 0.01 cannot be met on 'nm_array'" in said
    assert "0 0." in said
    assert "(kept dense)" in said
    least = float(said.split("a target of at least ")[1].split(";")[0])
    # The least that it names can be met, and anything below it cannot.
    HardwareCost("nm_array", target_latency=least).select(model, x, saliency, frozenset({"0", "4"}))
    with pytest.raises(InputError, match="cannot be met"):
        HardwareCost("nm_array", target_latency=least - 0.002).select(model, x, saliency, frozenset({"0", "4"}))


def test_a_network_whose_channels_cannot_be_followed_is_pruned_without_channels_and_says_so() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) if float(x.sum()) >= 0 else self.net(-x)  # torch.fx cannot follow a value

    model, x = Branches(), torch.zeros(1, 1, 8, 8)
    saliency = {name: layer.weight.detach().square() for name, layer in prunable(model).items()}
    with pytest.warns(UserWarning, match="no channels are removed"):
        masks, choices = HardwareCost("nm_array", target_latency=0.95).select(model, x, saliency, frozenset())
    assert {choice.structure for choice in choices} <= {"dense", "2:4", "1:4"}
    assert masks
