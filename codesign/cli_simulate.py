"""The commands that need a machine and no network: simulate, machines.

Each checks its arguments, calls the simulator and prints.  Read cli.py for the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import simulate_pictures as pictures
from .cli_common import JSON, MACHINE_HELP, example, message, print_json, print_layers, print_reports, print_table


@click.command(
    short_help="Simulate a trace or a SCALE-Sim csv.",
    epilog=example(
        "espalier simulate runs/demo/trace.safetensors --machine nm_array",
        "espalier simulate resnet18.csv --machine scalesim_ws --reports out --json",
        "espalier simulate runs/demo/trace.safetensors --machine nm_array --report pictures.html",
        "espalier simulate training_trace.safetensors --machine nm_array --training --optimiser sgd_momentum",
    ),
)
@click.argument("workload")
@click.option("--machine", "machine_name", required=True, metavar="M", help=MACHINE_HELP)
@click.option("--gemm", is_flag=True, help="The topology csv is in SCALE-Sim's gemm form (Layer, M, N, K).")
@click.option(
    "--reports", type=click.Path(file_okay=False), metavar="DIR", help="Write SCALE-Sim's csv reports into DIR."
)
@pictures.options
@click.option("--weight-type", metavar="TYPE", help="Number type of all weights: int4, int8, fp16, bf16, fp32 ...")
@click.option("--input-type", metavar="TYPE", help="Number type of all inputs.")
@click.option("--output-type", metavar="TYPE", help="Number type of all outputs.")
@click.option("--training", is_flag=True, help="One training iteration instead of one forward pass (docs/training.md).")
@click.option("--optimiser", metavar="NAME", help="With --training: sgd, sgd_momentum or adam.")
@click.option("--mask-interval", type=int, metavar="N", help="With --training: iterations between mask updates.")
@click.option("--storage", metavar="FORMAT", help="With --training: weights and states kept dense, as a bitmask ...")
@click.option("--strided", metavar="HOW", help="With --training: input gradients of strides, phases or dilated.")
@click.option("--backward-instances", type=int, metavar="N", help="With --training: so many run backward too.")
@JSON
def simulate(
    workload: str,
    machine_name: str,
    gemm: bool,
    reports: str | None,
    weight_type: str | None,
    input_type: str | None,
    output_type: str | None,
    training: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Simulate a trace or a SCALE-Sim topology csv on one machine."""
    from simulator import load_machine
    from simulator import simulate as run

    asked, iteration = pictures.taken(more), more
    pictures.check(asked, {"training": training})
    machine = load_machine(machine_name)
    trace = read_workload(workload, machine_name, gemm, getattr(machine.array, "convention", "pytorch"))
    for note in trace.provenance.get("notes", ()):
        message(f"{workload}: {note}")
    if weight_type or input_type or output_type:
        types = {"weight": weight_type or "", "input": input_type or "", "output": output_type or ""}
        trace = dataclasses.replace(trace, layers=[layer.with_types(**types) for layer in trace.layers])
    if training or any(value is not None for value in iteration.values()):
        check_training(training, reports, iteration)
        from .cli_training import print_training

        print_training(trace, machine, iteration, as_json)
        return
    pictures.check_layer(asked, trace, machine)
    found = run(trace, machine)
    pictures.write(asked, trace, found, workload, machine_name)
    if reports is not None:
        from simulator.importers.scalesim_reports import write_reports

        write_reports(found, reports)
        message(f"SCALE-Sim reports: {reports}")
    table: dict[str, Any] = {"schema": 1, "machines": [found.to_dict()]}
    if as_json:
        print_json(table)
        return
    print_layers(table["machines"][0], run(trace.dense(), machine, compare_dense=False).to_dict())
    print_reports(table["machines"])


def check_training(training: bool, reports: str | None, iteration: Mapping[str, Any]) -> None:
    """Raise InputError where options of a forward pass and of a training iteration are mixed."""
    from simulator.errors import InputError

    given = next((name for name, value in iteration.items() if value is not None), None)
    if not training:
        raise InputError(f"--{str(given).replace('_', '-')} without --training", where="simulate", fix="add --training")
    if reports is not None:
        raise InputError("--reports with --training", where="simulate", expected="one of the two",
                         fix="SCALE-Sim's reports are of a forward pass")


def read_workload(path: str, machine_name: str, gemm: bool, convention: str) -> Any:
    """The Trace of a file; convention: whose output sizes a csv has, "pytorch" or "scalesim".

    Raises InputError for a file that is missing or of no kind that is known.
    """
    from simulator import Trace
    from simulator.errors import InputError

    given = Path(path)
    if given.is_dir():
        raise InputError(
            "is a directory",
            where=path,
            expected="a trace or a SCALE-Sim topology csv",
            fix=f"for a network use: espalier evaluate {path} --machine {machine_name}",
        )
    if not given.is_file():
        raise InputError("no such file", where=path, expected="a trace or a SCALE-Sim topology csv")
    if given.suffix.lower() != ".csv":
        if gemm:
            raise InputError(
                "--gemm with a file that is no csv",
                where=path,
                expected="a SCALE-Sim topology csv",
                fix="leave out --gemm",
            )
        return Trace.load(path)
    from simulator.importers.scalesim import read_topology

    return read_topology(path, gemm=gemm, convention=convention)


@click.command(
    short_help="List the machines, or print one.",
    epilog=example("espalier machines", "espalier machines nm_array", "espalier machines 'systolic_ws?rows=8&cols=32'"),
)
@click.argument("name", required=False)
@JSON
def machines(name: str | None, as_json: bool) -> None:
    """List the machines that come with Espalier, or print one as TOML with every field."""
    from simulator import load_machine, preset_names

    if name is not None:
        fields = load_machine(name).to_dict()
        if as_json:
            print_json({"schema": 1, "machine": _finite(fields)})
            return
        import tomli_w

        click.echo(tomli_w.dumps(fields), nl=False)
        return
    loaded = [load_machine(preset) for preset in preset_names()]
    if as_json:
        print_json({"schema": 1, "machines": [_finite(machine.to_dict()) for machine in loaded]})
        return
    print_table(
        "",
        ("machine", "model", "MACs/cycle", "description"),
        [(m.name, m.model, str(m.array.peak_macs_per_cycle), m.description) for m in loaded],
    )


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a field without a limit is the text "inf", which a machine file also takes."""
    return {key: "inf" if value == float("inf") else value for key, value in fields.items()}
