"""Images that stay files until a batch needs them: decoded by threads, a few batches ahead of the training.

An ImageFiles stands where a tensor of images would, and picking from it picks file names; its pixels exist only batch
by batch, so a set may be larger than memory.  Threads, not processes: Pillow decodes and resizes without holding
Python's lock, nothing has to be pickled, and a killed run leaves no worker behind.  No resized copy is kept on disk:
ImageNet at 256 x 256 would take 250 GB, and a random resized crop wants the original.  Orientation tags of cameras are
not followed, as is usual.  Read `crops.py` for what is cut out, `folders.py` for where the names come from.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .crops import Crop, centre_crop
from .errors import DataError

CPU = torch.device("cpu")
BATCHES_AHEAD = 3
MOST_THREADS = 16
EXTRA = "pip install 'espalier-codesign[images]'"


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """RGB images as files: like a uint8[n, 3, size, size] that is not there yet.

    names: paths below `root`, of a whole set; chosen: int64[n], which of them these images are, in order.  size: height
    and width that they are resized to.  share: what the centre crop has of the shorter side.  device: batches go there.
    """

    root: Path
    names: tuple[str, ...]
    chosen: NDArray[np.int64]
    size: int
    share: float
    device: torch.device = CPU
    dtype: ClassVar[torch.dtype] = torch.uint8
    ndim: ClassVar[int] = 4

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> torch.Size:
        """[n, 3, size, size]."""
        return torch.Size((len(self), 3, self.size, self.size))

    def numel(self) -> int:
        """How many bytes they would take, decoded."""
        return self.shape.numel()

    def __getitem__(self, index: slice | Tensor) -> ImageFiles:
        """Some of them, still as files.  index: a slice, bool[n] or int64[k]."""
        return replace(self, chosen=self.chosen[index if isinstance(index, slice) else index.cpu().numpy()])

    def to(self, device: torch.device | str) -> ImageFiles:
        """The same files, whose batches are to go to `device`."""
        return replace(self, device=torch.device(device))

    def paths(self) -> list[Path]:
        """Where these images are."""
        return [self.root / self.names[index] for index in self.chosen]

    def decoded(self) -> Tensor:
        """uint8[n, 3, size, size]: centre crops of all, on the CPU.  Raises DataError for a file that is no image."""
        return next(decoded_batches(self, [torch.arange(len(self))], None, lambda batch: torch.Generator())).cpu()


def decoded_batches(
    images: ImageFiles, parts: Sequence[Tensor], crop: Crop | None, stream: Callable[[int], torch.Generator]
) -> Iterator[Tensor]:
    """uint8[b, 3, size, size] on images.device for each of `parts`, int64[b] of indices, in order.

    crop: None = the centre crop.  stream(i): the generator that the crops of part i are drawn from; what is drawn
    depends on nothing else, however many threads there are.  Raises DataError for a file that is no image, and where
    Pillow is not installed.
    """
    _pillow()
    cut = centre_crop if crop is None else crop
    threads = min(MOST_THREADS, _cores())
    waiting: deque[tuple[NDArray[np.uint8], list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:

        def start(number: int) -> None:
            paths = images[parts[number]].paths()
            draws = torch.rand(len(paths), cut.numbers, generator=stream(number), dtype=torch.float64).tolist()
            pixels = np.empty((len(paths), images.size, images.size, 3), np.uint8)

            def decode_every(first: int, step: int) -> None:
                for i in range(first, len(paths), step):
                    pixels[i] = read_image(paths[i], images.size, images.share, cut, draws[i])

            count = min(threads, len(paths))
            waiting.append((pixels, [pool.submit(decode_every, first, count) for first in range(count)]))

        try:
            for number in range(len(parts) + BATCHES_AHEAD):
                if number < len(parts):
                    start(number)
                if number >= BATCHES_AHEAD:
                    pixels, tasks = waiting.popleft()
                    for task in tasks:
                        task.result()
                    # Files are read row by row with the colours of a pixel together; networks want channels first.
                    yield torch.from_numpy(pixels).to(images.device).permute(0, 3, 1, 2).contiguous()
        finally:
            for _, tasks in waiting:
                for task in tasks:
                    task.cancel()


def read_image(path: Path, size: int, share: float, crop: Crop, draw: Sequence[float]) -> NDArray[np.uint8]:
    """uint8[size, size, 3]: the crop of a JPEG or PNG file, resized with antialiased bilinear interpolation.

    Grey, palette and CMYK images become RGB; transparency is dropped.  A JPEG is decoded at a half, a quarter or an
    eighth where that still has `size` pixels across the crop.  Raises DataError, with the path, for any other file.
    """
    image_module = _pillow()
    try:
        with image_module.open(path, formats=("JPEG", "PNG")) as image:
            width, height = image.size
            box, mirrored = crop.box(width, height, share, draw)
            image.draft("RGB", (_ceil(width * size, box[2] - box[0]), _ceil(height * size, box[3] - box[1])))
            across, down = image.size[0] / width, image.size[1] / height
            scaled = (max(0.0, box[0] * across), max(0.0, box[1] * down),
                      min(image.size[0], box[2] * across), min(image.size[1], box[3] * down))
            rgb = image.convert("RGB").resize((size, size), image_module.Resampling.BILINEAR, box=scaled)
            pixels = np.asarray(rgb)
    # What Pillow raises for damaged content is not one class: broken PNG chunks are SyntaxError or struct.error.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, image_module.DecompressionBombError) as error:
        reason = "it is no JPEG or PNG" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise DataError(f"cannot be read as an image ({reason})", where=str(path), expected="a JPEG or PNG file",
                        fix="download or copy the file again, or delete it") from error
    return pixels[:, ::-1] if mirrored else pixels


def _ceil(product: int, divisor: float) -> int:
    return int(-(-product // divisor))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("a folder of images needs Pillow, which is not installed", where="data",
                        expected="the package pillow", fix=EXTRA) from None
    return Image


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
