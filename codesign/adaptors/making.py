"""What every adaptor needs: the package it adapts to, and a pruner for the network and optimizer of a trainer.

It leaves out when the pruner is called and where its state is kept: that is the adaptor's own part.  Read
lightning.py or hugging_face.py next.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from ..choice import CostModel
from ..pruner import Pruner
from ..settings import PrunerConfig


def package(name: str, extra: str) -> ModuleType:
    """The module `name`.  Raises InputError that names the extra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        what = f"{name} is not installed" if error.name in (None, name) else f"{name} cannot be imported: {error}"
        fix = f"pip install 'espalier-codesign[{extra}]'"
        raise InputError(what, where="codesign.adaptors", expected=f"the extra {extra!r}", fix=fix) from error


@dataclass(frozen=True)
class Wish:
    """What a user may say about the pruner; the arguments of Pruner that a trainer does not know.

    Mistakes in the settings are answered when this is made, before any data is read.
    """

    config: PrunerConfig
    cost: CostModel | None = None
    example_inputs: Any = None
    probe: tuple[Tensor, Tensor | None] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any] | PrunerConfig | None, **more: Any) -> Wish:
        """settings: fields of PrunerConfig, None for its defaults.  more: the other fields of this class."""
        return cls(PrunerConfig.from_dict({} if settings is None else settings), **more)

    def pruner(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: float) -> Pruner:
        """A pruner of `model`, with example inputs and probe on its device.

        steps: how many optimizer steps the trainer will run in all; the settings' total_steps goes before it.
        Raises InputError where neither is a number.
        """
        config = self.config
        if config.total_steps is None:
            if not math.isfinite(steps) or steps < 1:
                raise InputError(
                    "the trainer does not know how many steps it will run",
                    where="PrunerCallback",
                    expected="a data loader with a length, or a number of steps",
                    fix="give the trainer max_steps, or total_steps in the pruner's settings",
                )
            config = replace(config, total_steps=int(steps))
        device = next(model.parameters()).device
        example, probe = _moved(self.example_inputs, device), _moved(self.probe, device)
        return Pruner(model, config, optimizer, example, self.cost, probe=probe)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value
