"""Banked buffers: strides that hit one bank, ports, rows; equality with the twin that counts word by word; laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, InputError, LayerTrace, Machine, load_machine
from simulator.counts import FIRST_CAUSE, Count
from simulator.laws import broken_laws
from simulator.machines import model, reference
from simulator.testing import banked_systolic, layers, operands, tilings
from simulator.workload import Operation

SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=400, **SETTINGS)
@given(st.data(), layers(), banked_systolic(), st.integers(0, 2**16))
def test_the_engine_equals_the_twin(data: st.DataObject, layer: LayerTrace, machine: Machine, seed: int) -> None:
    tiling = data.draw(tilings(layer, machine)) if seed % 4 else None
    try:
        fast = model("systolic").run(layer, machine, tiling)
    except InputError:
        reject()
    slow, _ = reference("systolic").run(layer, machine, fast.tiling, *operands(layer, np.random.default_rng(seed)))
    assert {c.name: int(fast.counts[c]) for c in Count} == {c.name: int(slow.counts[c]) for c in Count}


@settings(max_examples=150, **SETTINGS)
@given(layers(), banked_systolic())
def test_no_law_is_broken(layer: LayerTrace, machine: Machine) -> None:
    try:
        broken = broken_laws(layer, machine)
    except InputError as error:
        if "misses the buffers by" not in str(error):
            raise
        reject()
    assert broken == []


def conflicts(operation: Operation, **fields: object) -> int:
    machine = load_machine("systolic_ws", {"rows": 4, "cols": 4, "output_register": 0, **fields})
    return int(model("systolic").run(LayerTrace("layer", operation), machine).counts[Count.BANK_CONFLICT])


def test_neighbours_in_their_own_banks_never_conflict() -> None:
    # A vector of 4 neighbours in k: one from each of four banks.  Ten vectors, two folds of k.
    assert conflicts(Gemm(10, 8, 4), input_banks=4) == 0
    assert conflicts(Gemm(10, 8, 4), input_banks=2) == 10 * 2
    assert conflicts(Gemm(10, 8, 4), input_banks=2, bank_ports=2) == 0
    assert conflicts(Gemm(10, 8, 4), input_banks=1) == 10 * 2 * 3


def test_a_stride_of_the_number_of_banks_hits_one() -> None:
    # os: four neighbouring pixels at one channel.  Stride 1: four neighbours; stride 4 of four banks: always one.
    side_by_side = Conv2d(1, 4, 1, 16, 1, 1)
    strided = Conv2d(1, 4, 1, 16, 1, 1, stride_w=4)
    assert conflicts(side_by_side, dataflow="os", input_banks=4) == 0
    assert conflicts(strided, dataflow="os", input_banks=4) == 3  # one fold of four pixels, one k
    assert conflicts(strided, dataflow="os", input_banks=5) == 0  # 0, 4, 8, 12 modulo 5


def test_a_plane_of_the_number_of_banks_puts_all_channels_into_one() -> None:
    # ws: the four channels of a pixel lie a plane of 4 x 4 apart; a plane of 3 x 3 spreads them over four banks.
    assert conflicts(Conv2d(4, 4, 4, 4, 1, 1), input_banks=4) == 16 * 3
    assert conflicts(Conv2d(4, 4, 3, 3, 1, 1), input_banks=4) == 0


def test_whole_rows_in_a_bank_queue() -> None:
    # The four inputs of a vector are one row of [m, k], the four results one row of [m, n].
    assert conflicts(Gemm(10, 4, 4), input_banks=4, bank_interleave="row") == 10 * 3
    assert conflicts(Gemm(10, 4, 4), output_banks=8, bank_interleave="row") == 10 * 3
    # The busiest buffer counts, not the sum.
    assert conflicts(Gemm(10, 4, 4), input_banks=4, output_banks=8, bank_interleave="row") == 10 * 3


def test_as_many_banks_as_words_are_the_limit_case() -> None:
    operation = Gemm(10, 8, 8)
    for flow, streams in (("ws", ("input", "output")), ("os", ("weight",))):
        free = load_machine("systolic_ws", {"rows": 4, "cols": 4, "dataflow": flow})
        banked = free.replace(**{f"{operand}_banks": 4 for operand in streams})
        layer = LayerTrace("gemm", operation)
        fast, exact = (model("systolic").run(layer, machine).counts for machine in (banked, free))
        assert fast.tolist() == exact.tolist()


def test_conflicts_hide_the_shift_of_weights() -> None:
    # Streams of 2 vectors leave 2 of the 4 edges of the shift open; conflicts of 1 a vector fill them.
    layer = LayerTrace("gemm", Gemm(2, 8, 4))
    free = load_machine("systolic_ws", {"rows": 4, "cols": 4})
    slow = free.replace(input_banks=2)
    counts = [model("systolic").run(layer, machine).counts for machine in (free, slow)]
    assert [int(c[Count.WEIGHT_SHIFT]) for c in counts] == [2, 0]
    assert [int(c[Count.BANK_CONFLICT]) for c in counts] == [0, 4]
    assert int(counts[1][FIRST_CAUSE:].sum() - counts[0][FIRST_CAUSE:].sum()) == 2


def test_banks_that_do_nothing_are_refused() -> None:
    for name, fields, words in (
        ("systolic_ws", {"weight_banks": 2}, "weight_banks is for an operand that streams"),
        ("systolic_ws", {"input_banks": 2, "skip_zero_blocks": True}, "no skip_zero_blocks"),
        ("systolic_ws", {"input_banks": -1}, "input_banks = -1"),
        ("systolic_ws", {"bank_interleave": "word"}, "one of element, row"),
        ("sigma", {"input_banks": 2}, "not of model 'sigma'"),
    ):
        with pytest.raises(InputError, match=words):
            load_machine(name, fields)
