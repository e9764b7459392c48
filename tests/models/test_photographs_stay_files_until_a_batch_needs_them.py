"""Folders of photographs: layouts, crops by hand, batches that follow from seed and place, and what is wrong, named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models import files
from models.batching import batches, crop_and_flip
from models.crops import Crop, RandomResized, RandomSquare, centre_crop, random_resized_crop_and_flip
from models.data import ImageData, load, split_validation
from models.errors import DataError
from models.files import BATCHES_AHEAD, ImageFiles, read_image
from models.places import VARIABLE


def write(path: Path, number: int = 0, width: int = 40, height: int = 30, mode: str = "RGB") -> Path:
    """An image whose every pixel is `number`, so that whichever crop is taken its number can be read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (number, number, number)).convert(mode).save(path, quality=100)
    return path


def write_imagenet(root: Path, train: int = 6, val: int = 3, test_name: str = "val", end: str = "JPEG") -> Path:
    for c, label in enumerate(("n01", "n02", "n03")):
        for part, count in (("train", train), (test_name, val)):
            for i in range(count):
                write(root / part / label / f"{label}_{i}.{end}", 50 * c + i)
    return root


def write_tiny(root: Path) -> Path:
    lines = []
    for c, label in enumerate(("n01", "n02")):
        for i in range(3):
            write(root / "train" / label / "images" / f"{label}_{i}.JPEG", 100 * c + i, 64, 64)
        (root / "train" / label / f"{label}_boxes.txt").write_text("n01_0.JPEG 0 0 1 1\n")
        for i in range(2):
            write(root / "val" / "images" / f"val_{2 * i + c}.JPEG", 100 * c + 10 + i, 64, 64)
            lines.append(f"val_{2 * i + c}.JPEG\t{label}\t0\t32\t44\t62\n")
    (root / "test" / "images").mkdir(parents=True)
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def write_caltech(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for i in range(count):
            write(root / name / f"image_{i:04d}.jpg", i)
    return root


def numbers(images: ImageFiles) -> list[int]:
    """The number that each image was written with."""
    return images.decoded()[:, 0, 3, 3].tolist()


def error(source: str) -> str:
    with pytest.raises(DataError) as caught:
        load(source)
    return str(caught.value)


# --- layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("test_name", "end"), [("val", "JPEG"), ("test", "png")])
def test_imagenets_layout_by_class_and_name(tmp_path: Path, test_name: str, end: str) -> None:
    write_imagenet(tmp_path, test_name=test_name, end=end)
    (tmp_path / "train" / "n02" / "notes.txt").write_text("no image")
    data = load(f"imagenet@16:{tmp_path}")
    assert data.classes == ("n01", "n02", "n03") and data.name == "imagenet"
    assert data.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert numbers(data.train_images) == [50 * c + i for c in range(3) for i in range(6)]
    assert numbers(data.test_images) == [50 * c + i for c in range(3) for i in range(3)]
    assert data.train_images.shape == (18, 3, 16, 16) and load(f"imagenet:{tmp_path}").train_images.shape[2:] == (
        224, 224)  # fmt: skip
    assert "18 training and 9 test images" in data.provenance and str(tmp_path) not in data.provenance
    assert load(str(tmp_path)).name == "images"
    expected = np.array([50 * c + i for c in range(3) for i in range(6)]) / 255
    assert data.mean == pytest.approx([expected.mean()] * 3) and data.std == pytest.approx([expected.std()] * 3)


def test_the_provenance_tells_other_files_apart(tmp_path: Path) -> None:
    first = load(f"images@16:{write_imagenet(tmp_path / 'a')}").provenance
    assert load(f"images@16:{write_imagenet(tmp_path / 'b')}").provenance == first
    write(tmp_path / "b" / "val" / "n02" / "n02_1.JPEG", 3, 400, 300)
    assert load(f"images@16:{tmp_path / 'b'}").provenance != first


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
@pytest.mark.parametrize("prefix", ["", "tiny-imagenet:"])
def test_tiny_imagenet_takes_its_test_labels_from_the_list(tmp_path: Path, inside: str, prefix: str) -> None:
    write_tiny(tmp_path / inside)
    data = load(f"{prefix}{tmp_path}")
    assert data.name == "tiny-imagenet" and data.train_images.shape == (6, 3, 64, 64)
    assert numbers(data.train_images) == [0, 1, 2, 100, 101, 102] and data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert numbers(data.test_images) == [10, 11, 110, 111] and data.test_labels.tolist() == [0, 0, 1, 1]


def test_caltech_is_split_by_a_seed_and_a_count(tmp_path: Path) -> None:
    root = write_caltech(tmp_path / "101_ObjectCategories", {"ant": 40, "BACKGROUND_Google": 5, "chair": 5})
    data = load(f"caltech101@16:{tmp_path}")
    assert data.classes == ("ant", "chair") and load(str(root)).name == "caltech101"
    assert [int((data.train_labels == label).sum()) for label in (0, 1)] == [30, 4]
    assert [int((data.test_labels == label).sum()) for label in (0, 1)] == [10, 1]
    shares = load(f"caltech101-80@16:{tmp_path}")
    assert [int((shares.train_labels == label).sum()) for label in (0, 1)] == [32, 4]
    train, test = (part[labels == 0] for part, labels in ((data.train_images, data.train_labels),
                                                          (data.test_images, data.test_labels)))
    assert sorted(numbers(train) + numbers(test)) == list(range(40))
    assert numbers(train) != list(range(30))
    before = set(numbers(train))
    gone = min(before)
    (root / "ant" / f"image_{gone:04d}.jpg").unlink()  # the rest stays where it was: one more file moves up
    again = load(f"caltech101@16:{tmp_path}")
    after = set(numbers(again.train_images[again.train_labels == 0]))
    assert before - after == {gone} and len(after) == 30


def test_limits_and_held_out_images_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(f"images@16:{write_imagenet(tmp_path)}", limit=9, test_limit=3)
    assert numbers(data.train_images) == [0, 1, 2, 50, 51, 52, 100, 101, 102]
    assert numbers(data.test_images) == [0, 50, 100]
    monkeypatch.setattr(files, "read_image", None)  # from here on, opening a file would fail
    split = split_validation(data, 0.34, torch.Generator().manual_seed(0))
    assert isinstance(split.train_images, ImageFiles) and len(split.validation_images) == 3
    assert {*split.train_images.paths(), *split.validation_images.paths()} == {*data.train_images.paths()}


# --- crops -----------------------------------------------------------------------------------------------------


def test_an_image_of_the_asked_size_is_its_own_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", 8, 1.0, centre_crop, ()), pixels)
    mirrored = read_image(tmp_path / "a.png", 8, 1.0, RandomSquare(), (0.0, 0.0, 0.4))
    assert np.array_equal(mirrored, pixels[:, ::-1])


def test_boxes_by_hand() -> None:
    assert centre_crop.box(400, 200, 0.5, ()) == ((150.0, 50.0, 250.0, 150.0), False)
    assert RandomSquare().box(400, 200, 0.5, (0.0, 0.5, 0.6)) == ((0.0, 50.0, 100.0, 150.0), False)
    resized = RandomResized(area=(0.25, 0.25), aspect=(1.0, 1.0))
    draws = [0.0, 0.0, 0.999, 0.0] + [0.5] * 36 + [0.1]
    assert resized.box(100, 100, 1.0, draws) == ((50, 0, 100, 50), True)  # a quarter of the area, at the right
    # A strip of 1000 x 10 has no crop of at least 3/4 : 4/3 and 8 % of its area: the largest at the centre.
    left, top, right, bottom = random_resized_crop_and_flip.box(1000, 10, 1.0, [0.5] * 41)[0]
    assert (top, bottom) == (0, 10) and right - left == 13 and left + right == 1000


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.lists(st.floats(0, 1, exclude_max=True), min_size=41, max_size=41))
def test_a_random_crop_lies_in_the_image_and_keeps_its_bounds(width: int, height: int, draws: list[float]) -> None:
    (left, top, right, bottom), mirrored = random_resized_crop_and_flip.box(width, height, 1.0, draws)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height and mirrored == (draws[-1] < 0.5)
    if min(width, height) >= 100 and max(width, height) <= 1.3 * min(width, height):
        # Sides are rounded to whole pixels: of at least 25, so by 2 % each.
        assert 0.07 <= (right - left) * (bottom - top) / (width * height) <= 1.0
        assert 0.72 <= (right - left) / (bottom - top) <= 1.39
    (left, top, right, bottom), _ = RandomSquare().box(width, height, 0.875, draws)
    assert right - left == pytest.approx(bottom - top) and left >= -1e-9 and right <= width + 1e-9


def test_a_large_jpeg_is_decoded_small_and_shows_the_same(tmp_path: Path) -> None:
    """Left half dark, right half bright: an eighth of the resolution must not move the edge."""
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[:, 400:] = 200
    for name in ("a.jpg", "a.png"):
        Image.fromarray(pixels).save(tmp_path / name, quality=95)
    jpeg, png = (read_image(tmp_path / name, 32, 0.875, centre_crop, ()).astype(int) for name in ("a.jpg", "a.png"))
    assert png[:, :15].max() == 0 and png[:, 17:].min() == 200
    assert np.abs(jpeg - png).max() <= 8


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_grey_and_cmyk_become_rgb(tmp_path: Path, mode: str) -> None:
    read = read_image(write(tmp_path / "a.jpg", 120, mode=mode), 16, 0.875, centre_crop, ())
    assert read.shape == (16, 16, 3) and np.abs(read.astype(int) - 120).max() <= 2


# --- batches ---------------------------------------------------------------------------------------------------


@pytest.fixture
def textured(tmp_path: Path) -> ImageData:
    rng = np.random.default_rng(1)
    for part, count in (("train", 5), ("val", 1)):
        for label in ("a", "b", "c", "d"):
            for i in range(count):
                path = tmp_path / part / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (24, 20 + i, 3), dtype=np.uint8)).save(path)
    return load(f"images@16:{tmp_path}")


def epoch(data: ImageData, start: int = 0, seed: int = 3, augment: object = random_resized_crop_and_flip) -> list:
    return list(batches(data.train_images, data.train_labels, 6, seed, 2, start, augment, data.mean, data.std))


@pytest.mark.parametrize("augment", [random_resized_crop_and_flip, crop_and_flip, None])
def test_a_late_start_and_other_threads_give_the_same_bits(
    textured: ImageData, monkeypatch: pytest.MonkeyPatch, augment: Callable | None
) -> None:
    whole = epoch(textured, augment=augment)
    assert [len(y) for _, y in whole] == [6, 6, 6, 2]
    monkeypatch.setattr(files, "_cores", lambda: 5)
    for (x, y), (x_late, y_late) in zip(whole[1:], epoch(textured, 1, augment=augment), strict=True):
        assert torch.equal(x, x_late) and torch.equal(y, y_late)
    assert not torch.equal(whole[0][0], epoch(textured, seed=4, augment=augment)[0][0])


def test_files_and_the_same_images_in_memory_give_the_same_batches(textured: ImageData) -> None:
    memory = textured.train_images.decoded()
    for augment in (None, crop_and_flip):
        held = batches(memory, textured.train_labels, 6, 3, 2, 0, augment, textured.mean, textured.std)
        for (x, y), (x_files, y_files) in zip(held, epoch(textured, augment=augment), strict=True):
            assert torch.equal(x, x_files) and torch.equal(y, y_files)


def test_no_more_is_decoded_than_a_few_batches_ahead(textured: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(files, "read_image", lambda path, *given: opened.append(path) or read_image(path, *given))
    one_each = batches(textured.train_images, textured.train_labels, 1, 0, 0)
    next(one_each)
    one_each.close()
    assert 1 <= len(opened) <= BATCHES_AHEAD + 1 < len(textured.train_images)


def test_a_crop_of_files_is_refused_for_images_in_memory() -> None:
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(DataError, match=r"cut out of files.*models\.batching:crop_and_flip"):
        next(batches(images, labels, 2, 0, 0, augment=Crop()))


# --- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone", "header"])
@pytest.mark.parametrize("end", ["jpg", "png"])
def test_a_bad_file_is_named(tmp_path: Path, damage: str, end: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"bad.{end}"
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    changed = {"cut": content[: len(content) // 2], "empty": b"", "text": b"<html>not found</html>", "gone": None,
               "header": content[:20] + b"\xff" * 30 + content[50:]}[damage]
    path.unlink() if changed is None else path.write_bytes(changed)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        read_image(path, 16, 1.0, centre_crop, ())
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)


def test_a_bad_file_stops_the_epoch_at_its_batch_with_one_message(textured: ImageData) -> None:
    bad = textured.train_images.paths()[7]
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"b/2\.png"):
        epoch(textured)


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_imagenet(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "needs Pillow" in error(str(tmp_path)) and "espalier-codesign[images]" in error(str(tmp_path))


def test_folders_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "a")
    assert "there is no train/ with val/" in error(f"imagenet:{tmp_path}")
    assert "image-net.org" in error(f"imagenet:{tmp_path}")
    (tmp_path / "a" / "train" / "n04").mkdir()
    assert "n04: holds no images" in error(str(tmp_path / "a"))
    (tmp_path / "a" / "train" / "n04").rmdir()
    write(tmp_path / "a" / "val" / "n09" / "x.JPEG")
    assert "class 'n09' is not in train/" in error(str(tmp_path / "a"))
    flat = tmp_path / "flat"
    write(flat / "train" / "n01" / "x.JPEG")
    write(flat / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert "holds no class folders; sort its images into one folder per class" in error(str(flat))


def test_tiny_imagenets_list_is_checked_by_line(tmp_path: Path) -> None:
    listing = write_tiny(tmp_path) / "val" / "val_annotations.txt"
    good = listing.read_text()
    listing.write_text(good + "val_9.JPEG\tn01\t0\t0\t1\t1\n")
    assert "val_annotations.txt, line 5: there is no val/images/val_9.JPEG" in error(str(tmp_path))
    listing.write_text("val_0.JPEG\n" + good)
    assert "line 1: class '' is not in train/; expected FILE CLASS" in error(str(tmp_path))
    listing.unlink()
    assert "there is no train/ with val/val_annotations.txt" in error(f"tiny-imagenet:{tmp_path}")
    assert "tiny-imagenet-200.zip" in error("tiny-imagenet:absent")


def test_sizes_that_make_no_sense(tmp_path: Path) -> None:
    for size in ("", "x", "7", "1025", "-16"):
        assert "expected 8 to 1024 pixels" in error(f"imagenet@{size}:{tmp_path}")
    assert "expected a size with imagenet" in error(f"cifar10@32:{tmp_path}")


# --- places ----------------------------------------------------------------------------------------------------


def test_a_kind_alone_is_a_folder_below_the_one_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert "$ESPALIER_DATA is not set" in error("mnist") and "put the four files" in error("mnist")
    assert "image-net.org" in error("imagenet@160")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    monkeypatch.setenv(VARIABLE, f"{one}:{two}")
    message = error("tiny-imagenet")
    assert f"not at {one / 'tiny-imagenet'}, {two / 'tiny-imagenet'}" in message and "tiny-imagenet-200.zip" in message
    write_tiny(two / "tiny-imagenet" / "tiny-imagenet-200")
    assert load("tiny-imagenet").train_images.shape == (6, 3, 64, 64)
    assert load("tiny-imagenet@32").train_images.shape == (6, 3, 32, 32)
    monkeypatch.chdir(write_imagenet(tmp_path / "work" / "tiny-imagenet").parent)
    assert load("tiny-imagenet").name == "images"  # a folder that is there goes first, as any folder alone does
