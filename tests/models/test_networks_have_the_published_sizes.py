"""Parameter counts by hand from the papers' tables, output shapes, and the habits that hooks rely on."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from models.errors import DataError
from models.nets import NETS, build


def _count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _basic_blocks(stem: int, widths: tuple[int, ...], blocks: int) -> int:
    """Parameters of stages of basic blocks: 3x3 convolutions, two numbers per batch-norm channel, 1x1 shortcuts."""
    total, before = 0, stem
    for width in widths:
        total += 9 * before * width + (2 * blocks - 1) * 9 * width * width + 2 * blocks * 2 * width
        if width != before:
            total += before * width + 2 * width
        before = width
    return total


@pytest.mark.parametrize(("depth", "millions"), [(8, 0.08), (20, 0.27), (56, 0.85), (110, 1.7)])
def test_small_resnets(depth: int, millions: float) -> None:
    expected = 27 * 16 + 2 * 16 + _basic_blocks(16, (16, 32, 64), (depth - 2) // 6) + 64 * 10 + 10
    assert _count(build(f"resnet{depth}")) == expected
    # Table 6 of He et al. gives 0.27 M, 0.85 M and 1.7 M; its shortcuts have no weights, ours have 2752.
    assert expected / 1e6 == pytest.approx(millions, rel=0.04)
    weighted = [m for m in build(f"resnet{depth}").modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([m for m in weighted if m.weight.shape[-1] != 1 or isinstance(m, nn.Linear)]) == depth


def test_resnet20_is_the_well_known_272474() -> None:
    assert _count(build("resnet20")) == 272_474


def test_resnet18_has_torchvisions_parameters_and_names() -> None:
    net = build("resnet18")
    assert _count(net) == 11_689_512  # torchvision.models.resnet18
    names = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.bias"} <= names
    assert not any("layer1.0.downsample" in name for name in names)
    assert len(names) == 122


def test_resnet18_small_stem() -> None:
    net = build("resnet18", stem="small", num_classes=10)
    assert _count(net) == 27 * 64 + 2 * 64 + _basic_blocks(64, (64, 128, 256, 512), 2) + 512 * 10 + 10
    assert net.get_submodule("layer1")(torch.zeros(1, 64, 32, 32)).shape == (1, 64, 32, 32)


@pytest.mark.parametrize(("name", "convs"), [("vgg11", (1, 1, 2, 2, 2)), ("vgg16", (2, 2, 3, 3, 3))])
def test_vgg(name: str, convs: tuple[int, ...]) -> None:
    expected, channels = 0, 3
    for width, count in zip((64, 128, 256, 512, 512), convs, strict=True):
        for _ in range(count):
            expected += 9 * channels * width + 2 * width
            channels = width
    assert _count(build(name)) == expected + 512 * 10 + 10


def test_tiny_vgg16_has_ten_convolutions_and_the_chain_of_tiny_imagenet() -> None:
    with torch.device("meta"):
        net = build("tiny_vgg16")
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512]
    convs = sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    chain = [(25088, 4096), (4096, 2048), (2048, 200)]
    assert [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)] == chain
    assert _count(net) == convs + sum(a * b + b for a, b in chain)
    slim = build("tiny_vgg16", widths=[4, 4, 6, 6, 8, 8]).eval()
    sides: list[int] = []
    for module in slim.modules():
        if isinstance(module, (nn.MaxPool2d, nn.AdaptiveMaxPool2d)):
            module.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        slim(torch.zeros(1, 3, 56, 56))
    assert sides == [28, 14, 7]


def test_lenet5_is_the_well_known_61706() -> None:
    assert _count(build("lenet5")) == 61_706


def test_lenet_has_the_431080_weights_of_compression_papers() -> None:
    assert _count(build("lenet_431k", in_channels=1)) == 431_080


@pytest.mark.parametrize(
    ("name", "kwargs", "side", "expected"),
    [
        ("resnet8", {}, 32, {"layer1": 32, "layer2": 16, "layer3": 8}),
        ("resnet8", {}, 28, {"layer1": 28, "layer2": 14, "layer3": 7}),
        ("resnet18", {}, 224, {"conv1": 112, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7}),
        ("resnet18", {"stem": "small"}, 32, {"conv1": 32, "layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}),
        ("vgg11", {}, 32, {"features.3": 16, "features.7": 8, "features.14": 4, "features.21": 2, "features.28": 1}),
        ("lenet5", {"in_channels": 1}, 28, {"conv1": 28, "pool1": 14, "conv2": 10, "pool2": 5}),
    ],
)
def test_feature_maps_shrink_where_the_papers_say(name: str, kwargs: dict, side: int, expected: dict[str, int]) -> None:
    net, sides = build(name, **kwargs).eval(), {}
    for place in expected:
        net.get_submodule(place).register_forward_hook(
            lambda _module, _inputs, output, place=place: sides.update({place: output.shape[-1]})
        )
    with torch.no_grad():
        net(torch.zeros(1, kwargs.get("in_channels", 3), side, side))
    assert sides == expected


@pytest.mark.parametrize(("name", "parameters"), [
    ("resnet50", 25_557_032),  # torchvision.models.resnet50
    ("mobilenet_v2", 3_504_872),  # torchvision.models.mobilenet_v2; the paper's table 4 says 3.4 M
    ("vit_tiny", 5_717_416),  # timm's vit_tiny_patch16_224
])
def test_larger_networks_have_the_published_parameters(name: str, parameters: int) -> None:
    assert _count(build(name)) == parameters


def test_mobilenet_v2_scales_by_width_and_halves_small_images_three_times() -> None:
    assert _count(build("mobilenet_v2", width=0.5)) == 1_968_680  # torchvision's, width_mult=0.5
    net = build("mobilenet_v2", stem="small", num_classes=10).eval()
    with torch.no_grad():
        assert net.get_submodule("features")(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 4, 4)
    depthwise = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 17
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)


@pytest.mark.parametrize(("version", "expected"), [("v1.5", [7, 3, 3, 3]), ("v1", [7, 1, 1, 1])])
def test_resnet50_strides_in_its_3x3_convolutions_or_as_the_paper_does(version: str, expected: list[int]) -> None:
    strided = [m.kernel_size[0] for n, m in build("resnet50", version=version).named_modules()
               if isinstance(m, nn.Conv2d) and m.stride[0] == 2 and "downsample" not in n]
    assert strided == expected


def test_attention_is_torchs() -> None:
    from models.vit import Attention

    ours = Attention(12, 3).eval()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    theirs.load_state_dict({"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
                            "out_proj.weight": ours.project.weight, "out_proj.bias": ours.project.bias})
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


SLIM = {"lenet5": [2, 3, 8, 6], "lenet_filter": [4, 6],
        "resnet18": [4, 6, 8, 10], "vgg11": [4, 4, 6, 6, 8], "vgg16": [4, 4, 6, 6, 8],
        "tiny_vgg16": [4, 4, 6, 6, 8, 8],
        "resnet50": [4, 6, 8, 10], "mobilenet_v2": [4, 4, 6, 6, 8, 8, 10], "vit_tiny": [12, 20]}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 64)])
def test_every_network_takes_channels_classes_and_widths(name: str, channels: int, side: int) -> None:
    own = {"image": side, "patch": 4, "depth": 2} if name == "vit_tiny" else {}
    net = build(name, in_channels=channels, num_classes=7, widths=SLIM.get(name, [4, 6, 8]), **own).eval()
    images = torch.rand(2, channels, side, side)
    logits = net(images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(images), logits)
    called = _modules_by_calls(net, images)
    leaves = [module for module in net.modules() if not list(module.children())]
    assert all(called[id(leaf)] == 1 for leaf in leaves), "each place has a module of its own, used once"
    assert not any(getattr(leaf, "inplace", False) for leaf in leaves)


def _modules_by_calls(net: nn.Module, images: torch.Tensor) -> dict[int, int]:
    called = {id(module): 0 for module in net.modules()}

    def count(module: nn.Module, *_: object) -> None:
        called[id(module)] += 1

    handles = [module.register_forward_hook(count) for module in net.modules()]
    net(images)
    for handle in handles:
        handle.remove()
    return called


def test_weights_have_hes_variance_and_keep_signals_alive() -> None:
    net = build("vgg16", seed=3)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 50_000:
            fan_in = module.in_channels * 9
            assert module.weight.var().item() == pytest.approx(2 / fan_in, rel=0.05)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build("lenet5", seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        ("resnet9", {}, "there is no network 'resnet9'; did you mean 'resnet"),
        ("transformer", {}, "known: lenet5, lenet_431k, lenet_filter"),
        ("resnet8", {"width": [1, 2, 3]}, "resnet8: there is no argument 'width'; did you mean 'widths'"),
        ("resnet8", {"depth": 20}, "resnet8: there is no argument 'depth'"),
        ("resnet8", {"widths": [16, 32]}, "resnet8: widths is [16, 32]; expected 3 whole numbers"),
        ("vgg11", {"widths": [4, 4, 4, 4, 0]}, "vgg11: widths[4] is 0; expected a whole number of at least 1"),
        ("lenet5", {"in_channels": "3"}, "lenet5: in_channels is '3'"),
        ("resnet18", {"num_classes": -1}, "resnet18: num_classes is -1"),
        ("resnet18", {"stem": "smal"}, "stem is 'smal'; did you mean 'small'"),
        ("tiny_vgg16", {"dropout": 1.0}, "tiny_vgg16: dropout is 1.0; expected a number from 0 to below 1"),
        ("mobilenet_v2", {"width": 0}, "mobilenet_v2: width is 0; expected a number above 0"),
        ("mobilenet_v2", {"stem": "smal"}, "did you mean 'small'"),
        ("vit_tiny", {"patch": 15}, "vit: patch is 15; expected a divisor of image = 224"),
        ("vit_tiny", {"heads": 5}, "vit: heads is 5; expected a divisor of widths[0] = 192"),
        ("lenet5", {"seed": 1.5}, "seed is 1.5; expected a whole number"),
    ],
)
def test_a_wrong_name_or_argument_says_which_and_names_the_nearest(name: str, kwargs: dict, said: str) -> None:
    with pytest.raises(DataError) as caught:
        build(name, **kwargs)
    assert said in str(caught.value)


def test_a_depth_that_no_residual_network_has() -> None:
    from models.resnet import SmallResNet
    from models.vgg import VGG

    with pytest.raises(DataError, match="6n\\+2"):
        SmallResNet(depth=18)
    with pytest.raises(DataError, match="expected 11 or 16"):
        VGG(depth=13)
