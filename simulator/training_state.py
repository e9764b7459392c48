"""What a training step moves besides its products: optimiser states, gradients, masks.

An optimiser reads every weight, its gradient and its states and writes all but the gradient back; an update of the mask
reads what it scores by and writes a bit per weight.  Their arithmetic is left out: a few operations per weight beside
tens of bytes of DRAM (docs/training.md has the comparison).  Read training.py for who asks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import energy
from .counts import Count
from .errors import InputError, nearest
from .formats import best, parse_format, size_bits
from .hardware import Machine
from .number_types import parse_type
from .report import Total
from .trace import LayerTrace

OPTIMISERS = {"sgd": 0, "sgd_momentum": 1, "adam": 2}  # states per weight
SCORES = ("magnitude", "gradient")


@dataclass(frozen=True)
class Updates:
    """How weights and masks are kept and changed.

    optimiser: a name of OPTIMISERS.  master_type, state_type: of the copy that is updated and of each state; where the
    master has another type than the layer's weights, these are written anew too.  storage: "dense", "best" or a format
    of formats.py; with a format only the values that it stores move, and its indices once.  mask_interval: iterations
    from one mask to the next, 0 = never; mask_score: "magnitude" reads all weights, "gradient" their gradients too, and
    needs the gradient of the dead ones.
    """

    optimiser: str = "sgd"
    master_type: str = "fp32"
    state_type: str = "fp32"
    storage: str = "dense"
    mask_interval: int = 0
    mask_score: str = "magnitude"

    def __post_init__(self) -> None:
        for label, value, known in (("optimiser", self.optimiser, tuple(OPTIMISERS)),
                                    ("mask_score", self.mask_score, SCORES)):
            if value not in known:
                raise InputError(f"{label} = {value!r}", where="training", expected=f"one of {', '.join(known)}",
                                 fix=nearest(value, known))
        parse_type(self.master_type, "master_type")
        parse_type(self.state_type, "state_type")
        if self.storage not in ("dense", "best"):
            parse_format(self.storage)
        if isinstance(self.mask_interval, bool) or not isinstance(self.mask_interval, int) or self.mask_interval < 0:
            raise InputError(f"mask_interval = {self.mask_interval!r}", where="training",
                             expected="a number of iterations, 0 for never")


def optimiser_bits(layer: LayerTrace, updates: Updates, gradient_type: str, compacts: bool) -> tuple[int, int]:
    """(bits read, bits written) by one step of the optimiser on the weights of a layer.

    compacts: does the machine hold the layer without its empty channels and filters?
    """
    master, states = parse_type(updates.master_type)[0], OPTIMISERS[updates.optimiser]
    state = states * parse_type(updates.state_type)[0]
    copies = layer.weight_bits if layer.weight_type != updates.master_type else 0
    read = written = 0
    for mask in _matrices(layer, compacts):
        values, indices = _stored(mask, updates.storage)
        read += values * (master + parse_type(gradient_type)[0] + state) + indices
        written += values * (master + state + copies)
    return read, written


def mask_update_bits(layer: LayerTrace, updates: Updates, gradient_type: str) -> tuple[int, int]:
    """(bits read, bits written) by one new mask: every weight is looked at, dead ones too, and gets its bit."""
    weights = int(np.prod(layer.operation.weight_shape, dtype=object))
    scored = parse_type(updates.master_type)[0]
    scored += parse_type(gradient_type)[0] if updates.mask_score == "gradient" else 0
    return weights * scored, weights


def moved(read_bits: int, written_bits: int, machine: Machine, types: tuple[int, int, int]) -> Total:
    """The cost of so many bits over the DRAM channel, at its bandwidth: one stream in, one out, in whole bursts.

    An ideal memory moves nothing, as everywhere.  types: bits of weight, input and output, for the record.
    """
    memory = machine.memory
    counts = np.zeros(len(Count), dtype=np.int64)
    if memory.memory != "ideal":
        burst = memory.burst_bytes
        read, written = (-(-bits // (8 * burst)) * burst for bits in (read_bits, written_bits))
        counts[Count.WEIGHT_DRAM_READ_BYTES], counts[Count.OUTPUT_DRAM_WRITE_BYTES] = read, written
        per, cycles = memory.bandwidth()
        if read + written:
            counts[Count.VECTOR] = (-(-(read + written) * cycles // per) if per else 0) + memory.dram_latency_cycles
    bits = (*types, memory.psum_bits)
    return Total(counts, machine.array.peak_macs_per_cycle, bits, (0, 0), energy.energy_pj(counts, machine, bits),
                 machine.clock_hz)


def _matrices(layer: LayerTrace, compacts: bool) -> NDArray[np.bool_] | list[NDArray[np.bool_]]:
    """The masks bool[k, n] of the groups, as they are held."""
    masks = layer.weight_matrix()
    if not compacts:
        return masks
    if len(masks) > 1:
        return masks[masks.any(axis=(1, 2))]
    channels = masks[0].reshape(-1, layer.operation.window, masks.shape[2]).any(axis=(1, 2))
    return [masks[0][np.repeat(channels, layer.operation.window)][:, masks[0].any(axis=0)]]


def _stored(mask: NDArray[np.bool_], storage: str) -> tuple[int, int]:
    """(values, bits of indices) of a mask in a format."""
    if storage == "dense" or not mask.size:
        return mask.size, 0
    return size_bits(mask, best(mask, 32) if storage == "best" else parse_format(storage), 1)
