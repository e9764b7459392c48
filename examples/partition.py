"""Linear layers in four parts for four arrays: divide, mask, cut into small chains, and what an array makes of it.

    python examples/partition.py

After `espalier train partition` the same works on the exported network: its masks say which neuron is in which part
(codesign.partition.places_of).
"""

import tempfile
from pathlib import Path

import torch

from codesign.partition import SOLVERS, kept, masks, solve
from codesign.partition_blocks import compacted, load_chains, save_chains
from codesign.partition_chain import chain_of, scores_of
from codesign.partition_execution import execution
from codesign.trace import trace_model
from models.nets import build
from simulator import load_machine

PARTS = 4
model, image = build("lenet5", seed=0, widths=[6, 16, 512, 256]).eval(), torch.zeros(1, 1, 28, 28)
chain = chain_of(model, image)
scores = [score.numpy() for score in scores_of(model, chain)]
whole = sum(float(score.sum()) for score in scores)
for solver in SOLVERS:
    print(f"{solver:14} keeps {kept(scores, solve(scores, PARTS, solver)) / whole:.4f} of all |w|")

places = solve(scores, PARTS, "kernighan_lin")
found = dict(zip(chain.layers, masks(places), strict=True))
for name, mask in found.items():
    model.get_submodule(name).weight.data *= torch.from_numpy(mask)
small, images = compacted(model, chain, places), torch.randn(8, 1, 28, 28)
print(f"largest difference of the outputs: {float((small(images) - model(images)).detach().abs().max()):.1e}")
with tempfile.TemporaryDirectory() as folder:
    save_chains(Path(folder) / "chains.safetensors", model, chain, places)
    parts = load_chains(Path(folder) / "chains.safetensors")
    print(f"{len(parts)} chains, the first of {sum(values.size for values in parts[0].values()):,} numbers")

layers = [layer for layer in trace_model(model, image, found).layers if layer.name in chain.layers]
for arm, figures in execution(layers, load_machine("multi_array"), PARTS).items():
    print(f"{arm:18} {figures['cycles']:7,} cycles, {figures['speedup']:5.2f}x, energy {figures['energy_ratio']:.2f}x")
