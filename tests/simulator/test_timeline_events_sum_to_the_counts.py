"""The events of a timeline: exactly the engine's cycles, bytes and multiplications, nothing in two places at once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator import Conv2d, Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.chrome_trace import chrome_trace
from simulator.counts import Count
from simulator.errors import InputError
from simulator.hardware import preset_names
from simulator.machines import MACHINES
from simulator.operators import Operator
from simulator.recording import ARRAY, CAUSE, CHANNEL
from simulator.testing import layers_for, machines
from simulator.timeline import timeline

STALLS = {"cold_fill", "stall_weight", "stall_input", "stall_psum", "stall_output"}


def check(report, line):
    """Sums of every span against its layer's counts, and order on every track."""
    assert line.cycles == report.cycles
    of_layers = [span for span in line.spans if span.kind == "layer"]
    assert [span.name for span in of_layers] == [layer.name for layer in report.layers]
    for span, layer in zip(of_layers, report.layers, strict=True):
        causes, tracks, moved = Counter(), defaultdict(list), Counter()
        for event in span.events:
            assert event.cycles >= 0
            assert event.begin >= 0
            assert event.end <= span.cycles - layer.total.cycle_offset
            tracks[event.track].append((event.begin, event.end))
            if event.track == CAUSE:
                causes[event.name] += event.cycles
            if event.track == CHANNEL:
                moved[event.name.partition(" ")[0]] += event.args["bytes"]
        for spans in tracks.values():
            spans.sort()
            assert all(one[1] <= two[0] for one, two in pairwise(spans))
        expected = layer.cycles_by_cause
        if span.detailed and report.machine.model != "systolic":
            # A model's own causes are known for the layer: its steps stand on the array's track.
            assert sum(e.cycles for e in span.events if e.track == ARRAY) == sum(
                cycles for cause, cycles in expected.items() if cause not in STALLS | {"startup"})
            expected = {cause: cycles for cause, cycles in expected.items() if cause in STALLS | {"startup"}}
        assert causes == Counter(expected)
        if span.detailed:
            total = layer.total.to_dict()
            assert moved["load"] == total["dram_read_bytes"]
            assert moved["store"] == total["dram_write_bytes"]
    counts = report.total.counts
    assert sum(slots for _, _, slots in line.busy()) == counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS]
    assert all(0 <= begin <= end <= line.cycles + len(report.layers) for begin, end, _ in line.busy())


@pytest.mark.parametrize("name", MACHINES)
def test_events_sum_to_the_counts_of_drawn_layers(name):
    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def drawn(data):
        layer, machine = data.draw(layers_for(name)), data.draw(machines(name))
        try:
            report = simulate(Trace([layer]), machine, compare_dense=False)
        except InputError as error:
            assume("misses" not in str(error))
            raise
        line = timeline(report)
        check(report, line)
        if name == "systolic" and report.layers[0].executed_as != "removed":
            assert line.spans[0].detailed

    drawn()


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(7)
    conv = Conv2d(in_channels=8, out_channels=24, in_h=10, in_w=10, kernel_h=3, kernel_w=3, padding_h=1, padding_w=1)
    return Trace(
        [LayerTrace("conv", conv, rng.random((24, 8, 3, 3)) < 0.4, rng.random((1, 8, 10, 10)) < 0.5),
         LayerTrace("heads", Gemm(12, 16, 12, groups=3), rng.random((3, 16, 12)) < 0.5),
         LayerTrace("fc", Gemm(4, 700, 130), rng.random((700, 130)) < 0.3)],
        operators=[Operator("first", "flatten", "layout", 800, 800, 800),
                   Operator("soft", "softmax", "softmax", 432, 432, 2000, after="heads")],
    )


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "eie"])
def test_every_preset_has_a_timeline_with_operators_and_groups(preset, network):
    report = simulate(network, load_machine(preset, {"layer_startup_cycles": 11, "vector_lanes": 4}))
    line = timeline(report)
    check(report, line)
    assert [span.name for span in line.spans] == ["first", "conv", "heads", "soft", "fc"]


def test_a_layer_of_too_many_steps_keeps_its_causes_and_is_named(network):
    report = simulate(network, load_machine("systolic_ws"))
    whole = timeline(report)
    steps = {span.name: span.steps for span in whole.spans}
    assert whole.coarse == []
    cut = timeline(report, most_events=8 * (sum(steps.values()) - 1))
    assert cut.coarse == [max(steps, key=lambda name: steps[name])]
    check(report, cut)


def test_a_step_waits_for_its_loads_and_its_store_for_it(network):
    """Each first use of a tile comes after its load has left the channel, each store after a step has ended."""
    line = timeline(simulate(network, load_machine("systolic_ws", {"dram_bytes_per_cycle": 2})))
    span = next(span for span in line.spans if span.name == "fc")
    steps = {event.args["step"]: event for event in span.events if event.track == ARRAY}
    loads = [event for event in span.events if event.track == CHANNEL and event.name.startswith("load")]
    stores = [event for event in span.events if event.track == CHANNEL and event.name.startswith("store")]
    latency = line.machine.memory.dram_latency_cycles
    assert len(loads) > 5
    assert all(steps[load.args["step"]].begin >= load.end + latency for load in loads)
    assert stores
    assert all(store.begin >= min(step.end for step in steps.values()) for store in stores)


def test_the_chrome_trace_is_json_in_order_and_sums(network):
    report = simulate(network, load_machine("nm_array"))
    other = simulate(network, load_machine("sparten"))
    trace = json.loads(json.dumps(chrome_trace([timeline(report), timeline(other)]), allow_nan=False))
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    processes = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert [name.partition(" ")[0] for name in processes] == ["nm_array", "sparten"]
    assert {"layers", ARRAY, CAUSE, CHANNEL} <= {name for (pid, _), name in names.items() if pid == 1}
    assert any(name.startswith("weight buffer") for name in names.values())
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(complete) + 2 * len(names) + 4 == len(trace["traceEvents"])
    per_thread = defaultdict(list)
    for event in complete:
        assert isinstance(event["ts"], float)
        assert event["dur"] >= 0
        per_thread[event["pid"], event["tid"]].append(event)
    for thread, events in per_thread.items():
        assert thread in names
        assert all(one["args"]["cycle"] + one["args"]["cycles"] <= two["args"]["cycle"]
                   for one, two in pairwise(events))
    for pid, found in ((1, report), (2, other)):
        layers = [e for e in complete if e["pid"] == pid and names[pid, e["tid"]] == "layers"]
        assert sum(e["args"]["cycles"] for e in layers) == found.cycles
        assert sum(e["dur"] for e in layers) == pytest.approx(found.total.latency_s * 1e6, rel=1e-9)
