"""What of a whole network 2:4 speeds up: layers, and what lies between them, on one chip and on one DRAM.

    python examples/whole_networks.py

ResNet-18, VGG-11, MobileNetV2 and a ViT are recorded in PyTorch, operator by operator, and costed on a 64x64 array that
runs 2:4, with a vector unit of 64 lanes and 1,000 cycles to start a layer.  The masks keep what is largest of random
weights: cycles do not depend on which weights those are.
"""

import numpy as np
import torch

from codesign.trace import trace_model
from models.nets import build
from simulator import Trace, load_machine, simulate
from simulator.chip import simulate_chip
from simulator.counts import Count
from simulator.structure import parse, project

MACHINE = "nm_array?rows=64&cols=64&dram_bytes_per_cycle=32&vector_lanes=64&layer_startup_cycles=1000"
ON_CHIP = "&shared_buffer_bytes=4194304&keep_outputs_on_chip=true"
rng = np.random.default_rng(0)


def pruned(trace: Trace) -> Trace:
    """2:4 along the reduction of every ordinary convolution and linear layer whose weights are parameters."""
    layers = []
    for layer in trace.layers:
        gemm = layer.operation.gemm()
        if layer.operation.groups == 1 and layer.weight_source == "parameter" and gemm.k % 4 == 0:
            kept = project(rng.random((gemm.k, gemm.n), dtype=np.float32), parse("2:4"))
            mask = kept if layer.operation.kind == "gemm" else kept.T.reshape(layer.operation.weight_shape)
            layer = layer.replace(weight_mask=mask, structure="2:4")
        layers.append(layer)
    return Trace(layers, trace.edges, operators=trace.operators)


print(f"{'network':13} {'layers':>8} {'network':>8} {'bound':>8}   {'kept on chip':>17}   two arrays")
for name in ("resnet18", "vgg11", "mobilenet_v2", "vit_tiny"):
    size = {"image": 112} if name == "vit_tiny" else {}
    trace = pruned(trace_model(build(name, seed=0, **size), torch.rand(1, 3, 112, 112)))
    machine = load_machine(MACHINE)
    report = simulate(trace, machine)
    # What 2:4 leaves alone: the operators between the layers, and starting each layer.
    fixed = sum(one.total.cycles for one in report.operators)
    fixed += sum(int(layer.total.counts[Count.STARTUP]) for layer in report.layers)
    dense = report.dense.cycles
    gain = (dense - fixed) / (report.cycles - fixed)
    kept = simulate(trace, load_machine(MACHINE + ON_CHIP), compare_dense=False).kept_on_chip
    chip = simulate_chip([(trace, machine), (trace, machine)])
    print(f"{name:13} {gain:7.3f}x {report.speedup:7.3f}x {dense / fixed:7.1f}x   "
          f"{len(kept):2} of {len(trace.layers):2}, {sum(one.dram_bytes_saved for one in kept) / 1e6:5.1f} MB   "
          f"{chip.arrays[0].slowdown:.2f}x slower")
    print(f"  {report.coverage.line()}")
