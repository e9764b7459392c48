"""What masks cost in a training step: Espalier's beside torch.nn.utils.prune and, where installed, torch-pruning.

    .venv/bin/python benchmarks/mask_cost.py [--network resnet20] [--batch 32] [--rounds 100] [--write]

The same network is trained in five ways that take turns within a round: without masks; with masks applied after
every step; with masks that are made anew at every step from the magnitude of all weights; with the mask of
torch.nn.utils.prune, a multiplication in every forward pass; and with its masks made anew at every step by its own
L1Unstructured.  A step is forward, backward, SGD with momentum, and the masks.  Figures are medians; what a way adds is
the median over the rounds of (its step - the plain step) / the plain step, the two taken next to each other.
torch-pruning removes channels once and has no mask to apply: what it takes to score and remove them once is given.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import describe, write_result
from torch import nn
from torch.nn.utils import prune

from codesign import Pruner
from models import build

APPLY_LIMIT, RECOMPUTE_LIMIT = 0.03, 0.10
"""Of a training step at batch 32."""
SPARSITY = 0.8

Step = Callable[[], None]


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.optim.Optimizer, Step]:
    """(an optimizer, one training step with it)."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return optimizer, step


def with_pruner(model: nn.Module, x: torch.Tensor, y: torch.Tensor, every: bool) -> Step:
    """Espalier's pruner: at its final sparsity, where masks are only applied, or on its way, `every` step a new one."""
    optimizer, step = plain(model, x, y)

    def rising(progress: float) -> float:
        return 0.9 + 0.1 * progress  # a little more at every step, so that every step makes masks

    settings = {"structure": "unstructured", "sparsity": SPARSITY, "schedule": rising if every else "constant"}
    pruner = Pruner(model, settings | {"update_every": 1}, optimizer, total_steps=100_000 if every else 1)
    if not every:
        step()
        pruner.step()

    def both() -> None:
        step()
        made = len(pruner.history)
        pruner.step()
        assert len(pruner.history) - made == every

    return both


def with_torch(model: nn.Module, x: torch.Tensor, y: torch.Tensor, every: bool) -> Step:
    """torch.nn.utils.prune on the same layers, as its tutorial uses it."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]
    for layer in layers:
        prune.l1_unstructured(layer, "weight", SPARSITY)
    _, step = plain(model, x, y)

    def both() -> None:
        step()
        if every:
            for layer in layers:
                prune.remove(layer, "weight")
                prune.l1_unstructured(layer, "weight", SPARSITY)

    return both


def torch_pruning_seconds(model: nn.Module, x: torch.Tensor) -> dict[str, object]:
    """Seconds that torch-pruning takes to score and remove half the channels once, or why there are none."""
    try:
        import torch_pruning
    except ImportError:
        return {"network": "torch-pruning", "note": "not installed (pip install torch-pruning)"}
    ignored = [m for m in model.modules() if isinstance(m, nn.Linear)]
    started = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(model, x[:1], torch_pruning.importance.MagnitudeImportance(),
                                                  pruning_ratio=0.5, ignored_layers=ignored)
    pruner.step()
    return {"network": "torch-pruning, once", "version": torch_pruning.__version__,
            "ms": 1e3 * (time.perf_counter() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = build(arguments.network, in_channels=3, num_classes=10, seed=0).train()
    x, y = torch.randn(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
    ways: dict[str, Step] = {
        "plain": plain(copy.deepcopy(net), x, y)[1],
        "espalier, masks applied": with_pruner(copy.deepcopy(net), x, y, every=False),
        "espalier, masks made every step": with_pruner(copy.deepcopy(net), x, y, every=True),
        "torch.nn.utils.prune, masks applied": with_torch(copy.deepcopy(net), x, y, every=False),
        "torch.nn.utils.prune, masks made every step": with_torch(copy.deepcopy(net), x, y, every=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    beside: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(arguments.rounds + 2):
        for name, step in ways.items():
            # Each way has a plain step of its own right before or after it, in turn: a machine that other work
            # slows down slows both.
            pair = [(ways["plain"], beside[name]), (step, seconds[name])]
            for run, times in pair if round_ % 2 else pair[::-1]:
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
    rows: list[dict[str, object]] = []
    for name, times in seconds.items():
        own, other = times[2:], beside[name][2:]
        added = statistics.median(a / b for a, b in zip(own, other, strict=True)) - 1.0
        rows.append({"network": name, "ms": 1e3 * statistics.median(own), "added": added})
        print(f"{name:45} {rows[-1]['ms']:8.2f} ms a step  {100 * added:+6.1f} %")
    rows.append(torch_pruning_seconds(copy.deepcopy(net).eval(), x))
    print(rows[-1])
    if arguments.write:
        figures = {"network": arguments.network, "image": 32, "batch": arguments.batch, "rounds": arguments.rounds,
                   "sparsity": SPARSITY, "limits": {"applied": APPLY_LIMIT, "made every step": RECOMPUTE_LIMIT},
                   "rows": rows}
        write_result("mask_cost", figures, describe() | {"torch": torch.__version__, "threads": 1})


if __name__ == "__main__":
    main()
