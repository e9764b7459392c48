"""How fast is SparTen's model?  ResNet-50 with explicit masks, warm, one core; add --write to keep the figures.

Weight density 0.3, activation density 0.5, 224 x 224, batch 1: the array alone and the shipped preset with its memory.
The hardware limit beside it is the inner join by itself: how many words a second the same kernel ANDs and counts.
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

from simulator import Conv2d, Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.machines import sparten_kernel

LIMIT_S = 0.3


def resnet50() -> list[tuple[str, Conv2d | Gemm]]:
    layers: list[tuple[str, Conv2d | Gemm]] = [
        ("conv1", Conv2d(3, 64, 224, 224, 7, 7, stride_h=2, stride_w=2, padding_h=3, padding_w=3))]
    channels, size = 64, 56
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            name = f"layer{stage + 1}.{block}"
            layers.append((f"{name}.conv1", Conv2d(channels, width, size, size, 1, 1)))
            layers.append((f"{name}.conv2", Conv2d(width, width, size, size, 3, 3, stride_h=stride, stride_w=stride,
                                                   padding_h=1, padding_w=1)))
            if block == 0:
                layers.append((f"{name}.downsample", Conv2d(channels, 4 * width, size, size, 1, 1, stride_h=stride,
                                                            stride_w=stride)))
            size //= stride
            layers.append((f"{name}.conv3", Conv2d(width, 4 * width, size, size, 1, 1)))
            channels = 4 * width
    return [*layers, ("fc", Gemm(1, 2048, 1000))]


def join_rate() -> float:
    """Words per second of the kernel on operands that stay in cache."""
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 2**63, (3136, 5, 2), dtype=np.uint64)
    weights = rng.integers(0, 2**63, (2, 5, 2, 2, 32), dtype=np.uint64)
    found, routing = np.zeros((2, 3136, 4), dtype=np.int64), np.zeros(2, dtype=np.int64)
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        sparten_kernel.join(inputs, weights, routing, found)
        taken.append(time.perf_counter() - start)
    return inputs.shape[0] * weights.size / min(taken)


def main() -> None:
    rng = np.random.default_rng(0)
    trace = Trace([LayerTrace(name, op, rng.random(op.weight_shape) < 0.3, rng.random(op.input_shape) < 0.5)
                   for name, op in resnet50()])
    figures: dict[str, object] = {}
    for memory in ("ideal", "channel"):
        machine = load_machine("sparten", {"memory": memory})
        taken = []
        for _ in range(6):
            start = time.process_time()
            report = simulate(trace, machine, compare_dense=False)
            taken.append(time.process_time() - start)
        warm = statistics.median(taken[1:])
        print(f"memory {memory}: warm {warm:.3f} s CPU (limit {LIMIT_S} s), first call {taken[0]:.2f} s; "
              f"{report.cycles} cycles")
        figures[memory] = {"warm_s": round(warm, 4), "first_s": round(taken[0], 3), "cycles": report.cycles}
    rate = join_rate()
    words = sum(layer.operation.macs for layer in trace.layers) / 64
    print(f"the inner join alone: {rate / 1e9:.2f} G words/s, {words / rate:.3f} s for {words / 1e6:.0f} M")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")
    figures |= {"join_words_per_s": round(rate), "join_alone_s": round(words / rate, 4), "peak_memory_mib": round(peak)}
    if "--write" in sys.argv:
        write_result("sparten_speed", figures, describe())


if __name__ == "__main__":
    main()
