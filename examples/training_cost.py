"""What a training step costs in joules: dense, with fewer error-map channels, with fewer instances.

    python examples/training_cost.py

A step is recorded in PyTorch, error maps included, and costed on two machines.  Error-map pruning keeps 40 % of the
channels of each convolution in the backward pass (here those with the largest kernels); an early instance filter would
let a quarter of the batch run backward.
"""

import torch
from torch import nn

from codesign.trace_training import trace_training_step
from models.batching import batches
from models.data import load
from simulator import load_machine
from simulator.training import training_iteration
from simulator.training_state import Updates

torch.manual_seed(0)
data = load("fashion-mnist-mini", limit=64)
x, y = next(batches(data.train_images, data.train_labels, 8, seed=0, epoch=0, mean=data.mean, std=data.std))
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)


def loss(logits: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, y)


kept = {}
for name, layer in model.named_children():
    if isinstance(layer, nn.Conv2d):
        norms = layer.weight.detach().abs().sum(dim=(1, 2, 3))
        kept[name] = norms >= norms.topk(round(0.4 * len(norms))).values.min()

whole, pruned = trace_training_step(model, x, loss), trace_training_step(model, x, loss, kept_errors=kept)
for machine in map(load_machine, ("systolic_ws", "sparten")):
    updates = Updates("sgd_momentum")
    steps = {
        "dense": training_iteration(whole, machine, updates),
        "40 % of the error-map channels": training_iteration(pruned, machine, updates),
        "2 of 8 instances backward": training_iteration(whole, machine, updates, backward_instances=2),
        "both": training_iteration(pruned, machine, updates, backward_instances=2),
    }
    for label, step in steps.items():
        print(f"{machine.name:12} {label:32} {step.cycles:12,.0f} cycles  {step.energy_j * 1e6:8.2f} uJ  "
              f"{step.energy_j / steps['dense'].energy_j:.2f} of dense")
    assert steps["both"].energy_j < steps["dense"].energy_j
