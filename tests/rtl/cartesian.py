"""The Cartesian-product grid as memories of the RTL, from docs/machines/scnn.md, and what the twin says it does.

Element = row-major place in the grid; a slot is a bank of an element.  The halo is left out: the RTL is the elements
and their barrier, and adding up what the elements hold of an output stands for the exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator import Conv2d, LayerTrace
from simulator.counts import Count
from simulator.hardware import Machine, Memory
from simulator.machines.scnn import Spec
from simulator.mapping import Tiling
from simulator.reference import scnn as reference

from .sparse import Ints, Trace, Write, blank, operand, random_mask

# Defaults of cartesian_lists.sv and cartesian_element.sv.
JOBS, ACTIVATIONS, WEIGHTS, PLACES = 48, 256, 512, 512


@dataclass(frozen=True)
class Grid:
    """Elements of F x I multipliers."""

    pe_rows: int
    pe_cols: int
    f: int
    i: int
    banks: int
    entries: int

    def __str__(self) -> str:
        return f"cartesian-{self.pe_rows}x{self.pe_cols}-{self.f}x{self.i}-{self.banks}banks"

    top = "cartesian_grid"

    @property
    def units(self) -> int:
        """Elements."""
        return self.pe_rows * self.pe_cols

    @property
    def slots(self) -> int:
        """Banks of all elements."""
        return self.units * self.banks

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the top module."""
        return {"UNITS": self.units, "F": self.f, "I": self.i, "BANKS": self.banks}

    @property
    def machine(self) -> Machine:
        """The simulator's description, array alone."""
        spec = Spec(self.pe_rows, self.pe_cols, self.f, self.i, self.entries, self.banks)
        assert not spec.problems()
        return Machine(str(self), "scnn", spec, Memory(memory="ideal"))


@dataclass(frozen=True, eq=False)
class Case:
    """A convolution; inputs: [batch, c, h, w], weights: [k, c / groups, r, s]; zeros of both are known."""

    conv: Conv2d
    inputs: Ints
    weights: Ints

    @property
    def layer(self) -> LayerTrace:
        """The case as the simulator takes it."""
        return LayerTrace("case", self.conv, self.weights != 0, self.inputs != 0)

    @property
    def product(self) -> Ints:
        """The output that it must have, one weight at a time."""
        conv, per_out = self.conv, self.conv.out_channels // self.conv.groups
        padded = np.pad(self.inputs, ((0, 0), (0, 0), (conv.padding_h,) * 2, (conv.padding_w,) * 2))
        output = np.zeros((conv.batch, conv.out_channels, conv.out_h, conv.out_w), dtype=np.int64)
        for k, c, r, s in np.argwhere(self.weights):
            x, y = r * conv.dilation_h, s * conv.dilation_w
            seen = padded[:, k // per_out * (conv.in_channels // conv.groups) + c,
                          x : x + (conv.out_h - 1) * conv.stride_h + 1 : conv.stride_h,
                          y : y + (conv.out_w - 1) * conv.stride_w + 1 : conv.stride_w]
            output[:, k] += self.weights[k, c, r, s] * seen
        return output

    @property
    def kept_channels(self) -> int:
        """Output channels of an image among the sums: whole eights, so that an image does not change the bank."""
        return -(-self.conv.out_channels // 8) * 8


def draw(grid: Grid, rng: np.random.Generator) -> Case:
    """Any convolution that the RTL holds: strides, padding, dilation, groups, planes smaller than the grid."""
    while True:
        groups = int(rng.choice([1, 1, 1, 2]))

        def pick(*choices: int) -> int:
            return int(rng.choice(choices))

        try:
            conv = Conv2d(
                batch=pick(1, 1, 2), in_channels=groups * pick(1, 2, 3), out_channels=groups * pick(1, 2, 3, 5, 8),
                in_h=pick(1, 2, 3, 5, 7), in_w=pick(1, 2, 4, 5), kernel_h=pick(1, 2, 3), kernel_w=pick(1, 2, 3),
                stride_h=pick(1, 1, 2), stride_w=pick(1, 1, 2), padding_h=pick(0, 1), padding_w=pick(0, 0, 1, 2),
                dilation_h=pick(1, 1, 2), dilation_w=pick(1, 1, 1, 2), groups=groups)
        except ValueError:  # the kernel is larger than the plane
            continue
        weight_shape = (conv.out_channels, conv.in_channels // groups, conv.kernel_h, conv.kernel_w)
        inputs, weights = (operand(rng, random_mask(rng, shape)) for shape in (conv.input_shape, weight_shape))
        case = Case(conv, inputs, weights)
        if channels_held(grid, conv) and _fits(grid, case):
            return case


def channels_held(grid: Grid, conv: Conv2d) -> int:
    """Output channels whose sums an element holds at a time."""
    return grid.entries // (-(-conv.out_h // grid.pe_rows) * -(-conv.out_w // grid.pe_cols))


def _fits(grid: Grid, case: Case) -> bool:
    jobs = _jobs(grid, case)
    held = max(sum(len(element) for element, _ in (job[unit] for job in jobs)) for unit in range(grid.units))
    return (len(jobs) <= JOBS and held <= ACTIVATIONS and sum(len(job[0][1]) for job in jobs) <= WEIGHTS
            and case.conv.batch * case.kept_channels * case.conv.out_h * case.conv.out_w <= PLACES)


def _jobs(grid: Grid, case: Case) -> list[list[tuple[list[int], list[int]]]]:
    """[job][element] -> (activations, weights) as words; jobs by image, group, channel group, channel, phase."""
    conv = case.conv
    per_in, per_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    held = channels_held(grid, conv)
    jobs = []
    for image, group in np.ndindex(conv.batch, conv.groups):
        for first in range(group * per_out, (group + 1) * per_out, held):
            channels = range(first, min(first + held, (group + 1) * per_out))
            for c in range(per_in):
                for phase in np.ndindex(conv.stride_h, conv.stride_w):
                    weights = _weights(case, image, channels, c, phase)
                    jobs.append([(_activations(grid, case, image, group * per_in + c, place, phase), weights)
                                 for place in np.ndindex(grid.pe_rows, grid.pe_cols)])
    return jobs


def _activations(grid: Grid, case: Case, image: int, channel: int, place: tuple[int, ...],
                 phase: tuple[int, ...]) -> list[int]:
    conv, words = case.conv, []
    padded = np.pad(case.inputs[image, channel], ((conv.padding_h, conv.padding_h), (conv.padding_w, conv.padding_w)))
    high, wide = -(-padded.shape[0] // grid.pe_rows), -(-padded.shape[1] // grid.pe_cols)
    for x, y in np.argwhere(padded):
        if (x // high, y // wide) == place and (x % conv.stride_h, y % conv.stride_w) == phase:
            words.append(int(x // conv.stride_h << 16 | y // conv.stride_w << 8 | padded[x, y] & 0xFF))
    return words


def _weights(case: Case, image: int, channels: range, c: int, phase: tuple[int, ...]) -> list[int]:
    conv, words = case.conv, []
    for r, s in np.ndindex(conv.kernel_h, conv.kernel_w):
        at = r * conv.dilation_h, s * conv.dilation_w
        for k in channels if (at[0] % conv.stride_h, at[1] % conv.stride_w) == phase else []:
            if value := int(case.weights[k, c, r, s]):
                words.append((image * case.kept_channels + k) << 24 | at[0] // conv.stride_h << 16
                             | at[1] // conv.stride_w << 8 | value & 0xFF)
    return words


def memories(grid: Grid, case: Case) -> list[Write]:
    """What is written into the grid before the run."""
    conv, jobs = case.conv, _jobs(grid, case)
    writes = [(0, 0, 0, conv.out_h), (0, 0, 1, conv.out_w), (0, 0, 2, conv.stride_h * conv.stride_w)]
    for unit in range(grid.units):
        for which, (starts, memory) in enumerate(((1, 2), (3, 4))):
            words, first = [], [0]
            for number in range(JOBS):
                words += jobs[number][unit][which] if number < len(jobs) else []
                first.append(len(words))
            writes += [(starts, unit, address, word) for address, word in enumerate(first)]
            writes += [(memory, unit, address, word) for address, word in enumerate(words)]
    return writes


def places(grid: Grid) -> list[tuple[int, int]]:
    """Every sum of every element."""
    return [(unit, place) for unit in range(grid.units) for place in range(PLACES)]


def twin_trace(
    grid: Grid, case: Case, run: Callable[..., tuple[object, Ints]] = reference.run
) -> tuple[Trace, Ints]:
    """The twin's cycles as the RTL's are recorded, and its output; `run` may be a mutated twin."""
    watched: list[list[reference.Watched]] = []
    conv, gemm = case.conv, case.conv.gemm()
    _, output = run(case.layer, grid.machine, Tiling(gemm.m, gemm.k, gemm.n), case.inputs, case.weights, watched)
    trace = blank(len(watched), grid.slots, grid.units, grid.units * PLACES)
    for cycle, elements in enumerate(watched):
        for unit, seen in enumerate(elements):
            trace.busy[cycle, unit], trace.stall[cycle, unit] = seen.busy, seen.held
            for bank, image, (k, x, y, value) in seen.added:
                place = ((image * case.kept_channels + k) * conv.out_h + x) * conv.out_w + y
                at = cycle, unit * grid.banks + bank
                trace.valid[at], trace.place[at], trace.value[at] = 1, place, value
                trace.sums[unit * PLACES + place] += value
    return trace, output


def output_of(grid: Grid, case: Case, trace: Trace) -> Ints:
    """The output [batch, k, out_h, out_w]: what all elements hold of it, added up."""
    conv = case.conv
    shape = conv.batch, case.kept_channels, conv.out_h, conv.out_w
    sums = trace.sums.reshape(grid.units, PLACES).sum(axis=0)
    return sums[: int(np.prod(shape))].reshape(shape)[:, : conv.out_channels]


def causes(grid: Grid, trace: Trace) -> dict[Count, int]:
    """Where the cycles went, from what the elements did: a block begins in a busy cycle that follows no held one."""
    products, busy = int(trace.valid.sum()), int(trace.busy.sum())
    full = -(-products // (grid.units * grid.f * grid.i))
    blocks, working = -(-(busy - int(trace.stall.sum())) // grid.units), -(-busy // grid.units)
    return {Count.COMPUTE: full, Count.FRAGMENTATION: blocks - full, Count.BANK_CONFLICT: working - blocks,
            Count.IMBALANCE: trace.cycles - working, Count.ISSUED_MACS: products}


# F x I of 4 x 4, 2 x 3 and 1 x 1; 1, 8 and 32 banks; one element, rows, columns and a grid of them.
GRIDS = [
    Grid(2, 1, 4, 4, banks=32, entries=64),
    Grid(1, 1, 2, 3, banks=8, entries=128),
    Grid(2, 2, 1, 1, banks=1, entries=32),
    Grid(1, 2, 4, 4, banks=8, entries=48),
    Grid(1, 1, 3, 2, banks=1, entries=100),
]
