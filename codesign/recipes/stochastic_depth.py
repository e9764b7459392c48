"""Stochastic depth: in every step some residual blocks are their shortcuts alone, forward and backward.

A block l of L survives with chance 1 - l / L (1 - last), the paper's linear decay.  A surviving branch is
divided by its chance, so that evaluation and export need no scaling (the paper multiplies in evaluation;
the expectation is the same).  Networks need blocks with `branch` and `join`: models/resnet.py has them.

Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from simulator.errors import InputError

from ..config import Section
from ..draws import uniform
from ..method import Batch, Context, Method, Place
from ..step_macs import layer_macs


class Settings(Section):
    """last: chance of the last block to survive."""

    last: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5


class StochasticDepth(Method):
    """skipped: names of the blocks that this step leaves out."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        blocks = [name for name, module in context.model.named_modules()
                  if callable(getattr(module, "branch", None)) and callable(getattr(module, "join", None))]
        if not blocks:
            raise InputError("the network has no residual blocks to skip", where="recipe stochastic_depth",
                             expected="blocks with branch(x) and join(x, branch), as in models/resnet.py")
        self.chances = {name: 1.0 - (index + 1) / len(blocks) * (1.0 - settings.last)
                        for index, name in enumerate(blocks)}
        self.skipped: frozenset[str] = frozenset()
        self.layers = layer_macs(context.model, context.example)
        for name in blocks:
            module = context.model.get_submodule(name)
            module.forward = partial(self._forward, name, module)  # type: ignore[method-assign]

    def _forward(self, name: str, block: Any, x: Tensor) -> Tensor:
        if not block.training:
            return block.join(x, block.branch(x))  # type: ignore[no-any-return]
        inner = None if name in self.skipped else block.branch(x) / self.chances[name]
        return block.join(x, inner)  # type: ignore[no-any-return]

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch:
        """Draw the blocks of this step, from the seed and the step alone."""
        self.skipped = frozenset(name for number, (name, chance) in enumerate(self.chances.items())
                                 if uniform(self.context.seed, place.step, number) >= chance)
        return Batch(x, y)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """The layers that ran; a skipped block's shortcut convolution runs."""
        ran = [layer for layer in self.layers if not self._left_out(layer.layer)]
        return images * sum(layer.forward + layer.backward for layer in ran)

    def _left_out(self, layer: str) -> bool:
        return any(layer.startswith(f"{name}.") and "downsample" not in layer for name in self.skipped)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return StochasticDepth(settings, context)
