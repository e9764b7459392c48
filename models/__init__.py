"""Networks and image data that a person can read in one sitting.

This package is what Espalier trains and prunes when the user brings nothing: a few well-known networks
as plain `torch.nn` modules, and the image sets they are usually measured on, as tensors.  It knows
nothing of pruning or of machines and downloads nothing.  Read `nets.py` for the networks and `data.py`
for the images.

The story in five lines:

    from models import batches, build, load
    data = load("fashion-mnist-mini")                        # embedded: 10,000 + 2,000 real images
    net = build("resnet8", in_channels=1, num_classes=10, seed=0)
    for x, y in batches(data.train_images, data.train_labels, 128, seed=0, epoch=0, mean=data.mean, std=data.std):
        ...                                                  # an ordinary PyTorch training step

    nets.py     NETS, build: the table of networks      lenet.py resnet.py vgg.py ...: one family each
    data.py     ImageData, load, split_validation       readers.py: MNIST's idx and CIFAR's binary files
    batching.py shuffled, augmented, resumable batches  mini.py: the embedded images and how they were made
    errors.py   DataError: the one error for a mistake in what the user asked for

A configuration file names these by dotted path: `models.nets:build`, `models.data:load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batching import batches as batches
    from .data import ImageData as ImageData
    from .data import load as load
    from .data import split_validation as split_validation
    from .errors import DataError as DataError
    from .nets import NETS as NETS
    from .nets import build as build

# Resolved on first use, so that `models.errors` can be imported without waiting for torch.
_HOME = {
    "DataError": "errors", "ImageData": "data", "NETS": "nets", "batches": "batching", "build": "nets", "load": "data",
    "split_validation": "data",
}  # fmt: skip
__all__ = ["NETS", "DataError", "ImageData", "batches", "build", "load", "split_validation"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
