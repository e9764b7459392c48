"""Which layer is kept dense as the classifier: the last that runs in evaluation, not the last that was registered."""

import pytest
import torch
from torch import Tensor, nn

from codesign import Pruner
from codesign.layers import execution_order

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A second head that answers only in training, registered after the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc, self.aux = nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.c2(self.c1(x).relu()).relu().mean((2, 3))
        return (self.fc(h), self.aux(h)) if self.training else self.fc(h)


@pytest.mark.parametrize("structure", ["unstructured", "channel"])
def test_an_auxiliary_head_is_not_taken_for_the_classifier(structure: str) -> None:
    model = Auxiliary().train()
    plan = Pruner(model, {"structure": structure, "sparsity": 0.5}, example_inputs=X, total_steps=1).plan()
    assert [row.layer for row in plan] == ["c1", "c2", "aux", "fc"] and model.training
    assert [row.layer for row in plan if "final classifier" in row.reason] == ["fc"]
    assert [row.layer for row in plan if "first convolution" in row.reason] == ["c1"]
    assert [row.sparsity for row in plan if row.layer == "aux"] == [0.5 if structure == "unstructured" else 0.0]


def test_without_an_example_the_order_is_that_of_registration() -> None:
    assert execution_order(Auxiliary(), None) == ["c1", "c2", "fc", "aux"]


class Functional(nn.Module):
    """Layers whose weights are used and whose modules are not called: attention's projection, a classifier by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.attention, self.spare, self.between = nn.MultiheadAttention(8, 2), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.attention(x, x, x)[0].to(self.spare.weight.dtype))
        return nn.functional.linear(x, self.head.weight, self.head.bias)


def test_a_weight_that_is_used_without_its_module_has_run() -> None:
    order = execution_order(Functional(), torch.randn(5, 2, 8))
    assert order == ["attention.out_proj", "between", "spare", "head"]


def test_a_network_of_which_nothing_runs_has_an_order_too() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert execution_order(Idle(), torch.ones(1, 2)) == ["a", "b"]
