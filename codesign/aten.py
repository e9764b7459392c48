"""What torch's operators are to an accelerator: which kind of work, and how many scalar operations per element.

Names are those of ATen, under which every spelling of an operator in Python arrives in the end.  Operations are those
of a vector unit whose lanes add, multiply, compare, or look a function up in a table; the counts are our choice, stated
here line by line.  Operators that are not listed have no price and are reported by name.  Read recording.py next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

# A function such as exp, erf or 1/x: look up slope and offset, then a multiply-add.
FUNCTION = 2

ELEMENTWISE = {
    # name: (kind, operations per element of the output)
    "relu": ("activation", 1), "threshold": ("activation", 1), "leaky_relu": ("activation", 2),
    "prelu": ("activation", 2), "_prelu_kernel": ("activation", 2), "hardtanh": ("activation", 2),
    "clamp": ("elementwise", 2), "clamp_min": ("elementwise", 1), "clamp_max": ("elementwise", 1),
    "sigmoid": ("activation", FUNCTION), "tanh": ("activation", FUNCTION), "elu": ("activation", 1 + FUNCTION),
    "gelu": ("activation", 1 + FUNCTION),  # x times a function of x
    "silu": ("activation", 1 + FUNCTION), "mish": ("activation", 1 + FUNCTION),
    "softplus": ("activation", FUNCTION),
    "hardsigmoid": ("activation", 3),  # add, clamp from both sides; the scale is folded into what follows
    "hardswish": ("activation", 4),  # hardsigmoid times x
    "add": ("elementwise", 1), "sub": ("elementwise", 1), "rsub": ("elementwise", 1), "mul": ("elementwise", 1),
    "neg": ("elementwise", 1), "abs": ("elementwise", 1), "maximum": ("elementwise", 1), "minimum": ("elementwise", 1),
    "where": ("elementwise", 1), "masked_fill": ("elementwise", 1), "sign": ("elementwise", 1),
    "eq": ("elementwise", 1), "ne": ("elementwise", 1), "lt": ("elementwise", 1), "le": ("elementwise", 1),
    "gt": ("elementwise", 1), "ge": ("elementwise", 1), "floor": ("elementwise", 1), "round": ("elementwise", 1),
    "div": ("elementwise", 1 + FUNCTION),  # times a reciprocal
    "pow": ("elementwise", FUNCTION), "sqrt": ("elementwise", FUNCTION), "rsqrt": ("elementwise", FUNCTION),
    "exp": ("elementwise", FUNCTION), "log": ("elementwise", FUNCTION), "erf": ("elementwise", FUNCTION),
    "sin": ("elementwise", FUNCTION), "cos": ("elementwise", FUNCTION), "reciprocal": ("elementwise", FUNCTION),
    "square": ("elementwise", 1), "addcmul": ("elementwise", 2),
    # In evaluation a batch norm is a scale and a shift per channel.
    "native_batch_norm": ("normalisation", 2), "_native_batch_norm_legit_no_training": ("normalisation", 2),
    "cudnn_batch_norm": ("normalisation", 2), "batch_norm": ("normalisation", 2),
}

ROWS = {
    # name: (kind, operations per element of the input); every output needs a whole row of them
    "_softmax": ("softmax", 4 + FUNCTION),  # maximum, subtract, exp, sum, times the reciprocal of the sum
    "_log_softmax": ("softmax", 4 + FUNCTION),
    "native_layer_norm": ("normalisation", 7),  # sum; subtract; square and add; scale; gain and shift
    "native_group_norm": ("normalisation", 7),
    "mean": ("pooling", 1), "sum": ("pooling", 1), "amax": ("pooling", 1), "amin": ("pooling", 1),
    "max": ("pooling", 1), "_adaptive_avg_pool2d": ("pooling", 1), "adaptive_max_pool2d": ("pooling", 1),
    "argmax": ("pooling", 1), "var_mean": ("normalisation", 4), "linalg_vector_norm": ("normalisation", 2),
}

WINDOWS = ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "max_pool3d_with_indices", "avg_pool3d")

LAYOUT = ("clone", "copy", "_to_copy", "cat", "stack", "constant_pad_nd", "reflection_pad2d", "replication_pad2d",
          "roll", "flip", "index", "index_select", "gather", "embedding", "repeat", "pixel_shuffle",
          "pixel_unshuffle", "upsample_nearest2d", "slice_scatter", "select_scatter", "tril", "triu")

GATHERS = ("index", "index_select", "gather", "embedding")

# Views of storage that is there already; ATen marks most of them itself.
FREE = ("_unsafe_view", "_reshape_alias", "alias", "detach", "lift_fresh", "lift_fresh_copy", "empty", "zeros", "ones",
        "full", "arange", "scalar_tensor", "empty_like", "zeros_like", "ones_like", "full_like", "_local_scalar_dense",
        "item", "_assert_async", "sym_size", "native_dropout_eval")

PLAIN = {"native_batch_norm": "batch_norm", "_native_batch_norm_legit_no_training": "batch_norm",
         "cudnn_batch_norm": "batch_norm", "_softmax": "softmax", "_log_softmax": "log_softmax",
         "native_layer_norm": "layer_norm", "native_group_norm": "group_norm",
         "max_pool2d_with_indices": "max_pool2d", "max_pool3d_with_indices": "max_pool3d",
         "_adaptive_avg_pool2d": "adaptive_avg_pool2d", "_prelu_kernel": "prelu", "constant_pad_nd": "pad",
         "clone": "copy", "_to_copy": "cast"}
"""ATen's name -> the one that users know."""


def name_of(function: Any) -> str:
    """ATen's name without namespace, overload and the mark of an operator that works in place."""
    name = str(function._schema.name).split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def is_free(function: Any) -> bool:
    """Does the operator move nothing: a view, or memory that is only reserved?"""
    if name_of(function) in FREE:
        return True
    returned = function._schema.returns
    return bool(returned) and all(one.alias_info is not None and not one.alias_info.is_write for one in returned)


def operations(name: str, arguments: Sequence[Any], inputs: Sequence[Tensor], output: Tensor) -> tuple[str, int]:
    """(kind, scalar operations) of a run; kind "unknown" where the operator is not listed."""
    if name in ELEMENTWISE:
        kind, each = ELEMENTWISE[name]
        return kind, each * output.numel()
    if name in ROWS and inputs:
        kind, each = ROWS[name]
        return kind, each * inputs[0].numel()
    if name in WINDOWS:
        window, dimensions = arguments[1], int(name.split("pool")[1][0])
        sides = list(window) if isinstance(window, list | tuple) else [window]
        sides = sides * dimensions if len(sides) == 1 else sides
        taps = 1
        for side in sides:
            taps *= int(side)
        return "pooling", taps * output.numel()
    return ("layout", 0) if name in LAYOUT else ("unknown", 0)


def tensors_in(arguments: Any, keep: Callable[[Tensor], bool] = lambda _: True) -> list[Tensor]:
    """Every tensor in arguments of any nesting, in order."""
    if isinstance(arguments, Tensor):
        return [arguments] if keep(arguments) else []
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, list | tuple):
        return [one for part in arguments for one in tensors_in(part, keep)]
    return []
