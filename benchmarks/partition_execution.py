"""TinyVGG16's chain of linear layers in P parts on P arrays, beside itself whole and on one; --help for more.

Whole or in parts, on one array or on P: the two gains of a partition, each alone and both together.  Cycles depend on
the sizes of the parts alone, not on which neurons are in them (a test), so the neurons are cut in order here.
"""

import argparse
import sys

import numpy as np
import torch
from machine import describe, write_result

from codesign.partition import contiguous, masks
from codesign.partition_execution import execution
from models.nets import build
from simulator import Gemm, LayerTrace, load_machine

PARTS = (2, 3, 4, 8)
MACHINES = {"a DRAM channel for each array": "multi_array", "one DRAM channel for all": "multi_array?shared_dram=true"}
# arXiv 1901.11391, abstract: the pruned layers on several accelerators against the unpruned ones on one; P not given.
PUBLISHED = {"speedup": 7.72, "energy_ratio": 2.73}


def shapes() -> list[tuple[int, int]]:
    """[out, in] of the chain's layers."""
    with torch.device("meta"):
        net = build("tiny_vgg16")
    return [tuple(module.weight.shape) for module in net.modules() if isinstance(module, torch.nn.Linear)]


def partitioned(sizes: list[tuple[int, int]], parts: int, rows: int) -> list[LayerTrace]:
    """The chain with the masks of an even partition, for `rows` images at once."""
    scores = [np.broadcast_to(np.float32(1.0), size) for size in sizes]
    found = masks(contiguous(scores, parts, np.random.default_rng(0)))
    return [LayerTrace(f"fc{index}", Gemm(rows, *mask.T.shape), np.ascontiguousarray(mask.T))
            for index, mask in enumerate(found, start=1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="images at once (default 1 and 16)")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    sizes, rows = shapes(), []
    print(f"{'machine':32} {'batch':>5} {'P':>2} {'':20} {'cycles':>12} {'speed-up':>9} {'energy':>8}")
    for (label, name), batch, parts in ((m, b, p) for m in MACHINES.items() for b in given.batch for p in PARTS):
        found = execution(partitioned(sizes, parts, batch), load_machine(name), parts)
        rows += [{"machine": label, "batch": batch, "parts": parts, "arm": arm, **figures}
                 for arm, figures in found.items()]
        for arm, figures in found.items():
            print(f"{label:32} {batch:5} {parts:2} {arm:20} {figures['cycles']:12,} {figures['speedup']:8.2f}x "
                  f"{figures['energy_ratio']:7.2f}x", flush=True)
    print(f"the paper, P not given: {PUBLISHED['speedup']}x and {PUBLISHED['energy_ratio']}x", file=sys.stderr)
    if given.write:
        write_result("partition_execution", {"chain": sizes, "published": PUBLISHED, "execution": rows}, describe())


if __name__ == "__main__":
    main()
