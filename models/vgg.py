"""VGG-11 and VGG-16 with batch norm, in the form usual for small images.

After Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configurations A and D, with
a batch norm after every convolution.  The three wide linear layers of the ImageNet form are left out: one
linear layer reads the last feature map, as in the common CIFAR versions.  Read `nets.py` next.
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
