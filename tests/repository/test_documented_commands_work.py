"""Every `espalier` command in the README runs, and the examples too.

Training is cut to a few hundred images and the sweep to a few points; everything else runs as it is printed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--set", "data.limit=300", "--set", "data.test_limit=100", "--set", "train.epochs=2",
         "--set", "hardware.judge_steps=2", "--set", "hardware.target_latency=0.6", "--set", "compare.rows=['dense']"]


def readme_commands() -> list[str]:
    """The `espalier ...` lines of the README's sh blocks, comments cut off."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("espalier ")]


def espalier(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from codesign.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder like a checkout, where the commands run one after the other."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", place / "examples")
    study = (ROOT / "sweeps" / "studies" / "array_shape.toml").read_text(encoding="utf-8")
    few, cuts = re.subn(r"^(rows|cols) = .*$", r"\1 = [64]", study, flags=re.MULTILINE)
    assert cuts == 2
    (place / "few.toml").write_text(few, encoding="utf-8")
    return place


def test_the_readme_has_commands():
    assert len(readme_commands()) > 10


@pytest.mark.parametrize("line", readme_commands())
def test_a_command_of_the_readme_works(line, folder):
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train" and "demo" in arguments:
        arguments = [argument for argument in arguments if not argument.startswith(("train.epochs", "hardware.target"))]
        arguments = [a for a, following in zip(arguments, [*arguments[1:], "end"], strict=True)
                     if not (a == "--set" and following in ("--set", "--out"))]
        arguments += QUICK
    arguments = ["few.toml" if argument == "array_shape" else argument for argument in arguments]
    done = espalier(arguments, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_of_the_readme_left_what_it_says(folder):
    assert (folder / "runs" / "tighter" / "report.html").is_file()
    assert (folder / "reports" / "COMPUTE_REPORT.csv").is_file()
    assert list(folder.glob("shapes*.html"))


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(script):
    arguments = {"own_network.py": ["1"]}.get(script, [])
    done = subprocess.run([sys.executable, str(ROOT / "examples" / script), *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_of_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
