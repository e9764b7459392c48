"""How fast is the simulator, one core, warm?  python benchmarks/simulate_networks.py [--write]

Full reports (tiling search, memory, energy) of ResNet-18 and ResNet-50 at 224x224, dense and 2:4, on several machines:
median of several runs, CPU time, and what the first run of a process took, compiled code in the cache.  The limit for
ResNet-50, dense, on tpu_like (128x128) is 10 ms.
"""

import resource
import statistics
import sys
import time

import numpy as np
from machine import describe, write_result

from simulator import Conv2d, Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.structure import parse, project


def resnet(blocks: tuple[int, ...], bottleneck: bool, size: int = 224) -> list[tuple[str, Conv2d | Gemm]]:
    """The convolutions and the classifier of a ResNet for ImageNet, as (name, operation)."""
    layers: list[tuple[str, Conv2d | Gemm]] = [
        ("conv1", Conv2d(3, 64, size, size, 7, 7, stride_h=2, stride_w=2, padding_h=3, padding_w=3))]
    side, channels = size // 4, 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            strided = {"stride_h": stride, "stride_w": stride}
            name, out = f"layer{stage + 1}.{block}", width * (4 if bottleneck else 1)
            after = side // stride
            if bottleneck:
                layers += [
                    (f"{name}.conv1", Conv2d(channels, width, side, side, 1, 1)),
                    (f"{name}.conv2", Conv2d(width, width, side, side, 3, 3, padding_h=1, padding_w=1, **strided)),
                    (f"{name}.conv3", Conv2d(width, out, after, after, 1, 1))]
            else:
                layers += [
                    (f"{name}.conv1", Conv2d(channels, width, side, side, 3, 3, padding_h=1, padding_w=1, **strided)),
                    (f"{name}.conv2", Conv2d(width, width, after, after, 3, 3, padding_h=1, padding_w=1))]
            if stride > 1 or channels != out:
                layers.append((f"{name}.downsample", Conv2d(channels, out, side, side, 1, 1, **strided)))
            side, channels = after, out
    return [*layers, ("fc", Gemm(1, channels, 1000))]


def two_of_four(operation: Conv2d | Gemm) -> np.ndarray:
    """A 2:4 mask of random importance in the operation's weight shape."""
    gemm = operation.gemm()
    mask = project(np.random.default_rng(0).random((gemm.k, gemm.n * operation.groups)), parse("2:4"))
    return mask if isinstance(operation, Gemm) else mask.T.reshape(operation.weight_shape)


def main() -> None:
    networks = {"ResNet-18": resnet((2, 2, 2, 2), False), "ResNet-50": resnet((3, 4, 6, 3), True)}
    cases = [(network, machine, "dense") for network in networks for machine in
             ("systolic_ws", "systolic_os", "systolic_is", "nm_array", "tpu_like", "scalesim_ws")]
    cases += [(network, "nm_array", "2:4") for network in networks]
    figures = []
    print(f"{'network':10} {'machine':12} {'weights':8} {'median ms':>10} {'first ms':>10} {'cycles':>14}")
    for network, name, kind in cases:
        machine = load_machine(name)
        layers = networks[network]
        trace = Trace([LayerTrace(layer, op, two_of_four(op) if kind == "2:4" else None) for layer, op in layers])
        taken = []
        for _ in range(8):
            start = time.process_time()
            report = simulate(trace, machine, compare_dense=False)
            taken.append((time.process_time() - start) * 1e3)
        row = {"network": network, "machine": name, "weights": kind, "cycles": report.cycles,
               "median_ms": round(statistics.median(taken[1:]), 2), "first_ms": round(taken[0], 2)}
        figures.append(row)
        print(f"{network:10} {name:12} {kind:8} {row['median_ms']:10.2f} {row['first_ms']:10.2f} {report.cycles:14,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB   limit 1024 MiB")
    if "--write" in sys.argv:
        write_result("simulate_networks", {"rows": figures, "peak_memory_mib": round(peak)}, describe())


if __name__ == "__main__":
    main()
