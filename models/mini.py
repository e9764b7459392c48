"""The embedded `fashion-mnist-mini`: 10,000 training and 2,000 test images of Fashion-MNIST, balanced.

They are real images: of each class the first 1000 of the training set and the first 200 of the test set,
in their original order, as four xz-compressed idx files with Zalando's MIT licence beside them.  It is
about a sixth of the set, so accuracies are some points below published ones.  Read `data.py` next.

    python -m models.mini FASHION_MNIST_DIR     writes the files again from the full set

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .readers import IDX_FILES, RawImages, combine_idx, read_bytes, read_idx_folder

FOLDER = Path(__file__).parent / "fashion_mnist_mini"
TRAIN_PER_CLASS, TEST_PER_CLASS = 1000, 200

# Of the unpacked idx files, since two versions of the compressor may pack the same images differently.
SHA256 = {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "t10k-images-idx3-ubyte": "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
    "t10k-labels-idx1-ubyte": "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c",
}


def read_mini(folder: Path = FOLDER) -> RawImages:
    """The embedded images, after checking the sha256 of each file.  Raises DataError if one is not as shipped."""
    paths = [folder / f"{name}.xz" for name in IDX_FILES]
    contents = [read_bytes(path) for path in paths]
    for name, path, content in zip(IDX_FILES, paths, contents, strict=True):
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[name]:
            raise DataError(
                f"has sha256 {found}", where=str(path), expected=SHA256[name],
                fix="the file is not the one shipped: install the package again",
            )  # fmt: skip
    return combine_idx(contents, paths)


def first_of_each_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The indices, ascending, of the first `count` images of each class that is there."""
    chosen = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def mini_contents(full: RawImages) -> dict[str, bytes]:
    """The unpacked idx files of the mini set, by name, chosen from the `full` set."""
    train = first_of_each_class(full.train_labels, TRAIN_PER_CLASS)
    test = first_of_each_class(full.test_labels, TEST_PER_CLASS)
    arrays = (full.train_images[train, 0], full.train_labels[train], full.test_images[test, 0], full.test_labels[test])
    return {name: as_idx(array.astype(np.uint8)) for name, array in zip(IDX_FILES, arrays, strict=True)}


def as_idx(array: NDArray[np.uint8]) -> bytes:
    """`array` in idx form, the inverse of `readers.parse_idx`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def main(arguments: list[str] | None = None) -> int:
    """Write the embedded files again; returns 0, or 2 if the folder is not Fashion-MNIST as published."""
    parser = argparse.ArgumentParser(prog="python -m models.mini", description="write fashion-mnist-mini again")
    parser.add_argument("fashion_mnist_dir", type=Path, help="folder with the four idx files of the full set")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: the embedded one)")
    given = parser.parse_args(arguments)
    try:
        contents = mini_contents(read_idx_folder(given.fashion_mnist_dir))
        for name, content in contents.items():
            found = hashlib.sha256(content).hexdigest()
            if found != SHA256[name]:  # before anything is written over
                raise DataError(
                    f"the chosen part of {name} has sha256 {found}", where=str(given.fashion_mnist_dir),
                    expected=SHA256[name], fix="give the folder of the full Fashion-MNIST as published",
                )  # fmt: skip
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import lzma

    given.out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = given.out / f"{name}.xz"
        path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
        print(f"{path}: {path.stat().st_size} bytes, unpacked sha256 {SHA256[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
