"""Prune a network of one's own to half of its latency on a machine; python examples/own_network.py [EPOCHS]

The training loop is an ordinary PyTorch loop with one line more.  Images: the embedded Fashion-MNIST subset.
"""

import sys

import torch
from torch import nn

from codesign import HardwareCost, Pruner
from codesign.trace import trace_model
from models.batching import batches
from models.data import load
from simulator import load_machine, simulate

torch.manual_seed(0)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
data = load("fashion-mnist-mini", limit=3000)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(64, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
scale = {"mean": data.mean, "std": data.std}
steps = epochs * -(-len(data.train_images) // 64)
example = next(batches(data.train_images[:1], data.train_labels[:1], 1, seed=0, epoch=0, **scale))[0]

cost = HardwareCost("nm_array", target_latency=0.5)
pruner = Pruner(model, {}, optimizer=optimizer, example_inputs=example, cost=cost, total_steps=steps)
for epoch in range(epochs):
    for x, y in batches(data.train_images, data.train_labels, 64, seed=0, epoch=epoch, **scale):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
pruner.finalize()

for choice in pruner.choices:
    print(f"{choice.layer:4} {choice.structure:8} {choice.density:6.1%} of its weights")
report = simulate(trace_model(model, example, pruner.masks), load_machine("nm_array"))
print(f"{report.cycles:,} cycles, {report.speedup:.2f} times as fast as dense")
assert report.cycles <= 0.5 * report.dense.cycles
