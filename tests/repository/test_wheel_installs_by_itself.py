"""The wheel holds the four packages and their data, and the command works where only the wheel is installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    # From a copy: a build writes egg-info and build folders into its source tree.
    copy = tmp_path_factory.mktemp("source") / "espalier"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, tracked):
        source = ROOT / name.decode()
        if source.is_file() and not name.startswith((b"tests/", b"docs/", b"benchmarks/")):
            target = copy / name.decode()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)],
                   check=True, capture_output=True)
    return next(out.glob("espalier_codesign-*.whl"))


def test_the_wheel_holds_packages_data_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("simulator/engine.py", "codesign/pruner.py", "models/nets.py", "sweeps/run.py",
                 "simulator/presets/nm_array.toml", "simulator/presets/energy/horowitz_45nm.toml",
                 "codesign/configs/demo.toml", "sweeps/studies/array_shape.toml", "models/fashion_mnist_mini/LICENSE"):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "simulator", "codesign", "models", "sweeps", "espalier_codesign"}


def test_the_command_works_where_only_the_wheel_is_installed(wheel, tmp_path):
    # The dependencies come from this environment, the project itself from the wheel alone.
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    run = subprocess.run([sys.executable, "-c", "from codesign.cli import main; main()", "doctor"], cwd=tmp_path,
                         env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for package in ("simulator", "codesign", "models", "sweeps"):
        assert str(site / package) in run.stdout.replace("\n", "")
