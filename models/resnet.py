"""Residual networks: ResNet-8/20/56/110 for small images, ResNet-18, and ResNet-50 of bottleneck blocks.

After He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with 1x1 convolutions where a
shortcut changes shape (the paper's option B) for all families.  ResNet-50 strides in its 3x3 convolutions,
which is usual and called v1.5, or as the paper does (v1).  Modules carry torchvision's names, so its
weights load as they are; read `vgg.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import DataError, check_positive, check_widths, nearest
from .initialise import init_he_


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: [n, in, h, w] -> [n, out, h/stride, w/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, h, w] -> [batch, out channels, h/stride, w/stride]."""
        return self.join(x, self.branch(x))

    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut."""
        y: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return y

    def join(self, x: Tensor, inner: Tensor | None) -> Tensor:
        """The block's output from its branch's; None where the branch is skipped (stochastic depth)."""
        shortcut = self.downsample(x)
        y: Tensor = self.relu2(shortcut if inner is None else inner + shortcut)
        return y


def stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` basic blocks in a row; only the first changes the width and the image size."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


class SmallResNet(nn.Module):
    """ResNet-(6n+2) of section 4.2: a 3x3 stem and three stages of n blocks, halving the image twice.

    images: float[n, in_channels, h, w] -> logits: float[n, num_classes], for any h and w.
    `widths` are the channels of the three stages; the stem has the first.  Raises DataError for a depth
    that is not 6n+2 or a size below 1.
    """

    def __init__(
        self, depth: int, in_channels: int = 3, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        where = f"resnet{depth}"
        blocks, rest = divmod(check_positive(depth, name="depth", where=where) - 2, 6)
        if rest or blocks < 1:
            raise DataError(f"depth is {depth}", where=where, expected="6n+2: 8, 14, 20, 32, 44, 56, 110 ...")
        check_positive(in_channels, name="in_channels", where=where)
        check_positive(num_classes, name="num_classes", where=where)
        width1, width2, width3 = check_widths(widths, 3, where=where)
        self.conv1 = nn.Conv2d(in_channels, width1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width1)
        self.relu = nn.ReLU()
        self.layer1 = stage(width1, width1, blocks, 1)
        self.layer2 = stage(width1, width2, blocks, 2)
        self.layer3 = stage(width2, width3, blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width3, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, and a shortcut: [n, in, h, w] -> [n, 4*width, h/stride, w/stride].

    The stride is in the 3x3 convolution (v1.5) or, version="v1", in the first 1x1.
    """

    def __init__(self, in_channels: int, width: int, stride: int, version: str = "v1.5") -> None:
        super().__init__()
        out_channels = 4 * width
        first, second = (stride, 1) if version == "v1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, h, w] -> [batch, 4*width, h/stride, w/stride]."""
        return self.join(x, self.branch(x))

    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut."""
        inner = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        y: Tensor = self.bn3(self.conv3(inner))
        return y

    def join(self, x: Tensor, inner: Tensor | None) -> Tensor:
        """The block's output from its branch's; None where the branch is skipped (stochastic depth)."""
        shortcut = self.downsample(x)
        y: Tensor = self.relu3(shortcut if inner is None else inner + shortcut)
        return y


def bottlenecks(in_channels: int, width: int, blocks: int, stride: int, version: str) -> nn.Sequential:
    """`blocks` bottleneck blocks in a row; only the first changes the width and the image size."""
    first = Bottleneck(in_channels, width, stride, version)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class ResNet50(nn.Module):
    """ResNet-50 of the paper's table 1: a stem and stages of 3, 4, 6 and 3 bottleneck blocks.

    images: float[n, in_channels, h, w] -> logits: float[n, num_classes].  `widths` are the inner channels of the four
    stages, a quarter of what leaves them.  version: "v1.5" halves images in the 3x3 convolution of a stage's first
    block, "v1", the paper's, in its first 1x1.  Raises DataError for another version or a size below 1.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 1000, widths: Sequence[int] = (64, 128, 256, 512),
        version: str = "v1.5",
    ) -> None:
        super().__init__()
        if version not in ("v1", "v1.5"):
            raise DataError(f"version is {version!r}", where="resnet50", expected='"v1" or "v1.5"')
        check_positive(in_channels, name="in_channels", where="resnet50")
        check_positive(num_classes, name="num_classes", where="resnet50")
        stages = check_widths(widths, 4, where="resnet50")
        self.conv1 = nn.Conv2d(in_channels, stages[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        width1, width2, width3, width4 = stages
        self.layer1 = bottlenecks(width1, width1, 3, 1, version)
        self.layer2 = bottlenecks(4 * width1, width2, 4, 2, version)
        self.layer3 = bottlenecks(4 * width2, width3, 6, 2, version)
        self.layer4 = bottlenecks(4 * width3, width4, 3, 2, version)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width4, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class ResNet18(nn.Module):
    """ResNet-18 of the paper's table 1: a stem and four stages of two basic blocks.

    images: float[n, in_channels, h, w] -> logits: float[n, num_classes].
    stem="imagenet": 7x7 stride 2 and 3x3 max pooling, for images of about 224; stem="small": one 3x3
    convolution of stride 1 and no pooling, as is usual for images of about 32.  `widths` are the channels
    of the four stages.  Raises DataError for another stem or a size below 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        check_positive(in_channels, name="in_channels", where="resnet18")
        check_positive(num_classes, name="num_classes", where="resnet18")
        width1, width2, width3, width4 = check_widths(widths, 4, where="resnet18")
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width1, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        elif stem == "small":
            self.conv1 = nn.Conv2d(in_channels, width1, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            raise DataError(f"stem is {stem!r}", where="resnet18", fix=nearest(str(stem), ("imagenet", "small")))
        self.bn1 = nn.BatchNorm2d(width1)
        self.relu = nn.ReLU()
        self.layer1 = stage(width1, width1, 2, 1)
        self.layer2 = stage(width1, width2, 2, 2)
        self.layer3 = stage(width2, width3, 2, 2)
        self.layer4 = stage(width3, width4, 2, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width4, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
