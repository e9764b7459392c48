"""How many useful products does SCNN simulate per second?  python benchmarks/scnn_speed.py [--write]

Layers of a pruned VGG-16 with the densities used to evaluate SCNN (weights, activations), random masks of those
densities, the grid of the preset, one core, warm; the compilation is printed apart.  CPU time, best of three runs.
"""

import resource
import sys
import time

import numpy as np
from machine import describe, write_result

from simulator import Conv2d, LayerTrace, load_machine
from simulator.counts import Count
from simulator.machines import model

LIMIT = 300e6  # useful products per second, over all layers together

# name: channels, filters, plane, density of weights, density of activations
VGG = {
    "1_2": (64, 64, 224, 0.21, 0.50), "2_1": (64, 128, 112, 0.33, 0.89), "2_2": (128, 128, 112, 0.35, 0.79),
    "3_1": (128, 256, 56, 0.53, 0.81), "3_2": (256, 256, 56, 0.22, 0.63), "3_3": (256, 256, 56, 0.41, 0.69),
    "4_1": (256, 512, 28, 0.32, 0.71), "4_2": (512, 512, 28, 0.26, 0.50), "4_3": (512, 512, 28, 0.34, 0.45),
    "5_1": (512, 512, 14, 0.35, 0.39), "5_2": (512, 512, 14, 0.29, 0.33), "5_3": (512, 512, 14, 0.36, 0.32),
}


def main() -> None:
    machine = load_machine("scnn", {"memory": "ideal"})
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    model("scnn").run(LayerTrace("first", Conv2d(1, 1, 2, 2, 1, 1)), machine)
    first_s = time.perf_counter() - start
    print(f"first layer of the process (compiling unless cached): {first_s:.2f} s")
    figures: dict[str, object] = {"first layer of the process, s": round(first_s, 3)}
    products = seconds = 0.0
    for name, (channels, filters, side, weights, inputs) in VGG.items():
        operation = Conv2d(channels, filters, side, side, 3, 3, padding_h=1, padding_w=1)
        layer = LayerTrace(name, operation, rng.random(operation.weight_shape) < weights,
                           rng.random(operation.input_shape) < inputs)
        taken = []
        for _ in range(3):
            begin = time.process_time()
            counts = model("scnn").run(layer, machine).counts
            taken.append(time.process_time() - begin)
        useful = int(counts[Count.USEFUL_MACS])
        products, seconds = products + useful, seconds + min(taken)
        print(f"{name:6} {useful / 1e6:8.1f} M products {min(taken):7.3f} s {useful / min(taken) / 1e6:9.0f} M/s")
        figures[f"{name}, million useful products per second"] = round(useful / min(taken) / 1e6)
    rate, peak = products / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"all    {products / 1e6:8.1f} M products {seconds:7.3f} s {rate / 1e6:9.0f} M/s   "
          f"limit {LIMIT / 1e6:.0f} M/s")
    print(f"peak memory {peak:.0f} MiB   limit 1024 MiB")
    figures |= {"all, million useful products per second": round(rate / 1e6), "peak memory, MiB": round(peak)}
    if "--write" in sys.argv:
        write_result("scnn_speed", figures, describe())


if __name__ == "__main__":
    main()
