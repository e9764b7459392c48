"""The table of networks, and the one function that builds any of them by name.

Every network is a plain `nn.Module` from images to logits, with its own module for each activation so
that hooks see each place once, no in-place operations, and a forward that `torch.fx` can trace.  There
are no pretrained weights.  Read `lenet.py`, `resnet.py`, `vgg.py`, `mobilenet_v2.py` and `vit.py` for the
networks themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .errors import DataError, nearest
from .filters import LeNetFilter
from .lenet import LeNet5, LeNet431k
from .mobilenet_v2 import MobileNetV2
from .resnet import ResNet18, ResNet50, SmallResNet
from .vgg import VGG, TinyVGG16
from .vit import ViT

# To add a network, add a line.  Each takes in_channels, num_classes and widths.
NETS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "lenet_431k": LeNet431k,
    "lenet_filter": LeNetFilter,
    "resnet8": partial(SmallResNet, depth=8),
    "resnet20": partial(SmallResNet, depth=20),
    "resnet56": partial(SmallResNet, depth=56),
    "resnet110": partial(SmallResNet, depth=110),
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "vgg11": partial(VGG, depth=11),
    "vgg16": partial(VGG, depth=16),
    "tiny_vgg16": TinyVGG16,
    "mobilenet_v2": MobileNetV2,
    "vit_tiny": ViT,
}


def build(name: str, *, seed: int | None = None, **kwargs: Any) -> nn.Module:
    """The network `name` of NETS, built with `kwargs`: in_channels, num_classes, widths, and what is its own.

    resnet18 and mobilenet_v2 have a stem ("imagenet" or "small"), mobilenet_v2 a width, vit_tiny depth, heads, patch
    and image.

    With a `seed` its weights are a function of that seed alone and torch's global generator is left as it
    was; without, they are drawn from the global generator.  Raises DataError, naming the nearest, for an
    unknown network or argument, and for an argument of a wrong type or size.
    """
    if name not in NETS:
        raise DataError(f"there is no network {name!r}", fix=nearest(str(name), NETS))
    make = NETS[name]
    fixed = make.keywords if isinstance(make, partial) else {}
    accepted = [argument for argument in inspect.signature(make).parameters if argument not in fixed]
    for argument in kwargs:
        if argument not in accepted:
            raise DataError(
                f"there is no argument {argument!r}", where=name, fix=nearest(argument, [*accepted, "seed"])
            )
    if seed is None:
        return make(**kwargs)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise DataError(f"seed is {seed!r}", where=name, expected="a whole number")
    with torch.random.fork_rng(devices=[]):  # layers are built on the CPU: only its generator is touched
        torch.default_generator.manual_seed(seed)
        return make(**kwargs)
