"""MobileNetV2: inverted residuals with depthwise convolutions, for images of about 224 or of about 32.

After Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.  Modules carry
torchvision's order, not its names; there is no dropout before the classifier.  Read `vit.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import DataError, check_positive, check_widths, nearest
from .initialise import init_he_

# Table 2 of the paper, a line per stage: expansion t, channels c, blocks n, stride s of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280
WIDTHS = tuple(channels for _, channels, _, _ in STAGES)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3 depthwise), project (1x1, no activation): [n, in, h, w] -> [n, out, ...].

    The input is added where the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = conv_norm_relu(in_channels, hidden, 1, 1)
        self.depthwise = conv_norm_relu(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, h, w] -> [batch, out channels, h/stride, w/stride]."""
        inner: Tensor = self.bn(self.project(self.depthwise(self.expand(x))))
        return x + inner if self.residual else inner


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (but for its stride), batch norm, and ReLU6."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


def rounded(channels: float) -> int:
    """The nearest multiple of 8 that is no more than a tenth below, as the paper's own code scales widths."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


class MobileNetV2(nn.Module):
    """images: float[n, in_channels, h, w] -> logits: float[n, num_classes], for any h and w.

    width scales every stage, the paper's alpha; `widths` are the channels of the seven stages before that.
    stem="imagenet" halves the image five times, for about 224; "small" three times, for about 32.  Raises DataError
    for another stem, a width that is not above 0, or a size below 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        widths: Sequence[int] = WIDTHS,
        width: float = 1.0,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        where = "mobilenet_v2"
        check_positive(in_channels, name="in_channels", where=where)
        check_positive(num_classes, name="num_classes", where=where)
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < 100:
            raise DataError(f"width is {width!r}", where=where, expected="a number above 0 such as 0.5")
        if stem not in ("imagenet", "small"):
            raise DataError(f"stem is {stem!r}", where=where, fix=nearest(str(stem), ("imagenet", "small")))
        channels = rounded(STEM * width)
        blocks: list[nn.Module] = [conv_norm_relu(in_channels, channels, 3, 2 if stem == "imagenet" else 1)]
        for index, ((expansion, _, count, stride), wide) in enumerate(
            zip(STAGES, check_widths(widths, len(STAGES), where=where), strict=True)
        ):
            first = 1 if stem == "small" and index == 1 else stride
            out = wide if width == 1.0 else rounded(wide * width)
            for block in range(count):
                blocks.append(InvertedResidual(channels, out, first if block == 0 else 1, expansion))
                channels = out
        last = rounded(LAST * max(1.0, width))  # the paper does not narrow the last convolution
        self.features = nn.Sequential(*blocks, conv_norm_relu(channels, last, 1, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits
