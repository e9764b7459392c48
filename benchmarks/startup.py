"""How long until the first answer?  Prints the four start-up times; python benchmarks/startup.py [--write]

Each figure is the median of several fresh processes.  `--write` keeps them in benchmarks/results/startup.json.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, write_result

ROOT = Path(__file__).resolve().parents[1]
FIRST = """
from simulator import Gemm, LayerTrace, Trace, load_machine, simulate
simulate(Trace([LayerTrace('layer', Gemm(64, 64, 64))]), load_machine('systolic_ws'))
"""


def seconds(command: list[str], runs: int, **environment: str) -> float:
    """Median wall-clock seconds of a command over `runs` processes."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def import_seconds(name: str, runs: int) -> float:
    """Median seconds of `import name` itself, the interpreter's own start not counted."""
    code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    runs_of_it = [subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True) for _ in range(runs)]
    return statistics.median(float(run.stdout) for run in runs_of_it)


def main() -> None:
    command = shutil.which("espalier", path=str(Path(sys.executable).parent)) or "espalier"
    with tempfile.TemporaryDirectory() as empty:
        cold = seconds([sys.executable, "-c", FIRST], 1, ESPALIER_CACHE_DIR=empty)
        warm = seconds([sys.executable, "-c", FIRST], 5, ESPALIER_CACHE_DIR=empty)
    figures = {
        "espalier --help, s": (seconds([command, "--help"], 5), 0.5),
        "import simulator, s": (import_seconds("simulator", 7), 0.3),
        "first simulation on an empty kernel cache, s": (cold, 20.0),
        "first simulation of a process afterwards, s": (warm, 2.0),
    }
    for name, (value, limit) in figures.items():
        print(f"{name:48} {value:7.3f}   limit {limit}")
    if "--write" in sys.argv:
        write_result("startup", {name: round(value, 4) for name, (value, _) in figures.items()}, describe())


if __name__ == "__main__":
    main()
