"""Every mistake in what the user gives: one message on stderr that says what, where and what to do, status 2."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Espalier = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]


def _refused(result: tuple[int, str, str], *expected: str) -> None:
    status, out, err = result
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    for text in expected:
        assert text in err


def test_a_process_of_its_own_prints_the_message_and_no_traceback(espalier: Espalier) -> None:
    done = espalier("evaluate", "nowhere", "--machine", "nm_array", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: nowhere: no such file or directory; expected a run directory, an exported directory "
        "or a trace written by Trace.save\n"
    )


def test_misspelt_option_command_and_machine(tiny_run: Path, invoke: Invoke) -> None:
    _refused(invoke("evaluate", tiny_run, "--machin", "nm_array"), "--machin", "--machine")
    _refused(invoke("evaluat"), "evaluat")
    _refused(invoke("evaluate", tiny_run), "--machine")
    _refused(
        invoke("evaluate", tiny_run, "--machine", "nm_aray"), "unknown machine 'nm_aray'", "did you mean 'nm_array'?"
    )
    _refused(
        invoke("evaluate", tiny_run, "--machine", "nm_array?rowz=8"), "unknown field 'rowz'", "did you mean 'rows'?"
    )
    _refused(invoke("machines", "sistolic_ws"), "did you mean 'systolic_ws'?")


def test_wrong_type_and_negative_size_in_a_machine(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "nm_array"\nrows = "many"\ncols = -16\nclok_hz = 1e9\n', encoding="utf-8")
    _refused(
        invoke("check", path),
        f"{path}, line 2: rows = 'many'; expected an integer",
        f"{path}, line 4: unknown field 'clok_hz'; did you mean 'clock_hz'?",
    )
    path.write_text('base = "nm_array"\ncols = -16\n', encoding="utf-8")
    _refused(invoke("check", path), f"{path}, line 2", "cols = -16; expected an integer from 1 to")


def test_misspelt_key_wrong_type_and_negative_size_in_a_training(
    tiny_config: Callable[..., Path], invoke: Invoke
) -> None:
    path = tiny_config(train={"epocs": 3}, data={"batch_size": -4, "limit": "all"})
    _refused(
        invoke("train", path),
        "3 mistakes",
        "unknown key 'train.epocs'; did you mean 'epochs'?",
        "data.batch_size = -4; expected greater than or equal to 1",
        "data.limit = 'all'; expected an integer",
    )
    assert len(re.findall(r"config\.toml, line \d+", invoke("check", path)[2])) == 3


def test_a_structure_that_the_machine_does_not_know(tiny_config: Callable[..., Path], invoke: Invoke) -> None:
    _refused(
        invoke("train", tiny_config(), "--set", "hardware.target_latency=0.5", "--set", 'hardware.candidates=["3:7"]'),
        "machine 'nm_array' does not know the structure '3:7'",
        "expected an n:m pattern that it has: 1:4, 2:4, 4:4",
    )
    _refused(invoke("train", tiny_config(), "--set", 'prune.structure="tow:4"'), "unknown structure 'tow:4'")


def test_names_that_the_data_and_the_network_do_not_know(
    tiny_config: Callable[..., Path], tmp_path: Path, invoke: Invoke
) -> None:
    _refused(
        invoke("train", tiny_config(), "--out", tmp_path / "a", "--set", "data=fashion-mnist-mni"),
        "there is no image set 'fashion-mnist-mni'",
        "fashion-mnist-mini",
    )
    _refused(
        invoke("train", tiny_config(), "--out", tmp_path / "b", "--set", "model.name=resnet9"),
        "there is no network 'resnet9'",
        "did you mean 'resnet",
    )
    _refused(
        invoke("train", tiny_config(), "--out", tmp_path / "c", "--set", "model.build=models.nets:biuld"),
        "cannot load 'models.nets:biuld'",
    )
    _refused(
        invoke("train", tiny_config(prune={"skip": ["layer9.*"]}), "--out", tmp_path / "d"),
        "pattern 'layer9.*' matches no layer",
    )


def test_missing_files(tiny_run: Path, tmp_path: Path, invoke: Invoke) -> None:
    _refused(invoke("train", "absent.toml"), "no training configuration 'absent.toml'")
    _refused(invoke("simulate", "absent.csv", "--machine", "nm_array"), "absent.csv: no such file")
    _refused(invoke("simulate", tiny_run, "--machine", "nm_array"), "is a directory", "espalier evaluate")
    _refused(invoke("check", "absent.toml"), "absent.toml: no such file or directory")
    _refused(invoke("report", tmp_path / "absent"), "no such file or directory")
    _refused(invoke("report", tmp_path), "holds no training run")
    _refused(invoke("evaluate", tmp_path, "--machine", "nm_array"), "neither a run nor an exported network")
    (tiny_run / "model" / "masks.safetensors").unlink()
    _refused(invoke("evaluate", tiny_run, "--machine", "nm_array"), "masks.safetensors: no such file")


def test_an_onnx_file_is_answered_with_what_to_do(tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    _refused(invoke("evaluate", tmp_path / "net.onnx", "--machine", "nm_array"), "not supported yet", "trace_model")


@pytest.mark.parametrize("file", ["trace.safetensors", "model/model.safetensors", "model/masks.safetensors"])
def test_truncated_and_bit_flipped_safetensors(file: str, tiny_run: Path, invoke: Invoke) -> None:
    path = tiny_run / file
    place = path if file.startswith("trace") else tiny_run
    whole = path.read_bytes()
    for position in (len(whole) - 1, len(whole) * 3 // 4, 4, 60):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(bytes(damaged))
        _refused(invoke("evaluate", place, "--machine", "nm_array"), f"error: {path}")
        _refused(invoke("check", path))
    for length in (0, 7, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        _refused(invoke("evaluate", place, "--machine", "nm_array"), f"error: {path}")
        _refused(invoke("check", path))


def test_a_damaged_checkpoint_is_not_resumed(tiny_run: Path, invoke: Invoke) -> None:
    (tiny_run / "report.json").unlink()
    path = tiny_run / "checkpoint" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    status, out, err = invoke("train", "--resume", "--out", tiny_run)
    assert (status, out) == (2, "")
    assert f"{path}: its checksum does not match its content" in err


def test_a_topology_with_blank_and_short_rows(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "net.csv"
    path.write_text(
        "Layer, H, W, R, S, C, K, stride,\n\na, 8, 8, 3, 3, 4, 8, 1,\n , , , ,\nb, 8, 8, 3,\n"
        "c, 8, -8, 3, 3, 4, 8, 1,\n",
        encoding="utf-8",
    )
    _refused(invoke("simulate", path, "--machine", "systolic_ws"), f"{path}, line 5", f"{path}, line 6", "2 mistakes")
    path.write_text("Layer, H, W, R, S, C, K, stride,\n\na, 8, 8, 3, 3, 4, 8, 1,\n , , , ,\n", encoding="utf-8")
    status, _, err = invoke("simulate", path, "--machine", "systolic_ws", "--json")
    assert status == 0
    assert "line 2: blank row skipped" in err


def test_a_run_directory_is_neither_overwritten_nor_mixed_up(
    tiny_run: Path, tiny_config: Callable[..., Path], tmp_path: Path, invoke: Invoke
) -> None:
    _refused(invoke("train", tiny_config(), "--out", tiny_run), "already holds a run", "--resume")
    _refused(
        invoke("train", tiny_config(train={"lr": 0.3}), "--out", tiny_run, "--resume"),
        "was started with other values of train.lr",
    )
    _refused(invoke("train", "--resume", "--out", tmp_path / "nothing"), "holds no run to resume")
    (tmp_path / "file").write_text("")
    _refused(invoke("train", tiny_config(), "--out", tmp_path / "file" / "run"), "cannot be made")


def test_a_mistake_that_shows_beside_the_network_leaves_no_run_behind(
    invoke: Invoke, tiny_config: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "run"
    impossible = {"structure": "kernel + pattern 4", "sparsity": 0.2}
    _refused(invoke("train", tiny_config(prune=impossible), "--out", out), "what its fixed part removes")
    assert not out.exists()



def test_an_unfinished_run_says_how_to_finish_it(tiny_run: Path, invoke: Invoke) -> None:
    for path in sorted((tiny_run / "model").iterdir()):
        path.unlink()
    _refused(
        invoke("evaluate", tiny_run, "--machine", "nm_array"),
        "has not finished",
        f"espalier train --resume --out {tiny_run}",
    )


def test_data_that_do_not_fit_the_network(tmp_path: Path, invoke: Invoke, tiny_run: Path) -> None:
    _refused(
        invoke("evaluate", tiny_run, "--machine", "nm_array", "--data", "fasion-mnist-mini"), "there is no image set"
    )
    _refused(
        invoke("evaluate", tiny_run / "trace.safetensors", "--machine", "nm_array", "--data", "fashion-mnist-mini"),
        "a trace has no weights",
        "leave out --data",
    )


def test_training_that_diverges_says_so(tiny_config: Callable[..., Path], tmp_path: Path, invoke: Invoke) -> None:
    path = tiny_config(train={"lr": 1e30, "schedule": "constant", "epochs": 3}, prune={"criterion": "magnitude"})
    status, out, err = invoke("train", path, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert "diverge" in err


def test_no_pickle_is_ever_loaded() -> None:
    """No call of anything that can run what it reads."""
    forbidden = re.compile(
        r"torch\.(load|save)\b|\bimport pickle|\bfrom pickle|\bcloudpickle|\bmarshal\b|\bshelve\b"
        r"|allow_pickle\s*=\s*True|\bjoblib\b|\byaml\.load\b|\beval\(|\bexec\("
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("simulator", "codesign", "models", "sweeps")
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if forbidden.search(line) and ".eval(" not in line
    ]
    assert found == []
