r"""Espalier and SCALE-Sim side by side on one topology: the same numbers, and the CPU time of each.

SCALE-Sim 3.0.0 is installed with numpy < 2.4 in an environment of its own, each tool runs in its own process, and
every layer's Total Cycles, SRAM counts and mapping efficiency are compared.  Its os writes hold F * (R + C) cycles too
many and its N:M reads a factor; docs/model.md says why we do not copy them.

    python benchmarks/against_scalesim.py
    python benchmarks/against_scalesim.py --topology examples/resnet50.csv \
        --out benchmarks/results/resnet50_scalesim.json
    python benchmarks/against_scalesim.py --topology mine.csv --config mine.cfg    (conv form, trailing commas)
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER, PEER_PINS = "scalesim==3.0.0", ["scalesim==3.0.0", "numpy<2.4"]
OURS = """
import statistics
import sys
import time
from simulator import load_machine, simulate
from simulator.importers.scalesim import read_topology
from simulator.importers.scalesim_reports import write_reports
trace, machine = read_topology(sys.argv[1], convention="scalesim"), load_machine(sys.argv[2])
write_reports(simulate(trace, machine), sys.argv[3])
taken = []
for _ in range(int(sys.argv[4])):
    start = time.process_time()
    simulate(trace, machine, compare_dense=False).to_dict()
    taken.append(time.process_time() - start)
print(statistics.median(taken) if taken else 0.0)
"""
# Its command line writes traces whatever `-s` says; its class does not, which is the faster, fairer way.
THEIRS = """
import sys
import time
from scalesim.scale_sim import scalesim
run = scalesim(save_disk_space=True, verbose=False, topology=sys.argv[1], config=sys.argv[2], layout=sys.argv[3],
               input_type_gemm=False)
start = time.process_time()
run.run_scale(top_path=sys.argv[4])
print("call", time.process_time() - start)
"""
WARM_CALLS = 50
COMPARED = {
    "COMPUTE_REPORT.csv": ("Total Cycles", "Mapping Efficiency %"),
    "DETAILED_ACCESS_REPORT.csv": ("SRAM IFMAP Reads", "SRAM Filter Reads", "SRAM OFMAP Writes"),
}


def main() -> int:
    """Run both, print and save the comparison; exit status 1 where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", type=Path, default=ROOT / "examples" / "resnet18.csv")
    parser.add_argument("--config", type=Path, default=ROOT / "examples" / "scalesim_128x128_ws.cfg")
    parser.add_argument("--environment", type=Path, help="where SCALE-Sim's environment is or will be made")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "against_scalesim.json")
    options = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espalier" / "scalesim-3.0.0"
    peer_python = environment(options.environment or cache)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours = [sys.executable, "-c", OURS, str(options.topology), str(options.config), str(folder / "ours")]
        first, _, _ = cpu_seconds([*ours, "0"])
        mine, mine_wall, _ = cpu_seconds([*ours, "0"])
        _, _, my_call = cpu_seconds([*ours, str(WARM_CALLS)])
        layout = layout_for(options.topology, folder / "layout.csv")
        peer, peer_wall, peer_call = cpu_seconds(
            [str(peer_python), "-c", THEIRS, str(options.topology), str(options.config), str(layout),
             str(folder / "peer")])
        theirs = next((folder / "peer").iterdir())
        rows = compare(folder / "ours", theirs)
    result = {
        "question": "does Espalier give SCALE-Sim's numbers, and at what cost?",
        "command": " ".join(["python benchmarks/against_scalesim.py", *sys.argv[1:]]),
        "topology": options.topology.name,
        "config": options.config.name, "layers": len(rows),
        "cpu_seconds": {"espalier_first_run": first, "espalier": mine, "scalesim": peer, "ratio": peer / mine},
        "cpu_seconds_of_the_call": {
            "what": f"inside the process, imports and parsing apart: ours warm, median of {WARM_CALLS} full reports",
            "espalier": my_call, "scalesim": peer_call, "ratio": peer_call / my_call},
        "wall_seconds": {"espalier": mine_wall, "scalesim": peer_wall},
        "all_equal": all(row["equal"] for row in rows), "rows": rows,
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": versions(peer_python), "commit": commit(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)
    return 0 if result["all_equal"] else 1


def environment(folder: Path) -> Path:
    """The interpreter of SCALE-Sim's own environment, made on first use."""
    python = folder / "bin" / "python"
    if not python.is_file():
        print(f"installing {PEER} in an environment of its own ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PINS], check=True)
    return python


def layout_for(topology: Path, layout: Path) -> Path:
    """A layout file, which SCALE-Sim asks for even where no custom layout is used: any csv of sizes passes."""
    lines = topology.read_text(encoding="utf-8").splitlines()
    rows = [",".join(line.split(",")[:8]) + ",\n" for line in lines if line.strip()]
    layout.write_text("".join(rows), encoding="utf-8")
    return layout


def cpu_seconds(command: list[str]) -> tuple[float, float, float]:
    """(CPU, wall) seconds of a process on one thread, imports included, and the last number that it printed."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, cwd=ROOT, env=variables, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, float(done.stdout.split()[-1])


def table(path: Path) -> list[dict[str, float]]:
    """Rows of a report by column; both tools write the same columns."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [{key.strip(): float(value) for key, value in row.items() if key.strip() and value.strip()}
                for row in csv.DictReader(handle)]


def compare(ours: Path, theirs: Path) -> list[dict[str, object]]:
    """One entry per layer: each compared number of both, and whether all are equal to the last digit."""
    rows: list[dict[str, object]] = []
    for name, columns in COMPARED.items():
        mine, peer = table(ours / name), table(theirs / name)
        if len(mine) != len(peer):
            raise SystemExit(f"{name}: {len(mine)} rows of ours, {len(peer)} of SCALE-Sim's")
        for index, (left, right) in enumerate(zip(mine, peer, strict=True)):
            if index == len(rows):
                rows.append({"layer": index, "equal": True})
            for column in columns:
                rows[index][column] = left[column]
                if left[column] != right[column]:
                    rows[index].update({"equal": False, f"SCALE-Sim's {column}": right[column]})
    return rows


def versions(peer_python: Path) -> dict[str, str]:
    """Versions of both interpreters' packages that matter."""
    script = ("import importlib.metadata as m, json, sys; print(json.dumps("
              "{name: m.version(name) for name in sys.argv[1:]}))")
    found = {}
    for label, python, names in (("espalier", sys.executable, ["numpy", "numba"]),
                                 ("scalesim", str(peer_python), ["scalesim", "numpy"])):
        text = subprocess.run([python, "-c", script, *names], check=True, capture_output=True, text=True).stdout
        found.update({f"{label}: {name}": version for name, version in json.loads(text).items()})
    return {"python": platform.python_version(), **found}


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The repository's commit, or "unknown" outside of one."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def show(result: dict[str, object]) -> None:
    """The comparison as a table."""
    rows, seconds = result["rows"], result["cpu_seconds"]
    assert isinstance(rows, list)
    assert isinstance(seconds, dict)
    columns = [column for group in COMPARED.values() for column in group]
    print("layer  " + "  ".join(f"{column:>20}" for column in columns) + "  equal")
    for row in rows:
        print(f"{row['layer']:>5}  " + "  ".join(f"{row[column]:>20.10g}" for column in columns)
              + ("  yes" if row["equal"] else "  NO"))
    print(f"CPU seconds: Espalier {seconds['espalier']:.2f} (first run {seconds['espalier_first_run']:.2f}), "
          f"SCALE-Sim {seconds['scalesim']:.1f}: {seconds['ratio']:.0f} times")
    call = result["cpu_seconds_of_the_call"]
    assert isinstance(call, dict)
    print(f"CPU of the call alone, warm: Espalier {call['espalier'] * 1e3:.2f} ms, SCALE-Sim {call['scalesim']:.1f} s: "
          f"{call['ratio']:.0f} times")


if __name__ == "__main__":
    sys.exit(main())
