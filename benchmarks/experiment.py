"""Arms and seeds of one question, trained one after the other; python benchmarks/experiment.py NAME [--help]

NAME is a file of experiments/: a shipped configuration, settings common to all arms, arms as lists of settings, and
seeds.  The setting "config=OTHER" gives an arm another shipped configuration.  Every run is a directory under --out,
so that an interrupted experiment goes on where it was; the table goes to benchmarks/results/NAME.json with --write.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from machine import describe, write_result

from simulator import Trace
from simulator.stored import stored_weights

EXPERIMENTS = Path(__file__).parent / "experiments"
OTHER = "config="
FIELDS = {"config": str, "question": str, "seeds": list, "set": list, "arms": dict}


def load(name: str) -> dict[str, object]:
    """The experiment of that name.  Exits with a message where there is none or it is not complete."""
    path = EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in EXPERIMENTS.glob("*.toml")))
        raise SystemExit(f"no experiment {name!r}; expected one of {known}")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    wrong = [key for key, kind in FIELDS.items() if not isinstance(table.get(key), kind)] + [*table.keys() - FIELDS]
    if wrong:
        raise SystemExit(f"{path}: {', '.join(wrong)}: expected exactly the fields {', '.join(FIELDS)}")
    return table


def run(arm: str, settings: list[str], seed: int, config: str, out: Path, device: str) -> dict[str, object]:
    """Train one arm with one seed, or go on with it, or take what is there; its JSON."""
    for other in [item for item in settings if item.startswith(OTHER)]:
        config = other.removeprefix(OTHER)
        settings = [item for item in settings if item != other]
    folder = out / f"{arm.replace(' ', '-')}-{seed}"
    report = folder / "report.json"
    if report.is_file():
        return json.loads(report.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "codesign.cli", "train", config, "--out", str(folder), "--json",
               "--device", device]
    for item in [f"seed={seed}", *settings]:
        command += ["--set", item]
    if (folder / "config.toml").is_file():
        command = [*command[:3], "train", "--out", str(folder), "--json", "--device", device, "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm}, seed {seed}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    print(f"{arm}, seed {seed}: {result['accuracy']:.2f} %, {result['training']['seconds']:.0f} s", file=sys.stderr,
          flush=True)
    return result


def figures(result: dict[str, object]) -> dict[str, object]:
    """What the table has of one run, and its validation accuracy by epoch."""
    training = result["training"]
    row = {"seed": result["seed"], "accuracy": result["accuracy"], "weight_sparsity": result["weight_sparsity"],
           "training_macs": training["macs"], "training_macs_share": training["macs"] / training["dense_macs"],
           "seconds": training["seconds"]}
    for machine in result["machines"]:
        row[f"speedup on {machine['machine']}"] = machine["speedup"]
        row[f"energy ratio on {machine['machine']}"] = machine["energy_ratio"]
    stored = stored_weights(Trace.load(Path(str(result["run"])) / "trace.safetensors"))
    row |= {"dense_bytes": stored.dense, "stored_bytes": stored.smallest}
    lines = (Path(str(result["run"])) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [entry for entry in map(json.loads, lines) if entry["event"] == "epoch"]
    row["validation_curve"] = [round(entry["validation_accuracy"], 2) for entry in epochs]
    return row | {part: result[part] for part in ("recipe", "robustness") if part in result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--data", help="what data=... is set to, such as fashion-mnist:DIR; the configuration's if not")
    parser.add_argument("--out", type=Path, help="where the runs are (default runs/NAME)")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], dest="extra", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    plan = load(given.name)
    common = [*plan["set"], *([f"data={given.data}"] if given.data else []), *given.extra]
    arms = {name: settings for name, settings in plan["arms"].items() if not given.arms or name in given.arms}
    out = given.out or Path("runs") / given.name
    tasks = [(arm, seed) for seed in given.seeds or plan["seeds"] for arm in arms]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(
            lambda task: run(task[0], [*common, *arms[task[0]]], task[1], plan["config"], out, given.device), tasks))
    table: dict[str, list[dict[str, object]]] = {}
    for (arm, _), result in zip(tasks, results, strict=True):
        table.setdefault(arm, []).append(figures(result))
    print(plan["question"])
    print(f"{'arm':28} {'accuracy, mean':>15} {'by seed':>30} {'sparsity':>9} {'training MACs':>14}")
    for arm, rows in table.items():
        accuracies = [row["accuracy"] for row in rows]
        print(f"{arm:28} {statistics.mean(accuracies):15.2f} {' '.join(f'{a:.2f}' for a in accuracies):>30} "
              f"{statistics.mean(row['weight_sparsity'] for row in rows):9.4f} "
              f"{statistics.mean(row['training_macs_share'] for row in rows):14.3f}")
    if given.write:
        shown = [item for item in common if not item.startswith("data=")]
        data = (given.data or "the configuration's").split(":")[0]
        write_result(given.name, {"question": plan["question"], "config": plan["config"], "data": data, "set": shown,
                                  "device": given.device, "arms": table}, describe())


if __name__ == "__main__":
    main()
