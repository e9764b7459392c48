"""Hypothesis strategies for machines, layers and tilings, and the integer product to check an output against.

Everything drawn is small on purpose (arrays up to 5 x 5, a few hundred cycles), so that a cycle-stepped twin runs
in milliseconds, and awkward on purpose: ragged edges, empty masks, buffers that barely hold a tile.  Needs the
`hypothesis` package, which nothing else in the simulator does.  Read reference/ for the twins these are fed to.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from .errors import InputError
from .formats import STORABLE
from .hardware import Machine, Memory
from .machines import (
    banks,
    dual_side_tensor_core,
    eie,
    eyeriss_v2,
    highlight,
    model,
    multi_array,
    pattern_engine,
    s2ta,
    scnn,
    sigma,
    sparten,
    tensordash,
)
from .machines.systolic import Spec, steps
from .mapping import LOOP_ORDERS, Tiling
from .structure import block, cover, n_of_m, project
from .trace import WEIGHT_SOURCES, LayerTrace
from .workload import Conv2d, Gemm, Operation

PATTERNS = ("1:2", "2:4", "1:4", "2:3", "4:4", "3:5")


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Ideal memories, channels with little bandwidth, DRAM devices, and buffers from too small to roomy."""
    kind = draw(st.sampled_from(("ideal", "channel", "channel", "dram")))
    if kind == "ideal":
        return Memory(memory="ideal")
    return draw(channel_memories() if kind == "channel" else dram_memories())


@st.composite
def channel_memories(draw: st.DrawFn) -> Memory:
    """Channels with little bandwidth, and buffers from too small to roomy."""
    sizes = st.sampled_from((16, 40, 100, 300, 2000))
    return Memory(
        memory="channel",
        input_buffer_bytes=draw(sizes), weight_buffer_bytes=draw(sizes), output_buffer_bytes=draw(sizes),
        shared_buffer_bytes=draw(st.sampled_from((0, 0, 0, 200, 1000))),
        input_double_buffered=draw(st.booleans()), weight_double_buffered=draw(st.booleans()),
        output_double_buffered=draw(st.booleans()),
        dram_bytes_per_cycle=draw(st.sampled_from((0.75, 1.0, 2.5, 8.0, 64.0, float("inf")))),
        dram_latency_cycles=draw(st.sampled_from((0, 1, 7, 30))),
        dram_burst_bytes=draw(st.sampled_from((1, 4, 6, 16))),
        psum_bits=draw(st.sampled_from((9, 16, 32))),
    )


@st.composite
def dram_memories(draw: st.DrawFn, latency: tuple[int, ...] = (0, 1, 7, 30)) -> Memory:
    """The same with DRAM devices of a few short rows, every timing from nothing to long, clocks that do not divide."""
    few = st.one_of(st.just(0), st.integers(0, 12))
    burst = draw(st.sampled_from((1, 4, 6, 16)))
    precharge, refresh = draw(few), draw(st.integers(0, 20))
    numbers = {
        "clock_mhz": draw(st.sampled_from((1000, 1000, 500, 1200, 300, 2500, 666.5))),
        "bank_groups": draw(st.sampled_from((1, 2, 4))), "banks_per_group": draw(st.sampled_from((1, 2, 4))),
        "rows": draw(st.sampled_from((4, 8, 1024))), "burst_bytes": burst,
        "row_bytes": burst * draw(st.sampled_from((1, 2, 8, 64))), "tBL": draw(st.integers(1, 4)),
        "tRP": precharge, "tRFC": refresh,
        "tREFI": draw(st.one_of(st.just(0), st.integers(1, 200).map(lambda more: precharge + refresh + more))),
    }
    for name in ("tCL", "tCWL", "tRCD", "tRCDW", "tRAS", "tRRD_S", "tRRD_L", "tFAW", "tCCD_S", "tCCD_L", "tRTP", "tWR",
                 "tWTR_S", "tWTR_L", "tRTW"):
        numbers[name] = draw(few)
    return dataclasses.replace(
        draw(channel_memories()), memory="dram", dram_channels=draw(st.sampled_from((1, 1, 2, 4))),
        dram=",".join(["ddr4_2400", *(f"{name}={value}" for name, value in numbers.items())]),
        dram_address_mapping=":".join(draw(st.permutations(("row", "bank", "group", "column", "channel")))),
        dram_window=draw(st.sampled_from((1, 2, 4, 16, 64))), dram_latency_cycles=draw(st.sampled_from(latency)),
    )


@st.composite
def systolic_specs(draw: st.DrawFn) -> Spec:
    """Systolic arrays of 1 x 1 to 5 x 5 with every timing parameter."""
    dataflow = draw(st.sampled_from(("ws", "os", "is")))
    few = st.sampled_from((0, 0, 1, 2, 3))
    exploits = draw(st.sampled_from(("nothing", "nothing", "nm", "blocks")))
    queued = dataflow != "os" and draw(st.booleans())
    nm: tuple[str, ...] = ()
    nm_cover = "layer"
    if exploits == "nm" and dataflow != "is":
        nm = tuple(draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True)))
        nm_cover = draw(st.sampled_from(("layer", "tile", "row"))) if dataflow == "ws" else "layer"
        if nm_cover != "layer":
            nm = tuple(text for text in nm if text[-1] == nm[0][-1])
    return Spec(
        rows=draw(st.integers(1, 5)), cols=draw(st.integers(1, 5)), dataflow=dataflow,
        activation_hop_registers=1 + draw(few), psum_hop_registers=1 + draw(few),
        multiplier_latency=draw(few), accumulator_latency=1 + draw(few),
        input_register=draw(st.integers(0, 1)), output_register=draw(st.integers(0, 1)),
        weight_buffers=draw(st.integers(1, 2)), drain=draw(st.sampled_from(("overlapped", "serial", "in_place"))),
        preload_bias=draw(st.booleans()),
        max_in_flight=draw(st.integers(2, 9)) if queued else 0,
        rows_per_request=draw(st.integers(0, 4)) if queued else 0,
        nm=nm, nm_cover=nm_cover,
        skip_zero_blocks=exploits == "blocks" and dataflow == "ws",
        compact_channels=draw(st.booleans()), gating=draw(st.sampled_from(("none", "zeros"))),
    )


@st.composite
def sigma_specs(draw: st.DrawFn) -> sigma.Spec:
    """Units of 1 to 16 multipliers, with networks from narrow to wider than the unit."""
    few = st.integers(1, 17)
    return sigma.Spec(multipliers=draw(st.integers(1, 16)), load_bandwidth=draw(few), stream_bandwidth=draw(few),
                      row_packing=draw(st.sampled_from(("whole", "split"))), two_sided=draw(st.booleans()),
                      pipeline_registers=draw(st.sampled_from((0, 1, 4))))


@st.composite
def eyeriss_v2_specs(draw: st.DrawFn) -> eyeriss_v2.Spec:
    """Up to 3 x 2 clusters of up to 3 x 2 PEs."""
    few = st.integers(1, 3)
    return eyeriss_v2.Spec(cluster_rows=draw(few), cluster_cols=draw(st.integers(1, 2)), pe_rows=draw(few),
                           pe_cols=draw(st.integers(1, 2)), simd=draw(few), psum_entries=draw(st.integers(1, 5)))


@st.composite
def scnn_specs(draw: st.DrawFn) -> scnn.Spec:
    """Grids of 1 x 1 to 4 x 4 elements of 1 to 20 multipliers, from one accumulator bank to more than are reached."""
    return scnn.Spec(pe_rows=draw(st.integers(1, 4)), pe_cols=draw(st.integers(1, 4)),
                     multipliers_f=draw(st.integers(1, 5)), multipliers_i=draw(st.sampled_from((1, 2, 3, 4, 4))),
                     accumulator_entries=draw(st.sampled_from((64, 70, 100, 300))),
                     accumulator_banks=draw(st.sampled_from((1, 2, 5, 8, 16, 32, 64))),
                     index_bits=draw(st.sampled_from((0, 4, 5))))


@st.composite
def sparten_specs(draw: st.DrawFn) -> sparten.Spec:
    """Up to 4 clusters of up to 4 units, chunks shorter and longer than a word."""
    return sparten.Spec(clusters=draw(st.integers(1, 4)), units_per_cluster=draw(st.integers(1, 4)),
                        chunk=draw(st.sampled_from((1, 2, 3, 5, 8, 64, 70, 128))),
                        balancing=draw(st.sampled_from(sparten.BALANCING)),
                        routing_bandwidth=draw(st.sampled_from((1, 2, 8))))


@st.composite
def eie_specs(draw: st.DrawFn) -> eie.Spec:
    """One to five PEs with short queues and indices that long runs do not fit."""
    return eie.Spec(pes=draw(st.integers(1, 5)), queue_depth=draw(st.sampled_from((1, 2, 3, 8))),
                    index_bits=draw(st.sampled_from((0, 1, 2, 4))))


@st.composite
def pattern_engine_specs(draw: st.DrawFn) -> pattern_engine.Spec:
    """One to five lanes of up to four pixels, with and without reordering."""
    return pattern_engine.Spec(lanes=draw(st.integers(1, 5)), pixels=draw(st.integers(1, 4)),
                               reorder=draw(st.booleans()), pattern_switch_cycles=draw(st.integers(0, 2)),
                               pipeline_registers=draw(st.integers(0, 2)),
                               gating=draw(st.sampled_from(("none", "zeros"))))


@st.composite
def tensordash_specs(draw: st.DrawFn) -> tensordash.Spec:
    """Up to three tiles of up to 3 x 3 elements; few lanes, so that streams have several rows."""
    few = st.integers(1, 3)
    return tensordash.Spec(tiles=draw(few), rows=draw(few), cols=draw(few),
                           lanes=draw(st.sampled_from((1, 2, 3, 4, 6, 7, 11, 16, 64))),
                           staging_depth=draw(st.sampled_from((2, 3))),
                           sparse_side=draw(st.sampled_from(tensordash.SIDES)),
                           storage=draw(st.sampled_from(tensordash.STORAGE)))


@st.composite
def dual_side_tensor_core_specs(draw: st.DrawFn) -> dual_side_tensor_core.Spec:
    """Up to three units with tiles, vectors and bank grids that do not divide one another."""
    few, side = st.integers(1, 3), st.integers(1, 5)
    return dual_side_tensor_core.Spec(units=draw(few), tile_m=draw(side), tile_n=draw(side), tile_k=draw(side),
                                      vector_m=draw(few), vector_n=draw(few), bank_rows=draw(few), bank_cols=draw(few))


@st.composite
def s2ta_specs(draw: st.DrawFn) -> s2ta.Spec:
    """Up to 3 x 3 tensor PEs of up to 3 x 3 datapaths, blocks from 2 to 8, any bounds."""
    few, block = st.integers(1, 3), draw(st.sampled_from((2, 4, 6, 8)))
    bounds = draw(st.lists(st.integers(1, block), max_size=4, unique=True))
    return s2ta.Spec(rows=draw(few), cols=draw(few), datapath_rows=draw(few), datapath_cols=draw(few),
                     weight_bound=f"{draw(st.integers(1, block))}:{block}",
                     activation_bounds=tuple(f"{bound}:{block}" for bound in bounds),
                     time_unrolled=draw(st.sampled_from((True, True, False))),
                     blocks_along=draw(st.sampled_from(("k", "channel"))))


@st.composite
def highlight_specs(draw: st.DrawFn) -> highlight.Spec:
    """Up to 4 x 4 outputs on up to 5 lanes, up to three patterns in each rank."""

    def rank(known: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(draw(st.lists(st.sampled_from(known), max_size=3, unique=True)))

    side = st.integers(1, 4)
    return highlight.Spec(rows=draw(side), cols=draw(side), lanes=draw(st.integers(1, 5)),
                          rank0=rank(("1:2", "2:2", "2:3", "2:4", "1:4")),
                          rank1=rank(("1:1", "1:2", "2:2", "2:3", "2:4")),
                          blocks_along=draw(st.sampled_from(("k", "channel"))), compressed_inputs=draw(st.booleans()))


@st.composite
def multi_array_specs(draw: st.DrawFn) -> multi_array.Spec:
    """One to three systolic arrays on links and memories of their own or shared."""
    return multi_array.Spec(
        **dataclasses.asdict(draw(systolic_specs())), arrays=draw(st.sampled_from((1, 2, 2, 3))),
        division=draw(st.sampled_from(("auto", "components", "components", "n", "m"))),
        link_bytes_per_cycle=draw(st.sampled_from((0.75, 8.0, float("inf")))),
        link_latency_cycles=draw(st.sampled_from((0, 9))), link_broadcast=draw(st.booleans()),
        shared_dram=draw(st.booleans()))


SPECS = {
    "systolic": systolic_specs,
    "scnn": scnn_specs,
    "sigma": sigma_specs,
    "sparten": sparten_specs,
    "eyeriss_v2": eyeriss_v2_specs,
    "eie": eie_specs,
    "s2ta": s2ta_specs,
    "highlight": highlight_specs,
    "pattern_engine": pattern_engine_specs,
    "multi_array": multi_array_specs,
    "dual_side_tensor_core": dual_side_tensor_core_specs,
    "tensordash": tensordash_specs,
}
"""How to draw the array of each machine model; a model that joins the table in machines/ adds its line here."""


@st.composite
def banked_systolic(draw: st.DrawFn) -> Machine:
    """Systolic machines whose buffers have a few banks."""
    drawn = draw(systolic_specs())
    array = dataclasses.replace(drawn, nm_cover="layer", skip_zero_blocks=False, max_in_flight=0, rows_per_request=0)
    memory = draw(st.one_of(channel_memories(), dram_memories()))
    few = st.sampled_from((0, 1, 2, 2, 3, 4, 8))
    numbers: dict[str, Any] = {f"{operand}_banks": draw(few) for operand in banks.STREAMS[array.dataflow]}
    interleave = draw(st.sampled_from(("element", "row")))
    memory = dataclasses.replace(memory, bank_ports=draw(st.sampled_from((1, 1, 2))), bank_interleave=interleave,
                                 **numbers)
    return Machine("drawn", "systolic", array, memory)


def machines(name: str) -> st.SearchStrategy[Machine]:
    """Machines of one model, with and without a memory system, some with operands compressed off chip."""
    declared = st.sampled_from(("native", "native", *STORABLE, "rle 1", "auto"))
    return st.builds(lambda array, memory, *formats: Machine("drawn", name, array, _storing(memory, array, *formats)),
                     SPECS[name](), memories(), declared, declared, st.sampled_from(("load", "read")))


def _storing(memory: Memory, array: Any, weight: str, inputs: str, decoder: str) -> Memory:
    """The memory with formats for the operands that the array decodes."""
    changes: dict[str, Any] = {}
    decodes = getattr(array, "decodes", ())
    if "input" in decodes:
        changes["input_format"] = inputs
    if "weight" in decodes and weight != "native":
        changes |= {"weight_format": weight, "weight_decoder": decoder}
    return dataclasses.replace(memory, **changes)


@st.composite
def operations(draw: st.DrawFn, most_macs: int = 1500) -> Operation:
    """Small GEMMs and convolutions: stride, padding, dilation, groups, depthwise, batch."""
    if draw(st.booleans()):
        side = st.integers(1, 12)
        gemm = Gemm(draw(side), draw(side), draw(side))
        assume(gemm.macs <= most_macs)
        return gemm
    one_or_two = st.sampled_from((1, 1, 2))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    kernel_h, kernel_w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation_h, dilation_w = draw(one_or_two), draw(one_or_two)
    padding_h, padding_w = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    least_h = max(1, dilation_h * (kernel_h - 1) + 1 - 2 * padding_h)
    least_w = max(1, dilation_w * (kernel_w - 1) + 1 - 2 * padding_w)
    conv = Conv2d(
        in_channels=groups * draw(st.integers(1, 4)), out_channels=groups * draw(st.integers(1, 5)),
        in_h=least_h + draw(st.integers(0, 3)), in_w=least_w + draw(st.integers(0, 3)),
        kernel_h=kernel_h, kernel_w=kernel_w, batch=draw(one_or_two),
        stride_h=draw(one_or_two), stride_w=draw(one_or_two), padding_h=padding_h, padding_w=padding_w,
        dilation_h=dilation_h, dilation_w=dilation_w, groups=groups,
    )
    assume(conv.macs <= most_macs)
    return conv


@st.composite
def layers(draw: st.DrawFn) -> LayerTrace:
    """Layers with weight masks of every kind that a machine exploits or must not, and input masks or densities."""
    operation = draw(operations())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    know = draw(st.sampled_from(("nothing", "mask", "mask", "density")))
    bits = st.sampled_from((1, 3, 4, 8, 8, 16))
    return LayerTrace(
        "drawn", operation, draw(_weight_masks(operation, rng)),
        rng.random(operation.input_shape) < draw(st.sampled_from((0.0, 0.3, 0.8))) if know == "mask" else None,
        input_density=draw(st.sampled_from((0.0, 0.35, 0.5))) if know == "density" else None,
        weight_bits=draw(bits), input_bits=draw(bits), output_bits=draw(bits),
    )


@st.composite
def grouped_layers(draw: st.DrawFn) -> LayerTrace:
    """GEMMs in groups such as attention's, weights that are activations among them, with masks as in `layers`."""
    m, k, n, groups = (draw(st.integers(1, 7)) for _ in range(4))
    operation = Gemm(m, k, n, groups + 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((None, 0.0, 0.4, 0.8)))
    return LayerTrace(
        "drawn", operation, draw(_weight_masks(operation, rng)),
        None if density is None else rng.random(operation.input_shape) < density,
        weight_bits=draw(st.sampled_from((4, 8))), weight_source=draw(st.sampled_from(WEIGHT_SOURCES)),
    )


def layers_for(name: str) -> st.SearchStrategy[LayerTrace]:
    """Layers that a machine model runs: one that lacks an operation says so by `supports(operation)`."""
    runs = getattr(model(name), "supports", lambda operation: True)
    return layers().filter(lambda layer: runs(layer.operation))


@st.composite
def _weight_masks(draw: st.DrawFn, operation: Operation, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """bool, in the operation's weight shape; drawn on [k, n] of one group after the other."""
    kind = draw(st.sampled_from(("none", "full", "empty", "random", "n:m", "n:m", "block", "block", "channel")))
    if kind == "none":
        return None
    gemm = operation.gemm()
    window = operation.window if isinstance(operation, Conv2d) else 1
    density = draw(st.sampled_from((0.2, 0.5, 0.9)))
    pattern, side = draw(st.sampled_from(PATTERNS)), draw(st.integers(1, 5))
    matrices = []
    for _ in range(operation.groups):
        mask = np.ones((gemm.k, gemm.n), dtype=bool)
        scores = rng.random(mask.shape)
        if kind == "empty":
            mask[:] = False
        elif kind == "random":
            mask = scores < density
        elif kind == "n:m":
            keep, of = map(int, pattern.split(":"))
            mask = project(scores, n_of_m(keep, of)) & (rng.random(mask.shape) < 0.9)
        elif kind == "block":
            mask = cover(rng.random(mask.shape) < density / side, block(side, side))
        elif kind == "channel":
            mask &= np.repeat(rng.random(gemm.k // window) < density, window)[:, None] & (rng.random(gemm.n) < density)
        matrices.append(mask & bool(rng.random() < 0.8) if operation.groups > 1 else mask)
    if isinstance(operation, Gemm):
        return np.stack(matrices).reshape(operation.weight_shape)
    return np.stack([mask.T for mask in matrices]).reshape(operation.weight_shape)


@st.composite
def tilings(draw: st.DrawFn, layer: LayerTrace, machine: Machine) -> Tiling | None:
    """Legal tilings of any brick, tile and loop order: a draw that does not fit falls back on smaller tiles.

    An ideal memory has one tile; None for a model that cuts its layers itself.
    """
    if not hasattr(model(machine.model), "legal"):
        try:
            model(machine.model).run(layer, machine)
        except InputError as error:
            assume("misses the buffers by" not in str(error))
            raise
        return None
    physical = model(machine.model).physical_gemm(layer, machine)
    if machine.memory.memory == "ideal":
        return Tiling(physical.m, physical.k, physical.n)
    spec, operation = machine.array, layer.operation
    line, image = (operation.out_w, operation.out_w * operation.out_h) if isinstance(operation, Conv2d) else (1, 1)
    bricks = sorted({*range(1, line), *range(line, image, line), *range(image, physical.m + 1, image)})
    step_k, step_n = steps(physical, spec)
    sizes_k = sorted({*range(step_k, physical.k, step_k), physical.k})
    sizes_n = sorted({*range(step_n, physical.n, step_n), physical.n})
    order = draw(st.sampled_from(LOOP_ORDERS))
    at = [draw(st.integers(0, len(sizes) - 1)) for sizes in (bricks, sizes_k, sizes_n)]
    while True:
        tiling = Tiling(bricks[at[0]], sizes_k[at[1]], sizes_n[at[2]], order)
        if model(machine.model).legal(layer, machine, tiling) == 0:
            return tiling
        assume(any(at))
        at = [position // 2 for position in at]


def operands(layer: LayerTrace, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(inputs, weights): integers of both signs in the operation's shapes, zero exactly where a mask is False."""

    def values(shape: tuple[int, ...], mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        drawn = rng.integers(1, 100, shape) * rng.choice(np.array([-1, 1]), shape)
        return drawn if mask is None else np.where(mask, drawn, 0)

    operation = layer.operation
    return values(operation.input_shape, layer.input_mask), values(operation.weight_shape, layer.weight_mask)


def product(operation: Operation, inputs: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integer convolution or product, summed tap by tap over a padded image: no lowering, no masks."""
    if isinstance(operation, Gemm):
        return inputs @ weights
    pad_h, pad_w = operation.padding_h, operation.padding_w
    padded = np.pad(inputs, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    groups, height, width = operation.groups, operation.out_h, operation.out_w
    total = np.zeros((operation.batch, groups, operation.out_channels // groups, height, width), dtype=np.int64)
    for row in range(operation.kernel_h):
        for col in range(operation.kernel_w):
            top, left = row * operation.dilation_h, col * operation.dilation_w
            seen = padded[:, :, top : top + height * operation.stride_h : operation.stride_h,
                          left : left + width * operation.stride_w : operation.stride_w]
            # The last stride may reach beyond the image without reading there.
            seen = seen[:, :, :height, :width].reshape(operation.batch, groups, -1, height, width)
            taps = weights[:, :, row, col].reshape(groups, operation.out_channels // groups, -1)
            total += np.einsum("bgchw,gfc->bgfhw", seen, taps)
    return total.reshape(operation.batch, operation.out_channels, height, width)
