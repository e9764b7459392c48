"""The lowered operands of both gradients, multiplied out, equal torch's autograd exactly: integers in float64.

If a kernel were not flipped, a phase shifted, a padding wrong or groups mixed up, these numbers would differ.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, LayerTrace
from simulator.testing import operations, product
from simulator.training_layers import (
    input_gradient,
    input_gradient_products,
    weight_gradient,
    weight_gradient_products,
)

HAND_PICKED = {
    "3x3 padded": Conv2d(3, 4, 6, 5, 3, 3, batch=2, padding_h=1, padding_w=1),
    "stride 2, odd and even sizes": Conv2d(3, 4, 8, 7, 3, 3, batch=2, stride_h=2, stride_w=2, padding_h=1, padding_w=1),
    "stride 2 of a 1x1 kernel": Conv2d(4, 6, 7, 8, 1, 1, stride_h=2, stride_w=2),
    "stride 3, rows that nobody reads": Conv2d(2, 2, 10, 11, 2, 2, stride_h=3, stride_w=3),
    "stem of ResNet": Conv2d(3, 4, 16, 16, 7, 7, stride_h=2, stride_w=2, padding_h=3, padding_w=3),
    "groups": Conv2d(4, 6, 5, 5, 3, 3, groups=2, padding_h=1, padding_w=1, batch=2),
    "depthwise, stride 2": Conv2d(3, 3, 6, 6, 3, 3, groups=3, stride_h=2, stride_w=2, padding_h=1, padding_w=1),
    "dilation": Conv2d(2, 3, 9, 9, 3, 3, dilation_h=2, dilation_w=3, padding_h=2, padding_w=1),
    "dilation and stride": Conv2d(2, 3, 11, 12, 3, 3, dilation_h=2, dilation_w=2, stride_h=2, stride_w=3, padding_h=2),
    "dilation 2, stride 4": Conv2d(1, 2, 12, 12, 3, 3, dilation_h=2, dilation_w=3, stride_h=4, stride_w=2),
    "more padding than the kernel reaches": Conv2d(2, 3, 4, 4, 1, 2, padding_h=1, padding_w=2),
    "one pixel": Conv2d(5, 7, 1, 1, 1, 1),
}


def integers(rng: np.random.Generator, shape: tuple[int, ...], density: float = 0.7) -> np.ndarray:
    return rng.integers(-9, 10, shape) * (rng.random(shape) < density)


def autograd(op: Conv2d | Gemm, inputs: np.ndarray, weights: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, ...]:
    """(gradient of the input, gradient of the weight) of the sum of output * errors."""
    x, w = (torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (inputs, weights))
    if isinstance(op, Gemm):
        out = x @ w
    else:
        out = torch.nn.functional.conv2d(x, w, stride=(op.stride_h, op.stride_w), padding=(op.padding_h, op.padding_w),
                                         dilation=(op.dilation_h, op.dilation_w), groups=op.groups)
    assert tuple(out.shape) == op.output_shape
    out.backward(torch.tensor(errors, dtype=torch.float64))
    return x.grad.numpy(), w.grad.numpy()


def gradient_of_input(op: Conv2d | Gemm, errors: np.ndarray, weights: np.ndarray, strided: str) -> np.ndarray:
    whole = np.zeros(op.input_shape, dtype=np.int64)
    for part in input_gradient_products(op, errors, weights, strided):
        assert part.inputs.shape == part.operation.input_shape and part.weights.shape == part.operation.weight_shape
        whole[..., part.rows, part.columns] += product(part.operation, part.inputs, part.weights)
    return whole


def gradients_of_weight(op: Conv2d | Gemm, inputs: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
    found = []
    for form in weight_gradient_products(op, inputs, errors):
        assert form.inputs.shape == form.operation.input_shape and form.weights.shape == form.operation.weight_shape
        out = product(form.operation, form.inputs, form.weights)
        if isinstance(op, Conv2d) and isinstance(form.operation, Conv2d):  # [in/groups, out, kh, kw]
            out = out.transpose(1, 0, 2, 3)
        elif isinstance(op, Conv2d):  # [k, n] of every group
            out = out.reshape(op.groups, op.gemm().k, -1).swapaxes(1, 2).reshape(op.weight_shape)
        found.append(out)
    return found


def check(op: Conv2d | Gemm, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w, e = (integers(rng, shape) for shape in (op.input_shape, op.weight_shape, op.output_shape))
    of_input, of_weight = autograd(op, x, w, e)
    for strided in ("phases", "dilated"):
        assert np.array_equal(gradient_of_input(op, e, w, strided), of_input), strided
    forms = gradients_of_weight(op, x, e)
    assert len(forms) == (2 if isinstance(op, Conv2d) else 1)
    for form in forms:
        assert np.array_equal(form, of_weight)


@pytest.mark.parametrize("name", HAND_PICKED)
def test_a_convolutions_gradients_are_autograds(name: str) -> None:
    check(HAND_PICKED[name], 1)


@pytest.mark.parametrize("op", [Gemm(5, 7, 3), Gemm(1, 4, 6), Gemm(4, 5, 6, groups=3)])
def test_a_gemms_gradients_are_autograds(op: Gemm) -> None:
    check(op, 2)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations(most_macs=20000), st.integers(0, 2**32 - 1))
def test_any_operations_gradients_are_autograds(op: Conv2d | Gemm, seed: int) -> None:
    check(op, seed)


def test_phases_multiply_no_inserted_zero() -> None:
    # Each of the 9 taps meets each of the 4x4 errors once, edges aside: the forward pass has as many products.
    op = Conv2d(2, 3, 8, 8, 3, 3, stride_h=2, stride_w=2, padding_h=1, padding_w=1)
    phases = sum(part.operation.macs for part in input_gradient_products(op, None, None, "phases"))
    dilated = sum(part.operation.macs for part in input_gradient_products(op, None, None, "dilated"))
    assert phases == op.macs
    assert dilated == 4 * op.macs


def test_masks_are_where_the_values_are() -> None:
    rng = np.random.default_rng(3)
    for op in HAND_PICKED.values():
        w, a, e = (rng.random(shape) < 0.5 for shape in (op.weight_shape, op.input_shape, op.output_shape))
        layer = LayerTrace("conv", op, w, a, error_mask=e)
        lowered = input_gradient(layer, drop_empty=False)
        for traced, part in zip(lowered, input_gradient_products(op, e, w), strict=True):
            assert np.array_equal(traced.weight_matrix().any(), part.weights.any())
            assert np.array_equal(np.ones(traced.operation.input_shape) if traced.input_mask is None
                                  else traced.input_mask, part.inputs)
        direct = weight_gradient(layer, "int32", live_only=False, drop_empty=False)
        for traced, part in zip(direct, weight_gradient_products(op, a, e), strict=True):
            assert np.array_equal(np.ones(traced.operation.weight_shape) if traced.weight_mask is None
                                  else traced.weight_mask, part.weights)


def test_a_channel_pruned_from_the_error_map_takes_no_part() -> None:
    rng = np.random.default_rng(4)
    op = Conv2d(4, 6, 8, 8, 3, 3, batch=2, padding_h=1, padding_w=1)
    errors = rng.random(op.output_shape) < 0.8
    errors[:, [0, 3, 4]] = False
    layer = LayerTrace("conv", op, error_mask=errors)
    [smaller] = input_gradient(layer)
    assert (smaller.operation.in_channels, smaller.operation.out_channels) == (3, 4)
    assert smaller.operation.macs * 2 == op.macs
    assert [form.operation.macs * 2 for form in weight_gradient(layer, "int32")] == [op.macs, op.macs]
    assert input_gradient(LayerTrace("conv", op, error_density=0.0)) == []
    assert weight_gradient(LayerTrace("conv", op, error_density=0.0), "int32") == []


def test_two_of_four_along_k_is_not_two_of_four_along_n() -> None:
    # weight[k=4, n=4]: columns keep rows 0 and 1, so rows 0 and 1 keep all of their columns
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2] = True
    layer = LayerTrace("fc", Gemm(8, 4, 4), mask, structure="2:4")
    assert layer.structure == "2:4"
    [back] = input_gradient(layer)
    assert back.structure == "unstructured"
    # the checkerboard conforms both ways
    [back] = input_gradient(LayerTrace("fc", Gemm(8, 4, 4), np.indices((4, 4)).sum(axis=0) % 2 == 0, structure="2:4"))
    assert back.structure == "2:4"


def test_filters_become_channels_and_kernels_stay_kernels() -> None:
    op = Conv2d(4, 4, 6, 6, 3, 3, padding_h=1, padding_w=1)
    mask = np.ones(op.weight_shape, dtype=bool)
    mask[1] = False
    [back] = input_gradient(LayerTrace("conv", op, mask, structure="filter"))
    assert back.structure == "channel"
    mask = np.ones(op.weight_shape, dtype=bool)
    mask[1, 2] = mask[3, 0] = False
    [back] = input_gradient(LayerTrace("conv", op, mask, structure="kernel"))
    assert back.structure == "kernel"
    assert not back.weight_mask[2, 1].any() and not back.weight_mask[0, 3].any() and back.weight_nnz == 14 * 9


def test_dead_filters_get_no_gradient_unless_asked_for() -> None:
    op = Conv2d(4, 4, 6, 6, 3, 3, padding_h=1, padding_w=1)
    mask = np.ones(op.weight_shape, dtype=bool)
    mask[1] = False
    mask[:, 0] = False
    layer = LayerTrace("conv", op, mask)
    live, every = weight_gradient(layer, "int32"), weight_gradient(layer, "int32", live_only=False)
    assert live[0].operation.macs * 16 == every[0].operation.macs * 9
    assert every[0].operation.macs == op.macs


def test_widths_follow_the_operands() -> None:
    layer = LayerTrace("fc", Gemm(8, 4, 4)).with_types(weight="int4", input="fp16", output="bf16")
    [back], [step] = input_gradient(layer), weight_gradient(layer, "fp32")
    assert (back.weight_type, back.input_type, back.output_type) == ("int4", "bf16", "fp16")
    assert (step.weight_type, step.input_type, step.output_type) == ("bf16", "fp16", "fp32")
