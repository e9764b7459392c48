"""[compare]: rows trained with the same data, seed and epochs, in one table with ours, resumed like any run."""

import json
import math

import pytest

from codesign.compare import OURS, add_comparison
from codesign.config import check_config, load_config
from codesign.train import TrainResult, run_training
from simulator.errors import InputError
from simulator.trace import Trace

HARDWARE = {"machine": "nm_array", "target_latency": 0.6, "judge_steps": 0, "candidates": ["2:4", "channel"]}
ROWS = ["dense", "magnitude", "2:4"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("compared") / "run"
    config = check_config({
        "name": "tiny", "data": {"limit": 150, "test_limit": 60, "batch_size": 25}, "train": {"epochs": 2, "lr": 0.05},
        "model": {"name": "resnet8", "kwargs": {"widths": [8, 8, 16]}}, "hardware": HARDWARE, "compare": {"rows": ROWS},
    })
    return add_comparison(run_training(config, folder, device="cpu"), device="cpu")


def test_every_row_is_there_and_ours_is_the_last(compared):
    rows = compared.table["comparison"]
    assert [row["label"] for row in rows] == ["dense", "magnitude, same weights", "uniform 2:4", OURS]
    assert rows[-1]["cycles"] == compared.machines[0]["total"]["cycles"]
    assert json.loads((compared.run / "report.json").read_text()) == compared.table
    assert "magnitude, same weights" in (compared.run / "report.html").read_text()


def test_rows_share_everything_but_what_is_pruned(compared):
    ours = load_config(str(compared.run / "config.toml"))
    for name in ("dense", "magnitude", "2-4"):
        row = load_config(str(compared.run / "compare" / name / "config.toml"))
        assert (row.data, row.model, row.train, row.seed) == (ours.data, ours.model, ours.train, ours.seed)
        assert row.hardware is None
        assert row.machines == ours.machines


def test_magnitude_keeps_as_many_weights_as_ours(compared):
    runs = compared.run, compared.run / "compare/magnitude"
    ours, blind = (Trace.load(path / "trace.safetensors") for path in runs)
    kept = [sum(layer.weight_nnz for layer in trace.layers) for trace in (ours, blind)]
    assert abs(kept[0] - kept[1]) <= 1
    for layer in (blind.layers[0], blind.layers[-1]):
        assert layer.weight_nnz == math.prod(layer.operation.weight_shape)


def test_a_finished_comparison_is_not_trained_again(compared):
    before = {path: path.stat().st_mtime_ns for path in (compared.run / "compare").rglob("*.safetensors")}
    again = add_comparison(TrainResult(compared.run, compared.table), device="cpu")
    assert again.table["comparison"] == compared.table["comparison"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(("compare", "message"), [
    ({"rows": ["channel"]}, "compare row 'channel'; expected"),
    ({"rows": ["2;4"]}, "unknown structure '2;4'"),
    ({"row": ["dense"]}, "unknown key 'compare.row'; did you mean 'rows'"),
])
def test_a_row_that_is_none_is_a_mistake(compare, message):
    with pytest.raises(InputError) as error:
        check_config({"name": "x", "hardware": HARDWARE, "compare": compare})
    assert message in str(error.value)


def test_rows_need_a_machine():
    with pytest.raises(InputError, match=r"compare\.rows without a machine"):
        check_config({"name": "x", "compare": {"rows": ["dense"]}})


def test_only_takes_the_one_that_it_names(tmp_path):
    config = check_config({
        "name": "tiny", "data": {"limit": 100, "test_limit": 40, "batch_size": 25}, "train": {"epochs": 1, "lr": 0.05},
        "model": {"name": "resnet8", "kwargs": {"widths": [8, 8, 16]}},
        "hardware": {**HARDWARE, "only": "uniform channel"},
    })
    result = run_training(config, tmp_path / "run", device="cpu")
    rows = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    selection = next(row for row in rows if row["event"] == "selection")
    assert selection["chosen"]["label"] == "uniform channel"
    assert {choice["structure"] for choice in selection["choices"]} <= {"channel", "dense"}
    with pytest.raises(InputError, match="only = 'uniform chanel'"):
        check_config({"name": "x", "hardware": {**HARDWARE, "only": "uniform chanel"}})
