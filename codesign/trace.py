"""The one crossing from torch to the simulator: a network, as it runs, becomes a Trace.

One forward pass in evaluation mode records everything that really runs (recording.py); masks and measured
activations come along as boolean arrays and densities, for the layers that can be pruned.  Read
simulator/trace.py for what a Trace holds, export.py for who keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulator import Gemm, LayerTrace, Trace
from simulator.errors import InputError, nearest
from simulator.structure import CHANNEL, FILTER, conforms, parse
from simulator.workload import Operation

from .layers import Layer, prunable, run_example
from .recording import Run, operation_of, record

Mask = Tensor | NDArray[np.bool_]
Activations = Mapping[str, float | NDArray[np.bool_]]
"""Layer -> measured share of nonzero inputs, or their mask bool[batch, in, h, w] (Linear: bool[m, k])."""


@dataclass(frozen=True)
class Call:
    """One run of one layer: its name in the trace (`fc`, then `fc@2` ...), the module's name, the operation."""

    name: str
    layer: str
    operation: Operation


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """The tensor's values as a C-contiguous numpy array of its own."""
    return tensor.detach().cpu().contiguous().numpy().copy()


def from_numpy(array: NDArray[Any]) -> Tensor:
    """The array's values as a tensor of its own."""
    return torch.from_numpy(array.copy())


def trace_model(
    model: nn.Module,
    example_inputs: object,
    masks: Mapping[str, Mask] | None = None,
    structures: Mapping[str, str] | None = None,
    activations: Activations | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Trace:
    """The network as it runs on `example_inputs` (batch 1 for the latency of one image): layers, attention, operators.

    masks: layer -> bool of the weight's shape, True where kept; a layer that is not named is dense.  None:
    a weight is kept where it is not zero.  structures: layer -> the structure that the mask was made by; the
    trace carries it where the mask conforms to it, else "unstructured", so that a label is never a mere
    claim.  activations: what `measure_activations` returned.  Raises InputError for a mask of a wrong shape,
    a name that is no layer, or a layer that has no cycle model.
    """
    layers = prunable(model)
    _check_names(masks, layers, "masks")
    recording = record(model, example_inputs)
    if not recording.runs:
        raise nothing_ran(model)
    _check_names(activations, {run.name for run in recording.runs}, "activations")
    traced = []
    for run in recording.runs:
        weight, structure = _weight_of(run, layers, masks, structures or {})
        measured = (activations or {}).get(run.name)
        known = measured if isinstance(measured, np.ndarray) else None
        traced.append(
            LayerTrace(
                run.name,
                run.operation,
                weight,
                known,
                input_density=None if measured is None or known is not None else float(measured),
                structure=structure,
                weight_source=run.weight_source,
            )
        )
    return Trace(traced, recording.edges, dict(provenance or {}), recording.operators)


def _weight_of(
    run: Run, layers: Mapping[str, Layer], masks: Mapping[str, Mask] | None, structures: Mapping[str, str]
) -> tuple[NDArray[np.bool_] | None, str | None]:
    """(mask in the simulator's shape, structure) of the second operand; None = dense, or named by the simulator."""
    layer = layers.get(run.layer)
    if layer is not None and layer.weight.numel() == math.prod(run.operation.weight_shape):
        mask = _weight_mask(layer, None if masks is None else masks.get(run.layer), masks is None)
        return None if mask is None else _as_simulated(mask, run), _label(mask, structures.get(run.layer), run)
    if run.weight is None or masks is not None:
        return None, None
    kept = to_numpy(run.weight != 0)
    return None if kept.all() else kept, None


def record_calls(model: nn.Module, example_inputs: object) -> list[Call]:
    """Every run of a Conv2d or Linear on the example, in order, with its operation."""
    calls: list[Call] = []
    times: dict[str, int] = {}

    def record(name: str, module: Layer, inputs: tuple[Tensor, ...]) -> None:
        times[name] = times.get(name, 0) + 1
        label = name if times[name] == 1 else f"{name}@{times[name]}"
        calls.append(Call(label, name, operation_of(module, tuple(inputs[0].shape), name)))

    handles = [
        layer.register_forward_hook(lambda module, inputs, _, name=name: record(name, module, inputs))
        for name, layer in prunable(model).items()
    ]
    try:
        run_example(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise nothing_ran(model)
    return calls


def nothing_ran(model: nn.Module) -> InputError:
    """The error for a network in which nothing that has a cycle model ran."""
    return InputError("no Conv2d or Linear ran", where=type(model).__name__, expected="a network with such layers")


def measure_activations(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Share of nonzero inputs of every call, over all `batches`: {call name: density in [0, 1]}.

    Counts are integers until the one division, so the result does not depend on the batch size.
    """
    nonzero: dict[str, int] = {}
    total: dict[str, int] = {}

    def look(name: str, inputs: Tensor) -> None:
        nonzero[name] = nonzero.get(name, 0) + int(torch.count_nonzero(inputs))
        total[name] = total.get(name, 0) + inputs.numel()

    for batch in batches:
        _watch(model, batch, look)
    return {name: nonzero[name] / total[name] for name in nonzero}


def record_activation_masks(model: nn.Module, example_inputs: object) -> dict[str, NDArray[np.bool_]]:
    """The nonzero inputs of every call on one example, in the shape that LayerTrace takes."""
    masks: dict[str, NDArray[np.bool_]] = {}

    def look(name: str, inputs: Tensor) -> None:
        mask = to_numpy(inputs != 0)
        masks[name] = mask if mask.ndim == 4 else mask.reshape(-1, mask.shape[-1])

    _watch(model, example_inputs, look)
    return masks


def _watch(model: nn.Module, example_inputs: object, look: Any) -> None:
    """Call look(call name, input tensor) for every run of a Conv2d or Linear."""
    times: dict[str, int] = {}

    def seen(name: str, inputs: tuple[Tensor, ...]) -> None:
        times[name] = times.get(name, 0) + 1
        look(name if times[name] == 1 else f"{name}@{times[name]}", inputs[0])

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen(name, inputs))
        for name, layer in prunable(model).items()
    ]
    try:
        run_example(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()


def _check_names(given: Mapping[str, Any] | None, known: Iterable[str], what: str) -> None:
    names = list(known)
    unknown = [name for name in given or () if name not in names]
    if unknown:
        raise InputError.collect(
            [
                InputError(
                    f"{what} name {name!r}, which is no layer",
                    expected="a Conv2d or Linear that ran",
                    fix=nearest(name, names),
                )
                for name in unknown
            ]
        )


def _weight_mask(layer: Layer, given: Mask | None, from_zeros: bool) -> NDArray[np.bool_] | None:
    """bool of the weight's shape, or None where every weight is kept."""
    if given is None:
        if not from_zeros:
            return None
        mask = to_numpy(layer.weight != 0)
    else:
        mask = to_numpy(given) if isinstance(given, Tensor) else np.asarray(given)
    if mask.shape == tuple(layer.weight.shape) and mask.all():
        return None
    return mask


def _as_simulated(mask: NDArray[np.bool_], call: Run) -> NDArray[np.bool_]:
    """torch's [out, in] of a Linear as the simulator's [k, n]; a convolution's mask has one shape in both."""
    return np.ascontiguousarray(mask.T) if isinstance(call.operation, Gemm) and mask.ndim == 2 else mask


def _label(mask: NDArray[np.bool_] | None, claimed: str | None, call: Run) -> str:
    """The structure that the mask has: the claimed one if every group conforms to it, else unstructured."""
    if mask is None:
        return "dense"
    structure, window = parse(claimed or "unstructured"), call.operation.window
    groups = mask.reshape(call.operation.groups, -1, *mask.shape[1:])
    matrices = [group.reshape(group.shape[0], -1).T for group in groups]
    if all(conforms(matrix, structure, window) for matrix in matrices):
        return str(structure)
    # Channels removed in a neighbour take whole inputs and filters from this layer too; what is left is a
    # smaller GEMM, and it is that one which has the structure.
    smaller = [_without_empty(matrix, window) for matrix in matrices]
    if all(matrix.all() for matrix in smaller):
        return str(structure if structure in (CHANNEL, FILTER) else CHANNEL)
    return str(structure) if all(conforms(matrix, structure, window) for matrix in smaller) else "unstructured"


def _without_empty(matrix: NDArray[np.bool_], window: int) -> NDArray[np.bool_]:
    """bool[k, n] without its empty input channels (`window` rows each) and empty columns."""
    channels = matrix.reshape(-1, window, matrix.shape[1]).any(axis=(1, 2))
    return matrix[np.repeat(channels, window)][:, matrix.any(axis=0)]
