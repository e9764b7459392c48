"""GraSP and SynFlow where a layer is frozen or does not run: no matter where it stays dense, else a message."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from codesign import HardwareCost, Pruner
from codesign.probes import grasp, synflow
from simulator.errors import InputError

X, Y = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
CRITERIA = pytest.mark.parametrize("criterion", ["grasp", "synflow"])


class Network(nn.Module):
    """Three convolutions and a classifier; `unused` convolutions are there and do not run."""

    def __init__(self, frozen: tuple[str, ...] = (), unused: tuple[str, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.last, self.unused = nn.Linear(8, 3), unused
        for name in frozen:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for name in ("first", "second", "third"):
            if name not in self.unused:
                x = self.get_submodule(name)(x).relu()
        return self.last(x.mean((2, 3)))


def pruned(model: nn.Module, criterion: str, **config: object) -> dict[str, float]:
    settings = {"criterion": criterion, "sparsity": 0.5, "schedule": "constant", **config}
    pruner = Pruner(model, settings, example_inputs=X[:1], probe=(X, Y), total_steps=1)
    pruner.step()
    return pruner.finalize()


@CRITERIA
def test_a_frozen_first_convolution_which_stays_dense_anyway_is_no_matter(criterion: str) -> None:
    found = pruned(Network(frozen=("first",)), criterion)
    assert found == {"first": 0.0, "second": 0.5, "third": 0.5, "last": 0.0}


@CRITERIA
@pytest.mark.parametrize("case", [{"frozen": ("second",)}, {"unused": ("second",)}])
def test_a_layer_without_a_gradient_is_skipped_or_named(criterion: str, case: dict[str, tuple[str, ...]]) -> None:
    assert pruned(Network(**case), criterion, skip=["second", "last"])["third"] == 0.5
    with pytest.raises(InputError, match=rf"layer 'second'.*criterion '{criterion}' has no score.*skip"):
        pruned(Network(**case), criterion)


@CRITERIA
def test_a_network_that_is_frozen_whole_is_answered(criterion: str) -> None:
    model = Network(frozen=("first", "second", "third", "last"))
    with pytest.raises(InputError, match="has no score"):
        pruned(model, criterion)


@CRITERIA
def test_hardware_costs_choose_around_a_frozen_layer_that_stays_dense(criterion: str) -> None:
    pruner = Pruner(Network(frozen=("first",)), {"criterion": criterion}, example_inputs=X[:1], probe=(X, Y),
                    cost=HardwareCost("nm_array", target_latency=0.8), total_steps=1)
    pruner.step(1.0)
    assert pruner.choices and pruner.sparsity > 0.0


@pytest.mark.parametrize("probe", [grasp, synflow])
def test_other_layers_have_the_scores_that_they_had_and_the_network_is_as_it_was(probe) -> None:
    """SynFlow's do not depend on who may learn; GraSP's flow is that of the layers that do."""
    whole, part = Network(), Network(frozen=("second",))
    before = {name: value.clone() for name, value in part.state_dict().items()}
    scores, fewer = probe(whole, X, Y), probe(part, X, Y)
    assert fewer.keys() == {"first", "third", "last"}
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
    assert all(parameter.grad is None for parameter in part.parameters())
    for name, score in fewer.items():
        assert torch.equal(score, scores[name]) == (probe is synflow)


def test_the_flow_of_the_layers_that_learn_is_differentiated() -> None:
    """-w H g with g of the classifier alone: by finite differences of |g|^2 / 2."""
    model = Network(frozen=("first", "second", "third")).double()
    x = X.double()
    score = grasp(model, x, Y)["last"]

    def flow() -> float:
        loss = nn.functional.cross_entropy(model(x) / 200.0, Y)
        return float(torch.autograd.grad(loss, model.last.weight)[0].square().sum()) / 2.0

    weight, step = model.last.weight, 1e-2
    start = weight.detach().clone()
    for place in ((0, 0), (2, 5)):
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight.copy_(start)
                weight[place] += sign * step
            ends.append(flow())
        assert float(score[place]) == pytest.approx(float(start[place]) * (ends[0] - ends[1]) / (2 * step), rel=1e-3)
