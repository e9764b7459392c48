"""The workloads that a study can name: shipped ones, trace files and SCALE-Sim topologies.

A shipped workload is a trace file beside this module or a function in SHIPPED that builds one.  Weights
and accuracies are not here, a trace holds shapes and masks only.  Read ../space.py next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace
from simulator.errors import nearest

FOLDER = Path(__file__).parent


def resnet18() -> Trace:
    """ResNet-18 on one 224x224 image (He et al., 2016, table 1), every weight kept, measured by nothing."""
    layers = [LayerTrace("conv1", Conv2d(3, 64, 224, 224, 7, 7, stride_h=2, stride_w=2, padding_h=3, padding_w=3))]
    edges: list[tuple[str, str]] = []
    before, channels, size = ["conv1"], 64, 56  # the 3x3 max pool with stride 2 takes 112 to 56

    def conv(name: str, out: int, kernel: int, stride: int, inputs: int, producers: list[str]) -> None:
        pad = kernel // 2
        operation = Conv2d(inputs, out, size, size, kernel, kernel, stride_h=stride, stride_w=stride,
                           padding_h=pad, padding_w=pad)
        layers.append(LayerTrace(name, operation))
        edges.extend((producer, name) for producer in producers)

    for stage, out in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            conv(f"{name}.conv1", out, 3, stride, channels, before)
            skip = before
            if stride == 2:
                conv(f"{name}.downsample", out, 1, stride, channels, before)
                skip = [f"{name}.downsample"]
            size //= stride
            conv(f"{name}.conv2", out, 3, 1, out, [f"{name}.conv1"])
            before, channels = [f"{name}.conv2", *skip], out
    layers.append(LayerTrace("fc", Gemm(1, 512, 1000)))
    edges.extend((producer, "fc") for producer in before)
    return Trace(layers, edges, {"network": "resnet18", "masks": "dense"})


SHIPPED = {"resnet18": resnet18}


def shipped_names() -> list[str]:
    """Names of the shipped workloads, sorted."""
    return sorted([*SHIPPED, *(path.stem for path in FOLDER.glob("*.safetensors"))])


def locate(name: str, folder: Path) -> str:
    """What `load` takes for a study's word: a shipped name as it is, a file (relative to `folder`) as a path.

    Raises InputError for a name that is not shipped or a file that is not there.
    """
    if name in shipped_names():
        return name
    if Path(name).suffix not in (".safetensors", ".csv"):
        raise InputError(f"unknown workload {name!r}", expected="a shipped workload, a trace or a topology csv",
                         fix=nearest(name, shipped_names()))
    path = folder / name
    if not path.is_file():
        raise InputError(f"no such workload file {name!r}", expected=f"a file in {folder} or an absolute path")
    return str(path)


def load(located: str, convention: str = "pytorch") -> Trace:
    """The trace of a located workload; InputError where its file is damaged.

    `convention` is that of the machine: it decides the output sizes of a topology csv and of nothing else.
    """
    if located in SHIPPED:
        return SHIPPED[located]()
    if located.endswith(".csv"):
        from simulator.importers.scalesim import read_topology

        return read_topology(located, convention=convention)
    return Trace.load(located if Path(located).suffix else FOLDER / f"{located}.safetensors")


def digest(trace: Trace) -> str:
    """sha256 of all that a simulation sees of a trace: operations, masks, densities, types, edges, operators."""
    rows = [[layer.name, layer.operation.kind, dataclasses.asdict(layer.operation), layer.structure, layer.weight_bits,
             layer.input_bits, layer.output_bits, layer.input_density, layer.packed_weight is not None,
             layer.packed_input is not None, *_floats(layer), *([] if layer.has_parameters else ["activation"])]
            for layer in trace.layers]
    state = hashlib.sha256(json.dumps([rows, trace.edges], sort_keys=True).encode())
    if trace.operators is not None:
        state.update(json.dumps([dataclasses.asdict(operator) for operator in trace.operators]).encode())
    for layer in trace.layers:
        for packed in (layer.packed_weight, layer.packed_input):
            if packed is not None:
                state.update(packed.bits.tobytes())
    return state.hexdigest()


def _floats(layer: LayerTrace) -> list[str]:
    """The kinds of number where they are not all integers, which is what a row without them means."""
    numbers = [layer.weight_number, layer.input_number, layer.output_number]
    return numbers if set(numbers) != {"int"} else []
