"""`espalier evaluate` in a fresh process prints, digit for digit, what `espalier train` logged."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from codesign.config import TrainConfig, check_config, load_config
from codesign.train import run_training

Espalier = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., tuple[int, str, str]]


def test_a_run_evaluates_to_what_training_reported(tiny_run: Path, espalier: Espalier) -> None:
    trained = json.loads((tiny_run / "report.json").read_text())
    done = espalier("evaluate", tiny_run, "--machine", "nm_array", "--machine", "systolic_ws", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": 1, "machines": trained["machines"]}


def test_metrics_exported_directory_and_trace_agree_with_the_run(tiny_run: Path, invoke: Invoke) -> None:
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    machines = []
    for place in (tiny_run, tiny_run / "model", tiny_run / "trace.safetensors"):
        status, out, _ = invoke("evaluate", place, "--machine", "nm_array", "--json")
        assert status == 0
        machines.append(json.loads(out)["machines"])
    assert machines[0] == machines[1] == machines[2]
    logged, total = rows[-1]["machines"]["nm_array"], machines[0][0]["total"]
    assert (logged["cycles"], logged["energy_pj"]) == (total["cycles"], total["energy_pj"])
    assert logged["dense_cycles"] == machines[0][0]["dense"]["cycles"]
    assert machines[0][0]["speedup"] == logged["dense_cycles"] / logged["cycles"] > 1
    assert sum(total["cycles_by_cause"].values()) == total["cycles"]


def test_accuracy_is_that_of_training_on_the_same_images(tmp_path: Path, invoke: Invoke) -> None:
    """Without limits, since --data measures on all test images of the set."""
    table = {
        "name": "short",
        "data": {"limit": 200, "test_limit": 2000},
        "train": {"epochs": 1},
        "model": {"name": "lenet5"},
        "output": {"machines": []},
    }
    result = run_training(check_config(table), tmp_path / "short", device="cpu")
    status, out, _ = invoke(
        "evaluate", tmp_path / "short", "--machine", "nm_array", "--data", "fashion-mnist-mini", "--json"
    )
    assert status == 0
    assert json.loads(out)["accuracy"] == result.accuracy


def test_the_human_table_shows_each_layer_and_where_the_cycles_went(tiny_run: Path, invoke: Invoke) -> None:
    status, out, _ = invoke("evaluate", tiny_run, "--machine", "nm_array")
    total = json.loads((tiny_run / "report.json").read_text())["machines"][0]
    assert status == 0
    for layer in total["layers"]:
        line = next(line for line in out.splitlines() if line.strip().startswith(layer["name"] + " "))
        assert f"{layer['total']['cycles']:,}" in line
        assert f"{layer['m']}x{layer['k']}x{layer['n']}" in line
    assert f"{total['total']['cycles']:,}" in out
    assert f"{total['speedup']:.2f}x" in out
    assert "where the cycles went" in out
    assert "compute" in out


def test_training_counts_its_macs_by_hand(tmp_path: Path) -> None:
    """One dense step of a LeNet on 10 images: 3 m w per layer and image, 2 m w for the first."""
    config = TrainConfig.model_validate(
        {
            "name": "macs",
            "data": {"limit": 20, "batch_size": 10, "validation": 0.5},
            "model": {"name": "lenet5"},
            "train": {"epochs": 1},
        }
    )
    table = run_training(config, tmp_path / "macs", device="cpu").table
    layers = load_machines_layers(tmp_path / "macs")
    assert table["training"]["dense_macs"] == 10 * sum((2 if i == 0 else 3) * macs for i, macs in enumerate(layers))
    assert table["training"]["macs"] == table["training"]["dense_macs"]
    assert table["machines"] == []


def load_machines_layers(run: Path) -> list[int]:
    from simulator import Trace

    return [layer.operation.macs for layer in Trace.load(run / "trace.safetensors").layers]


def test_a_budget_on_a_machine_is_met_and_logged(tmp_path: Path, invoke: Invoke) -> None:
    config = check_config(
        {
            "name": "hardware",
            "data": {"limit": 300, "test_limit": 100, "batch_size": 25},
            "model": {"name": "resnet8", "kwargs": {"widths": [8, 16, 16]}},
            "train": {"epochs": 2, "lr": 0.05},
            "hardware": {
                "machine": "nm_array",
                "target_latency": 0.7,
                "judge_steps": 2,
                "finalists": 2,
                "select_at": [0.5],
                "candidates": ["dense", "2:4", "channel"],
            },
        }
    )
    result = run_training(config, tmp_path / "run", device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    selection = next(row for row in rows if row["event"] == "selection")
    total, dense = result.machines[0]["total"], result.machines[0]["dense"]
    assert total["cycles"] <= 0.7 * dense["cycles"]
    assert selection["chosen"]["cycles"] == total["cycles"] == rows[-1]["machines"]["nm_array"]["cycles"]
    assert {choice["layer"] for choice in selection["choices"]} >= {"conv1", "fc", "layer3.0.conv2"}
    assert all(row["judged"] is not None for row in selection["finalists"])
    assert "seconds" not in json.dumps(rows)
    assert 0 < result.table["training"]["selection_seconds"] < result.table["training"]["seconds"]
    assert load_config(str(tmp_path / "run" / "config.toml")) == config
    status, out, _ = invoke("evaluate", tmp_path / "run", "--machine", "nm_array", "--json")
    assert status == 0
    assert json.loads(out)["machines"] == result.machines
