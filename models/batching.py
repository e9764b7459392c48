"""Shuffled, augmented, normalised batches whose every bit follows from (seed, epoch, batch number).

Nothing is remembered between batches, so training that stops in the middle of an epoch goes on exactly
where it was by asking for `start_batch`.  Images in memory need no worker; those in files are decoded ahead by
threads (`files.py`), to the same bits however many there are.  Augmentations here are the two usual for
small images, crop and mirror; those of photographs are in `crops.py`.  Read `data.py` next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .crops import Crop
from .errors import DataError, check_positive
from .files import ImageFiles, decoded_batches

# (images uint8[n, c, h, w], generator) -> images of the same shape and type.
Augment = Callable[[Tensor, torch.Generator], Tensor]


def stream(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place of a run, such as (epoch, batch): a pure function of its arguments.

    The numbers are hashed, since sums such as seed + epoch give different runs the same stream.
    """
    digest = hashlib.sha256(repr((int(seed), *map(int, place))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # 63 bits: manual_seed takes an int64


def batch_count(images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches an epoch of `images` images has."""
    return images // batch_size if drop_last else -(-images // batch_size)


def batches(
    images: Tensor | ImageFiles,
    labels: Tensor,
    batch_size: int,
    seed: int,
    epoch: int,
    start_batch: int = 0,
    augment: Augment | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `start_batch`, start_batch + 1, ... of one epoch over all images, each image once.

    images: uint8[n, c, h, w], labels: int64[n], on one device -> float32[b, c, h, w], int64[b] there.
    The order depends on seed and epoch only, the augmentation of a batch on its number besides, so a late
    start gives exactly the batches that an early one would have given.  The last batch may be smaller,
    unless `drop_last`.  `augment` is a function of a batch, or a Crop of `crops.py` for images that are files.
    Raises DataError, at the call, for sizes that make no sense, and while reading for a file that is no image.
    """
    check_positive(batch_size, name="batch_size", where="batches")
    if len(images) != len(labels) or not len(images):
        raise DataError(f"{len(images)} images and {len(labels)} labels", where="batches", expected="as many, and some")
    count = batch_count(len(images), batch_size, drop_last=drop_last)
    if not 0 <= start_batch <= count:
        raise DataError(f"start_batch is {start_batch}", where="batches", expected=f"0 to {count}, the epoch's batches")

    def epoch_from_start() -> Iterator[tuple[Tensor, Tensor]]:
        # Drawn on the CPU even for images on a GPU: the same order on every device.
        order = torch.randperm(len(images), generator=stream(seed, epoch)).to(images.device)
        parts = [order[batch * batch_size : (batch + 1) * batch_size] for batch in range(start_batch, count)]
        crop = augment if isinstance(augment, Crop) and isinstance(images, ImageFiles) else None
        pixels: Iterator[Tensor]
        if isinstance(images, ImageFiles):
            pixels = decoded_batches(images, parts, crop, lambda part: stream(seed, epoch, start_batch + part))
        else:
            pixels = (images[chosen] for chosen in parts)
        for batch, (x, chosen) in enumerate(zip(pixels, parts, strict=True), start_batch):
            if augment is not None and crop is None:
                x = augment(x, stream(seed, epoch, batch))
            yield normalise(x, mean, std), labels[chosen]

    return epoch_from_start()


def normalise(images: Tensor, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> Tensor:
    """uint8[n, c, h, w] -> float32: (pixel / 255 - mean) / std, channel by channel."""
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).reshape(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).reshape(shape)
    return (images.to(torch.float32) / 255 - centre) / scale


def random_crop(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Each image moved by up to `padding` pixels in each direction, zeros moving in at the edge."""
    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [n, h]: rows of `padded` to keep
    columns = left[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Both, as is usual for CIFAR (He et al., CVPR 2016, section 4.2)."""
    return random_flip(random_crop(images, generator), generator)
