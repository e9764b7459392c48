"""Convolutions with a backward pass of our own go forward as torch's, under autocast and at padded edges too."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.error_maps import ErrorMapPruning, chosen_channels, prune_error_maps_, rounded
from codesign.method import Context, Method
from codesign.precision import Precision

OWN: dict[str, Callable[[Callable[..., Method], nn.Module], object]] = {
    "error maps": lambda make, model: prune_error_maps_(model, ErrorMapPruning(0.5)),
    "all error maps": lambda make, model: prune_error_maps_(model, ErrorMapPruning(1.0)),
    "gradient filtering": lambda make, model: make("gradient_filtering", model, (4, 9, 8)),
    "orepa": lambda make, model: make("orepa", model, (4, 9, 8)),
}
PADDING = ["zeros", "reflect", "replicate", "circular"]


def layer(padding_mode: str = "zeros", **more: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 10, 3, padding=(2, 1), padding_mode=padding_mode, **more)


def images() -> Tensor:
    return torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(1))


def with_gradients(conv: nn.Conv2d, x: Tensor, error: Tensor) -> list[Tensor]:
    """The output, and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    out = conv(x)
    return [out.detach(), *torch.autograd.grad(out, [x, conv.weight, conv.bias], error.to(out.dtype))]


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("name", OWN)
def test_padding_is_that_of_the_layer(name: str, padding_mode: str, method_of: Callable[..., Method]) -> None:
    plain = nn.Sequential(layer(padding_mode))
    model = copy.deepcopy(plain)
    method = OWN[name](method_of, model)
    assert "forward" in model[0].__dict__
    if name == "orepa":
        with torch.no_grad():
            plain[0].weight.copy_(method.kernel("0"))
    torch.testing.assert_close(model(images()), plain(images()))


@pytest.mark.parametrize("kept", [1.0, 0.5])
@pytest.mark.parametrize("padding_mode", PADDING)
def test_error_maps_go_back_through_the_padding(padding_mode: str, kept: float) -> None:
    conv, x, rule = layer(padding_mode).double(), images().double(), ErrorMapPruning(kept)
    error = torch.randn_like(conv(x))
    channels = chosen_channels(error, conv.weight, rule)
    expected = with_gradients(conv, x, torch.zeros_like(error).index_copy(1, channels, error[:, channels]))
    prune_error_maps_(conv, rule)
    for left, right in zip(with_gradients(conv, x, error), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_autocast_computes_in_bfloat16_and_gives_gradients_of_the_weights_type(
    name: str, channels_last: bool, method_of: Callable[..., Method]
) -> None:
    """As near to the float32 answer as bfloat16 is, which has 8 bits; orepa folds three branches in it."""
    model, x = nn.Sequential(layer()), images()
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    OWN[name](method_of, model)
    error = torch.randn(3, 10, 11, 8)
    error[:, 5:] *= 0.01  # which half goes back does not hang on rounding
    expected = with_gradients(model[0], x, error)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(model[0], x, error)
    assert [value.dtype for value in found] == [torch.bfloat16, *[torch.float32] * 3]
    for left, right in zip(found, expected, strict=True):
        apart = float((left.float() - right).norm() / right.norm())
        assert 0 < apart < 0.02


def test_rounding_of_bfloat16_has_its_levels_and_is_unbiased_when_stochastic() -> None:
    """8 bits are 255 levels; in bfloat16 itself a fraction beside a level above 64 has one bit, and chance is lost."""
    torch.manual_seed(0)
    values = torch.linspace(-1.0, 1.0, 4001).bfloat16()
    found = torch.stack([rounded(values, 8, stochastic=True).float() for _ in range(200)])
    assert found.unique().numel() <= 255
    level = 1.0 / 127
    apart = found.mean(0) - values.float()
    assert abs(float(apart.mean())) < 0.01 * level and float(apart.abs().mean()) < 0.1 * level


def test_channels_of_a_bfloat16_map_are_chosen_by_sums_that_are_not() -> None:
    """5,000 ones and 5,001 are the same number in bfloat16."""
    error = torch.zeros(1, 2, 1, 5001, dtype=torch.bfloat16)
    error[:, 0, :, :5000], error[:, 1] = 1.0, 1.0
    assert chosen_channels(error, torch.ones(2, 1, 1, 1), ErrorMapPruning(0.5)).tolist() == [1]


def test_passes_outside_the_step_have_its_precision_and_float32_losses() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    x, y = torch.randn(8, 1, 2, 3), torch.arange(8) % 3
    precision = Precision(model, x.device, "bf16")
    context = Context(model, torch.optim.SGD(model.parameters(), 0.1), None, x[:1], 3, F.cross_entropy,
                      nn.CrossEntropyLoss(reduction="none"), 0, 10, precision.forward)
    mean = model[1].running_mean.clone()
    logits, losses = context.logits_of(x), context.losses_of(x, y)
    assert model.training and torch.equal(model[1].running_mean, mean)
    assert logits.dtype == losses.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float()), "the products were bfloat16"
    torch.testing.assert_close(losses, F.cross_entropy(logits, y, reduction="none"))
