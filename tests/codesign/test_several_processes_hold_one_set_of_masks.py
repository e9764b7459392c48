"""Two processes under gloo: the same masks on both, and the network that one process makes of the whole batches.

In exact arithmetic the two are equal; the mean of two half-batch gradients rounds otherwise than the gradient of
the whole, hence 1e-5 on weights after a few dozen steps.  Masks are compared exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codesign.checkpoint import load_checkpoint
from codesign.config import check_config
from codesign.export import load_exported
from codesign.train import run_training

ROOT = Path(__file__).resolve().parents[2]
TABLE = {
    "name": "team", "data": {"limit": 90, "test_limit": 40, "batch_size": 16},
    "model": {"name": "lenet5", "kwargs": {"widths": [4, 8, 16, 12]}},
    "train": {"epochs": 3, "lr": 0.02, "checkpoint_every": 2},
    "prune": {"structure": {"conv2": "filter", "fc1": "2:4", "fc2": "unstructured"}, "sparsity": 0.5,
              "schedule": "agp", "criterion": "fisher"},
    "output": {"machines": [], "activations": "none"},
}
STRUCTURES = {
    "unstructured": 0.75, "2:4": None, "1:4": None, "block 4x4": 0.6, "channel": 0.5, "filter": 0.5, "kernel": 0.7,
    "ck": 0.5, "window": 0.6, "window 4": None, "bank 8": 0.5, "2:4 of 1x2": None, "pattern 4": None,
    "kernel + pattern 4": 0.8, "ck + window": 0.75, "2:3 of 4x1 + 2:4": None,
}
# The command line, and then a loop of one's own with a criterion for which each rank draws its own numbers.
SCRIPT = """
import sys, torch, torch.distributed as dist, torch.nn.functional as F
from codesign.cli import main
assert main(["train", "team.toml", "--out", "two", "--device", "cpu"]) == 0
from torch import nn
from codesign import Pruner
from codesign.checkpoint import save_checkpoint
for structure, sparsity in {structures}.items():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 8), nn.ReLU(),
                          nn.Linear(8, 3))
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(model, {"structure": structure, "sparsity": sparsity, "criterion": "random", "schedule": "agp",
                            "update_every": 1}, optimizer, torch.randn(2, 2, 8, 8), total_steps=4)
    torch.manual_seed(dist.get_rank())
    for _ in range(4):
        F.cross_entropy(wrapped(torch.randn(4, 2, 8, 8)), torch.randint(0, 3, (4,))).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    pruner.finalize()
    state = {"masks": pruner.masks, "model": model.state_dict()}
    save_checkpoint(f"{sys.argv[1]}/{structure}/{dist.get_rank()}", state)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both have run under torchrun."""
    place = tmp_path_factory.mktemp("team")
    (place / "team.toml").write_text(check_config(TABLE).to_toml(), encoding="utf-8")
    (place / "script.py").write_text(SCRIPT.replace("{structures}", repr(STRUCTURES)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py", "."]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("of the test images right") == 1, "one process speaks for both"
    return place


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    run_training(check_config(TABLE), folder / "one", device="cpu")
    one, two = (load_exported(folder / name / "model") for name in ("one", "two"))
    assert one.masks.keys() == two.masks.keys() and len(one.masks) == 3
    for name, mask in one.masks.items():
        assert (mask == two.masks[name]).all(), name
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(value, two.model.state_dict()[key], rtol=0, atol=1e-5)
    rows = [[json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
            for name in ("one", "two")]
    for left, right in zip(*rows, strict=True):
        assert (left["step"], left["train_accuracy"]) == (right["step"], right["train_accuracy"])
        assert left["train_loss"] == pytest.approx(right["train_loss"], rel=1e-5)
    reports = [json.loads((folder / name / "report.json").read_text())["training"] for name in ("one", "two")]
    assert [report["macs"] for report in reports] == [reports[0]["macs"]] * 2
    # Both processes' noise is in the checkpoint, and one process cannot go on with it.
    random = load_checkpoint(folder / "two" / "checkpoint")["random"]["torch"]
    assert len(random) == 2 and not torch.equal(*random)
    (folder / "two" / "report.json").unlink()
    with pytest.raises(ValueError, match="2, as the run was started with"):
        run_training(None, folder / "two", resume=True, device="cpu")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_ranks_that_draw_differently_still_prune_alike(structure: str, folder: Path) -> None:
    first, second = (load_checkpoint(folder / structure / rank) for rank in "01")
    assert first["masks"] and first["masks"].keys() == second["masks"].keys()
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name])
        assert not first["model"][f"{name}.weight"][~mask].any()
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name])
