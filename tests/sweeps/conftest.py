import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _evaluations_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    yield
    sys.modules.pop("sweep_evaluations", None)


@pytest.fixture
def study(tmp_path):
    """Write a study of 4 x 3 machines on ResNet-18 that is evaluated by `evaluate`; returns its path."""

    def write(evaluate="sweep_evaluations:quick", rows="[4, 8, 16, 32]", cols="[2, 4, 6]", name="small", more=""):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'name = "{name}"\ndescription = "a <script>study</script>"\nworkloads = ["resnet18"]\n'
            f'machines = ["systolic_ws"]\nevaluate = "{evaluate}"\n{more}\n[axes]\nrows = {rows}\ncols = {cols}\n'
        )
        return path

    return write
