"""LeNet-5, the smallest network here: two convolutions and three linear layers.

After LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, in the form in use
today: ReLU and max pooling in place of tanh and trained subsampling, full connections between the
feature maps, a softmax outside.  Read `resnet.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import check_positive, check_widths
from .initialise import init_he_


class LeNet5(nn.Module):
    """images: float[n, in_channels, h, w] -> logits: float[n, num_classes]; h and w at least 12.

    `widths` are the outputs of conv1, conv2, fc1 and fc2.  Raises DataError for a size below 1.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (6, 16, 120, 84)) -> None:
        super().__init__()
        check_positive(in_channels, name="in_channels", where="lenet5")
        check_positive(num_classes, name="num_classes", where="lenet5")
        maps1, maps2, hidden1, hidden2 = check_widths(widths, 4, where="lenet5")
        self.conv1 = nn.Conv2d(in_channels, maps1, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(maps1, maps2, 5)
        self.relu2 = nn.ReLU()
        # On 28 x 28 images this is the usual 2 x 2 pooling of 10 x 10 maps; other sizes also end in 5 x 5.
        self.pool2 = nn.AdaptiveMaxPool2d(5)
        self.fc1 = nn.Linear(maps2 * 5 * 5, hidden1)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(hidden1, hidden2)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(hidden2, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = self.relu3(self.fc1(x))
        x = self.relu4(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet431k(nn.Module):
    """The LeNet of 431,080 parameters on 28x28 images that compression papers mean: 20 and 50 maps, 500 hidden units.

    images: float[n, in_channels, h, w] -> logits: float[n, num_classes]; h and w at least 16.  `widths` are the outputs
    of conv1, conv2 and fc1.  Raises DataError for a size below 1.  Sizes are those of Caffe's examples/mnist; a ReLU
    stands behind every layer, as in PyTorch's MNIST example (Caffe's has one, behind fc1).
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (20, 50, 500)) -> None:
        super().__init__()
        check_positive(in_channels, name="in_channels", where="lenet_431k")
        check_positive(num_classes, name="num_classes", where="lenet_431k")
        maps1, maps2, hidden = check_widths(widths, 3, where="lenet_431k")
        self.conv1 = nn.Conv2d(in_channels, maps1, 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(maps1, maps2, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveMaxPool2d(4)  # on 28 x 28 images the usual 2 x 2 pooling of 8 x 8 maps
        self.fc1 = nn.Linear(maps2 * 4 * 4, hidden)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)
        init_he_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        logits: Tensor = self.fc2(self.relu3(self.fc1(torch.flatten(x, 1))))
        return logits
