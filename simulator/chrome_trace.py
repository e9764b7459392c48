"""A timeline as a file in Chrome's trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process is a machine; its threads are the layers, the array, the causes of its cycles, the DRAM channel and the halves
of the buffers; every event is complete ("X"), with its time in microseconds at the machine's clock and in whole cycles.
Counter tracks and flows are left out.  Read timeline.py for where the events come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .recording import ARRAY, CAUSE, CHANNEL
from .timeline import Timeline

LAYERS = "layers"
FIRST_TRACKS = (LAYERS, ARRAY, CAUSE, CHANNEL)


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """The trace as a JSON object: metadata events first, then events in order of process, thread and time."""
    events: list[dict[str, Any]] = []
    for process, timeline in enumerate(timelines, start=1):
        rows = list(_rows(timeline))
        found = {row[0] for row in rows}
        tracks = [track for track in FIRST_TRACKS if track in found] + sorted(found - set(FIRST_TRACKS))
        events += _names(process, timeline, tracks)
        microseconds = 1e6 / timeline.machine.clock_hz
        for track, begin, cycles, name, kind, args in sorted(rows, key=lambda row: (tracks.index(row[0]), row[1])):
            events.append({
                "ph": "X", "pid": process, "tid": tracks.index(track) + 1, "name": name, "cat": kind,
                "ts": begin * microseconds, "dur": cycles * microseconds,
                "args": {"cycle": begin, "cycles": cycles, **args},
            })
    return {"displayTimeUnit": "ns", "traceEvents": events}


def write_chrome_trace(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Write the trace as JSON."""
    Path(path).write_text(json.dumps(chrome_trace(timelines), separators=(",", ":"), allow_nan=False), encoding="utf-8")


def _names(process: int, timeline: Timeline, tracks: Sequence[str]) -> Iterator[dict[str, Any]]:
    machine = timeline.machine
    said = f"{machine.name} at {machine.clock_hz / 1e6:g} MHz"
    yield {"ph": "M", "pid": process, "tid": 0, "name": "process_name", "args": {"name": said}}
    yield {"ph": "M", "pid": process, "tid": 0, "name": "process_sort_index", "args": {"sort_index": process}}
    for number, track in enumerate(tracks, start=1):
        yield {"ph": "M", "pid": process, "tid": number, "name": "thread_name", "args": {"name": track}}
        yield {"ph": "M", "pid": process, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}}


def _rows(timeline: Timeline) -> Iterator[tuple[str, int, int, str, str, dict[str, int]]]:
    """(track, begin, cycles, name, category, args) of every event, times of the whole network."""
    for span in timeline.spans:
        yield LAYERS, span.begin, span.cycles, span.name, span.kind, {"steps": span.steps, "slots": span.slots}
        for event in span.events:
            yield (event.track, span.begin + event.begin, event.cycles, event.name, event.track, dict(event.args))
