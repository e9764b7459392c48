"""Small networks that guess, before a large one runs, whether an image will have a high or a low loss.

The instance filter of arXiv 2007.03213 for MNIST, "LeNet with 3x3 kernels and 6 and 16 filters"; for CIFAR
the paper's is a ResNet-8 with two outputs, which nets.py has.  The text gives no padding and no pooling:
with those here the filter costs 9.3 % of lenet_431k's forward pass (9.6 with ten outputs; the paper says
9.5).  Read lenet.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import check_positive, check_widths
from .initialise import init_he_


class LeNetFilter(nn.Module):
    """images: float[n, in_channels, h, w] -> logits: float[n, num_classes]; h and w at least 14.

    `widths` are the outputs of conv1 and conv2.  Raises DataError for a size below 1.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, widths: Sequence[int] = (6, 16)) -> None:
        super().__init__()
        check_positive(in_channels, name="in_channels", where="lenet_filter")
        check_positive(num_classes, name="num_classes", where="lenet_filter")
        maps1, maps2 = check_widths(widths, 2, where="lenet_filter")
        self.conv1 = nn.Conv2d(in_channels, maps1, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(maps1, maps2, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveMaxPool2d(7)  # on 28 x 28 images the usual 2 x 2 pooling of 14 x 14 maps
        self.fc = nn.Linear(maps2 * 7 * 7, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits
