"""Our models beside the ratios that papers' abstracts state.

    python benchmarks/published_ratios.py [--write] [NAME ...]

For each sparse machine: its cycles (energy, energy-delay product) over those of a dense array with as many multipliers,
the same buffers and the same DRAM, on masks with the densities that stand_in_masks.py names.  Nothing is tuned to
match; what differs, and why, is in docs/results.md.  "alone" is the array with an ideal memory, "memory" the preset's.

The dense array is the preset systolic_ws (systolic_os where that is said) with other rows and cols: two weight buffers,
no exploitation of zeros, `compact_channels` off.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from machine import describe, write_result
from simulate_networks import resnet
from stand_in_masks import (
    NETWORKS,
    Bools,
    Sketch,
    bounded_channels,
    gemm_trace,
    generator,
    largest,
    sketches,
    stand_in,
    structured_weights,
    weight_scores,
)

from simulator import Gemm, LayerTrace, Machine, Trace, load_machine, simulate
from simulator.report import Total
from simulator.training import training_iteration

SHARED = ("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes", "shared_buffer_bytes", "psum_bits",
          "dram_bytes_per_cycle", "dram_latency_cycles", "dram_burst_bytes")
MEMORIES = ("ideal", "channel")


@dataclass(frozen=True)
class Row:
    """One comparison: what is compared, on what, the paper's figure ("" = the abstract states none) and ours."""

    design: str
    quantity: str
    workload: str
    paper: str
    alone: float
    memory: float


def dense_array(sparse: Machine, rows: int, cols: int, preset: str = "systolic_ws", **fields: object) -> Machine:
    """A dense array with the sparse machine's multipliers, buffers, DRAM and clock."""
    assert rows * cols == sparse.array.peak_macs_per_cycle
    memory = {name: getattr(sparse.memory, name) for name in SHARED}
    return load_machine(preset, {"rows": rows, "cols": cols, "compact_channels": False, "clock_hz": sparse.clock_hz,
                                 **memory, **fields})


def total(trace: Trace, machine: Machine, memory: str) -> Total:
    """Counts and energy of the network."""
    return simulate(trace, machine.replace(memory=memory), compare_dense=False).total


def speed(slow: tuple[Trace, Machine], fast: tuple[Trace, Machine]) -> tuple[float, float]:
    """Cycles of the one over those of the other: the arrays alone, and with their memory."""
    alone, with_memory = (total(*slow, memory).cycles / total(*fast, memory).cycles for memory in MEMORIES)
    return alone, with_memory


def energy(much: tuple[Trace, Machine], little: tuple[Trace, Machine]) -> tuple[float, float]:
    """Energy of the one over that of the other: all but DRAM, with an ideal memory, and all."""
    alone, with_memory = (total(*much, memory).energy_pj / total(*little, memory).energy_pj for memory in MEMORIES)
    return alone, with_memory


def geomean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Geometric means of both columns."""
    first, second = (math.exp(math.fsum(math.log(pair[at]) for pair in pairs) / len(pairs)) for at in (0, 1))
    return first, second


def scnn() -> Iterator[Row]:
    sparse = load_machine("scnn")
    dense = dense_array(sparse, 32, 32)
    speeds, energies = [], []
    for network in NETWORKS:
        trace = stand_in(network)
        speeds.append(speed((trace.dense(), dense), (trace, sparse)))
        energies.append(energy((trace.dense(), dense), (trace, sparse)))
        yield Row("SCNN", "speed over dense", network, "", *speeds[-1])
    yield Row("SCNN", "speed over dense", "geomean of these", "2.7", *geomean(speeds))
    yield Row("SCNN", "energy of dense over it", "geomean of these", "2.3", *geomean(energies))


def sparten() -> Iterator[Row]:
    sparse = load_machine("sparten")
    dense, cartesian = dense_array(sparse, 32, 32), load_machine("scnn")
    speeds: dict[str, list[tuple[float, float]]] = {}
    for network in NETWORKS:
        trace = stand_in(network)
        weights_only = Trace([layer.replace(input_mask=None, input_density=1.0) for layer in trace.layers])
        inputs_only = trace.dense()
        for name, other in (("dense", (inputs_only, dense)), ("SparTen with dense inputs", (weights_only, sparse)),
                            ("SparTen with dense weights", (inputs_only, sparse)), ("SCNN", (trace, cartesian))):
            speeds.setdefault(name, []).append(speed(other, (trace, sparse)))
    papers = {"dense": "4.7", "SparTen with dense inputs": "1.8", "SparTen with dense weights": "1.8", "SCNN": "3"}
    for name, pairs in speeds.items():
        yield Row("SparTen", f"speed over {name}", "geomean of VGG-16, 3a, 5b", papers[name], *geomean(pairs))


# Our choice of irregular GEMMs (m, k, n): one long reduction, few rows, few columns, a short reduction.
IRREGULAR = [(128, 2048, 1024), (7, 1024, 2048), (1024, 1024, 40), (512, 36, 512), (300, 700, 500)]


def sigma() -> Iterator[Row]:
    trace = gemm_trace(IRREGULAR, weights=0.2, inputs=0.5)
    for multipliers, side in ((256, 16), (16384, 128)):
        for stream in sorted({128, multipliers}):
            sparse = load_machine("sigma", {"multipliers": multipliers, "load_bandwidth": 128,
                                            "stream_bandwidth": stream})
            dense = dense_array(sparse, side, side)
            each = [speed((Trace([layer]).dense(), dense), (Trace([layer]), sparse)) for layer in trace.layers]
            yield Row("SIGMA", f"speed over {side}x{side}, {stream} operands a cycle",
                      "irregular GEMMs, weights 20 %, inputs 50 % dense", "5.7", *geomean(each))


def masked_resnet(mask: Callable[[tuple[int, ...], str], Bools | None]) -> Trace:
    """ResNet-50's convolutions with weight masks of a shape; conv1 and the classifier stay dense."""
    layers = []
    for name, operation in resnet((3, 4, 6, 3), bottleneck=True):
        dense = name in ("conv1", "fc") or isinstance(operation, Gemm)
        layers.append(LayerTrace(name, operation, None if dense else mask(operation.weight_shape, name)))
    return Trace(layers)


def n_of_m(structure: str) -> Callable[[tuple[int, ...], str], Bools]:
    """Masks of a structure by the scores of stand_in_masks."""
    return lambda shape, name: structured_weights(weight_scores(shape, generator(name)), structure)


def vegeta() -> Iterator[Row]:
    sparse = load_machine("vegeta")
    dense = dense_array(sparse, 16, 32)
    whole = masked_resnet(lambda shape, name: None)
    traces = {
        "dense": (whole, "1.09"), "2:4": (masked_resnet(n_of_m("2:4")), "2.20"),
        "1:4": (masked_resnet(n_of_m("1:4")), "3.74"),
        "95 % unstructured": (masked_resnet(
            lambda shape, name: largest(weight_scores(shape, generator(name)), 0.05)), "3.28"),
    }
    for name, (trace, paper) in traces.items():
        yield Row("VEGETA", "speed over dense", f"ResNet-50, {name}", paper, *speed((whole, dense), (trace, sparse)))


def bounded(sketch: Sketch, bound: int) -> LayerTrace:
    """S2TA's masks: 4 of every 8 weights along input channels, at most `bound` of every 8 activations of a pixel."""
    ones = largest(sketch.inputs, sketch.input_density)
    if sketch.operation.in_channels % 8:
        return sketch.masked(weights=sketch.weights > -1)
    return sketch.masked(bounded_channels(sketch.weights > -1, sketch.weights, 4, 8),
                         bounded_channels(ones, sketch.inputs, bound, 8))


def s2ta() -> Iterator[Row]:
    sparse = load_machine("s2ta", {"blocks_along": "channel"})
    dense = dense_array(sparse, 64, 32, "systolic_os", gating="zeros")
    layers = []
    for sketch in sketches("VGG-16"):
        wanted = math.ceil(8 * sketch.input_density)
        layers.append(bounded(sketch, wanted if wanted <= 5 else 8))
    trace = Trace(layers)
    workload = "VGG-16, weights 4:8, activations bounded first"
    yield Row("S2TA", "speed over dense, gating", workload, "over 2", *speed((trace.dense(), dense), (trace, sparse)))
    yield Row("S2TA", "energy of dense, gating, over it", workload, "over 2",
              *energy((trace.dense(), dense), (trace, sparse)))


def highlight() -> Iterator[Row]:
    sparse = load_machine("highlight")
    dense = dense_array(sparse, 32, 32)
    for structure in ("4:4 of 4x1 + 2:4", "4:6 of 4x1 + 2:4", "4:8 of 4x1 + 2:4"):
        kept = structure.removeprefix("4:4 of 4x1 + ")
        products = []
        for sketch in sketches("VGG-16")[1:]:
            layer = sketch.masked(weights=structured_weights(sketch.weights, kept))
            trace = Trace([layer])
            faster = speed((trace.dense(), dense), (trace, sparse))
            saving = energy((trace.dense(), dense), (trace, sparse))
            products.append((faster[0] * saving[0], faster[1] * saving[1]))
        yield Row("HighLight", "energy-delay product of dense over it", f"VGG-16, layers 1_2 to 5_3, {kept}",
                  "up to 6.4" if kept.startswith("4:8") else "", *geomean(products))


def tensordash() -> Iterator[Row]:
    sparse = load_machine("tensordash")
    chain = sketches("VGG-16")
    layers = []
    for sketch, following in zip(chain[4:], [*chain[5:], chain[-1]], strict=True):
        # A ReLU passes the gradient where its output is not zero: error maps are as dense as the next layer's input.
        layer = sketch.masked(weights=sketch.weights > -1)
        errors = largest(generator(f"errors {sketch.name}").random(layer.operation.output_shape),
                         following.input_density)
        layers.append(layer.replace(weight_mask=None, structure=None, error_mask=errors))
    trace = Trace(layers)
    plain = Trace([layer.replace(input_mask=None, input_density=1.0, error_mask=None, error_density=1.0)
                   for layer in layers])
    found = []
    for memory in MEMORIES:
        machine = sparse.replace(memory=memory)
        reports = [training_iteration(one, machine, phases=("forward", "input_gradient", "weight_gradient"))
                   for one in (plain, trace)]
        found.append((reports[0].cycles / reports[1].cycles, reports[0].energy_j / reports[1].energy_j))
    workload = "VGG-16, layers 3_1 to 5_3, one iteration, weights dense"
    yield Row("TensorDash", "speed over the same array without skipping", workload, "1.95", found[0][0], found[1][0])
    yield Row("TensorDash", "its energy, core alone", workload, "1.89", found[0][1], found[0][1])
    yield Row("TensorDash", "its energy, with memory", workload, "1.6", found[1][1], found[1][1])


# M, K, N of the layers of the public artifact that tests/golden/tensor_cores/README.md names
TENSOR_CORE = [(128, 1152, 1024), (512, 1024, 256), (512, 128, 1024), (512, 256, 1024)]


def two_of_four() -> Iterator[Row]:
    sparse = load_machine("nm_array", {"rows": 32, "cols": 32, "nm": ["2:4", "4:4"]})
    dense = dense_array(sparse, 32, 32)
    for m, k, n in TENSOR_CORE:
        scores = weight_scores((n, k), generator(f"2:4 {m} {k} {n}"))
        trace = Trace([LayerTrace("gemm", Gemm(m, k, n), structured_weights(scores, "2:4").T)])
        yield Row("2:4", "speed over dense", f"GEMM {m}x{k}x{n}", "", *speed((trace.dense(), dense), (trace, sparse)))


DESIGNS: dict[str, Callable[[], Iterator[Row]]] = {
    "scnn": scnn, "sparten": sparten, "sigma": sigma, "vegeta": vegeta, "s2ta": s2ta, "highlight": highlight,
    "tensordash": tensordash, "2:4": two_of_four,
}


def main() -> None:
    chosen = [name for name in sys.argv[1:] if name != "--write"] or list(DESIGNS)
    rows = []
    for name in chosen:
        start = time.perf_counter()
        for row in DESIGNS[name]():
            rows.append(row)
            print(f"{row.design:10} {row.quantity:42} {row.workload:52} paper {row.paper or '-':9} "
                  f"alone {row.alone:6.2f}  memory {row.memory:6.2f}", flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if "--write" in sys.argv:
        rounded = [{key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(row).items()}
                   for row in rows]
        write_result("published_ratios", rounded, describe())


if __name__ == "__main__":
    main()
