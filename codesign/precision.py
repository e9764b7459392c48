"""How a training step is computed: number types, compilation and memory layout, none of which changes what it means.

Weights stay float32 whatever the precision: products run in the smaller type where autocast says so, logits are float32
again, and float16 gradients are scaled so that small ones survive.  It leaves out evaluation and export, which are
float32 always.  Read step.py for the step itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from simulator.errors import InputError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The forward pass, the backward pass and the optimizer's step of one network, as [train] asks for them.

    precision: "fp32", "bf16" or "fp16" (CUDA only).  compile: a backend of torch.compile, or "none".  channels_last:
    the network's weights and the images are laid out channels last.  wrap: makes of the model what to call instead,
    such as DistributedDataParallel.  Raises InputError for fp16 on a CPU.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, precision: str = "fp32", compile: str = "none",
        channels_last: bool = False, wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        if precision == "fp16" and device.type != "cuda":
            raise InputError('train.precision = "fp16" on a CPU', expected='"fp32" or "bf16" there',
                             fix="--set train.precision=bf16, or --device cuda")
        self.device, self.type = device, TYPES.get(precision)
        self.channels_last = channels_last
        if channels_last:
            model.to(memory_format=torch.channels_last)
        run = wrap(model)
        self._run: Callable[[Tensor], Tensor] = run if compile == "none" else torch.compile(run, backend=compile)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None

    def autocast(self) -> torch.autocast:
        """The context that forward pass and loss belong in."""
        return torch.autocast(self.device.type, self.type, enabled=self.type is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images, float32 whatever the products are: losses are told apart by less than bfloat16
        holds."""
        with self.autocast():
            logits = self._run(x.contiguous(memory_format=torch.channels_last) if self.channels_last else x)
        return logits if self.type is None else logits.float()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where float16 needs it."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the scale off the gradients, so that who looks at them sees the real ones."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step; left out where a float16 gradient has overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The gradient scale."""
        return {} if self.scaler is None else dict(self.scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(state))


def as_autocast(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """`values` in the type that autocast gives to the products of torch's own layers; as they are where it is off.

    For products of one's own, which autocast does not know of.  The gradients come back in the types of `values`.
    """
    device = next(value.device.type for value in values if value is not None)
    if not torch.is_autocast_enabled(device):
        return values
    kind = torch.get_autocast_dtype(device)
    return tuple(None if value is None else value.to(kind) for value in values)
