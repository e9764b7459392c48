"""The pictures that `espalier simulate` makes beside its table: options, their checks, and the files.

Options are checked before anything is simulated and files written after everything is, so that a mistake leaves none
behind.  Read docs/pictures.md for what the pictures show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import message

if TYPE_CHECKING:
    from simulator import Machine, Trace
    from simulator.report import Report

WINDOW = "0:2000"
ENDINGS = {"report": (".html", ".htm"), "tile": (".html", ".htm"), "timeline": (".json",),
           "accesses": (".csv", ".npz", ".html", ".htm")}
OF_A_LAYER = ("report", "tile", "accesses")
OPTIONS = (
    click.option("--report", type=click.Path(dir_okay=False), metavar="FILE.html", help="Pictures of the whole "
                 "simulation: the array, occupancy over time, causes, roofline, energy (docs/pictures.md)."),
    click.option("--tile", type=click.Path(dir_okay=False), metavar="FILE.html",
                 help="A small tile of a layer, cycle by cycle: which operand is in which element."),
    click.option("--timeline", type=click.Path(dir_okay=False), metavar="FILE.json",
                 help="Load, compute and store of every layer and tile, as a Chrome trace (Perfetto opens it)."),
    click.option("--accesses", type=click.Path(dir_okay=False), metavar="FILE",
                 help="Every access of a layer in a window of cycles: .csv or .npz written, .html drawn."),
    click.option("--window", metavar="FIRST:STOP", help=f"With --accesses: its cycles, STOP left out ({WINDOW})."),
    click.option("--layer", metavar="NAME", help="Of --report, --tile, --accesses (default: most cycles)."),
)


@dataclass(frozen=True)
class Pictures:
    """What was asked for; None where it was not."""

    report: str | None = None
    tile: str | None = None
    timeline: str | None = None
    accesses: str | None = None
    window: str | None = None
    layer: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files to write by option."""
        return {name: getattr(self, name) for name in ENDINGS if getattr(self, name) is not None}

    @property
    def cycles(self) -> tuple[int, int]:
        """First cycle of the window, and the first after it."""
        first, _, stop = (self.window or WINDOW).partition(":")
        return int(first), int(stop)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of this file."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def taken(given: dict[str, Any]) -> Pictures:
    """The pictures among a command's options, which lose them."""
    return Pictures(**{item.name: given.pop(item.name) for item in fields(Pictures)})


def check(asked: Pictures, other: Mapping[str, bool]) -> None:
    """Raise InputError for options that do not go together; other: options given that have no pictures."""
    from simulator.errors import InputError

    files = asked.files
    if asked.window is not None and asked.accesses is None:
        raise InputError("--window without --accesses", where="simulate", fix="add --accesses FILE.csv")
    if asked.layer is not None and not any(name in files for name in OF_A_LAYER):
        raise InputError("--layer without a picture of a layer", where="simulate",
                         expected="--report, --tile or --accesses beside it")
    for name in files:
        for word, there in other.items():
            if there:
                raise InputError(f"--{name} with --{word}", where="simulate", expected="one of the two",
                                 fix="pictures are of a forward pass")
    for name, file in files.items():
        path = Path(file)
        if path.suffix.lower() not in ENDINGS[name]:
            hint = "for SCALE-Sim's csv reports use --reports DIR" if name == "report" and not path.suffix else ""
            raise InputError(f"--{name} {file}", where="simulate",
                             expected=f"a file named {' or '.join(ENDINGS[name][:3])}", fix=hint)
        if not path.parent.is_dir():
            raise InputError(f"--{name} {file}", where="simulate", expected="a folder that exists",
                             fix=f"make it: mkdir -p {path.parent}")
    if len({Path(file).resolve() for file in files.values()}) < len(files):
        raise InputError("two pictures in one file", where="simulate", expected="a file for each")
    _check_window(asked)


def _check_window(asked: Pictures) -> None:
    from simulator.errors import InputError

    try:
        first, stop = asked.cycles
    except ValueError:
        first, stop = 0, 0
    if not 0 <= first < stop:
        raise InputError(f"--window {asked.window}", where="simulate",
                         expected=f"FIRST:STOP, whole numbers, 0 <= FIRST < STOP, such as {WINDOW}")


def check_layer(asked: Pictures, trace: Trace, machine: Machine) -> None:
    """Raise InputError for a layer that is not there, and for a picture that the machine's model does not have."""
    from simulator.errors import InputError, nearest

    names = [layer.name for layer in trace.layers]
    if asked.layer is not None and asked.layer not in names:
        raise InputError(f"no layer {asked.layer!r}", where="simulate", fix=nearest(asked.layer, names),
                         expected=", ".join(names[:12]) + (", ..." if len(names) > 12 else ""))
    for name in ("tile", "accesses"):
        if name in asked.files and machine.model != "systolic":
            raise InputError(f"--{name} on model {machine.model!r}", where=f"machine {machine.name!r}",
                             expected="model systolic, whose array is stepped element by element",
                             fix="choose one of the systolic machines (espalier machines)")


def write(asked: Pictures, trace: Trace, found: Report, workload: str, given: str) -> None:
    """Make every picture, then write them; InputError, and no file, where one cannot be made."""
    from .simulate_page import write as write_page

    made: dict[str, Callable[[str], None]] = {}
    for name in asked.files:
        if name == "timeline":
            made[name] = _timeline(found)
        elif name == "accesses":
            made[name] = _accesses(asked, trace, found, given)
        else:
            page = _report(asked, trace, found, workload, given) if name == "report" else _tile(asked, trace, found)
            made[name] = lambda file, page=page: write_page(page, file)
    for name, file in asked.files.items():
        made[name](file)
        message(f"{name}: {file}")


def _layer(asked: Pictures, trace: Trace, found: Report) -> Any:
    """The layer that was asked for, or the one of most cycles."""
    if asked.layer is not None:
        return next(layer for layer in trace.layers if layer.name == asked.layer)
    return max(found.layers, key=lambda layer: layer.cycles).layer


def _report(asked: Pictures, trace: Trace, found: Report, workload: str, given: str) -> str:
    from simulator.element_map import why_not
    from simulator.errors import InputError

    from .simulate_report import simulation_page

    if asked.layer is not None:
        why = why_not(next(layer for layer in found.layers if layer.name == asked.layer), found.machine)
        if why:
            raise InputError(f"layer {asked.layer!r} has no map of the array: {why}", where="simulate",
                             fix="leave out --layer")
    return simulation_page(trace, found, Path(workload).name, given, asked.layer)


def _tile(asked: Pictures, trace: Trace, found: Report) -> str:
    from simulator.tile_view import tile_view

    from .simulate_tile import tile_page

    return tile_page(tile_view(_layer(asked, trace, found), found.machine))


def _timeline(found: Report) -> Callable[[str], None]:
    from simulator.chrome_trace import write_chrome_trace
    from simulator.timeline import timeline

    line = timeline(found)
    if line.coarse:
        message(f"timeline: one event per cause for {len(line.coarse)} of {len(found.layers)} layers, whose steps "
                "would be too many or are not known")
    return lambda file: write_chrome_trace([line], file)


def _accesses(asked: Pictures, trace: Trace, found: Report, given: str) -> Callable[[str], None]:
    from simulator.access_trace import access_trace

    from .simulate_accesses import accesses_page
    from .simulate_page import write as write_page

    layer, (first, stop) = _layer(asked, trace, found), asked.cycles
    accesses = access_trace(layer, found.machine, first=first, stop=stop)
    if Path(str(asked.accesses)).suffix.lower() in (".csv", ".npz"):
        return accesses.save
    page = accesses_page(accesses, layer.name, given, first, stop)
    return lambda file: write_page(page, file)
