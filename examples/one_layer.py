"""The simulator by itself, one layer: where do the cycles of a 2:4 mask go?  python examples/one_layer.py"""

import numpy as np

from simulator import Conv2d, LayerTrace, Trace, load_machine, simulate
from simulator.structure import parse, project

operation = Conv2d(in_channels=64, out_channels=64, in_h=14, in_w=14, kernel_h=3, kernel_w=3, padding_h=1, padding_w=1)
scores = np.random.default_rng(0).random((64 * 9, 64))  # any importance; a trained network's are in its trace
mask = project(scores, parse("2:4")).T.reshape(operation.weight_shape)

for memory in ("ideal", "channel"):
    machine = load_machine("nm_array", {"memory": memory})
    report = simulate(Trace([LayerTrace("conv", operation, mask, structure="2:4")]), machine)
    print(f"{memory:8} {report.cycles:7,} cycles, {report.speedup:.2f}x of dense; {report.cycles_by_cause}")
