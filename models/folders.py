"""The three layouts that photographs come in as folders: ImageNet's, Tiny ImageNet's and Caltech-101's.

Each is read as names, labels and class names, without opening an image; what is missing or does not fit is one
DataError that says how the folder should look and where to get it.  Nothing is downloaded or unpacked.  Read `files.py`
next, for how the images themselves are read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

ENDINGS = (".jpeg", ".jpg", ".png")
TINY_FOLDER, CALTECH_FOLDER = "tiny-imagenet-200", "101_ObjectCategories"
TINY_LABELS = "val_annotations.txt"
TEST_NAMES = ("val", "test")
"""ImageNet's test labels are not public: its validation images are what results are reported on."""
CALTECH_TRAIN, CALTECH_SHARE = 30, 0.8
"""Training images of a class: 30 is customary; 80 % is what One-Cycle Pruning's authors used."""
CALTECH_SEED = 0
NO_CLASS = "BACKGROUND_Google"
"""Caltech's folder of clutter, which is none of the 101 objects."""


@dataclass(frozen=True, eq=False)
class Part:
    """names: paths below the folder, `/` between, by class and then by name.  labels: int64[n].  sizes: bytes, each."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder of images: its classes, and which files are for training and which for the test."""

    root: Path
    classes: tuple[str, ...]
    train: Part
    test: Part

    def digest(self) -> str:
        """sha256 of the names, labels and sizes of all files; hashing 150 GB of pixels would take an hour."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for name, label, size in zip(part.names, part.labels.tolist(), part.sizes, strict=True):
                digest.update(f"{name}\n{label} {size}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
    """How one kind of folder is read.  inside: where archives put it, below the folder that the user names.  size:
    height and width of a network's input unless another is asked for; share: of the shorter side that tests see."""

    holds: Callable[[Path], bool]
    read: Callable[[Path], Folder]
    inside: tuple[str, ...]
    size: int
    share: float
    fix: str


def has_class_folders(root: Path) -> bool:
    """Whether `root` has train/ and val/ or test/, and is not Tiny ImageNet."""
    return (root / "train").is_dir() and _test_name(root) is not None and not has_tiny_imagenet(root)


def read_class_folders(root: Path) -> Folder:
    """train/CLASS/FILE and val/CLASS/FILE (or test/); any number of classes."""
    test = _test_name(root)
    if not (root / "train").is_dir() or test is None:
        raise DataError("there is no train/ with val/ beside it", where=str(root), fix=IMAGENET_FIX)
    classes = _classes(root / "train", IMAGENET_FIX)
    others = _classes(root / test, "sort its images into one folder per class, as in train/")
    unknown = [name for name in others if name not in set(classes)]
    if unknown:
        raise DataError(f"class {unknown[0]!r} is not in train/", where=str(root / test), expected="the same classes")
    return Folder(root, classes, _part(root, "train", classes, classes), _part(root, test, others, classes))


def has_tiny_imagenet(root: Path) -> bool:
    """Whether the list of validation labels, which no other layout has, is in `root`."""
    return (root / "val" / TINY_LABELS).is_file()


def read_tiny_imagenet(root: Path) -> Folder:
    """train/CLASS/images/FILE; val/images/FILE with one line "FILE CLASS ..." in val/val_annotations.txt each."""
    if not has_tiny_imagenet(root) or not (root / "train").is_dir():
        raise DataError(f"there is no train/ with val/{TINY_LABELS} beside it", where=str(root), fix=TINY_FIX)
    classes = _classes(root / "train", TINY_FIX)
    index = {name: label for label, name in enumerate(classes)}
    listing = root / "val" / TINY_LABELS
    there = dict(_files(root / "val" / "images"))
    rows = []
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, label = [*line.split(), "", ""][:2]
        where = f"{listing}, line {number}"
        if label not in index:
            raise DataError(f"class {label!r} is not in train/", where=where, expected="FILE CLASS ...")
        if name not in there:
            raise DataError(f"there is no val/images/{name}", where=where, fix="unpack the archive again")
        rows.append((index[label], name))
    if not rows:
        raise DataError("lists no image", where=str(listing), fix=TINY_FIX)
    rows.sort()
    test = Part(tuple(f"val/images/{name}" for _, name in rows), np.array([label for label, _ in rows], np.int64),
                tuple(there[name] for _, name in rows))
    return Folder(root, classes, _part(root, "train", classes, classes, "images"), test)


def has_caltech101(root: Path) -> bool:
    """Whether `root` is named as the archive names it and has folders."""
    return root.name == CALTECH_FOLDER and root.is_dir()


def read_caltech101(root: Path, share: float | None = None) -> Folder:
    """CLASS/FILE, split by us: CALTECH_TRAIN of each class for training, or `share` of them; the rest is the test.

    There is no published split.  Files are ranked by a hash of CALTECH_SEED and their name, so that the split does not
    depend on the order of a directory, and a file that is missing moves one other.  A class always has a test image.
    """
    classes = _classes(root, CALTECH_FIX)
    classes = tuple(name for name in classes if name != NO_CLASS)
    every = _part(root, "", classes, classes)
    train: list[int] = []
    for label, name in enumerate(classes):
        members = np.flatnonzero(every.labels == label).tolist()
        if len(members) < 2:
            raise DataError(f"class {name!r} has one image", where=str(root), expected="two or more")
        members.sort(key=lambda i: hashlib.sha256(f"{CALTECH_SEED}/{every.names[i]}".encode()).digest())
        wanted = CALTECH_TRAIN if share is None else round(share * len(members))
        train += members[: min(max(wanted, 1), len(members) - 1)]
    chosen = set(train)
    rest = [i for i in range(len(every.names)) if i not in chosen]
    return Folder(root, classes, _some(every, sorted(train)), _some(every, rest))


def _some(part: Part, indices: Sequence[int]) -> Part:
    return Part(tuple(part.names[i] for i in indices), part.labels[list(indices)],
                tuple(part.sizes[i] for i in indices))


def _test_name(root: Path) -> str | None:
    return next((name for name in TEST_NAMES if (root / name).is_dir()), None)


def _classes(folder: Path, fix: str) -> tuple[str, ...]:
    """The class folders, by name; hidden ones are none."""
    if not folder.is_dir():
        raise DataError("there is no such folder", where=str(folder), fix=fix)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError("holds no class folders", where=str(folder), fix=fix)
    return tuple(names)


def _files(folder: Path) -> list[tuple[str, int]]:
    """(name, bytes) of every image in `folder`, by name; other files are left out."""
    if not folder.is_dir():
        raise DataError("there is no such folder", where=str(folder), fix="unpack the archive again")
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.stat().st_size) for entry in entries
                      if entry.name.lower().endswith(ENDINGS) and not entry.name.startswith(".") and entry.is_file())


def _part(root: Path, top: str, folders: Sequence[str], classes: Sequence[str], below: str = "") -> Part:
    """All images in root/top/FOLDER/below, labelled by the place of FOLDER among `classes`."""
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    sizes: list[int] = []
    for folder in folders:
        place = "/".join(filter(None, (top, folder, below)))
        found = _files(root / place)
        if not found:
            raise DataError("holds no images", where=str(root / place), expected=f"files in {', '.join(ENDINGS)}",
                            fix="delete the folder if it is no class")
        names += [f"{place}/{name}" for name, _ in found]
        labels += [index[folder]] * len(found)
        sizes += [size for _, size in found]
    return Part(tuple(names), np.array(labels, np.int64), tuple(sizes))


IMAGENET_FIX = (
    "ImageNet: sign in at image-net.org for ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, unpack them to "
    "train/CLASS/*.JPEG and val/CLASS/*.JPEG, and name the folder that holds train and val"
)
OWN_FIX = "put the images in train/CLASS/ and val/CLASS/ (or test/CLASS/) and name the folder that holds these"
TINY_FIX = f"unpack cs231n.stanford.edu/tiny-imagenet-200.zip and name the folder {TINY_FOLDER}"
CALTECH_FIX = (
    f"Caltech-101: data.caltech.edu/records/mzrjq-6wc02, unpack 101_ObjectCategories.tar.gz and name the folder "
    f"{CALTECH_FOLDER}, with one folder of images per class"
)
_CALTECH = Layout(has_caltech101, read_caltech101, (CALTECH_FOLDER, f"caltech-101/{CALTECH_FOLDER}"), 224, 0.875,
                  CALTECH_FIX)
# To add a layout, add a line.  0.875 = 224 / 256, customary for photographs; Tiny ImageNet is 64 x 64 already.
LAYOUTS: dict[str, Layout] = {
    "imagenet": Layout(has_class_folders, read_class_folders, (), 224, 0.875, IMAGENET_FIX),
    "images": Layout(has_class_folders, read_class_folders, (), 224, 0.875, OWN_FIX),
    "tiny-imagenet": Layout(has_tiny_imagenet, read_tiny_imagenet, (TINY_FOLDER,), 64, 1.0, TINY_FIX),
    "caltech101": _CALTECH,
    "caltech101-80": replace(_CALTECH, read=lambda root: read_caltech101(root, CALTECH_SHARE)),
}
"""Kind, as in "imagenet:DIR" -> how it is read.  "images" is any other set in ImageNet's layout."""
