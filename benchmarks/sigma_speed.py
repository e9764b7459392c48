"""How fast is SIGMA's model?  One GEMM at 80 % zeros on 256 multipliers, warm; add --write to keep the figures.

A full `simulate` with its dense twin, one core.  The first call, which may compile, is printed apart.
"""

import os

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import statistics
import sys
import time

import numpy as np
from machine import describe, write_result

from simulator import Gemm, LayerTrace, Trace, load_machine, simulate

LIMIT_MS = 50.0


def main() -> None:
    rng = np.random.default_rng(0)
    operation = Gemm(256, 128, 1024)
    weights, inputs = (rng.random(shape) < 0.2 for shape in (operation.weight_shape, operation.input_shape))
    layer = LayerTrace("gemm", operation, weights, inputs)
    machine = load_machine("sigma", {"multipliers": 256})
    taken = []
    for _ in range(21):
        start = time.perf_counter()
        report = simulate(Trace([layer]), machine)
        taken.append((time.perf_counter() - start) * 1e3)
    warm = statistics.median(taken[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"first call, compiling where the cache is empty: {taken[0]:.1f} ms")
    print(f"warm: {warm:.2f} ms (limit {LIMIT_MS} ms); {report.cycles} cycles")
    print(f"speed-up over dense {report.speedup:.2f}; peak memory {peak:.0f} MiB")
    if "--write" in sys.argv:
        figures = {"first_ms": round(taken[0], 2), "warm_ms": round(warm, 3), "cycles": report.cycles,
                   "peak_memory_mib": round(peak)}
        write_result("sigma_speed", figures, describe())


if __name__ == "__main__":
    main()
