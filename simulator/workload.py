"""Operations as an accelerator sees them, and the one lowering of a convolution to a GEMM.

An operation is its sizes and nothing else: no weights, no masks (those are in trace.py).  Pooling,
activation functions and other element-wise work are not here but in operators.py.  Read structure.py
next: it says which shapes of sparsity a weight may have.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

from .errors import InputError

INT64_MAX = 2**63 - 1


def _require_sizes(operation: object, smallest: dict[str, int]) -> None:
    """Check that every field is an integer >= its smallest legal value (1 unless named)."""
    for field in fields(operation):  # type: ignore[arg-type]
        value = getattr(operation, field.name)
        least = smallest.get(field.name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{field.name} = {value!r}",
                where=type(operation).__name__,
                expected=f"an integer of at least {least}",
            )


@dataclass(frozen=True)
class Gemm:
    """output[m, n] = input[m, k] @ weight[k, n]; k is always the reduction.

    groups > 1: so many independent products of these sizes, each with an input and a weight of its own, such as the
    heads of attention times the images of a batch.
    """

    m: int
    k: int
    n: int
    groups: int = 1
    kind: ClassVar[str] = "gemm"

    def __post_init__(self) -> None:
        _require_sizes(self, {})
        _require_countable(self.macs, self)

    def gemm(self) -> Gemm:
        """The GEMM of one group."""
        return self if self.groups == 1 else Gemm(self.m, self.k, self.n)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense operation, all groups."""
        return self.m * self.k * self.n * self.groups

    @property
    def window(self) -> int:
        """Rows of the weight [k, n] that belong to one input channel."""
        return 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of a weight mask: [k, n], or [groups, k, n] with more than one group."""
        return (self.k, self.n) if self.groups == 1 else (self.groups, self.k, self.n)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input mask: [m, k], or [groups, m, k] with more than one group."""
        return (self.m, self.k) if self.groups == 1 else (self.groups, self.m, self.k)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output: [m, n], or [groups, m, n] with more than one group."""
        return (self.m, self.n) if self.groups == 1 else (self.groups, self.m, self.n)


@dataclass(frozen=True)
class Conv2d:
    """A 2-d convolution with PyTorch's output sizes, weight [out, in/groups, kh, kw], input [batch, in, h, w]."""

    in_channels: int
    out_channels: int
    in_h: int
    in_w: int
    kernel_h: int
    kernel_w: int
    batch: int = 1
    stride_h: int = 1
    stride_w: int = 1
    padding_h: int = 0
    padding_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1
    kind: ClassVar[str] = "conv2d"

    def __post_init__(self) -> None:
        _require_sizes(self, {"padding_h": 0, "padding_w": 0})
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"groups = {self.groups} with {self.in_channels} input and {self.out_channels} output channels",
                where="Conv2d",
                expected="groups that divide both channel counts",
            )
        if self.out_h < 1 or self.out_w < 1:
            raise InputError(
                f"kernel {self.kernel_h}x{self.kernel_w} does not fit the padded input "
                f"{self.in_h + 2 * self.padding_h}x{self.in_w + 2 * self.padding_w}",
                where="Conv2d",
                expected="an output of at least 1x1",
                fix="enlarge the input or the padding",
            )
        _require_countable(self.macs, self)

    @property
    def out_h(self) -> int:
        """Output rows: floor((h + 2p - d(r-1) - 1) / stride) + 1, as in torch.nn.Conv2d."""
        return (self.in_h + 2 * self.padding_h - self.dilation_h * (self.kernel_h - 1) - 1) // self.stride_h + 1

    @property
    def out_w(self) -> int:
        """Output columns, by the same formula as out_h."""
        return (self.in_w + 2 * self.padding_w - self.dilation_w * (self.kernel_w - 1) - 1) // self.stride_w + 1

    @property
    def window(self) -> int:
        """Entries of one kernel, kernel_h * kernel_w."""
        return self.kernel_h * self.kernel_w

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense operation, products with padding included."""
        gemm = self.gemm()
        return gemm.m * gemm.k * gemm.n * self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of a weight mask: [out, in/groups, kh, kw]."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel_h, self.kernel_w)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input mask: [batch, in, h, w]."""
        return (self.batch, self.in_channels, self.in_h, self.in_w)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output: [batch, out, out_h, out_w]."""
        return (self.batch, self.out_channels, self.out_h, self.out_w)

    def gemm(self) -> Gemm:
        """The GEMM of one group: m = batch*out_h*out_w, k = (in/groups)*kh*kw, n = out/groups.

        k runs over (channel, kernel row, kernel column) with the column fastest, which is
        `weight.reshape(out, -1)` of a PyTorch weight.
        """
        return _lowered(self)


@lru_cache(maxsize=4096)  # every layer is asked a dozen times while it is simulated
def _lowered(conv: Conv2d) -> Gemm:
    return Gemm(
        m=conv.batch * conv.out_h * conv.out_w,
        k=conv.in_channels // conv.groups * conv.window,
        n=conv.out_channels // conv.groups,
    )


Operation = Gemm | Conv2d


def _require_countable(macs: int, operation: object) -> None:
    # Kernels count in int64, which wraps silently: the product is checked here, in Python integers.
    # The factor 4096 leaves room for hop counts, bytes and bits per MAC.
    if macs > INT64_MAX // 4096:
        raise InputError(
            f"{macs} multiply-accumulates", where=type(operation).__name__,
            expected=f"at most {INT64_MAX // 4096}, the range of a 64-bit counter",
            fix="split the layer",
        )
