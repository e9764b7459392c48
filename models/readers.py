"""Readers for the two binary layouts that small image sets come in: MNIST's idx and CIFAR's records.

Each reads one folder, checks magic numbers, sizes and label ranges, and returns four uint8/int64 arrays;
a damaged or missing file is one DataError that says which and what to do.  Nothing is downloaded, no
pickle is read (CIFAR's "python version" is refused by name).  Read `data.py` next.

Formats: idx, http://yann.lecun.com/exdb/mnist; CIFAR, https://www.cs.toronto.edu/~kriz/cifar.html,
"binary version".
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10_FOLDER, CIFAR100_FOLDER = "cifar-10-batches-bin", "cifar-100-binary"
CIFAR10_TRAIN, CIFAR10_TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
CIFAR100_TRAIN, CIFAR100_TEST, CIFAR100_NAMES = "train.bin", "test.bin", "fine_label_names.txt"
CIFAR_IMAGE = (3, 32, 32)  # channel, row, column; red, green, blue

IDX_FIX = (
    f"put the four files {', '.join(IDX_FILES)} (plain, .gz or .xz) in one folder; "
    "Fashion-MNIST: github.com/zalandoresearch/fashion-mnist, MNIST: yann.lecun.com/exdb/mnist"
)
CIFAR_FIX = (
    "unpack {archive} (the binary version, not the python one) from www.cs.toronto.edu/~kriz/cifar.html "
    "and name the folder {folder}, with {files} in it"
)
CIFAR10_FIX = CIFAR_FIX.format(
    archive="cifar-10-binary.tar.gz",
    folder=CIFAR10_FOLDER,
    files="data_batch_1.bin to data_batch_5.bin and test_batch.bin",
)
CIFAR100_FIX = CIFAR_FIX.format(
    archive="cifar-100-binary.tar.gz", folder=CIFAR100_FOLDER, files="train.bin and test.bin"
)


@dataclass(frozen=True)
class RawImages:
    """What a folder holds: images uint8[n, channels, h, w], labels int64[n], for training and for test."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def read_bytes(path: Path) -> bytes:
    """The content of `path`, unpacked if it ends in .gz or .xz.  Raises DataError if that fails."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        if path.suffix == ".gz":
            return gzip.decompress(packed)
        if path.suffix == ".xz":
            return _unpack_xz(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"is damaged or cut short ({error})", where=str(path), fix="download or copy the file again"
        ) from error
    return packed


def _unpack_xz(packed: bytes) -> bytes:
    try:
        import lzma  # optional in a Python built from source, so asked for only where it is needed
    except ImportError as error:
        raise OSError("this Python was built without lzma and cannot open .xz files") from error
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        content = reader.decompress(packed)
    except lzma.LZMAError as error:
        raise OSError(str(error)) from error
    if not reader.eof or reader.unused_data:
        raise OSError("bytes missing at the end" if not reader.eof else "bytes after the end")
    return content


def parse_idx(content: bytes, dimensions: int, where: str) -> NDArray[np.uint8]:
    """The uint8 array of `dimensions` axes in idx form: 0, 0, 8, dimensions, big-endian sizes, bytes.

    Raises DataError for another magic number, a size of zero, or a length that the sizes do not give.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise DataError(
            f"starts with bytes {content[:4].hex() or '(empty)'}", where=where,
            expected=f"{magic.hex()}, an idx file of unsigned bytes with {dimensions} dimension(s)",
            fix="check that images and labels are not exchanged and that the file is not still compressed",
        )  # fmt: skip
    if len(content) < header:
        raise DataError(f"has {len(content)} bytes", where=where, expected=f"a header of {header}")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if 0 in shape:
        raise DataError(f"has sizes {shape}", where=where, expected="sizes of at least 1")
    length = header + math.prod(shape)
    if len(content) != length:
        raise DataError(
            f"has {len(content)} bytes", where=where, expected=f"{length} for sizes {shape}",
            fix="the file is cut short or damaged: download or copy it again",
        )  # fmt: skip
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find_idx(folder: Path, name: str) -> Path | None:
    return next((path for end in ("", ".gz", ".xz") if (path := folder / (name + end)).is_file()), None)


def has_idx(folder: Path) -> bool:
    """Whether any of the four idx files is in `folder`."""
    return any(_find_idx(folder, name) for name in IDX_FILES)


def read_idx_folder(folder: Path) -> RawImages:
    """The four idx files of `folder`, each plain, .gz or .xz.  Raises DataError if any is missing or wrong."""
    found = [_find_idx(folder, name) for name in IDX_FILES]
    missing = [name for name, path in zip(IDX_FILES, found, strict=True) if path is None]
    if missing:
        raise DataError(f"there is no {', '.join(missing)}", where=str(folder), fix=IDX_FIX)
    paths = [path for path in found if path is not None]
    return combine_idx([read_bytes(path) for path in paths], paths)


def combine_idx(contents: Sequence[bytes], paths: Sequence[Path]) -> RawImages:
    """The images in the unpacked `contents` of the four IDX_FILES, read from `paths`.

    Raises DataError if one is not an idx file or if they do not belong together.
    """
    dimensions = (3, 1, 3, 1)
    arrays = [parse_idx(content, d, str(path)) for content, d, path in zip(contents, dimensions, paths, strict=True)]
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels, path in ((train_images, train_labels, paths[1]), (test_images, test_labels, paths[3])):
        if len(images) != len(labels):
            raise DataError(
                f"holds {len(labels)} labels", where=str(path), expected=f"{len(images)}, one per image",
                fix="take images and labels from the same set",
            )  # fmt: skip
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"test images are {test_images.shape[1:]}", where=str(paths[2]),
            expected=f"{train_images.shape[1:]} as in training",
        )  # fmt: skip
    # idx has rows and columns only: the channel axis is ours.
    return RawImages(
        train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64)
    )


def read_cifar10_folder(folder: Path) -> RawImages:
    """CIFAR-10's five training batches, in order, and its test batch.  Raises DataError if any is wrong."""
    names = (*CIFAR10_TRAIN, CIFAR10_TEST)
    _require(folder, names, CIFAR10_FIX)
    parts = [_read_records(folder / name, label_bytes=1, classes=10) for name in names]
    sizes = [len(labels) for _, labels in parts[:5]]
    if len(set(sizes)) > 1:
        raise DataError(
            f"the training batches hold {sizes} images", where=str(folder), expected="five of one size",
            fix="one is cut short: download or copy it again",
        )  # fmt: skip
    train_images, train_labels = (np.concatenate([part[i] for part in parts[:5]]) for i in (0, 1))
    return RawImages(train_images, train_labels, *parts[5])


def read_cifar100_folder(folder: Path) -> RawImages:
    """CIFAR-100's two files, with the 100 fine labels.  Raises DataError if one is missing or wrong."""
    _require(folder, (CIFAR100_TRAIN, CIFAR100_TEST), CIFAR100_FIX)
    train = _read_records(folder / CIFAR100_TRAIN, label_bytes=2, classes=100)
    return RawImages(*train, *_read_records(folder / CIFAR100_TEST, label_bytes=2, classes=100))


def _require(folder: Path, names: tuple[str, ...], fix: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"there is no {', '.join(missing)}", where=str(folder), fix=fix)


def _read_records(path: Path, *, label_bytes: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Records of `label_bytes` labels, the last the one we keep, and 3072 pixels -> images, labels."""
    content = read_bytes(path)
    record = label_bytes + 3 * 32 * 32
    if not content or len(content) % record:
        raise DataError(
            f"has {len(content)} bytes", where=str(path), expected=f"a whole number of {record}-byte records",
            fix="the file is cut short or of another data set: download or copy it again",
        )  # fmt: skip
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, label_bytes - 1].astype(np.int64)
    check_labels(labels, classes, str(path))
    return np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *CIFAR_IMAGE), labels


def check_labels(labels: NDArray[np.int64], classes: int, where: str) -> None:
    """Raises DataError, naming the first place, unless every label is below `classes`."""
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        raise DataError(
            f"label {labels[wrong[0]]} at image {wrong[0]}", where=where, expected=f"labels 0 to {classes - 1}",
            fix="the file is damaged or of another data set",
        )  # fmt: skip
