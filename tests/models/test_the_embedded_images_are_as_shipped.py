"""fashion-mnist-mini: counts, balance, hashes, licence, size, time to load, and how it is made."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models import mini
from models.data import load
from models.errors import DataError
from models.readers import RawImages, read_bytes


def test_counts_balance_and_shapes() -> None:
    started = time.process_time()
    data = load("fashion-mnist-mini")
    assert time.process_time() - started < 1.0  # about 0.3 s of processor time, measured so since cores may be busy
    assert data.train_images.shape == (10_000, 1, 28, 28)
    assert data.test_images.shape == (2_000, 1, 28, 28)
    assert data.train_labels.bincount().tolist() == [1000] * 10
    assert data.test_labels.bincount().tolist() == [200] * 10
    assert len(data.classes) == 10 and data.classes[9] == "ankle boot"
    # The published mean and deviation of all 60,000 images are 0.2860 and 0.3530.
    assert data.mean[0] == pytest.approx(0.2860, abs=0.003)
    assert data.std[0] == pytest.approx(0.3530, abs=0.003)
    scaled = data.train_images.numpy() / 255.0
    assert data.mean[0] == pytest.approx(scaled.mean(), rel=1e-12)
    assert data.std[0] == pytest.approx(scaled.std(), rel=1e-12)


def test_no_test_image_is_a_training_image() -> None:
    data = load()
    train = {image.numpy().tobytes() for image in data.train_images}
    assert len(train) == 10_000, "all different"
    assert not any(image.numpy().tobytes() in train for image in data.test_images)


def test_the_folder_is_small_and_carries_its_licence() -> None:
    assert sum(path.stat().st_size for path in mini.FOLDER.iterdir()) < 7_000_000
    licence = (mini.FOLDER / "LICENSE").read_text()
    assert "MIT License" in licence and "2017 Zalando SE" in licence


@pytest.mark.parametrize("name", mini.SHA256)
def test_other_content_is_refused_by_its_hash(tmp_path: Path, name: str) -> None:
    import lzma

    folder = tmp_path / "copy"
    shutil.copytree(mini.FOLDER, folder)
    content = bytearray(read_bytes(folder / f"{name}.xz"))
    content[-1] ^= 1
    (folder / f"{name}.xz").write_bytes(lzma.compress(bytes(content), preset=0))
    with pytest.raises(DataError, match=f"{name}.xz: has sha256 {hashlib.sha256(content).hexdigest()}; expected"):
        mini.read_mini(folder)


@pytest.mark.parametrize("place", [0, 12, 1000, -1])
def test_a_flipped_bit_is_one_clear_error(tmp_path: Path, place: int) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(mini.FOLDER, folder)
    path = folder / "t10k-images-idx3-ubyte.xz"
    packed = bytearray(path.read_bytes())
    packed[place] ^= 4
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.xz: (is damaged|has sha256)"):
        mini.read_mini(folder)


def test_the_first_of_each_class_are_taken_in_order() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 15_000)
    full = RawImages(
        rng.integers(0, 256, (15_000, 1, 2, 2), dtype=np.uint8), labels,
        rng.integers(0, 256, (3_000, 1, 2, 2), dtype=np.uint8), labels[:3_000],
    )  # fmt: skip
    contents = mini.mini_contents(full)
    taken, seen = [], [0] * 10
    for i, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= 1000:
            taken.append(i)
    assert contents["train-labels-idx1-ubyte"][8:] == labels[taken].astype(np.uint8).tobytes()
    assert contents["train-images-idx3-ubyte"][16:] == full.train_images[taken].tobytes()
    assert contents["train-images-idx3-ubyte"][:16].hex() == "00000803" + "00002710" + "00000002" * 2
    assert len(contents["t10k-labels-idx1-ubyte"]) == 8 + 2000


def test_the_script_writes_the_same_bytes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The mini set is its own first thousand of each class, so it can stand in for the full set here.
    assert mini.main([str(mini.FOLDER), "--out", str(tmp_path)]) == 0
    assert "train-images-idx3-ubyte.xz" in capsys.readouterr().out
    for name in mini.SHA256:
        assert read_bytes(tmp_path / f"{name}.xz") == read_bytes(mini.FOLDER / f"{name}.xz")
    mini.read_mini(tmp_path)


def test_the_script_refuses_another_set_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in mini.SHA256:
        content = bytearray(read_bytes(mini.FOLDER / f"{name}.xz"))
        if name == "train-images-idx3-ubyte":
            content[5000] ^= 1
        (source / name).write_bytes(content)
    assert mini.main([str(source), "--out", str(tmp_path / "out")]) == 2
    assert "Fashion-MNIST as published" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_limit_takes_the_first_of_each_class() -> None:
    whole, some = load(), load(limit=50, test_limit=20)
    assert some.train_labels.bincount().tolist() == [5] * 10
    assert some.test_labels.bincount().tolist() == [2] * 10
    for label in range(10):
        first = whole.train_images[whole.train_labels == label][:5]
        assert torch.equal(some.train_images[some.train_labels == label], first)
    assert (some.mean, some.std) == (whole.mean, whole.std)
    assert some.provenance.startswith(whole.provenance) and some.provenance != whole.provenance
    assert len(load(limit=30).test_labels) == 30
    assert len(load(limit=10**9).train_labels) == 10_000


@pytest.mark.parametrize(
    ("limit", "said"), [(9, "9 is too few; expected at least 10"), (0, "limit is 0"), ("5", "limit is '5'")]
)
def test_a_limit_that_makes_no_sense(limit: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(limit=limit)  # type: ignore[arg-type]
