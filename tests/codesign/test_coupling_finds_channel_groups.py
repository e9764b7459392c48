"""Which layers a removed channel touches, on small networks whose answer can be read off the code.

The proof that a group is complete is in the outputs: with its masks applied, a network gives the same
answers as one whose channels are really gone (their activations forced to zero at every reader).
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.channels import channel_scores, group_masks
from codesign.coupling import ChannelGroup, Span, channel_groups
from simulator.errors import InputError


class Flat(nn.Module):
    """Convolution, pooling, flatten, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.fc1 = nn.Linear(3 * 4 * 4, 5)
        self.fc2 = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class Residual(nn.Module):
    """A stem, a block with an identity shortcut, one with a 1x1 shortcut, global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a1, self.abn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a2, self.abn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b1, self.b2 = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1, stride=2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.abn2(self.a2(F.relu(self.abn1(self.a1(x))))))
        x = F.relu(self.b1(x) + self.b2(x))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Pointwise, depthwise, pointwise, and one true grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.project = nn.Conv2d(4, 6, 1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.grouped(self.project(F.relu6(self.depthwise(self.expand(x))))))


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of CIFAR ResNets: strided slice, zero channels on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Concatenated(nn.Module):
    """Two branches side by side, read by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.read = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.cat([self.a(x), self.b(x)], dim=1))


class Shared(nn.Module):
    """One convolution that runs twice: its outputs are its own inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.last = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(F.relu(self.twice(self.stem(x)))))


# The networks below are drawn here: a channel that a ReLU silences by chance would depend on nothing.
torch.manual_seed(1)
CASES = {
    "flat": (Flat(), (2, 1, 8, 8), [
        ChannelGroup(3, (Span("conv"),), (Span("fc1", 0, 16),)),
        ChannelGroup(5, (Span("fc1"),), (Span("fc2"),)),
    ]),
    "residual": (Residual(), (2, 3, 8, 8), [
        ChannelGroup(4, (Span("stem"), Span("a2")), (Span("a1"), Span("b1"), Span("b2")), (Span("bn"), Span("abn2"))),
        ChannelGroup(4, (Span("a1"),), (Span("a2"),), (Span("abn1"),)),
        ChannelGroup(6, (Span("b1"), Span("b2")), (Span("fc"),)),
    ]),
    "depthwise": (Depthwise(), (2, 2, 5, 5), [
        ChannelGroup(4, (Span("expand"), Span("depthwise")), (Span("project"),)),
    ]),
    "padded shortcut": (PaddedShortcut(), (2, 1, 4, 4), [
        ChannelGroup(2, (Span("stem"), Span("conv", 1)), (Span("conv"), Span("fc", 1))),
        ChannelGroup(1, (Span("conv"),), (Span("fc"),)),
        ChannelGroup(1, (Span("conv", 3),), (Span("fc", 3),)),
    ]),
    "concatenated": (Concatenated(), (2, 1, 4, 4), [
        ChannelGroup(2, (Span("a"),), (Span("read"),)),
        ChannelGroup(3, (Span("b"),), (Span("read", 2),)),
    ]),
    "shared": (Shared(), (2, 1, 4, 4), [
        ChannelGroup(3, (Span("stem"), Span("twice")), (Span("twice"), Span("last"))),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_one_reads_off_the_code(name: str) -> None:
    model, shape, expected = CASES[name]
    assert sorted(map(repr, channel_groups(model, torch.zeros(shape)))) == sorted(map(repr, expected))


@pytest.mark.parametrize("name", CASES)
def test_removing_a_channel_leaves_nothing_that_depends_on_it(name: str) -> None:
    """With channel 0 of a group masked, any values in the weights that write or read it change no output."""
    model, shape, groups = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(32, *shape[1:])
    for group in groups:
        keep = torch.ones(group.width, dtype=torch.bool)
        keep[0] = False
        masked = copy.deepcopy(model).eval()
        masks = group_masks(masked, [(group, keep)])
        parameters = dict(masked.named_parameters())
        with torch.no_grad():
            for key, mask in masks.items():
                parameters[key if key in parameters else f"{key}.weight"].mul_(mask)
            before = masked(x)
            assert not torch.equal(before, model.eval()(x))
            # half of what was removed, put back at random: filters only, while the readers stay masked
            for span in group.producers:
                parameters[f"{span.layer}.weight"][span.start].normal_()
            if {span.layer for span in group.producers}.isdisjoint(span.layer for span in group.consumers):
                assert torch.equal(masked(x), before)
            if group.norms or name == "flat":  # and the other half: readers only, while the channel is silent
                for span in group.producers:
                    parameters[f"{span.layer}.weight"][span.start] = 0
                for span in group.consumers:
                    parameters[f"{span.layer}.weight"][:, span.start * span.repeat : (span.start + 1) * span.repeat] = (
                        7.0
                    )
                assert torch.equal(masked(x), before)


def test_channel_scores_add_filters_and_readers() -> None:
    model, _, (group, _) = CASES["flat"]
    scores = {"conv": torch.ones_like(model.conv.weight), "fc1": torch.ones_like(model.fc1.weight)}
    scores["fc1"][:, 16:32] = 2.0  # channel 1 after the flatten of [3, 4, 4]
    assert channel_scores(group, scores).tolist() == [9 + 80, 9 + 160, 9 + 80]


def test_masks_of_two_groups_meet_in_the_layer_between() -> None:
    model, _, groups = CASES["flat"]
    kept = [(groups[0], torch.tensor([True, False, True])), (groups[1], torch.tensor([True, True, False, False, True]))]
    masks = group_masks(model, kept)
    assert int(masks["fc1"].sum()) == 3 * 32
    assert masks["fc1.bias"].tolist() == [True, True, False, False, True]
    assert masks["conv.bias"].tolist() == [True, False, True]


def test_tracing_leaves_statistics_and_mode_alone() -> None:
    model = Residual().train()
    model.abn1.eval()
    before = copy.deepcopy(model.state_dict())
    channel_groups(model, torch.randn(2, 3, 8, 8))
    assert model.training and not model.abn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(1, 4, 1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))


class Rolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.conv(x), 1, dims=1)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Shuffled(), r"'shuffle' \(PixelShuffle\)"),
        (Rolled(), "'roll'"),
        (Branching(), "cannot follow the channels of Branching"),
    ],
)
def test_what_cannot_be_followed_is_named(model: nn.Module, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        channel_groups(model, torch.ones(1, 1, 4, 4))
    assert "leave example_inputs out" in str(caught.value)
