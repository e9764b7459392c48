"""What does the DRAM timing model cost?  python benchmarks/dram_speed.py [--write]

A GEMM of 1024 x 1024 x 1024 and ResNet-50 (224 x 224), dense, 8 bits, tilings searched with the DRAM's own times, on a
128 x 128 weight-stationary array with DDR4-2400; one core, warm, compilation printed apart.  CPU time, best of three.
"""

import resource
import sys
import time

from machine import describe, write_result
from simulate_networks import resnet

from simulator import Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count

LIMITS_S = {"GEMM 1024^3": 0.05, "ResNet-50": 1.0}


def main() -> None:
    machine = load_machine("systolic_ws", {
        "memory": "dram", "dram": "ddr4_2400", "dram_latency_cycles": 30, "rows": 128, "cols": 128,
        "input_buffer_bytes": 2**20, "weight_buffer_bytes": 2**20, "output_buffer_bytes": 2**20})
    workloads = {
        "GEMM 1024^3": Trace([LayerTrace("gemm", Gemm(1024, 1024, 1024))]),
        "ResNet-50": Trace([LayerTrace(name, operation) for name, operation in resnet((3, 4, 6, 3), bottleneck=True)]),
    }
    start = time.perf_counter()
    simulate(Trace([LayerTrace("first", Gemm(8, 8, 8))]), machine)
    first_s = time.perf_counter() - start
    print(f"first layer of the process (compiling unless cached): {first_s:.2f} s")
    figures: dict[str, object] = {"first layer of the process, s": round(first_s, 3)}
    for name, trace in workloads.items():
        taken = []
        for _ in range(3):
            begin = time.process_time()
            report = simulate(trace, machine, compare_dense=False)
            taken.append(time.process_time() - begin)
        counts = report.total.counts
        bursts = int(counts[[Count.DRAM_ROW_HITS, Count.DRAM_ROW_MISSES, Count.DRAM_ROW_CONFLICTS]].sum())
        traffic = bursts * machine.memory.burst_bytes
        moved, per = machine.memory.bandwidth()
        print(f"{name:12} {min(taken) * 1e3:8.1f} ms   limit {LIMITS_S[name] * 1e3:.0f} ms   {report.cycles} cycles, "
              f"{traffic * per / moved / report.cycles:.1%} of them at the DRAM's peak, {bursts} bursts, "
              f"{counts[Count.DRAM_ROW_HITS] / bursts:.1%} row hits, {counts[Count.DRAM_REFRESHES]} refreshes")
        figures |= {f"{name}, ms": round(min(taken) * 1e3, 2), f"{name}, cycles": report.cycles,
                    f"{name}, bursts": bursts, f"{name}, row hits": int(counts[Count.DRAM_ROW_HITS]),
                    f"{name}, refreshes": int(counts[Count.DRAM_REFRESHES])}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB   limit 1024 MiB")
    figures["peak memory, MiB"] = round(peak)
    if "--write" in sys.argv:
        write_result("dram_speed", figures, describe())


if __name__ == "__main__":
    main()
