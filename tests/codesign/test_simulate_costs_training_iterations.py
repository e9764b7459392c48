"""`espalier simulate --training` and the number types on the command line: the figures are the simulator's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from codesign.cli import espalier
from simulator import Trace, load_machine, simulate
from simulator.training import training_iteration
from simulator.training_state import Updates

TRACE = str(Path(__file__).resolve().parents[2] / "sweeps" / "workloads" / "resnet8_pruned.safetensors")


def run(*arguments: str) -> object:
    return CliRunner().invoke(espalier, ["simulate", TRACE, *arguments], catch_exceptions=True)


def test_json_of_an_iteration_is_the_reports() -> None:
    done = run("--machine", "nm_array", "--training", "--optimiser", "adam", "--mask-interval", "50", "--json")
    assert done.exit_code == 0, done.output
    [table] = json.loads(done.stdout)["training"]
    updates = Updates("adam", mask_interval=50)
    report = training_iteration(Trace.load(TRACE), load_machine("nm_array"), updates)
    dense = training_iteration(Trace.load(TRACE).dense(), load_machine("nm_array"), Updates("adam"))
    assert table["iteration"]["cycles"] == report.cycles
    assert table["phases"] == json.loads(json.dumps(report.to_dict()["phases"]))
    assert table["energy_ratio"] == pytest.approx(dense.energy_j / report.energy_j)


def test_a_table_has_a_row_for_every_phase() -> None:
    done = run("--machine", "nm_array", "--training", "--mask-interval", "50")
    for words in ("forward", "input gradient", "weight gradient", "optimiser", "mask update (1 in 50)", "iteration"):
        assert words in done.stdout


def test_number_types_reach_the_simulation() -> None:
    done = run("--machine", "nm_array", "--weight-type", "int4", "--output-type", "int16", "--json")
    [table] = json.loads(done.stdout)["machines"]
    trace = Trace.load(TRACE)
    same = Trace([layer.with_types(weight="int4", output="int16") for layer in trace.layers], trace.edges)
    assert table["total"]["cycles"] == simulate(same, load_machine("nm_array"), compare_dense=False).cycles
    assert table["total"]["dram_write_bytes"] > simulate(trace, load_machine("nm_array")).total.to_dict()[
        "dram_write_bytes"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--optimiser", "adam"], "--optimiser without --training; add --training"),
    (["--training", "--optimiser", "adm"], "did you mean 'adam'"),
    (["--training", "--reports", "x"], "--reports with --training"),
    (["--weight-type", "int9000"], "unknown number type 'int9000'"),
    (["--input-type", "bf16"], "no entry for component 'mac' in bf16 x bf16"),
    (["--input-type", "fp32"], "it has int8 x int8; choose a table that has it (horowitz_45nm)"),
    (["--training", "--backward-instances", "7"], "backward_instances = 7; expected 0 to 1"),
])
def test_mistakes_get_one_message(arguments: list[str], words: str) -> None:
    from simulator import InputError

    done = run("--machine", "nm_array", *arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
