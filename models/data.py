"""Image sets: what one is, how to load one by name, how to hold images out.

`load` reads the embedded fashion-mnist-mini or a folder that the user has; every set has a training and a
test part, and held-out images for decisions during training always come from the training part.  Small sets
are tensors in memory, folders of photographs stay files until a batch needs them (`files.py`).  Read
`batching.py` next, then `readers.py` and `folders.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import readers
from .errors import DataError, check_positive, nearest
from .files import ImageFiles
from .folders import LAYOUTS
from .mini import read_mini
from .places import place_of
from .readers import RawImages

DIGITS = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EMBEDDED = "fashion-mnist-mini"
# Kinds of folder, as in "cifar10:/path"; "idx" is any other set in MNIST's layout, its classes by number.
KINDS = ("mnist", "fashion-mnist", "idx", "cifar10", "cifar100", *LAYOUTS)
SAMPLED = 512
"""Training images that mean and std of a folder of images are taken from, evenly spaced."""
Images = Tensor | ImageFiles


@dataclass(frozen=True, eq=False)
class ImageData:
    """A set of labelled images, held on the CPU or in files.

    train_images, test_images: uint8[n, channels, h, w]; train_labels, test_labels: int64[n], each an index
    into `classes`.  mean, std: one per channel, over all training images scaled to 0..1, or SAMPLED of them
    where they are files.  provenance: which images these are, with a sha256 of all of them (of their names
    and sizes, for files), and no path.  Raises DataError where these do not fit together.
    """

    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: str

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            where = f"{self.name} {part}"
            if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
                raise DataError(
                    f"images are {images.dtype} {tuple(images.shape)}", where=where, expected="uint8[n, channels, h, w]"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"labels are {labels.dtype} {tuple(labels.shape)}", where=where, expected=f"int64[{len(images)}]"
                )
            if int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
                raise DataError(
                    f"labels run from {int(labels.min())} to {int(labels.max())}", where=where,
                    expected=f"0 to {len(self.classes) - 1}",
                )  # fmt: skip
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError("training and test images differ in shape", where=self.name)
        if not len(self.mean) == len(self.std) == self.train_images.shape[1]:
            raise DataError("mean and std are not one per channel", where=self.name)


@dataclass(frozen=True, eq=False)
class Split:
    """The training part in two: images: uint8[n, channels, h, w], labels: int64[n]."""

    train_images: Images
    train_labels: Tensor
    validation_images: Images
    validation_labels: Tensor


def load(
    source: str | os.PathLike[str] = EMBEDDED, *, limit: int | None = None, test_limit: int | None = None
) -> ImageData:
    """The image set that `source` names.

    source: "fashion-mnist-mini", embedded; KIND:DIR with one of KINDS, such as "cifar10:DIR"; a folder alone,
    whose layout is then recognised; or KIND alone, for the folder KIND in $ESPALIER_DATA.  Kinds of LAYOUTS
    take the height and width of a network's input besides: "imagenet@160:DIR".
    limit: at most so many training images, the first of each class in equal numbers; test_limit (default:
    the same) of test images.  mean and std stay those of the whole training part.
    Raises DataError for an unknown name, a missing folder or file, damaged content, or a limit too small
    to hold one image of each class.
    """
    text = os.fspath(source)
    named, colon, folder = text.partition(":")
    kind, at, size = named.partition("@")
    if text == EMBEDDED:
        data = _image_data(read_mini(), FASHION, EMBEDDED)
    elif not colon and Path(text).is_dir():
        data = _load_folder(_recognise(Path(text)), Path(text), None)
    elif kind in KINDS:
        pixels = _pixels(kind, size, text) if at else None
        data = _load_folder(kind, _existing(kind, folder) if colon else place_of(kind, _fix(kind)), pixels)
    elif Path(text).is_dir():  # a path with a colon in it
        data = _load_folder(_recognise(Path(text)), Path(text), None)
    else:
        raise DataError(
            f"there is no image set {text!r}", where="data",
            expected=f"{EMBEDDED}, a folder, or one of {', '.join(KINDS)} with or without :DIR",
            fix=nearest(kind, (EMBEDDED, *KINDS)),
        )  # fmt: skip
    if limit is None and test_limit is None:
        return data
    return _limited(data, limit, limit if test_limit is None else test_limit)


def split_validation(data: ImageData, fraction: float, generator: torch.Generator) -> Split:
    """Hold out `fraction` of the training images of each class, at random, for choices made in training.

    Both parts keep the order of the set; together they are exactly the training images, and no test image
    is among them.  Each class gives round(fraction * its images), at least one and not all.  The same
    generator state gives the same split.  Raises DataError for a fraction outside 0..1 or a class of
    a single image.
    """
    if not 0 < fraction < 1:
        raise DataError(f"fraction is {fraction!r}", where="split_validation", expected="more than 0, less than 1")
    held = torch.zeros(len(data.train_labels), dtype=torch.bool)
    for label, name in enumerate(data.classes):
        members = (data.train_labels == label).nonzero().flatten()
        if not len(members):
            continue  # sets such as EMNIST letters leave a label unused
        if len(members) == 1:
            raise DataError(f"class {name!r} has one training image", where=data.name, expected="two or more")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return Split(data.train_images[~held], data.train_labels[~held], data.train_images[held], data.train_labels[held])


def _existing(kind: str, folder: str) -> Path:
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise DataError(
            f"there is no folder {folder!r}",
            where=f"data {kind}:{folder}",
            expected="a folder of files already downloaded",
            fix=_fix(kind),
        )
    return path


def _fix(kind: str) -> str:
    """Where to get the files of a kind, and how its folder looks."""
    if kind in LAYOUTS:
        return LAYOUTS[kind].fix
    return {"cifar10": readers.CIFAR10_FIX, "cifar100": readers.CIFAR100_FIX}.get(kind, readers.IDX_FIX)


def _pixels(kind: str, size: str, text: str) -> int:
    """The height and width that "@SIZE" asks for."""
    if kind not in LAYOUTS:
        raise DataError(f"{text!r} asks for a size", where="data", expected=f"a size with {', '.join(LAYOUTS)} only")
    if not size.isdecimal() or not 8 <= int(size) <= 1024:
        raise DataError(f"size {size!r} in {text!r}", where="data", expected="8 to 1024 pixels, as in imagenet@160")
    return int(size)


def _places(kind: str, folder: Path) -> list[Path]:
    """The folder itself, then where the usual downloaders put such files inside it, as far as these exist."""
    if kind in LAYOUTS:
        return [folder, *(folder / name for name in LAYOUTS[kind].inside if (folder / name).is_dir())]
    inside = {
        "mnist": ("raw", "MNIST/raw"),
        "fashion-mnist": ("raw", "FashionMNIST/raw"),
        "idx": ("raw", "MNIST/raw", "FashionMNIST/raw"),
        "cifar10": (readers.CIFAR10_FOLDER,),
        "cifar100": (readers.CIFAR100_FOLDER,),
    }[kind]
    return [folder, *(folder / name for name in inside if (folder / name).is_dir())]


_HOLDS: dict[str, Callable[[Path], bool]] = {
    "idx": readers.has_idx,
    "cifar10": lambda place: any((place / name).is_file() for name in (*readers.CIFAR10_TRAIN, readers.CIFAR10_TEST)),
    "cifar100": lambda place: any((place / n).is_file() for n in (readers.CIFAR100_TRAIN, readers.CIFAR100_TEST)),
    # A bare folder is called by its layout, not by a set that has the same one.
    **{kind: LAYOUTS[kind].holds for kind in ("images", "tiny-imagenet", "caltech101")},
}


def _find(kind: str, folder: Path) -> Path | None:
    holds = LAYOUTS[kind].holds if kind in LAYOUTS else _HOLDS.get(kind, readers.has_idx)
    return next((place for place in _places(kind, folder) if holds(place)), None)


def _recognise(folder: Path) -> str:
    """The kind of the one layout in `folder`.  Raises DataError if there is none or more than one."""
    kinds = [kind for kind in _HOLDS if _find(kind, folder)]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise DataError(f"holds {' and '.join(kinds)} files", where=str(folder), fix=f"say which: {kinds[0]}:{folder}")
    raise DataError(
        "holds no image set that can be read", where=str(folder),
        expected="MNIST's idx files, CIFAR's binary ones, or folders of images",
        fix=f"either {readers.IDX_FIX}; or {readers.CIFAR10_FIX}; or {LAYOUTS['images'].fix}",
    )  # fmt: skip


def _load_folder(kind: str, folder: Path, pixels: int | None) -> ImageData:
    place = _find(kind, folder) or folder  # if nothing is there, the reader says what should be
    if kind in LAYOUTS:
        return _image_files(kind, place, pixels)
    if kind == "cifar10":
        return _image_data(readers.read_cifar10_folder(place), CIFAR10, kind)
    if kind == "cifar100":
        return _image_data(readers.read_cifar100_folder(place), _cifar100_classes(place), kind)
    raw = readers.read_idx_folder(place)
    names = {"mnist": DIGITS, "fashion-mnist": FASHION}.get(kind)
    if names is None:
        names = tuple(str(label) for label in range(int(raw.train_labels.max()) + 1))
    for part, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
        readers.check_labels(labels, len(names), f"{place}, {part} labels as {kind}")
    return _image_data(raw, names, kind)


def _cifar100_classes(place: Path) -> tuple[str, ...]:
    """The names beside the images, or, where that file is left out, the numbers."""
    path = place / readers.CIFAR100_NAMES
    if not path.is_file():
        return tuple(str(label) for label in range(100))
    names = tuple(readers.read_bytes(path).decode(errors="replace").split())
    if len(names) != 100:
        raise DataError(f"holds {len(names)} names", where=str(path), expected="100, one a line")
    return names


def _image_data(raw: RawImages, classes: tuple[str, ...], name: str) -> ImageData:
    arrays = (raw.train_images, raw.train_labels, raw.test_images, raw.test_labels)
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    mean, std = channel_statistics(raw.train_images)
    # Copied, because torch must not be handed the read-only memory that files are parsed in.
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array.copy()) for array in arrays)
    provenance = f"{name}, {len(train_images)} training and {len(test_images)} test images, sha256 {digest.hexdigest()}"
    return ImageData(train_images, train_labels, test_images, test_labels, classes, name, mean, std, provenance)


def _image_files(kind: str, place: Path, pixels: int | None) -> ImageData:
    layout = LAYOUTS[kind]
    size = pixels or layout.size
    found = layout.read(place)
    train, test = (
        ImageFiles(found.root, part.names, np.arange(len(part.names)), size, layout.share)
        for part in (found.train, found.test)
    )
    sample = torch.arange(min(SAMPLED, len(train))) * len(train) // min(SAMPLED, len(train))
    mean, std = channel_statistics(train[sample].decoded().numpy())
    provenance = (
        f"{kind} at {size}x{size}, {len(train)} training and {len(test)} test images, "
        f"sha256 of names and sizes {found.digest()}"
    )
    labels = (torch.from_numpy(part.labels) for part in (found.train, found.test))
    return ImageData(train, next(labels), test, next(labels), found.classes, kind, mean, std, provenance)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images[n, c, h, w], with pixels scaled to 0..1.

    Taken from a histogram of the 256 values, so they are exact integers until the last step and do not
    depend on threads.  A channel of one value only has std 1, so that normalising by it stays finite.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        # In pieces, since bincount converts what it is given to int64.
        counts = np.zeros(256, np.int64)
        for piece in np.array_split(images[:, channel], 64):
            counts += np.bincount(piece.ravel(), minlength=256)
        histogram = counts.tolist()
        pixels = sum(histogram)
        total = sum(value * count for value, count in enumerate(histogram))
        squares = sum(value * value * count for value, count in enumerate(histogram))
        means.append(total / pixels / 255)
        stds.append((squares * pixels - total * total) ** 0.5 / pixels / 255 or 1.0)
    return tuple(means), tuple(stds)


def _limited(data: ImageData, limit: int | None, test_limit: int | None) -> ImageData:
    train = _balanced(data.train_labels, limit, len(data.classes), f"{data.name}, limit")
    test = _balanced(data.test_labels, test_limit, len(data.classes), f"{data.name}, test_limit")
    return replace(
        data,
        train_images=data.train_images[train], train_labels=data.train_labels[train],
        test_images=data.test_images[test], test_labels=data.test_labels[test],
        provenance=f"{data.provenance}; of these the first {len(train)} and {len(test)} by class",
    )  # fmt: skip


def _balanced(labels: Tensor, limit: int | None, classes: int, where: str) -> Tensor:
    """Ascending indices of the first limit // classes images of each class; all images for None."""
    if limit is None:
        return torch.arange(len(labels))
    share = check_positive(limit, name="limit", where=where) // classes
    if not share:
        raise DataError(f"{limit} is too few", where=where, expected=f"at least {classes}, one image per class")
    firsts = [(labels == label).nonzero().flatten()[:share] for label in range(classes)]
    return torch.cat(firsts).sort().values
