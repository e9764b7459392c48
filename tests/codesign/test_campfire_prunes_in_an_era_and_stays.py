"""Campfire: balanced windows and kernels, an era after which nothing moves, and accuracy under attack."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from codesign.config import check_config, load_config
from codesign.robustness import Attack, accuracy_under, attacked, parse_attack
from codesign.train import run_training
from simulator.errors import InputError
from simulator.trace import Trace

SHORT = ["data.limit=600", "data.test_limit=200", "train.epochs=4", "output.cost_per_epoch=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campfire") / "run"
    run_training(load_config("campfire", [*SHORT, "prune.update_every=1"]), folder)
    return folder


def test_every_filter_keeps_as_many_kernels_and_every_kernel_as_many_weights(run: Path) -> None:
    layers = Trace.load(run / "trace.safetensors").layers
    pruned = [layer for layer in layers if layer.structure == "ck + window"]
    assert len(pruned) == 8  # six 3x3 convolutions and two 1x1 shortcuts, which have kernels only
    for layer in pruned:
        kernels = layer.weight_mask.reshape(*layer.weight_mask.shape[:2], -1).sum(2)
        kept = (kernels > 0).sum(1)
        assert len(set(kept.tolist())) == 1
        assert len(set(kernels[kernels > 0].tolist())) == 1
    assert layers[0].weight_mask is None  # the first convolution is dense


def test_the_structure_is_fixed_after_the_era(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    sparsity = [row["weight_sparsity"] for row in rows]
    assert sparsity[0] < sparsity[1] == sparsity[2] == sparsity[3]  # the era ends at half of four epochs


def test_sparsity_is_what_was_asked_for_up_to_whole_kernels_and_entries(run: Path) -> None:
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))
    kernels, entries = 0.3**0.5, 0.3**0.5
    exact = {c: round(kernels * c) / c * round(entries * 9) / 9 for c in (16, 32, 64)}
    assert 1 - max(exact.values()) <= found["weight_sparsity"] + 0.03


def test_accuracy_under_attack_is_in_the_report_and_below_the_clean_one(run: Path) -> None:
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert set(found["robustness"]) == {"fgsm 0.03", "pgd 0.03"}
    assert all(value <= found["accuracy"] for value in found["robustness"].values())


def linear() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0]]))
    return model


def test_fgsm_moves_every_pixel_by_epsilon_against_the_label_inside_the_range() -> None:
    x = torch.tensor([[[[0.5, 0.5], [0.02, 0.98]]]])
    changed = attacked(linear(), x, torch.tensor([0]), Attack("fgsm", 0.1), (0.0,), (1.0,), torch.Generator())
    torch.testing.assert_close(changed, torch.tensor([[[[0.4, 0.6], [0.0, 0.88]]]]))


def test_epsilon_is_of_pixels_whatever_the_normalisation() -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    plain = attacked(linear(), x, torch.tensor([0]), Attack("fgsm", 0.1), (0.0,), (1.0,), torch.Generator())
    attack, label = Attack("fgsm", 0.1), torch.tensor([0])
    scaled = attacked(linear(), (x - 0.3) / 0.2, label, attack, (0.3,), (0.2,), torch.Generator())
    torch.testing.assert_close(scaled * 0.2 + 0.3, plain)


def test_pgd_stays_within_reach_and_fools_at_least_as_often() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    x, y = torch.rand(200, 1, 4, 4), torch.randint(0, 4, (200,))
    with torch.no_grad():
        y = model(x).argmax(1)
    changed = attacked(model, x, y, Attack("pgd", 0.2), (0.0,), (1.0,), torch.Generator().manual_seed(0))
    assert float((changed - x).abs().max()) <= 0.2 + 1e-6 and float(changed.min()) >= 0 and float(changed.max()) <= 1
    found = [accuracy_under(model, [(x, y)], Attack(kind, 0.05), (0.0,), (1.0,)) for kind in ("fgsm", "pgd")]
    assert found[1] <= found[0] + 2.0 and found[0] < 100.0
    assert accuracy_under(model, [(x, y)], Attack("pgd", 0.05), (0.0,), (1.0,)) == found[1]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("text", ["fgms 0.1", "fgsm", "pgd 0", "pgd 2", "pgd x/255", "fgsm 1/0", ""])
def test_an_attack_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="attack"):
        parse_attack(text)
    with pytest.raises(InputError, match="attack"):
        check_config({"name": "x", "output": {"attacks": [text]}})


def test_eight_of_255_is_a_number() -> None:
    assert parse_attack("pgd 8/255").epsilon == pytest.approx(8 / 255)
