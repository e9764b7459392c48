"""What each solver keeps of the weights when a network's linear layers are cut into P parts, and how long it takes.

    python benchmarks/partition_solvers.py runs/partition/dense-0 runs/partition/dense-1 [--parts 2 3 4 8] [--write]

The runs are of `espalier train`, dense ones such as the arm "dense" of experiments/partition.toml.  Kept by chance is
1/P of the summed |w|.  Without a run: TinyVGG16's 25088-4096-2048-200 as it is initialised.
"""

import argparse
import time
from pathlib import Path

import torch
from machine import describe, write_result

from codesign.export import load_exported
from codesign.partition import SOLVERS, kept, solve
from codesign.partition_chain import chain_of, scores_of
from models.nets import build


def measured(
    label: str, model: torch.nn.Module, image: torch.Tensor, parts: int, tries: int
) -> list[dict[str, object]]:
    """A row for every solver."""
    scores = [score.numpy() for score in scores_of(model, chain_of(model, image))]
    whole, rows = sum(float(score.sum(dtype="float64")) for score in scores), []
    for solver in SOLVERS:
        started = time.process_time()
        places = solve(scores, parts, solver, tries=tries)
        seconds = time.process_time() - started
        share = kept(scores, places) / whole * parts
        rows.append({"network": label, "parts": parts, "solver": solver, "kept_times_parts": share,
                     "seconds": seconds})
        print(f"{label:16} P = {parts} {solver:14} keeps {share:.4f} / P, {seconds:.1f} s of CPU", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path)
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    networks = [(run.name, found.model, torch.zeros(found.architecture.input_shape))
                for run in given.runs for found in [load_exported(run / "model")]]
    if not networks:
        networks = [("tiny_vgg16", build("tiny_vgg16", seed=0).eval(), torch.zeros(1, 3, 56, 56))]
    rows = [row for network in networks for parts in given.parts for row in measured(*network, parts, given.tries)]
    if given.write:
        write_result("partition_solvers" if given.runs else "partition_solvers_tiny_vgg16",
                     {"tries": given.tries, "rows": rows}, describe())


if __name__ == "__main__":
    main()
