"""What a partitioned chain of layers takes on P arrays, and on one, beside the chain as it was.

The gain of a partition is two: there are fewer weights, and the parts run side by side without a word between them.
Each is had alone too, so all of dense and partitioned, on one array and on P, are simulated.  Left out: the network
around the chain.  Read simulator/machines/multi_array.py for the machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from simulator import Gemm, LayerTrace, Machine, Trace, simulate
from simulator.counts import Count
from simulator.errors import InputError
from simulator.partition import components
from simulator.report import Report


def with_arrays(machine: Machine, arrays: int) -> Machine:
    """The machine with so many arrays.  Raises InputError for one that has no arrays beside one another."""
    if machine.model != "multi_array":
        raise InputError(f"machine {machine.name!r} is of model {machine.model!r}", where="partition",
                         expected="a machine of several arrays", fix='machine = "multi_array"')
    return dataclasses.replace(machine, array=dataclasses.replace(machine.array, arrays=arrays))


def as_chain(layers: Sequence[LayerTrace]) -> Trace:
    """The layers as a network of their own, each reading the one before."""
    return Trace(layers, tuple(pairwise(layer.name for layer in layers)))


def as_blocks(layers: Sequence[LayerTrace]) -> Trace:
    """The same with every part a small dense layer of its own, as they run one after the other on one array."""
    blocks = []
    for layer in layers:
        mask, inputs = layer.weight_mask, layer.input_mask
        assert isinstance(layer.operation, Gemm)
        rows, k, n = layer.operation.m, layer.operation.k, layer.operation.n
        for index, (read, made) in enumerate([(np.arange(k), np.arange(n))] if mask is None else components(mask)):
            changes: dict[str, Any] = {} if inputs is None else {"input_mask": inputs[:, read]}
            blocks.append(layer.replace(name=f"{layer.name}.{index}", operation=Gemm(rows, len(read), len(made)),
                                        weight_mask=None, structure="dense", **changes))
    return Trace(blocks)


def execution(layers: Sequence[LayerTrace], machine: Machine, parts: int) -> dict[str, dict[str, Any]]:
    """Cycles, joules, link bytes of a chain in five ways, each with "speedup" and "energy_ratio" over dense on one.

    layers: Gemm layers with the masks of a partition.  "masked on one": zeros stay where they are, as an array that
    cannot skip them sees it; "partitioned on one": its parts as small layers one after the other.
    """
    chain, one, several = as_chain(layers), with_arrays(machine, 1), with_arrays(machine, parts)
    reports = {
        "dense on one": simulate(chain.dense(), one, compare_dense=False),
        f"dense on {parts}": simulate(chain.dense(), several, compare_dense=False),
        "masked on one": simulate(chain, one, compare_dense=False),
        "partitioned on one": simulate(as_blocks(layers), one, compare_dense=False),
        f"partitioned on {parts}": simulate(chain, several, compare_dense=False),
    }
    first = reports["dense on one"]
    return {name: _figures(report, first) for name, report in reports.items()}


def _figures(report: Report, first: Report) -> dict[str, Any]:
    counts = report.total.counts
    return {"cycles": report.cycles, "energy_pj": report.energy_pj, "exchange_cycles": int(counts[Count.EXCHANGE]),
            "link_bytes": int(counts[Count.LINK_BYTES]), "speedup": first.cycles / report.cycles,
            "energy_ratio": first.energy_pj / report.energy_pj}
