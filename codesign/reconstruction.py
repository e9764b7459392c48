"""Layer-wise reconstruction: which inputs of a layer to keep, and kept weights that make up for the rest.

All of it is least squares on the layer's own inputs X, of which the matrix X^T X says everything: with W the
dense weight, |X (W - V)|^2 = tr (W - V)^T X^T X (W - V).  LASSO picks input channels by their weight in a
sparse sum, contribution removes the one after the other whose loss the rest makes up for best.  Left out:
the layer's nonlinearity, and grouped convolutions.  Read recipes/reconstruction.py for who uses it.

Sources: He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017 (lasso); Hassibi and
Stork, NIPS 1992, for what is lost where the rest is refitted; Lazarevich et al., ICCV 2021 workshops (calibration).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Layer
from .structures import keep_best

DAMPING = 1e-6
"""Share of the mean of the diagonal that is added to it: inputs that are never seen keep their weights at nothing."""
ITERATIONS, HALVINGS = 200, 30


@torch.no_grad()
def input_moments(model: nn.Module, layer: Layer, batches: Iterable[Tensor]) -> Tensor:
    """X^T X, float64[k, k], of what the layer multiplies: k runs over (input channel, kernel row, kernel column).

    The model runs in evaluation mode and is left in the mode that it was in.
    """
    k = layer.weight[0].numel()
    total = torch.zeros(k, k, dtype=torch.float64, device=layer.weight.device)

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if isinstance(layer, nn.Conv2d):
            # the edge is made first, as nn.Conv2d does it: unfold knows zeros alone
            edge = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            x = F.pad(x, layer._reversed_padding_repeated_twice, edge)
            rows = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)  # type: ignore[arg-type]
        else:
            rows = x
        flat = rows.reshape(-1, k).double()
        total.addmm_(flat.T, flat)

    modes = {module: module.training for module in model.modules()}
    handle = layer.register_forward_pre_hook(add)
    try:
        model.eval()
        for x in batches:
            model(x)
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return total


def refitted(weight: Tensor, mask: Tensor, moments: Tensor) -> Tensor:
    """The weight with this mask whose outputs are nearest to those of `weight`; both float[out, ...], mask bool."""
    dense, kept = weight.detach().flatten(1).double(), mask.flatten(1)
    damped = _damped(moments)
    found = torch.zeros_like(dense)
    patterns, which = kept.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    for number, pattern in enumerate(patterns):  # outputs with the same mask share one factorisation
        inputs, outputs = pattern.nonzero().flatten(), (which == number).nonzero().flatten()
        if len(inputs):
            solved = torch.linalg.solve(damped[inputs][:, inputs], damped[inputs] @ dense[outputs].T)
            found[outputs[:, None], inputs[None, :]] = solved.T
    return found.reshape(weight.shape).to(weight.dtype)


def error(weight: Tensor, other: Tensor, moments: Tensor) -> float:
    """|X (W - V)|^2 over |X W|^2."""
    dense, apart = weight.detach().flatten(1).double(), (weight - other).detach().flatten(1).double()
    return float((apart @ moments * apart).sum() / (dense @ moments * dense).sum())


def lasso_channels(weight: Tensor, moments: Tensor, keep: int) -> Tensor:
    """bool[in]: the `keep` of largest |b| where min |Y - sum_i b_i X_i W_i|^2 + 2 lambda |b|_1 leaves that many.

    lambda is found by bisection; should none leave exactly `keep`, the largest |b| without a penalty decide.
    """
    parts = _by_channel(weight)
    channels, taps = parts.shape[1:]
    gram = torch.einsum("oia,iajb,ojb->ij", parts, moments.reshape(channels, taps, channels, taps), parts)
    solve = _lasso(gram)
    least, most = 0.0, float(gram.sum(1).abs().max())
    b = solve(0.0)
    spare = 1e-9 * b.abs()
    for _ in range(HALVINGS):
        middle = (least + most) / 2.0
        b = solve(middle)
        if int((b != 0).sum()) == keep:
            break
        least, most = (middle, most) if int((b != 0).sum()) > keep else (least, middle)
    return keep_best(b.abs() + spare, keep)


def _lasso(gram: Tensor) -> Callable[[float], Tensor]:
    """penalty -> argmin over b of (1 - b)^T gram (1 - b) / 2 + penalty |b|_1, by accelerated proximal gradient.

    In coordinates in which the diagonal is one, so that channels of very different size converge alike (Beck and
    Teboulle, SIAM J. Imaging Sciences 2009).
    """
    size = gram.diagonal().clamp_min(1e-30).sqrt()
    scaled, target = gram / size[:, None] / size[None, :], gram.sum(1) / size
    step = 1.0 / float(torch.linalg.eigvalsh(scaled)[-1])

    def solve(penalty: float) -> Tensor:
        now, ahead, pace = torch.zeros_like(size), torch.zeros_like(size), 1.0
        for _ in range(ITERATIONS):
            moved = ahead - step * (scaled @ ahead - target)
            after = moved.sign() * (moved.abs() - step * penalty / size).clamp_min(0.0)
            faster = (1.0 + (1.0 + 4.0 * pace**2) ** 0.5) / 2.0
            ahead = after + (pace - 1.0) / faster * (after - now)
            now, pace = after, faster
        return now / size

    return solve


def contributing_channels(weight: Tensor, moments: Tensor, keep: int) -> Tensor:
    """bool[in]: channels left after removing, one by one, the one whose loss the refitted rest makes up for best.

    With P the inverse of X^T X and W the refitted weight, removing channel i costs sum_o w_i^T (P_ii)^-1 w_i.
    """
    parts = _by_channel(weight)
    out, channels, taps = parts.shape
    inverse = torch.linalg.inv(_damped(moments))
    fitted = parts.reshape(out, -1).clone()
    alive = torch.ones(channels, dtype=torch.bool, device=weight.device)
    for _ in range(channels - keep):
        within = inverse.reshape(channels, taps, channels, taps).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        own = torch.where(alive[:, None, None], within, torch.eye(taps, dtype=within.dtype, device=within.device))
        each = fitted.reshape(out, channels, taps)
        cost = torch.einsum("oia,iab,oib->i", each, torch.linalg.inv(own), each)
        gone = int(cost.masked_fill(~alive, torch.inf).argmin())
        place = slice(gone * taps, (gone + 1) * taps)
        share = torch.linalg.solve(inverse[place, place], inverse[place])  # [taps, k]
        fitted = fitted - fitted[:, place] @ share
        inverse = inverse - inverse[:, place] @ share
        alive[gone] = False
    return alive


def _by_channel(weight: Tensor) -> Tensor:
    """float64[out, in, taps] of a convolution's or a linear layer's weight."""
    return weight.detach().reshape(*weight.shape[:2], -1).double()


def _damped(moments: Tensor) -> Tensor:
    scale = DAMPING * float(moments.diagonal().mean().clamp_min(1e-30))
    return moments + scale * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
