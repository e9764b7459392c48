"""Gradient filtering, weight-update skipping and progressive precision: what the backward pass still computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.error_maps import rounded
from codesign.method import Batch, Context, Method, Place
from codesign.recipes import recipe, settings_of
from simulator.errors import InputError


def method_of(name: str, model: nn.Module, shape: tuple[int, ...], **settings: object) -> Method:
    losses = nn.CrossEntropyLoss(reduction="none")
    context = Context(model, torch.optim.SGD(model.parameters(), 0.1), None, torch.zeros(1, *shape), 2, F.cross_entropy,
                      losses, 0, 10)
    method: Method = recipe(name).make(settings_of({"name": name, **settings}), context)
    return method


def gradients(conv: nn.Module, x: Tensor, error: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(conv(x), [x, *conv.parameters()], error))


def test_patches_of_one_on_a_1x1_convolution_are_plain_backward() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1).double()
    x, error = torch.randn(2, 3, 5, 5).double(), torch.randn(2, 4, 5, 5).double()
    plain = gradients(conv, x, error)
    method_of("gradient_filtering", conv.float(), (3, 5, 5), patch=1)
    for left, right in zip(gradients(conv.double(), x, error), plain, strict=True):
        torch.testing.assert_close(left, right)


def test_errors_that_are_equal_in_a_patch_lose_nothing_at_the_centre_tap() -> None:
    """Maps of 5x5 in patches of 2: the last row and column are patches of their own size."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 5).double()
    error = torch.randn(2, 4, 3, 3).double().repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :5]
    _, weight, bias = gradients(conv, x, error)
    method_of("gradient_filtering", conv.float(), (3, 5, 5), patch=2)
    _, filtered, filtered_bias = gradients(conv.double(), x, error)
    torch.testing.assert_close(filtered[:, :, 1, 1], weight[:, :, 1, 1])
    assert torch.equal(filtered[:, :, 0, 2], filtered[:, :, 1, 1])  # one number for all taps
    torch.testing.assert_close(filtered_bias, bias)
    # One error for the whole map: inside, the input's gradient is that times the kernel's sum, as it should be.
    flat = torch.ones(2, 4, 5, 5).double()
    torch.testing.assert_close(gradients(conv, x, flat)[0][:, :, 1:4, 1:4],
                               conv.weight.sum((0, 2, 3))[None, :, None, None].expand(2, 3, 3, 3))


def test_filtered_products_are_counted_by_patches_and_without_taps() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, stride=2), nn.Flatten(),
                          nn.Linear(2 * 9, 2))
    method = method_of("gradient_filtering", model, (1, 5, 5), patch=2)
    forward = 25 * 2 * 9 + 9 * 4 * 9 + 36
    backward = 9 * 2 + 2 * 4 * 4 + 2 * 36  # 5x5 has nine patches, 3x3 four; a product per pair of channels
    assert method.macs(0, 3, Batch(torch.zeros(3, 1, 5, 5), torch.zeros(3))) == 3 * (forward + backward)


def test_weights_rest_while_accuracy_stands_still_and_errors_still_reach_every_bias() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    method = method_of("update_skipping", model, (2,), window=2, flat=1.0, most=2)
    x, y = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    right, wrong = F.one_hot(y, 2).float(), F.one_hot(1 - y, 2).float()
    resting, macs = [], []
    for step in range(12):
        batch = method.prepare(x, y, Place(0, 2, step, 12))
        assert batch is not None
        resting.append(not model[0].weight.requires_grad)
        method.loss(wrong if step < 2 else right, batch)
        macs.append(method.macs(36, 4, batch))
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        assert model[0].bias.grad is not None
    # 0 % , 100 %, then flat: two windows rest, the third is trained whatever happens, and so on.
    assert resting == [False] * 6 + [True] * 4 + [False] * 2
    # Of the five products (the first layer's input needs no gradient), of 6, 6, 6, 6, 6 MACs, two are the weights'.
    assert macs[0] == 4 * 36 and macs[6] == 4 * 36 * 3 // 5


def test_precision_rises_when_the_loss_stops_falling_and_is_highest_at_the_end() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 9, 2))
    method = method_of("frac_train", model, (1, 5, 5), bits=[2, 4, 8], window=2, flat=0.1, last=0.2)
    x, y = torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1])
    levels = []
    for step, size in enumerate([8.0, 8.0, 4.0, 4.0, 3.9, 3.9, 3.9, 3.9, 1.0, 1.0]):
        batch = method.prepare(x, y, Place(0, 1, step, 10))
        assert batch is not None
        method.loss(torch.stack([size * (1.0 - 2.0 * (1 - y)), size * (2.0 * (1 - y) - 1.0)], 1) / 2, batch)
        method.macs(100, 4, batch)
        levels.append(method.row()["bits"])
    # The third window gained too little; the first at four bits is compared with nothing; 0.8 of training is over.
    assert levels == [2] * 6 + [4] * 2 + [8] * 2
    conv = model.train()[0]
    assert torch.equal(conv(x), F.conv2d(rounded(x, 8), rounded(conv.weight, 8), conv.bias))
    assert 0.0 < method.summary()["effective_macs_share"] < 1.0
    with pytest.raises(InputError, match="rising numbers"):
        method_of("frac_train", model, (1, 5, 5), bits=[8, 4])
