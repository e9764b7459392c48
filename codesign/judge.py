"""A judge of finalists: train a copy of the network a little under each one's masks, and see which does best.

The loss right after masking says little about the loss after training, so a copy is trained for some batches
with the masks on and its loss measured on validation images; every finalist sees the same batches.  Left
out: any use of test images.  Read cost.py for who asks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .layers import prunable
from .masks import apply_mask_, kept_bits

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def make_judge(
    train_batches: Batches,
    validation_batches: Batches,
    loss_function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    lr: float = 0.05,
    steps: int = 141,
    momentum: float = 0.9,
) -> Callable[[nn.Module, Mapping[str, Tensor]], float]:
    """judge(model, masks): mean validation loss of a copy after `steps` of SGD with the masks on; smaller is better.

    train_batches, validation_batches: called anew for each finalist, to yield the same (inputs, targets) each time;
    train_batches is called again where `steps` are more than it yields.
    The learning rate falls linearly to 0.  Model, its mode and torch's generators are left as they were.
    """

    def judge(model: nn.Module, masks: Mapping[str, Tensor]) -> float:
        devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        with torch.random.fork_rng(devices=devices):
            trained = _trained(copy.deepcopy(model), masks)
        return _mean_loss(trained)

    def _trained(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
        layers = prunable(model)
        parameters = {name: layers[name].weight if name in layers else model.get_parameter(name) for name in masks}
        bits = {name: kept_bits(mask, parameters[name].dtype).to(parameters[name].device)
                for name, mask in masks.items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)

        def mask_() -> None:
            for name, parameter in parameters.items():
                apply_mask_(parameter, bits[name], optimizer)

        mask_()
        model.train()
        for step, (x, y) in zip(range(steps), _again_and_again(train_batches), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss_function(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            mask_()
        return model

    @torch.no_grad()
    def _mean_loss(model: nn.Module) -> float:
        model.eval()
        total, seen = 0.0, 0
        for x, y in validation_batches():
            total += float(nn.functional.cross_entropy(model(x), y, reduction="sum"))
            seen += len(x)
        return total / seen

    return judge


def _again_and_again(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches()
