"""Which part of a photograph a network sees: the crops and mirrorings usual for ImageNet, as rectangles.

A crop says, for one image, a rectangle in its own pixels and whether it is mirrored; cutting it out and resizing it to
the network's input is one step, done where the file is decoded.  Left out: colour and blur.  Read `files.py` next.

Sources: random resized crop, Szegedy et al., CVPR 2015, section 6, with the ten tries of its usual implementations;
shorter side and random crop, Krizhevsky et al., NIPS 2012, section 4.1; centre crop of the shorter side, the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DataError

Box = tuple[float, float, float, float]
"""left, top, right, bottom in an image's own pixels."""
TRIES = 10


@dataclass(frozen=True)
class Crop:
    """The centre crop: a square of `share` of the shorter side, as tests use it, never mirrored.

    It stands at the place of an augmentation of batches (`data.augment`), for images that are files.  numbers: how many
    random numbers in [0, 1) one image takes.
    """

    numbers: int = 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Raises DataError: an image in memory has no larger original to cut from."""
        raise DataError("this crop is cut out of files of photographs", where="data.augment",
                        expected="a folder of images such as imagenet:DIR",
                        fix="for images in memory: models.batching:crop_and_flip")

    def box(self, width: int, height: int, share: float, draw: Sequence[float]) -> tuple[Box, bool]:
        """(the rectangle, whether it is mirrored) of a width x height image.  draw: its `numbers` random numbers."""
        side = share * min(width, height)
        return _square(side, (width - side) / 2, (height - side) / 2), False


@dataclass(frozen=True)
class RandomSquare(Crop):
    """The same square at a random place: the shorter side resized, then a random crop."""

    numbers: int = 3
    mirror: bool = True

    def box(self, width: int, height: int, share: float, draw: Sequence[float]) -> tuple[Box, bool]:
        """As of Crop."""
        side = share * min(width, height)
        square = _square(side, draw[0] * (width - side), draw[1] * (height - side))
        return square, self.mirror and draw[2] < 0.5


@dataclass(frozen=True)
class RandomResized(Crop):
    """A random share of the area at a random aspect ratio; ten tries, then the largest centre crop that is allowed."""

    numbers: int = 4 * TRIES + 1
    mirror: bool = True
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def box(self, width: int, height: int, share: float, draw: Sequence[float]) -> tuple[Box, bool]:
        """As of Crop; the resolution of tests, `share`, has no part in it."""
        mirrored = self.mirror and draw[-1] < 0.5
        low, high = (math.log(ratio) for ratio in self.aspect)
        for attempt in range(TRIES):
            a, b, x, y = draw[4 * attempt : 4 * attempt + 4]
            area = width * height * (self.area[0] + a * (self.area[1] - self.area[0]))
            ratio = math.exp(low + b * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = math.floor(x * (width - w + 1)), math.floor(y * (height - h + 1))
                return (left, top, left + w, top + h), mirrored
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])
        w, h = min(width, round(height * ratio) or 1), min(height, round(width / ratio) or 1)
        return ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2), mirrored


def _square(side: float, left: float, top: float) -> Box:
    return left, top, left + side, top + side


centre_crop = Crop()
random_crop_and_flip = RandomSquare()
random_resized_crop_and_flip = RandomResized()
