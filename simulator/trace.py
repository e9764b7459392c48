"""What the simulator consumes: layers with their real masks, and how they travel as a file.

A LayerTrace is an operation, the mask of its weight, what is known of its input's zeros and the operand
widths; a Trace is the layers in execution order with edges, the operators between them and provenance.
Values of weights are not here: a cycle model needs to know where the zeros are, not what the rest is.  Read
engine.py next.

File format: checked safetensors (files.py), the description as JSON, the masks as packed bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import files
from .errors import InputError, nearest
from .number_types import parse_type, problems, type_name
from .operators import Operator
from .structure import parse
from .workload import Conv2d, Gemm, Operation

SCHEMA = 2
READABLE = (1, 2)  # 1: without operators
OPERATIONS: dict[str, type[Gemm] | type[Conv2d]] = {"gemm": Gemm, "conv2d": Conv2d}
WEIGHT_SOURCES = ("parameter", "activation")
NUMBERS = ("weight_number", "input_number", "output_number")


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A boolean array of any shape as packed bits (C order, first entry in the highest bit of byte 0)."""

    shape: tuple[int, ...]
    bits: NDArray[np.uint8]

    @classmethod
    def pack(cls, mask: NDArray[np.bool_]) -> PackedMask:
        """Pack a boolean array."""
        return cls(tuple(mask.shape), np.packbits(np.ascontiguousarray(mask).reshape(-1)))

    def unpack(self) -> NDArray[np.bool_]:
        """The boolean array."""
        return np.unpackbits(self.bits, count=math.prod(self.shape)).astype(bool).reshape(self.shape)


@dataclass(frozen=True, eq=False, init=False)
class LayerTrace:
    """One layer as it runs: operation, masks, operand widths.

    weight_mask: bool[out, in/groups, kh, kw] (Conv2d) or bool[k, n] (Gemm; [groups, k, n] with groups > 1), True
    where a weight is kept; None = dense.  input_mask: bool[batch, in, h, w] or bool[m, k] ([groups, m, k]), True
    where an activation is not zero; None with `input_density` = only the share is known; None alone = dense.
    weight_source: "parameter", or "activation" where the second operand is computed too, as in attention; then it
    is no weight that could be pruned, and no count of weights includes it.  error_mask: bool of the output's shape,
    True where the output's gradient is not zero, with `error_density` as for the input; only a training iteration
    reads it.  weight_number and its like: "int", "float" or "bfloat", with the bits a type such as "int8" or "bf16".
    Raises InputError on a mask of another shape or type.
    """

    name: str
    operation: Operation
    structure: str
    input_density: float
    weight_bits: int
    input_bits: int
    output_bits: int
    weight_source: str
    weight_number: str
    input_number: str
    output_number: str
    error_density: float
    packed_weight: PackedMask | None = field(repr=False)
    packed_input: PackedMask | None = field(repr=False)
    packed_error: PackedMask | None = field(repr=False)

    def __init__(
        self,
        name: str,
        operation: Operation,
        weight_mask: NDArray[np.bool_] | PackedMask | None = None,
        input_mask: NDArray[np.bool_] | PackedMask | None = None,
        *,
        input_density: float | None = None,
        structure: str | None = None,
        weight_bits: int = 8,
        input_bits: int = 8,
        output_bits: int = 8,
        weight_source: str = "parameter",
        weight_number: str = "int",
        input_number: str = "int",
        output_number: str = "int",
        error_mask: NDArray[np.bool_] | PackedMask | None = None,
        error_density: float | None = None,
    ) -> None:
        where = f"layer {name!r}"
        weight = _as_packed(weight_mask, operation.weight_shape, f"{where}, weight_mask")
        inputs = _as_packed(input_mask, operation.input_shape, f"{where}, input_mask")
        errors = _as_packed(error_mask, operation.output_shape, f"{where}, error_mask")
        input_density = _density(inputs, input_density, "input", where)
        error_density = _density(errors, error_density, "error", where)
        for label, bits, number in (("weight", weight_bits, weight_number), ("input", input_bits, input_number),
                                    ("output", output_bits, output_number)):
            if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 64:
                raise InputError(f"{label}_bits = {bits!r}", where=where, expected="an integer from 1 to 64")
            if wrong := problems(bits, number):
                raise InputError(f"{label}_number = {wrong}", where=where)
        if weight_source not in WEIGHT_SOURCES:
            raise InputError(f"weight_source = {weight_source!r}", where=where,
                             expected=f"one of {', '.join(WEIGHT_SOURCES)}", fix=nearest(weight_source, WEIGHT_SOURCES))
        if structure is None:
            structure = "dense" if weight is None else "unstructured"
        values = (name, operation, str(parse(structure)), input_density, weight_bits, input_bits, output_bits,
                  weight_source, weight_number, input_number, output_number, error_density, weight, inputs, errors)
        for item, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, item.name, value)

    @property
    def weight_mask(self) -> NDArray[np.bool_] | None:
        """The weight mask in the operation's own shape, or None where the weight is dense."""
        return None if self.packed_weight is None else self.packed_weight.unpack()

    @property
    def input_mask(self) -> NDArray[np.bool_] | None:
        """The activation mask in the operation's own shape, or None where it was not recorded."""
        return None if self.packed_input is None else self.packed_input.unpack()

    @property
    def error_mask(self) -> NDArray[np.bool_] | None:
        """Where the output's gradient is not zero, in the output's shape, or None where it was not recorded."""
        return None if self.packed_error is None else self.packed_error.unpack()

    @property
    def weight_type(self) -> str:
        """The weight's number type, such as "int8"."""
        return type_name(self.weight_bits, self.weight_number)

    @property
    def input_type(self) -> str:
        """The input's number type."""
        return type_name(self.input_bits, self.input_number)

    @property
    def output_type(self) -> str:
        """The output's number type."""
        return type_name(self.output_bits, self.output_number)

    @property
    def has_parameters(self) -> bool:
        """Is the second operand a weight of the model, and not an activation?"""
        return self.weight_source == "parameter"

    @property
    def weight_nnz(self) -> int:
        """Number of weights kept (of entries of the second operand that are not zero, where it is an activation)."""
        if self.packed_weight is None:
            return math.prod(self.operation.weight_shape)
        return int(np.bitwise_count(self.packed_weight.bits).sum())

    @property
    def weight_density(self) -> float:
        """Share of weights kept."""
        return self.weight_nnz / math.prod(self.operation.weight_shape)

    def weight_matrix(self) -> NDArray[np.bool_]:
        """The mask as bool[groups, k, n]: one GEMM weight per group, k as in Conv2d.gemm()."""
        gemm, groups = self.operation.gemm(), self.operation.groups
        mask = self.weight_mask
        if mask is None:
            return np.ones((groups, gemm.k, gemm.n), dtype=bool)
        if isinstance(self.operation, Gemm):
            return mask.reshape(groups, gemm.k, gemm.n)
        return np.ascontiguousarray(mask.reshape(groups, gemm.n, gemm.k).transpose(0, 2, 1))

    def dense(self) -> LayerTrace:
        """The same layer with every weight kept; what is known of its activations stays."""
        return self.replace(weight_mask=None, structure=None) if self.has_parameters else self

    def replace(self, **changes: Any) -> LayerTrace:
        """The same layer with some arguments of the constructor changed."""
        same: dict[str, Any] = {
            "name": self.name, "operation": self.operation, "weight_mask": self.packed_weight,
            "input_mask": self.packed_input, "structure": self.structure, "weight_source": self.weight_source,
            "weight_bits": self.weight_bits, "input_bits": self.input_bits, "output_bits": self.output_bits,
            "weight_number": self.weight_number, "input_number": self.input_number,
            "output_number": self.output_number,
        }
        if self.packed_input is None and "input_mask" not in changes:
            same["input_density"] = self.input_density
        # Another operation has another output: what was known of its gradient is gone unless it is given anew.
        if "operation" not in changes and "error_mask" not in changes:
            same["error_mask"] = self.packed_error
        if self.packed_error is None and "error_mask" not in changes:
            same["error_density"] = self.error_density
        return LayerTrace(**{**same, **changes})

    def with_types(self, *, weight: str = "", input: str = "", output: str = "") -> LayerTrace:
        """The same layer with operands of other number types, such as "int4" or "bf16"; "" leaves one as it is."""
        changes: dict[str, Any] = {}
        for operand, text in (("weight", weight), ("input", input), ("output", output)):
            if text:
                bits, number = parse_type(text, f"layer {self.name!r}, {operand} type")
                changes |= {f"{operand}_bits": bits, f"{operand}_number": number}
        return self.replace(**changes)


@dataclass(frozen=True, eq=False)
class Trace:
    """Layers in execution order; edges (producer, consumer) by name; provenance as JSON values.

    operators: what ran beside the layers, in order; None = nobody recorded it, which reports say.
    """

    layers: Sequence[LayerTrace]
    edges: Sequence[tuple[str, str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    operators: Sequence[Operator] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "edges", tuple((a, b) for a, b in self.edges))
        if not self.layers:
            raise InputError("no layers", where="trace", expected="at least one layer")
        names = [layer.name for layer in self.layers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"layer name(s) {', '.join(twice)} used twice", where="trace", expected="unique names")
        for pair in self.edges:
            for name in pair:
                if name not in names:
                    raise InputError(f"edge names layer {name!r}", where="trace", fix=nearest(name, names))
        if self.operators is not None:
            object.__setattr__(self, "operators", tuple(self.operators))
            _check_operators(self.operators, set(names))

    def dense(self) -> Trace:
        """The same network with every weight kept."""
        return dataclasses.replace(self, layers=[layer.dense() for layer in self.layers])

    def save(self, path: str | Path) -> None:
        """Write the trace as one safetensors file (atomically)."""
        tensors: dict[str, NDArray[np.uint8]] = {}
        rows: list[dict[str, Any]] = []
        for index, layer in enumerate(self.layers):
            operation = {item.name: getattr(layer.operation, item.name) for item in fields(layer.operation)}
            row: dict[str, Any] = {
                "name": layer.name, "op": layer.operation.kind, "operation": operation, "structure": layer.structure,
                "weight_bits": layer.weight_bits, "input_bits": layer.input_bits, "output_bits": layer.output_bits,
                "weight_source": layer.weight_source,
            }
            numbers = {name: getattr(layer, name) for name in NUMBERS}
            row |= {name: number for name, number in numbers.items() if number != "int"}
            if layer.packed_error is not None:
                tensors[f"{index}.error_mask"] = layer.packed_error.bits
            elif layer.error_density != 1.0:
                row["error_density"] = layer.error_density
            if layer.packed_weight is not None:
                tensors[f"{index}.weight_mask"] = layer.packed_weight.bits
            if layer.packed_input is not None:
                tensors[f"{index}.input_mask"] = layer.packed_input.bits
            else:
                row["input_density"] = layer.input_density
            rows.append(row)
        header = {"schema": SCHEMA, "layers": rows, "edges": self.edges, "provenance": dict(self.provenance)}
        if self.operators is not None:
            header["operators"] = [dataclasses.asdict(operator) for operator in self.operators]
        files.save(path, "trace", header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace.  Raises InputError on a missing, truncated, damaged or foreign file."""
        where = str(path)
        header, tensors = files.load(path, "trace", "`espalier train` or Trace.save")
        if header.get("schema") not in READABLE:
            raise InputError(f"schema {header.get('schema')}", where=where, expected=f"schema {SCHEMA}",
                             fix="use the version of espalier that wrote it, or write it again")
        try:
            layers = [_layer_from_row(index, row, tensors) for index, row in enumerate(header["layers"])]
            operators = header.get("operators")
            if operators is not None:
                operators = [Operator(**row) for row in operators]
            return cls(layers, [tuple(edge) for edge in header["edges"]], header["provenance"], operators)
        except InputError as error:
            raise InputError(str(error), where=where) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"damaged trace header ({type(error).__name__}: {error})", where=where,
                             expected="a file written by Trace.save", fix="write it again") from None


def _check_operators(operators: Sequence[Operator], layers: set[str]) -> None:
    seen: set[str] = set()
    for operator in operators:
        if operator.name in seen:
            raise InputError(f"operator name {operator.name!r} used twice", where="trace", expected="unique names")
        seen.add(operator.name)
        for name in (operator.after, operator.producer, *operator.sources):
            if name and name not in layers:
                raise InputError(f"names layer {name!r}", where=f"operator {operator.name!r}",
                                 fix=nearest(name, layers))


def _as_packed(mask: NDArray[np.bool_] | PackedMask | None, shape: tuple[int, ...], where: str) -> PackedMask | None:
    if mask is None:
        return None
    if isinstance(mask, PackedMask):
        found, packed = mask.shape, mask
        if mask.bits.dtype != np.uint8 or mask.bits.size != -(-math.prod(found) // 8):
            raise InputError(f"{mask.bits.size} bytes of {mask.bits.dtype}", where=where,
                             expected=f"{-(-math.prod(found) // 8)} bytes of packed bits")
    else:
        array = np.asarray(mask)
        if array.dtype != np.bool_:
            raise InputError(f"dtype {array.dtype}", where=where, expected="bool", fix="use weight != 0")
        found, packed = array.shape, PackedMask.pack(array)
    if found != shape:
        raise InputError(f"shape {list(found)}", where=where, expected=str(list(shape)))
    return packed


def _density(mask: PackedMask | None, given: float | None, label: str, where: str) -> float:
    """The share of nonzeros: counted where there is a mask, else the given one, else 1."""
    if given is not None and mask is not None:
        raise InputError(f"both {label}_mask and {label}_density", where=where, expected="one of the two")
    if given is not None and not 0.0 <= given <= 1.0:
        raise InputError(f"{label}_density = {given}", where=where, expected="a share in [0, 1]")
    return float(mask.unpack().mean()) if mask is not None else 1.0 if given is None else float(given)


def _layer_from_row(index: int, row: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> LayerTrace:
    operation = OPERATIONS[row["op"]](**row["operation"])
    masks: dict[str, Any] = {}
    for which, shape in (("weight_mask", operation.weight_shape), ("input_mask", operation.input_shape),
                         ("error_mask", operation.output_shape)):
        bits = tensors.get(f"{index}.{which}")
        masks[which] = None if bits is None else PackedMask(shape, bits)
    return LayerTrace(
        row["name"], operation, input_density=row.get("input_density"), structure=row["structure"],
        weight_bits=row["weight_bits"], input_bits=row["input_bits"], output_bits=row["output_bits"],
        weight_source=row.get("weight_source", "parameter"), error_density=row.get("error_density"),
        **masks, **{name: row.get(name, "int") for name in NUMBERS},
    )
