"""Steps through buffers and a channel: hand-drawn time lines, the clocked twin, and mutations that must be seen."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simulator.steps
from simulator import InputError
from simulator.counts import Count
from simulator.hardware import Memory
from simulator.reference import steps as reference
from simulator.steps import Steps, check_fits, missing_bytes, play
from simulator.testing import dram_memories

# Two bytes per cycle, data there 3 cycles after its last byte, no bursts, every buffer double.
SIMPLE = {"dram_bytes_per_cycle": 2.0, "dram_latency_cycles": 3, "dram_burst_bytes": 1}
STALLS = ("COLD_FILL", "STALL_WEIGHT", "STALL_INPUT", "STALL_OUTPUT")


def steps(*rows, **more):
    weight, inputs, output, cycles = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Steps(weight, inputs, output, cycles, **more)


def stalls(counts):
    return {name: int(counts[Count[name]]) for name in STALLS if counts[Count[name]]}


def test_one_step_pays_its_loads_and_its_store():
    # channel  w [0,4)  i [4,6)  -> weights there at 7, inputs at 9
    # array    [9, 19); store of 8 bytes [19, 23)
    counts = play(steps((8, 4, 8, 10)), Memory(**SIMPLE))
    assert stalls(counts) == {"COLD_FILL": 9, "STALL_OUTPUT": 4}
    assert counts[Count.WEIGHT_DRAM_READ_BYTES] == 8
    assert counts[Count.INPUT_DRAM_READ_BYTES] == 4
    assert counts[Count.OUTPUT_DRAM_WRITE_BYTES] == 8


def test_double_buffers_hide_the_next_load_behind_the_step():
    # channel  w0 [0,4)  w1 [4,8)  s0 [17,18)  w2: half of w0 free at 17, behind s0? no: loads go first, w2 [17,21)
    # array    0 [7,17)  1 [17,27)  2 [27,37); stores s0 [21,22) s1 [27,28) s2 [37,38)
    counts = play(steps((8, 0, 2, 10), (8, 0, 2, 10), (8, 0, 2, 10)), Memory(**SIMPLE))
    assert stalls(counts) == {"COLD_FILL": 7, "STALL_OUTPUT": 1}


def test_a_single_weight_buffer_loads_between_the_steps():
    # w0 [0,4) there at 7, step [7,17), w1 [17,21) there at 24
    counts = play(steps((8, 0, 0, 10), (8, 0, 0, 10)), Memory(**SIMPLE, weight_double_buffered=False))
    assert stalls(counts) == {"COLD_FILL": 7, "STALL_WEIGHT": 7}


def test_a_single_output_buffer_stores_before_the_next_step_and_its_loads():
    # i0 [0,4) there at 7, step 0 [7,17), store [17,19), then i1 [19,23) there at 26
    single = Memory(**SIMPLE, output_double_buffered=False)
    assert stalls(play(steps((0, 8, 4, 10), (0, 8, 0, 10)), single)) == {"COLD_FILL": 7, "STALL_INPUT": 9}
    # with nothing to load, step 1 waits for the store alone: 2 cycles
    assert stalls(play(steps((0, 8, 4, 10), (0, 0, 0, 10)), single)) == {"COLD_FILL": 7, "STALL_OUTPUT": 2}


def test_two_output_buffers_are_full_when_the_third_result_comes_first():
    # stores take 20 cycles each and steps 5: step 2 waits for the end of store 0, step 3 for store 1
    # array 0 [4,9)  1 [9,14)  2 [29,34)  3 [49,54); stores [9,29) [29,49) [49,69) [69,89)
    counts = play(steps((2, 0, 40, 5), *[(0, 0, 40, 5)] * 3), Memory(**SIMPLE))
    assert stalls(counts) == {"COLD_FILL": 4, "STALL_OUTPUT": 15 + 15 + 35}


def test_outputs_that_stay_need_no_second_half():
    # only the last step stores; the steps before it work on the same outputs
    counts = play(steps((2, 0, 0, 5), (0, 0, 0, 5), (0, 0, 6, 5)), Memory(**SIMPLE, output_double_buffered=False))
    assert stalls(counts) == {"COLD_FILL": 4, "STALL_OUTPUT": 3}


def test_an_operand_of_no_bytes_stays_in_its_half():
    # single buffers: inputs are kept over three steps, so their half is released when step 2 ends at 37
    single = Memory(**SIMPLE, input_double_buffered=False)
    counts = play(steps((0, 8, 0, 10), (0, 0, 0, 10), (0, 0, 0, 10), (0, 8, 0, 10)), single)
    assert stalls(counts) == {"COLD_FILL": 7, "STALL_INPUT": 7}


def test_a_half_that_was_never_used_is_free():
    # the first weights come with step 1 and may be loaded while step 0 computes, single buffer or not
    counts = play(steps((0, 2, 0, 10), (8, 0, 0, 10)), Memory(**SIMPLE, weight_double_buffered=False))
    assert stalls(counts) == {"COLD_FILL": 4}


def test_the_operand_that_arrives_last_is_charged():
    counts = play(steps((2, 2, 0, 1), (30, 30, 0, 1)), Memory(**SIMPLE))
    assert stalls(counts) == {"COLD_FILL": 5, "STALL_INPUT": 29}
    assert stalls(play(steps((2, 2, 0, 1), (30, 0, 0, 1)), Memory(**SIMPLE))) == {"COLD_FILL": 5, "STALL_WEIGHT": 14}


def test_bytes_are_rounded_to_bursts_and_metadata_is_not():
    counts = play(steps((9, 1, 17, 4), metadata_bytes=np.array([3])), Memory(**{**SIMPLE, "dram_burst_bytes": 16}))
    moved = [Count.WEIGHT_DRAM_READ_BYTES, Count.INPUT_DRAM_READ_BYTES, Count.OUTPUT_DRAM_WRITE_BYTES]
    assert counts[moved].tolist() == [16, 16, 32]
    assert counts[Count.METADATA_BYTES] == 3


def test_without_limits_or_steps_or_memory_nothing_is_added_but_bytes():
    boundless = Memory(dram_bytes_per_cycle=float("inf"), dram_latency_cycles=0, dram_burst_bytes=1)
    assert stalls(play(steps((8, 4, 8, 10), (8, 4, 8, 10)), boundless)) == {}
    assert not play(steps((8, 4, 8, 10)), Memory(memory="ideal")).any()
    nothing = np.zeros(0, dtype=np.int64)
    assert not play(Steps(nothing, nothing, nothing, nothing), Memory()).any()


def test_what_does_not_fit_is_refused_by_the_byte():
    tight = Memory(weight_buffer_bytes=19, input_buffer_bytes=100, output_buffer_bytes=100)
    two = steps((10, 1, 1, 1), (10, 1, 1, 1))
    assert missing_bytes(two, tight) == 1  # two halves of 10
    with pytest.raises(InputError, match="misses the buffers by 1 bytes: it needs 20 weight"):
        play(two, tight)
    assert missing_bytes(steps((10, 1, 1, 1), (0, 1, 1, 1)), tight) == 0  # one tile needs no second half
    shared = Memory(shared_buffer_bytes=50)
    assert missing_bytes(two, shared) == 0
    assert missing_bytes(steps((20, 1, 5, 1), (10, 1, 5, 1)), shared) == 2 * (20 + 1 + 5) - 50
    held = steps((1, 1, 5, 1), output_held_bytes=np.array([120]))
    assert missing_bytes(held, tight) == 20
    with pytest.raises(InputError, match="50 shared"):
        check_fits(steps((51, 0, 0, 1)), shared)


def test_wrong_steps_and_times_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="negative"):
        steps((1, -1, 1, 1))
    with pytest.raises(ValueError, match="shape"):
        Steps(np.zeros(2), np.zeros(2), np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="64 bits"):
        play(steps((2**40, 0, 0, 1)), Memory(weight_buffer_bytes=2**41, dram_bytes_per_cycle=1e-9))


@st.composite
def played(draw):
    count = draw(st.integers(1, 9))
    few = st.sampled_from((0, 0, 1, 3, 8, 20))
    column = st.lists(few, min_size=count, max_size=count)
    listed = [np.array(draw(column), dtype=np.int64) for _ in range(4)]
    memory = Memory(
        input_double_buffered=draw(st.booleans()), weight_double_buffered=draw(st.booleans()),
        output_double_buffered=draw(st.booleans()),
        dram_bytes_per_cycle=draw(st.sampled_from((0.75, 1.0, 2.5, 8.0, float("inf")))),
        dram_latency_cycles=draw(st.sampled_from((0, 1, 7))), dram_burst_bytes=draw(st.sampled_from((1, 4, 6))),
    )
    return Steps(*listed, metadata_bytes=listed[0] // 2), memory


@st.composite
def played_through_dram(draw):
    """The same steps, through a drawn DRAM device."""
    drawn, memory = draw(played())
    device = draw(dram_memories())
    halves = {name: value for name, value in vars(memory).items() if name.endswith("double_buffered")}
    roomy = dict.fromkeys(("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes"), 1000)
    return drawn, dataclasses.replace(device, shared_buffer_bytes=0, **halves, **roomy)


SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@SETTINGS
@given(played())
def test_the_engine_equals_the_clocked_twin(case):
    expected = reference.play(*case)
    assert {item.name: int(play(*case)[item]) for item in Count} == {i.name: int(expected[i]) for i in Count}


@SETTINGS
@given(played_through_dram())
def test_the_engine_equals_the_clocked_twin_through_dram(case):
    expected = reference.play(*case)
    assert {item.name: int(play(*case)[item]) for item in Count} == {i.name: int(expected[i]) for i in Count}


@SETTINGS
@given(played())
def test_more_bandwidth_is_never_slower_and_the_channel_is_never_beaten(case):
    drawn, memory = case
    counts = play(drawn, memory)
    time = drawn.total_cycles + sum(stalls(counts).values())
    moved, per = memory.bandwidth()
    traffic = sum(int(counts[item]) for item in Count if item.name.endswith(("DRAM_READ_BYTES", "DRAM_WRITE_BYTES")))
    assert not moved or traffic * per <= time * moved
    faster = Memory(**{**memory.__dict__, "dram_bytes_per_cycle": memory.dram_bytes_per_cycle * 2})
    assert sum(stalls(play(drawn, faster)).values()) <= sum(stalls(counts).values())


MUTATIONS = [
    ("bursts round down", "return (size + burst - 1) // burst * burst", "return size // burst * burst"),
    ("the channel rounds down", "p[BW_CYCLES] + p[BW_BYTES] - 1) // p[BW_BYTES]", "p[BW_CYCLES]) // p[BW_BYTES]"),
    ("latency of weights is free", "w += p[LATENCY]", "w += 0"),
    ("latency of inputs is free", "i += p[LATENCY]", "i += 0"),
    ("weights are double buffered", "used_w if p[HALVES_W] == 1 else used_w_before", "used_w_before"),
    ("inputs are double buffered", "used_i if p[HALVES_I] == 1 else used_i_before", "used_i_before"),
    ("weights are single buffered", "used_w if p[HALVES_W] == 1 else used_w_before", "used_w"),
    ("outputs are double buffered", "free = stored if p[HALVES_O] == 1 else stored_before", "free = stored_before"),
    ("outputs are single buffered", "free = stored if p[HALVES_O] == 1 else stored_before", "free = stored"),
    ("the store of one half goes last", "if leaves and p[HALVES_O] == 1:", "if leaves and p[HALVES_O] == 7:"),
    ("stores go first", "if leaves and p[HALVES_O] == 1:", "if leaves:"),
    ("an unused half is in use (weights)", "if has_w:", "if True:"),
    ("an unused half is in use (inputs)", "if has_i:", "if True:"),
    ("the cold fill is a stall of weights", "if s == 0:", "if s < 0:"),
    ("ties go to the inputs", "elif w == start:", "elif w == start and i < start:"),
    ("the last store is free", "counts[STALL_O] += channel - end", "counts[STALL_O] += 0"),
    ("a store does not wait for its step", "moved(d, state, channel, end, occupied",
     "moved(d, state, channel, 0, occupied"),
]


def mutated(*change):
    """steps_kernel.py as plain Python, with one text replaced."""
    source = (Path(simulator.steps.__file__).parent / "steps_kernel.py").read_text(encoding="utf-8")
    if change:
        assert change[0] in source, f"the source no longer holds {change[0]!r}: mend the list of mutations"
        source = source.replace(*change)
    source = source.replace("from .jit import kernel\n", "kernel = lambda function: function\n")
    module = types.ModuleType("simulator.steps_kernel")
    module.__package__ = "simulator"
    exec(compile(source, "mutated", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def drawn():
    cases = []

    @settings(SETTINGS, derandomize=True, database=None)
    @given(played())
    def collect(case):
        cases.append((*case, reference.play(*case)))

    collect()
    return cases


def differs(module, drawn, monkeypatch):
    monkeypatch.setattr(simulator, "steps_kernel", module, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "simulator.steps_kernel", module)
    return any(not np.array_equal(play(case, memory), twin) for case, memory, twin in drawn)


def test_the_unchanged_kernel_differs_nowhere(drawn, monkeypatch):
    assert len(drawn) > 200
    assert not differs(mutated(), drawn, monkeypatch)


@pytest.mark.parametrize(("what", "text", "becomes"), MUTATIONS, ids=[row[0] for row in MUTATIONS])
def test_a_wrong_line_turns_this_red(what, text, becomes, drawn, monkeypatch):
    assert differs(mutated(text, becomes), drawn, monkeypatch), what
