"""VGG-11 and VGG-16 with batch norm, in the form usual for small images, and the smaller TinyVGG-16.

After Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configurations A and D, with
a batch norm after every convolution.  In VGG the three wide linear layers of the ImageNet form are left out: one
linear layer reads the last feature map, as in the common CIFAR versions; TinyVGG16 has them.  Read `nets.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import DataError, check_positive, check_widths
from .initialise import init_he_

# Convolutions in each of the five stages, by depth: table 1 of the paper, columns A and D.
CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class VGG(nn.Module):
    """images: float[n, in_channels, h, w] -> logits: float[n, num_classes], for any h and w.

    `widths` are the channels of the five stages.  Raises DataError for a depth other than 11 and 16 or a
    size below 1.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        num_classes: int = 10,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
    ) -> None:
        super().__init__()
        where = f"vgg{depth}"
        if depth not in CONVS_PER_STAGE:
            raise DataError(f"depth is {depth!r}", where=where, expected="11 or 16")
        channels = check_positive(in_channels, name="in_channels", where=where)
        check_positive(num_classes, name="num_classes", where=where)
        layers: list[nn.Module] = []
        for width, convs in zip(check_widths(widths, 5, where=where), CONVS_PER_STAGE[depth], strict=True):
            for _ in range(convs):
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)  # the batch norm has the bias
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            # Rounding up changes nothing at 32 x 32 and lets 28 x 28 images survive five halvings.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


class TinyVGG16(nn.Module):
    """images: float[n, in_channels, h, w] -> logits: float[n, num_classes]; 56 x 56 crops of Tiny ImageNet's 64 x 64.

    Ten convolutions in stages of 2, 2, 3 and 3 with three poolings, then 25088-4096-2048-200: the VGG-16 for Tiny
    ImageNet of github.com/pat-coady/tiny_imagenet.  That Partition Pruning's TinyVGG16 (arXiv 1901.11391) is this one
    is our reading; batch norm and dropout in these places are our choice.  `widths` are the channels of the four
    stages and the outputs of fc1 and fc2.  Raises DataError for a size below 1 or a dropout outside [0, 1).
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 200,
        widths: Sequence[int] = (64, 128, 256, 512, 4096, 2048),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        where = "tiny_vgg16"
        channels = check_positive(in_channels, name="in_channels", where=where)
        check_positive(num_classes, name="num_classes", where=where)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
            raise DataError(f"dropout is {dropout!r}", where=where, expected="a number from 0 to below 1")
        *stages, hidden1, hidden2 = check_widths(widths, 6, where=where)
        # On 56 x 56 images the third is the usual 2 x 2 pooling of 14 x 14 maps; other sizes also end in 7 x 7.
        pools: tuple[nn.Module | None, ...] = (nn.MaxPool2d(2), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(7), None)
        layers: list[nn.Module] = []
        for width, convs, pool in zip(stages, CONVS_PER_STAGE[16][:4], pools, strict=True):
            for _ in range(convs):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if pool is not None:
                layers.append(pool)
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(channels * 7 * 7, hidden1)
        self.relu1 = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden1, hidden2)
        self.relu2 = nn.ReLU()
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(hidden2, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = torch.flatten(self.features(images), 1)
        x = self.dropout1(self.relu1(self.fc1(x)))
        x = self.dropout2(self.relu2(self.fc2(x)))
        logits: Tensor = self.fc3(x)
        return logits
