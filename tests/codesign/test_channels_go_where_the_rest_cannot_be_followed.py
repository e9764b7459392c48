"""An operator without a rule keeps the channels that reach it, and no others; what is found can really be removed.

The proof is compact(): with one channel of a group masked it must take that channel out, and it compares outputs.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign import Pruner
from codesign.channels import group_masks
from codesign.compact import compact
from codesign.coupling import channel_groups, couple
from simulator.errors import InputError


class Net(nn.Module):
    """Layers by name, and what forward() does with them."""

    def __init__(self, run: Callable[["Net", Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


torch.manual_seed(0)
MAP, TOKENS = (2, 3, 8, 8), (2, 5, 6)
# (network, shape of its input, producers of the groups that one reads off the code)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "a roll between two convolutions": (
        Net(lambda m, x: m.d(m.c(torch.roll(m.b(m.a(x)), 1, 1)).relu()),
            a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 5, 1), c=nn.Conv2d(5, 6, 1), d=nn.Conv2d(6, 2, 1)), MAP, ["a", "c"]),
    "a split into two": (
        Net(lambda m, x: m.c(torch.cat([(y := m.b(m.a(x)).chunk(2, 1))[1], y[0]], 1)),
            a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 1), c=nn.Conv2d(6, 2, 1)), MAP, ["a"]),
    "a mean over the channels": (
        Net(lambda m, x: m.c(m.b(m.a(x)) * m.b(m.a(x)).mean(1, keepdim=True)),
            a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 1), c=nn.Conv2d(6, 2, 1)), MAP, ["a"]),
    "a mean over everything": (
        Net(lambda m, x: m.c((y := m.b(m.a(x))) / y.abs().sum()),
            a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 1), c=nn.Conv2d(6, 2, 1)), MAP, ["a"]),
    "the same twice in a concatenation": (
        Net(lambda m, x: m.b(torch.cat([y := m.a(x), y], 1)), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(8, 2, 1)), MAP, ["a"]),
    "a parameter as wide as the channels": (
        Net(lambda m, x: m.c(m.b(m.a(x)) * m.scale), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 1),
            c=nn.Conv2d(6, 2, 1), scale=nn.Parameter(torch.rand(1, 6, 1, 1))), MAP, ["a"]),
    "a bias by hand": (
        Net(lambda m, x: m.c((m.b(m.a(x)) + m.scale).relu()), a=linear(6, 4), b=linear(4, 5), c=linear(5, 2),
            scale=nn.Parameter(torch.rand(5))), (2, 6), ["a"]),
    "a gate of one channel": (
        Net(lambda m, x: m.c((y := m.b(m.a(x))) * m.gate(y).sigmoid()), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 6, 1),
            c=nn.Conv2d(6, 2, 1), gate=nn.Conv2d(6, 1, 1)), MAP, ["a", "b"]),
    "a perceptron on tokens": (
        Net(lambda m, x: m.b(F.gelu(m.a(x))), a=linear(6, 7), b=linear(7, 3)), TOKENS, ["a"]),
    "tokens in rows and back": (
        Net(lambda m, x: m.b((y := m.a(x)).flatten(0, 1).relu().view(y.shape[0], -1, y.shape[2])),
            a=linear(6, 7), b=linear(7, 3)), TOKENS, ["a"]),
    "the mean of all tokens": (
        Net(lambda m, x: m.b(m.a(x).relu().mean(1)), a=linear(6, 7), b=linear(7, 3)), TOKENS, ["a"]),
    "the first token": (
        Net(lambda m, x: m.b(m.a(x)[:, 0]), a=linear(6, 7), b=linear(7, 3)), TOKENS, ["a"]),
    "two sets of tokens joined": (
        Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=linear(6, 7), b=linear(6, 7), c=linear(7, 3)),
        TOKENS, ["a+b"]),
    "two sets of features joined": (
        Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], -1)), a=linear(6, 7), b=linear(6, 4), c=linear(11, 3)),
        TOKENS, ["a", "b"]),
    "a token joined that is a parameter": (
        Net(lambda m, x: m.c(torch.cat([m.b(m.a(x)), m.token.expand(2, -1, -1)], 1)), a=linear(6, 4), b=linear(4, 7),
            c=linear(7, 3), token=nn.Parameter(torch.rand(1, 1, 7))), TOKENS, ["a"]),
    "a block of ConvNeXt": (
        Net(lambda m, x: m.last((y := m.stem(x)) + m.b(F.gelu(m.a(m.norm(m.depthwise(y).permute(0, 2, 3, 1)))))
                                .permute(0, 3, 1, 2)),
            stem=nn.Conv2d(3, 4, 1), depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4), norm=nn.LayerNorm(4),
            a=linear(4, 9), b=linear(9, 4), last=nn.Conv2d(4, 2, 1)), MAP, ["a"]),
    "channels moved last and back": (
        Net(lambda m, x: m.c(m.b(m.a(x).permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)), a=nn.Conv2d(3, 4, 1),
            b=linear(4, 7), c=nn.Conv2d(7, 2, 1)), MAP, ["a", "b"]),
    "a perceptron across tokens": (
        Net(lambda m, x: m.last(m.first(x) + m.b(m.a(m.first(x).transpose(1, 2)).relu()).transpose(1, 2)),
            first=linear(6, 7), a=linear(5, 8), b=linear(8, 5), last=linear(7, 3)), TOKENS, ["a"]),
    "a square and its transpose": (
        Net(lambda m, x: m.c((y := m.b(m.a(x))) + y.transpose(1, 2)), a=linear(6, 4), b=linear(4, 5), c=linear(5, 3)),
        TOKENS, ["a"]),
    "a pool over features": (
        Net(lambda m, x: m.c(F.max_pool2d(m.b(m.a(x)), 2)), a=linear(8, 4), b=linear(4, 6), c=linear(3, 2)),
        MAP, ["a"]),
    "a layer that reads features here and tokens there": (
        Net(lambda m, x: m.last(m.twice(m.a(x)) + m.twice(m.a(x).transpose(1, 2))), a=linear(6, 5), twice=linear(5, 7),
            last=linear(7, 3)), TOKENS, ["twice"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_can_be_removed_and_is_all_that_can(name: str) -> None:
    model, shape, wanted = CASES[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    groups = channel_groups(model, x, tokens=True)
    assert ["+".join(span.layer for span in group.producers) for group in groups] == wanted
    for group in groups:
        keep = torch.ones(group.width, dtype=torch.bool)
        keep[1] = False
        pruner = Pruner.for_given_masks(model, None, x)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        masks = group_masks(model, [(group, keep)])
        pruner.set_masks_(masks)
        small = compact(model, x, masks)  # compares the outputs itself
        model.load_state_dict(before)
        assert sum(small.removed.values()) == 1, small.kept
        maker = group.producers[0].layer
        assert len(small.model.get_submodule(maker).weight) == len(model.get_submodule(maker).weight) - 1


def test_the_plan_says_what_keeps_the_channels_that_a_layer_reads() -> None:
    model, shape, _ = CASES["a roll between two convolutions"]
    plan = Pruner(model, {"structure": "channel", "sparsity": 0.5, "skip": ()}, example_inputs=torch.zeros(shape),
                  total_steps=1).plan()
    notes = {row.layer: (row.structure, row.reason) for row in plan}
    assert notes["c"][0] == "dense" and "no rule for operator 'roll' at 'roll'" in notes["c"][1]
    assert notes["a"][0] == "dense" and "the network's input" in notes["a"][1]
    assert notes["b"][0] == notes["d"][0] == "channel"


def test_channels_on_tokens_are_found_for_those_who_ask() -> None:
    """A recipe that multiplies activations along dimension 1 must not get features that lie in the last one."""
    model, shape, _ = CASES["a perceptron on tokens"]
    x = torch.zeros(shape)
    with pytest.raises(InputError, match=r"layer 'a' runs on tokens \[2, 5, 6\]"):
        channel_groups(model, x)
    both = Net(lambda m, x: m.b(F.gelu(m.a(x.flatten(2).transpose(1, 2)))).mean(1) + m.d(m.c(x)).mean((2, 3)),
               a=linear(3, 7), b=linear(7, 2), c=nn.Conv2d(3, 4, 1), d=nn.Conv2d(4, 2, 1))
    found = couple(both, torch.zeros(MAP))
    assert [str(group) for group in found.groups] == ["channels of c"] and "runs on tokens" in found.stays["b"]
    assert len(channel_groups(both, torch.zeros(MAP), tokens=True)) == 2


def test_a_network_of_which_nothing_can_be_removed_is_refused_with_all_reasons() -> None:
    model = Net(lambda m, x: m.c(m.norm(m.b(torch.roll(m.a(x), 1, 1)))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1),
                norm=nn.GroupNorm(2, 4), c=nn.Conv2d(4, 2, 1))
    with pytest.raises(InputError) as caught:
        Pruner(model, {"structure": "channel", "sparsity": 0.5}, example_inputs=torch.zeros(MAP), total_steps=1)
    assert "no rule for operator 'roll'" in str(caught.value)
    assert "module 'norm' (GroupNorm) takes its mean over all channels" in str(caught.value)
