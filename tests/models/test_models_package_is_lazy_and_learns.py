"""`models` gives its names on first use without importing torch before, and its parts train together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models


def test_importing_models_or_its_error_imports_no_torch() -> None:
    code = "import sys, models, models.errors; from models import DataError; print('torch' in sys.modules)"
    root = Path(models.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


def test_every_exported_name_resolves() -> None:
    import models.batching  # submodules imported first must not hide the functions

    assert all(callable(getattr(models, name)) or name == "NETS" for name in models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        models.nothing  # noqa: B018


def test_a_lenet_learns_the_embedded_images_and_repeats_bit_for_bit() -> None:
    def train() -> tuple[float, torch.Tensor]:
        data = models.load(limit=600, test_limit=200)
        net = models.build("lenet5", seed=0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for epoch in range(5):
            for x, y in models.batches(
                data.train_images, data.train_labels, 32, seed=0, epoch=epoch, mean=data.mean, std=data.std
            ):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
        from models.batching import normalise

        with torch.no_grad():
            correct = net(normalise(data.test_images, data.mean, data.std)).argmax(1) == data.test_labels
        return correct.float().mean().item(), torch.cat([p.detach().flatten() for p in net.parameters()])

    accuracy, weights = train()
    assert accuracy > 0.6, "chance is 0.1; wrong labels or normalisation stay near it"
    assert torch.equal(train()[1], weights)
