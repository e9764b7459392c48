"""Folders of idx and CIFAR files: what is written is read back; what is damaged is named."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from models.data import load
from models.errors import DataError
from models.mini import as_idx
from models.readers import IDX_FILES, parse_idx

RNG = np.random.default_rng(7)
TRAIN, TEST = RNG.integers(0, 256, (30, 5, 4), dtype=np.uint8), RNG.integers(0, 256, (20, 5, 4), dtype=np.uint8)
TRAIN_LABELS, TEST_LABELS = np.arange(30, dtype=np.uint8) % 10, np.arange(20, dtype=np.uint8) % 10
CONTENT = dict(zip(IDX_FILES, map(as_idx, (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)), strict=True))
IMAGES = IDX_FILES[0]


def _write_idx(folder: Path, end: str = "", **changed: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[end]
    for name, content in {**CONTENT, **changed}.items():
        (folder / (name + end)).write_bytes(pack(content))
    return folder


def _write_cifar10(folder: Path, per_batch: int = 4) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (6 * per_batch, 3072), dtype=np.uint8)
    labels = np.arange(6 * per_batch, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], pixels], axis=1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        (folder / name).write_bytes(records[i * per_batch : (i + 1) * per_batch].tobytes())
    return pixels.reshape(-1, 3, 32, 32), labels


def _write_cifar100(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (12, 3072), dtype=np.uint8)
    fine = np.arange(88, 100, dtype=np.uint8)
    records = np.concatenate([fine[:, None] // 5, fine[:, None], pixels], axis=1)  # coarse label, fine label
    (folder / "train.bin").write_bytes(records[:8].tobytes())
    (folder / "test.bin").write_bytes(records[8:].tobytes())
    return pixels.reshape(-1, 3, 32, 32), fine


@pytest.mark.parametrize("end", ["", ".gz", ".xz"])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_idx_round_trip(tmp_path: Path, end: str, inside: str) -> None:
    _write_idx(tmp_path / inside, end)
    data = load(f"fashion-mnist:{tmp_path}")
    assert np.array_equal(data.train_images[:, 0].numpy(), TRAIN)
    assert np.array_equal(data.test_images[:, 0].numpy(), TEST)
    assert data.train_labels.tolist() == TRAIN_LABELS.tolist()
    assert data.test_labels.tolist() == TEST_LABELS.tolist()
    assert data.classes[0] == "t-shirt" and data.name == "fashion-mnist"
    assert str(tmp_path) not in data.provenance


def test_a_bare_idx_folder_is_recognised_and_its_classes_are_numbers(tmp_path: Path) -> None:
    data = load(_write_idx(tmp_path / "any"))
    assert data.name == "idx" and data.classes == tuple("0123456789")
    assert load(f"mnist:{tmp_path / 'any'}").classes == tuple("0123456789")


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("prefix", ["", "cifar10:"])
def test_cifar10_round_trip(tmp_path: Path, inside: str, prefix: str) -> None:
    images, labels = _write_cifar10(tmp_path / inside)
    data = load(f"{prefix}{tmp_path}")
    assert np.array_equal(data.train_images.numpy(), images[:20])
    assert np.array_equal(data.test_images.numpy(), images[20:])
    assert data.train_labels.tolist() == labels[:20].tolist()
    assert data.classes[1] == "automobile" and len(data.mean) == 3
    for channel in range(3):
        scaled = images[:20, channel] / 255.0
        assert data.mean[channel] == pytest.approx(scaled.mean(), rel=1e-12)
        assert data.std[channel] == pytest.approx(scaled.std(), rel=1e-12)


@pytest.mark.parametrize("inside", ["", "cifar-100-binary"])
@pytest.mark.parametrize("prefix", ["", "cifar100:"])
def test_cifar100_round_trip_with_fine_labels(tmp_path: Path, inside: str, prefix: str) -> None:
    images, fine = _write_cifar100(tmp_path / inside)
    data = load(f"{prefix}{tmp_path}")
    assert np.array_equal(data.train_images.numpy(), images[:8])
    assert data.train_labels.tolist() == fine[:8].tolist() and data.test_labels.tolist() == fine[8:].tolist()
    assert data.classes[99] == "99"
    (tmp_path / inside / "fine_label_names.txt").write_text("\n".join(f"name{i}" for i in range(100)) + "\n")
    assert load(f"{prefix}{tmp_path}").classes[99] == "name99"
    (tmp_path / inside / "fine_label_names.txt").write_text("one two")
    with pytest.raises(DataError, match=r"fine_label_names.txt: holds 2 names; expected 100"):
        load(f"{prefix}{tmp_path}")


def _error(source: str) -> str:
    with pytest.raises(DataError) as caught:
        load(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGES, CONTENT[IMAGES][:-1], "has 615 bytes; expected 616 for sizes (30, 5, 4); the file is cut short"),
        (IMAGES, CONTENT[IMAGES] + b"x", "has 617 bytes; expected 616"),
        (IMAGES, CONTENT[IMAGES][:9], "has 9 bytes; expected a header of 16"),
        (IMAGES, b"", "starts with bytes (empty); expected 00000803"),
        (IMAGES, b"garbage, not idx", "starts with bytes 67617262; expected 00000803"),
        (IMAGES, CONTENT[IDX_FILES[1]], "starts with bytes 00000801; expected 00000803"),
        (IMAGES, CONTENT[IMAGES][:4] + b"\xff" * 12, "for sizes (4294967295, 4294967295, 4294967295)"),
        (IMAGES, CONTENT[IMAGES][:4] + bytes(12), "has sizes (0, 0, 0); expected sizes of at least 1"),
        (IDX_FILES[1], as_idx(TRAIN_LABELS[:29]), "holds 29 labels; expected 30, one per image"),
        (IDX_FILES[1], as_idx(TRAIN_LABELS + 1), "label 10 at image 9; expected labels 0 to 9"),
        (IDX_FILES[3], as_idx(TEST_LABELS + 1), "label 10 at image 9; expected labels 0 to 9"),
        (IDX_FILES[2], as_idx(TEST[:, :4]), "test images are (4, 4); expected (5, 4) as in training"),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, content: bytes, said: str, end: str) -> None:
    _write_idx(tmp_path, end, **{name: content})
    message = _error(f"mnist:{tmp_path}")
    assert said in message and str(tmp_path) in message


@pytest.mark.parametrize("end", [".gz", ".xz"])
def test_a_compressed_file_cut_anywhere_or_of_garbage(tmp_path: Path, end: str) -> None:
    path = _write_idx(tmp_path, end) / (IMAGES + end)
    packed = path.read_bytes()
    for length in (0, 1, 5, 11, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:length])
        message = _error(f"mnist:{tmp_path}")
        assert path.name in message and ("damaged or cut short" in message or "(empty)" in message), length
    for content in (b"not compressed at all", packed + b"more"):
        path.write_bytes(content)
        assert "damaged or cut short" in _error(f"mnist:{tmp_path}")


def test_a_missing_idx_file_says_which_where_to_get_it_and_how_the_folder_looks(tmp_path: Path) -> None:
    _write_idx(tmp_path)
    (tmp_path / IDX_FILES[3]).unlink()
    message = _error(f"mnist:{tmp_path}")
    assert "there is no t10k-labels-idx1-ubyte" in message
    assert "put the four files" in message and "github.com/zalandoresearch/fashion-mnist" in message


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("data_batch_3.bin", lambda content: content[:-1], "has 12291 bytes; expected a whole number of 3073-byte"),
        ("test_batch.bin", lambda content: b"", "has 0 bytes"),
        ("data_batch_5.bin", lambda content: content[:3073], "hold [4, 4, 4, 4, 1] images; expected five of one size"),
        ("data_batch_2.bin", lambda content: b"\x0a" + content[1:], "label 10 at image 0; expected labels 0 to 9"),
        ("data_batch_4.bin", None, "there is no data_batch_4.bin; unpack cifar-10-binary.tar.gz (the binary version"),
    ],
)
def test_damaged_cifar10_files_are_named(tmp_path: Path, name: str, change: object, said: str) -> None:
    _write_cifar10(tmp_path)
    path = tmp_path / name
    if callable(change):
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    for source in (f"cifar10:{tmp_path}", str(tmp_path)):
        assert said in _error(source)


def test_damaged_cifar100_files_are_named(tmp_path: Path) -> None:
    _write_cifar100(tmp_path)
    content = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(content[:1] + b"\x64" + content[2:])
    assert "train.bin: label 100 at image 0; expected labels 0 to 99" in _error(f"cifar100:{tmp_path}")
    (tmp_path / "train.bin").unlink()
    assert "there is no train.bin; unpack cifar-100-binary.tar.gz" in _error(f"cifar100:{tmp_path}")


def test_a_name_that_is_no_set_and_folders_that_hold_none(tmp_path: Path) -> None:
    assert "there is no image set 'fashion-mnist-mni'" in _error("fashion-mnist-mni")
    assert "did you mean 'fashion-mnist-mini'" in _error("fashion-mnist-mni")
    assert "did you mean 'cifar10'" in _error(f"cifar-10:{tmp_path}")
    assert "there is no folder '" in _error(f"cifar10:{tmp_path}/absent")
    assert "there is no folder ''" in _error("mnist:")
    assert "there is no folder 'absent'" in _error("cifar100:absent")
    assert "cifar-100-binary.tar.gz" in _error("cifar100:absent")
    assert "holds no image set that can be read" in _error(str(tmp_path))
    _write_idx(tmp_path)
    _write_cifar10(tmp_path)
    message = _error(str(tmp_path))
    assert "holds idx and cifar10 files" in message and f"say which: idx:{tmp_path}" in message


def test_idx_bytes_are_the_published_format() -> None:
    # From the format's own description: magic 0x00000801, big-endian count, then the labels.
    labels = parse_idx(bytes.fromhex("00000801" + "00000003" + "050009"), 1, "by hand")
    assert labels.tolist() == [5, 0, 9]
    images = parse_idx(bytes.fromhex("00000803" + "00000001" + "00000002" + "00000003" + "010203040506"), 3, "by hand")
    assert images.tolist() == [[[1, 2, 3], [4, 5, 6]]]
