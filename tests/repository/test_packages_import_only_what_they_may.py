"""The import arrows of the layout: who may import whom, and that the light imports stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("simulator", "models", "codesign", "sweeps")
MAY_IMPORT = {  # of our own packages and of torch
    "simulator": {"simulator"},
    "models": {"models", "torch"},
    "codesign": {"codesign", "simulator", "torch"},
    "sweeps": {"sweeps", "simulator"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, also those inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_along_the_arrows(package):
    guarded = {*PACKAGES, "torch"}
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    # The command line is codesign's front door to the sweeps as well.
    wrong = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in files
        if (bad := (imported(path) & guarded) - MAY_IMPORT[package]
            - ({"sweeps"} if package == "codesign" and path.name.startswith("cli") else set()))
    }
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_absolute_imports_cross_packages_and_relative_ones_stay_inside(package):
    inside = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")
              if package in imported(path) and path.name != "__main__.py"}
    assert not inside


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_resolves_inside_this_repository(package):
    code = f"import {package}, pathlib; print(pathlib.Path({package}.__file__).resolve())"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(out.stdout.strip()).is_relative_to(ROOT)


@pytest.mark.parametrize("package", ["simulator", "codesign", "codesign.cli", "sweeps"])
def test_a_light_import_loads_nothing_heavy(package):
    heavy = ("torch", "numba", "scipy", "networkx", "safetensors", "pydantic", "rich", "pyarrow")
    code = f"import sys, {package}; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_tests_have_no_init_files():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_nothing_loads_a_pickle():
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    for path in code:
        assert not imported(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save"), ("jit", "load")}, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
