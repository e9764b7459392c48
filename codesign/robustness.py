"""How a network stands up to small changes of its inputs made to fool it: FGSM and PGD.

An attack is a name and a largest change of a pixel, in pixels scaled to 0..1; images stay inside that range.
White-box, untargeted, in the maximum norm.  Left out: attacks that adapt to a defence, and any training
against them.  Read evaluate.py for accuracy on images as they are.

FGSM: Goodfellow et al., ICLR 2015.  PGD: Madry et al., ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simulator.errors import InputError, nearest

PGD_STEPS = 10


@dataclass(frozen=True)
class Attack:
    """kind: "fgsm" (one step) or "pgd" (PGD_STEPS steps of epsilon / 4 from a random start).  epsilon: of a pixel."""

    kind: str
    epsilon: float

    def __str__(self) -> str:
        return f"{self.kind} {self.epsilon:g}"


def parse_attack(text: str) -> Attack:
    """The attack that "fgsm 0.03" or "pgd 8/255" means.  Raises InputError for anything else."""
    words = text.split()
    kind = words[0] if words else ""
    if kind not in ("fgsm", "pgd") or len(words) != 2:
        raise InputError(f"attack {text!r}", expected='"fgsm EPSILON" or "pgd EPSILON", such as "pgd 8/255"',
                         fix=nearest(kind, ("fgsm", "pgd")))
    above, _, below = words[1].partition("/")
    try:
        epsilon = float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError):
        epsilon = -1.0
    if not 0.0 < epsilon <= 1.0:
        raise InputError(f"attack {text!r}", expected="an epsilon above 0, up to 1: pixels are scaled to 0..1")
    return Attack(kind, epsilon)


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, mean: Sequence[float], std: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """x float[b, c, h, w], normalised by mean and std per channel, changed by the attack; labels y int64[b].

    generator: draws PGD's start, on the CPU.  Gradients of the model's parameters are left as they were.
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, device=x.device, dtype=x.dtype).reshape(shape)
    scale = torch.tensor(std, device=x.device, dtype=x.dtype).reshape(shape)
    reach, low, high = attack.epsilon / scale, (0.0 - centre) / scale, (1.0 - centre) / scale
    steps, rate = (1, 1.0) if attack.kind == "fgsm" else (PGD_STEPS, 0.25)
    changed = x.clone()
    if attack.kind == "pgd":
        start = 2.0 * torch.rand(x.shape, generator=generator).to(x.device) - 1.0
        changed = (x + reach * start).clamp(low, high)
    for _ in range(steps):
        changed.requires_grad_(True)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(model(changed), y)
            (gradient,) = torch.autograd.grad(loss, changed)
        changed = changed.detach() + rate * reach * gradient.sign()
        changed = torch.minimum(torch.maximum(changed, x - reach), x + reach).clamp(low, high)
    return changed


def accuracy_under(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], attack: Attack, mean: Sequence[float],
    std: Sequence[float],
) -> float:
    """Percent right on attacked images, in evaluation mode, in which the model is left; the same draws every time."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    right = seen = 0
    for x, y in batches:
        with torch.no_grad():
            logits = model(attacked(model, x, y, attack, mean, std, generator))
        right += int((logits.argmax(1) == y).sum())
        seen += len(x)
    return 100.0 * right / seen
