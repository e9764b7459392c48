"""What ran is what is costed: every GEMM, convolution and other operator of one forward pass, in order.

Layers are watched by hooks, everything else where torch hands it to its kernels, so that how the Python is written
makes no difference.  Values are followed from their producers to their consumers: that says what can be fused, and
which layer feeds which.  It leaves out masks and measured zeros (trace.py) and the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from simulator import Conv2d, Gemm
from simulator.errors import InputError
from simulator.operators import Operator
from simulator.workload import Operation

from .aten import ELEMENTWISE, GATHERS, PLAIN, ROWS, is_free, name_of, operations, tensors_in
from .layers import prunable, run_example


@dataclass(frozen=True, eq=False)
class Run:
    """One GEMM or convolution that ran.

    layer: the module or parameter that it belongs to, "" for a product of two activations.  weight: the second operand
    as it was multiplied, [k, n] or a convolution's own shape; None for a module's layer and between activations.
    """

    name: str
    layer: str
    operation: Operation
    weight_source: str = "parameter"
    weight: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """Runs and operators in order, and (producer, consumer) pairs of runs, through everything between them."""

    runs: Sequence[Run]
    operators: Sequence[Operator]
    edges: Sequence[tuple[str, str]]


@dataclass(eq=False)
class Value:
    """What is known of a tensor while the network runs.

    sources: runs that it depends on with no other run between.  producer: the run of which every element is one output
    at the same place, after element-wise operators only ("" = none); raw: nothing but a norm that was folded lies
    between.  constant: it follows from parameters alone.  readers: operators and runs that take it.  made_by: index of
    the operator that made it, -1 where it was a run or nothing that is recorded.
    """

    sources: frozenset[str] = frozenset()
    producer: str = ""
    raw: bool = False
    constant: bool = False
    readers: int = 0
    made_by: int = -1


@dataclass
class _Pending:
    """An operator whose fusion waits for the number of readers of what it takes."""

    operator: Operator
    taken: Value | None
    foldable: bool


@dataclass(frozen=True)
class _Place:
    """A module by name; a leaf has no modules of its own."""

    name: str
    leaf: bool


def record(model: nn.Module, example_inputs: object) -> Recording:
    """One forward pass in evaluation mode; the model is left as it was."""
    recorder = _Recorder(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # or a whole transformer layer arrives as one operator
    try:
        with recorder.watching(), recorder:
            run_example(model, example_inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return recorder.recording()


def operation_of(module: nn.Module, input_shape: tuple[int, ...], name: str) -> Operation:
    """What one call computes.  Raises InputError where the simulator has no such operation."""
    where = f"layer {name!r}"
    if isinstance(module, nn.Linear):
        rows = 1
        for size in input_shape[:-1]:
            rows *= size
        return Gemm(rows, module.in_features, module.out_features)
    assert isinstance(module, nn.Conv2d)
    left, right, top, bottom = module._reversed_padding_repeated_twice
    if left != right or top != bottom:
        raise InputError(
            f"padding {(top, bottom, left, right)} differs between sides",
            where=where,
            expected="the same padding on both sides",
            fix="pad explicitly before the layer",
        )
    batch, _, height, width = input_shape if len(input_shape) == 4 else (1, *input_shape)
    return Conv2d(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        in_h=height,
        in_w=width,
        kernel_h=module.kernel_size[0],
        kernel_w=module.kernel_size[1],
        batch=batch,
        stride_h=module.stride[0],
        stride_w=module.stride[1],
        padding_h=top,
        padding_w=left,
        dilation_h=int(module.dilation[0]),
        dilation_w=int(module.dilation[1]),
        groups=module.groups,
    )


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.layers = model, prunable(model)
        self.owners: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.numel():
                self.owners.setdefault(tensor.untyped_storage().data_ptr(), name)
        self.values: Any = WeakIdKeyDictionary()
        self.runs: list[Run] = []
        self.pending: list[_Pending] = []
        self.edges: list[tuple[str, str]] = []
        self.names: dict[str, int] = {}
        self.operator_names: dict[str, int] = {}
        self.inside = 0  # > 0 within a layer, whose own operators are the layer
        self.stack: list[_Place] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every module: where the run is, and when a layer begins and ends."""
        handles = []
        layer_names = {id(layer): name for name, layer in self.layers.items()}
        for name, module in self.model.named_modules():
            if id(module) in layer_names:
                layer = layer_names[id(module)]
                handles.append(module.register_forward_pre_hook(lambda *_: self._entered()))
                handles.append(module.register_forward_hook(
                    lambda module, inputs, output, layer=layer: self._layer_ran(layer, module, inputs, output)))
                continue
            place = _Place(name, not list(module.children()))
            handles.append(module.register_forward_pre_hook(lambda *_, place=place: self.stack.append(place)))
            handles.append(module.register_forward_hook(lambda *_: self._left()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entered(self) -> None:
        self.inside += 1

    def _left(self) -> None:
        self.stack.pop()

    def _layer_ran(self, layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.inside -= 1
        if not self.inside:
            self._ran(layer, layer, operation_of(module, tuple(inputs[0].shape), layer),
                      [self._value(inputs[0])], output)

    def _ran(self, label: str, layer: str, operation: Operation, read: Sequence[Value], output: Tensor,
             source: str = "parameter", weight: Tensor | None = None) -> None:
        name = _unique(label, self.names)
        for value in read:
            value.readers += 1
        before = frozenset().union(*(value.sources for value in read))
        self.edges += [(run.name, name) for run in self.runs if run.name in before]
        self.runs.append(Run(name, layer, operation, source, weight))
        self.values[output] = Value(frozenset((name,)), name, raw=source == "parameter")

    def _value(self, tensor: Tensor) -> Value:
        found: Value | None = self.values.get(tensor)
        if found is None:
            found = Value(constant=self._owner(tensor) != "")
            self.values[tensor] = found
        return found

    def _owner(self, tensor: Tensor) -> str:
        """The parameter or buffer whose storage it is, or ""."""
        return self.owners.get(tensor.untyped_storage().data_ptr(), "") if tensor.numel() else ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if not self.inside:
            self._dispatched(function, args, kwargs or {}, output)
        return output

    def _dispatched(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> None:
        inputs, outputs, name = tensors_in([args, kwargs]), tensors_in(output), name_of(function)
        if not outputs:
            return
        nothing = not outputs[0].numel()
        if is_free(function) or nothing or all(self._value(tensor).constant for tensor in inputs):
            # A view is its tensor; what follows from parameters alone was there before the network ran.
            value = self._value(inputs[0]) if inputs else Value(constant=True)
            for tensor in outputs:
                self.values[tensor] = value
        elif name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"):
            first, second = [tensor for tensor in args if isinstance(tensor, Tensor)][-2:]
            self._gemm(first, second, outputs[0])
        elif name == "linear":
            self._gemm(args[0], args[1], outputs[0], transposed=True)
        elif name.startswith("_scaled_dot_product"):
            self._attention(args, kwargs, outputs[0])
        elif name not in ("convolution", "_convolution") or not self._convolution(args, outputs[0]):
            self._other(name, args, inputs, outputs)

    # GEMMs outside of layers

    def _gemm(self, first: Tensor, second: Tensor, output: Tensor, *, transposed: bool = False) -> None:
        """A matrix product, or several; `transposed`: the second operand is [n, k]."""
        left, right = self._value(first), self._value(second)
        owner = self._owner(second) or self._owner(first)
        if second.ndim == 1:
            second = second[:, None]
        if first.ndim == 1:
            first = first[None]
        if transposed:
            second = second.mT
        if left.constant:  # W x is the same work as x' W'
            first, second, left, right = second.mT, first.mT, right, left
        groups = first.shape[:-2].numel() if second.ndim > 2 else 1
        operation = Gemm(first.numel() // (groups * first.shape[-1]), first.shape[-1], second.shape[-1], groups)
        if not right.constant:
            self._ran(self._label("matmul"), "", operation, [left, right], output, "activation")
            return
        layer = _layer_of(owner) if owner else self._label("matmul")
        self._ran(layer, layer, operation, [left], output, "parameter",
                  second.detach().reshape(operation.weight_shape))

    def _attention(self, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> None:
        """Two GEMMs with a softmax between them, whichever kernel torch has chosen."""
        query, key, value = args[:3]
        heads, length, size = query.shape[:-2].numel(), query.shape[-2], query.shape[-1]
        keys = key.shape[-2]
        number = heads * length * keys
        scores, scaled, masked, weights = (torch.empty(0) for _ in range(4))
        self._ran(self._label("scores"), "", Gemm(length, size, keys, heads),
                  [self._value(query), self._value(key)], scores, "activation")
        self._add("mul", "elementwise", [scores], [number], number, number, scaled, elementwise=True)
        masks = [tensor for tensor in tensors_in([args[3:], kwargs]) if tensor.ndim >= 2]
        if masks:
            self._add("add", "elementwise", [scaled, masks[0]], [number, masks[0].numel()], number, number, masked,
                      elementwise=True)
        self._add("softmax", "softmax", [masked if masks else scaled], [number], number, ROWS["_softmax"][1] * number,
                  weights, elementwise=False)
        self._ran(self._label("context"), "", Gemm(length, keys, value.shape[-1], heads),
                  [self._value(weights), self._value(value)], output, "activation")

    def _convolution(self, args: Sequence[Any], output: Tensor) -> bool:
        image, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
        if transposed or weight.ndim > 4 or weight.ndim != image.ndim or not self._value(weight).constant:
            return False
        flat = weight.ndim == 3  # one-dimensional: an image of one row

        def pair(values: Sequence[int], one: int) -> tuple[int, int]:
            every = [int(value) for value in values] * (2 if len(values) == 1 and not flat else 1)
            return (one, every[0]) if flat else (every[0], every[1])

        (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w) = pair(stride, 1), pair(padding, 0), pair(dilation, 1)
        operation = Conv2d(
            in_channels=image.shape[1], out_channels=weight.shape[0], in_h=1 if flat else image.shape[2],
            in_w=image.shape[-1], kernel_h=1 if flat else weight.shape[2], kernel_w=weight.shape[-1],
            batch=image.shape[0], stride_h=stride_h, stride_w=stride_w, padding_h=pad_h, padding_w=pad_w,
            dilation_h=dil_h, dilation_w=dil_w, groups=int(groups))
        layer = _layer_of(self._owner(weight)) or self._label("convolution")
        self._ran(layer, layer, operation, [self._value(image)], output, "parameter",
                  weight.detach().reshape(operation.weight_shape))
        return True

    # Everything else

    def _other(self, name: str, args: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        kind, number = operations(name, args, inputs, outputs[0])
        macs, sizes = 0, [tensor.numel() for tensor in inputs]
        if "convolution" in name:
            # Every element that goes into a transposed convolution, or comes out of another one, meets a kernel.
            weight, transposed = args[1], args[6]
            macs = (args[0] if transposed else outputs[0]).numel() * weight[0].numel()
            name = f"conv{'_transpose' if transposed else ''}{weight.ndim - 2}d"
        elif name in GATHERS:
            sizes = [outputs[0].numel()] + [0] * (len(inputs) - 1)  # a table is read only where it is asked
        self._add(PLAIN.get(name, name), kind, inputs, sizes, outputs[0].numel(), number, outputs[0],
                  elementwise=name in ELEMENTWISE, macs=macs)
        for tensor in outputs[1:]:
            self.values[tensor] = replace(self._value(outputs[0]), producer="", readers=0)

    def _add(self, name: str, kind: str, inputs: Sequence[Tensor], sizes: Sequence[int], writes: int, number: int,
             output: Tensor, *, elementwise: bool, macs: int = 0) -> None:
        read = [self._value(tensor) for tensor in inputs]
        for value in read:
            value.readers += 1
        order = {run.name: index for index, run in enumerate(self.runs)}
        taken = None
        if elementwise:
            same = [value for value, size in zip(read, sizes, strict=True) if value.producer and size == writes]
            taken = max(same, key=lambda value: order[value.producer], default=None)
        others = sum(sizes) - (writes if taken is not None else 0)
        operator = Operator(
            _unique(self._label(name, leaf=True), self.operator_names), name, kind, sum(sizes), writes, number,
            after=self.runs[-1].name if self.runs else "", others=others if taken is not None else 0, macs=macs,
            sources=tuple(run.name for run in self.runs if any(run.name in value.sources for value in read)))
        foldable = name == "batch_norm" and taken is not None and taken.raw
        self.values[output] = Value(frozenset().union(*(value.sources for value in read)),
                                    "" if taken is None else taken.producer, raw=foldable, made_by=len(self.pending))
        self.pending.append(_Pending(operator, taken, foldable))

    def recording(self) -> Recording:
        """What has run, once it has.

        An operator is fused where nobody else reads what it takes, and what it takes was not written to memory before.
        """
        operators: list[Operator] = []
        for one in self.pending:
            operator, taken = one.operator, one.taken
            written = taken is not None and taken.made_by >= 0 and operators[taken.made_by].fusion == "none"
            if taken is None or taken.readers > 1 or written:
                operator = replace(operator, others=0)
            elif one.foldable:
                operator = replace(operator, fusion="weights", producer=taken.producer, others=0)
            else:
                operator = replace(operator, fusion="producer", producer=taken.producer)
            operators.append(operator)
        return Recording(tuple(self.runs), tuple(operators), tuple(self.edges))

    def _label(self, what: str, *, leaf: bool = False) -> str:
        """A name by place: the module's own where the module is this operator, else module and operator."""
        place = self.stack[-1] if self.stack else _Place("", leaf=False)
        if leaf and place.leaf and place.name:
            return place.name
        return f"{place.name}.{what}" if place.name else what


def _layer_of(parameter: str) -> str:
    """"fc.weight" -> "fc", "attn.in_proj_weight" -> "attn.in_proj"."""
    return parameter.removesuffix("weight").rstrip("._") if parameter.endswith("weight") else parameter


def _unique(label: str, names: dict[str, int]) -> str:
    """The label, or label@2, label@3 ... where it ran before."""
    names[label] = names.get(label, 0) + 1
    return label if names[label] == 1 else f"{label}@{names[label]}"
