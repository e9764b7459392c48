"""Is the demo's choice any good?  Every arm of the demo over several seeds; python benchmarks/demo_seeds.py [--help]

Arms: dense; magnitude to the same number of weights; plain uniform 2:4; each uniform structure at the largest share
that meets the target (with channel removal where an n:m pattern alone cannot); Espalier's choice.  All with the same
data, epochs and seed.  Every arm is a run directory under --out, so that an interrupted benchmark goes on where it
was; the table goes to benchmarks/results/demo_seeds.json with --write.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import describe, write_result

ARMS = {
    "ours": ["compare.rows=['magnitude', '2:4']"],
    "uniform channel": ["hardware.only='uniform channel'", "compare.rows=[]"],
    "uniform 2:4": ["hardware.only='uniform 2:4'", "compare.rows=[]"],
    "uniform 1:4": ["hardware.only='uniform 1:4'", "compare.rows=[]"],
    "dense": ["hardware.target_latency=1.0", "hardware.candidates=['dense']", "compare.rows=[]"],
}


def run(arm: str, seed: int, out: Path, config: str, extra: list[str]) -> dict[str, object]:
    """Train one arm, or go on with it, and return its JSON."""
    folder = out / f"{arm.replace(' ', '-').replace(':', '-')}-{seed}"
    report = folder / "report.json"
    if report.is_file() and (arm != "ours" or "comparison" in json.loads(report.read_text())):
        return json.loads(report.read_text())
    command = [sys.executable, "-m", "codesign.cli", "train", config, "--out", str(folder), "--json"]
    for item in [f"seed={seed}", *ARMS[arm], *extra]:
        command += ["--set", item]
    if (folder / "config.toml").is_file():
        command.append("--resume")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm}, seed {seed}: {done.stderr[-2000:]}")
    print(f"{arm}, seed {seed} done", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], dest="extra", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    tasks = [(arm, seed) for seed in given.seeds for arm in ARMS]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(lambda task: run(*task, given.out, given.config, given.extra), tasks))
    table: dict[str, list[dict[str, float]]] = {}
    for (arm, _), result in zip(tasks, results, strict=True):
        total, dense = result["machines"][0]["total"], result["machines"][0]["dense"]
        table.setdefault(arm, []).append(
            {"seed": result["seed"], "accuracy": result["accuracy"], "cycles": total["cycles"],
             "share": total["cycles"] / dense["cycles"], "seconds": result["training"]["seconds"]})
        for row in result.get("comparison", [])[:-1]:
            table.setdefault(f"plain {row['label']}", []).append(
                {"seed": result["seed"], "accuracy": row["accuracy"], "cycles": row["cycles"],
                 "share": row["cycles"] / row["dense_cycles"], "seconds": row["seconds"]})
    print(f"{'network':28} {'accuracy, mean':>15} {'by seed':>24} {'of dense cycles':>16}")
    for arm, rows in table.items():
        accuracies = [row["accuracy"] for row in rows]
        print(f"{arm:28} {statistics.mean(accuracies):15.2f} {' '.join(f'{a:.2f}' for a in accuracies):>24} "
              f"{max(row['share'] for row in rows):16.3f}")
    if given.write:
        write_result("demo_seeds", {"config": given.config, "set": given.extra, "arms": table}, describe())


if __name__ == "__main__":
    main()
