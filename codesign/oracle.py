"""The simulator as an oracle: what a layer with this mask costs on this machine, each question asked once.

Answers are remembered by what can change them: the operation, the operand widths, the known input density and the
mask's bits; or, where the caller knows that only the shape matters, by a key of the caller's.  Left out: energy
or cycles of a whole network, which cost.py asks simulate() for.  Read candidates.py for the questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import NamedTuple

from simulator import LayerTrace, Machine
from simulator.engine import simulate_layer
from simulator.trace import PackedMask


class Price(NamedTuple):
    """Of one run of a layer: latency in clock cycles of the machine, energy in picojoules."""

    cycles: float
    energy_pj: float

    def __add__(self, other: object) -> Price:
        """Layers run one after the other: both add up."""
        if not isinstance(other, Price):
            return NotImplemented
        return Price(self.cycles + other.cycles, self.energy_pj + other.energy_pj)


class Oracle:
    """Prices on one machine; `asked` and `simulated` count questions and the simulations they took."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.asked = 0
        self.simulated = 0
        self._prices: dict[Hashable, Price] = {}

    def price(self, layer: LayerTrace) -> Price:
        """The price of a layer, by the content of its masks.  Raises InputError where it does not fit the machine."""
        return self._remembered(content_key(layer), lambda: layer)

    def price_by(self, key: Hashable, make: Callable[[], LayerTrace]) -> Price:
        """The price of a layer of which the caller vouches that `key` determines it; `make` is called at most once."""
        return self._remembered(("given", key), make)

    def _remembered(self, key: Hashable, make: Callable[[], LayerTrace]) -> Price:
        self.asked += 1
        if key not in self._prices:
            self.simulated += 1
            total = simulate_layer(make(), self.machine).total
            self._prices[key] = Price(float(total.cycles), total.energy_pj)
        return self._prices[key]


def content_key(layer: LayerTrace) -> Hashable:
    """All of a layer that a machine can see; names and labels are not among it."""
    types = (layer.weight_type, layer.input_type, layer.output_type)
    return (layer.operation, types, layer.input_density, _digest(layer.packed_weight), _digest(layer.packed_input))


def _digest(mask: PackedMask | None) -> bytes | None:
    return None if mask is None else hashlib.blake2b(mask.bits.tobytes(), digest_size=16).digest()
