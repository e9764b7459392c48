"""Order, augmentation and the held-out split are functions of their seeds, and resume exactly."""

from __future__ import annotations

import pytest
import torch

from models.batching import Augment, batch_count, batches, crop_and_flip, normalise, random_crop, random_flip, stream
from models.data import ImageData, load, split_validation
from models.errors import DataError

N = 103
IMAGES = torch.randint(0, 256, (N, 2, 8, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
LABELS = torch.arange(N)  # the index itself, so that the order can be seen


def _epoch(
    seed: int, epoch: int, start: int = 0, augment: Augment | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(batches(IMAGES, LABELS, 10, seed, epoch, start, augment))


def _order(seed: int, epoch: int) -> list[int]:
    return torch.cat([y for _, y in _epoch(seed, epoch)]).tolist()


def test_each_image_comes_once_with_its_label() -> None:
    assert sorted(_order(0, 0)) == list(range(N))
    for x, y in _epoch(0, 0):
        torch.testing.assert_close(x, IMAGES[y].float() / 255, rtol=0, atol=0)
    assert [len(y) for _, y in _epoch(0, 0)] == [10] * 10 + [3]
    assert [len(y) for _, y in batches(IMAGES, LABELS, 10, 0, 0, drop_last=True)] == [10] * 10
    assert batch_count(N, 10) == 11 and batch_count(N, 10, drop_last=True) == 10 and batch_count(100, 10) == 10


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(0)
    first = _order(3, 5)
    torch.rand(17)
    assert _order(3, 5) == first
    # Seed + epoch is the same in all of these: none may repeat the order of another.
    assert len({tuple(_order(seed, 8 - seed)) for seed in range(9)}) == 9


@pytest.mark.parametrize("start", [0, 1, 7, 10, 11])
def test_a_late_start_gives_the_same_batches(start: int) -> None:
    whole, rest = _epoch(4, 2, 0, crop_and_flip), _epoch(4, 2, start, crop_and_flip)
    assert len(rest) == 11 - start
    for (x, y), (x2, y2) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_augmentation_is_fresh_in_every_batch_epoch_and_run() -> None:
    same = IMAGES[:1].expand(40, -1, -1, -1)  # one image 40 times: a batch then shows its augmentation alone

    def moved(seed: int, epoch: int) -> list[bytes]:
        batches_of_it = batches(same, torch.zeros(40), 10, seed, epoch, augment=random_crop)
        return [x.numpy().tobytes() for x, _ in batches_of_it]

    drawn = [*moved(0, 0), *moved(0, 1), *moved(1, 0)]
    assert len(set(drawn)) == 12


def test_normalise_works_channel_by_channel() -> None:
    x = normalise(IMAGES, (0.5, 0.25), (0.5, 2.0))
    torch.testing.assert_close(x[:, 0], (IMAGES[:, 0] / 255 - 0.5) / 0.5)
    torch.testing.assert_close(x[:, 1], (IMAGES[:, 1] / 255 - 0.25) / 2.0)
    assert x.dtype == torch.float32
    (first, y), *_ = batches(IMAGES, LABELS, 10, 0, 0, mean=(0.5, 0.25), std=(0.5, 2.0))
    assert torch.equal(first, x[y])


@pytest.mark.parametrize("augment", [random_crop, random_flip, crop_and_flip])
def test_augmentation_follows_from_its_generator(augment: Augment) -> None:
    first = augment(IMAGES, stream(1, 2))
    assert first.shape == IMAGES.shape and first.dtype == torch.uint8
    assert torch.equal(augment(IMAGES, stream(1, 2)), first)
    assert not torch.equal(augment(IMAGES, stream(1, 3)), first)


def test_a_crop_is_the_image_moved_with_zeros_moving_in() -> None:
    padding = 2
    cropped = random_crop(IMAGES, stream(9), padding)
    seen = set()
    for image, moved in zip(IMAGES, cropped, strict=True):
        padded = torch.zeros(2, 8 + 2 * padding, 6 + 2 * padding, dtype=torch.uint8)
        padded[:, padding:-padding, padding:-padding] = image
        places = [
            (top, left) for top in range(5) for left in range(5)
            if torch.equal(padded[:, top : top + 8, left : left + 6], moved)
        ]  # fmt: skip
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 20, "about all of the 25 places come up in 103 draws"


def test_a_flip_mirrors_about_half() -> None:
    flipped = random_flip(IMAGES, stream(2))
    mirrored = 0
    for image, result in zip(IMAGES, flipped, strict=True):
        if not torch.equal(image, result):
            assert torch.equal(image.flip(-1), result)
            mirrored += 1
    assert 30 <= mirrored <= 73  # 51.5 +- 4 standard deviations of 5.07


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((IMAGES, LABELS, 0, 0, 0), "batch_size is 0"),
        ((IMAGES, LABELS[:-1], 10, 0, 0), "103 images and 102 labels"),
        ((IMAGES, LABELS, 10, 0, 0, 12), "start_batch is 12; expected 0 to 11"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_at_the_call(arguments: tuple, said: str) -> None:
    with pytest.raises(DataError, match=said):
        batches(*arguments)


@pytest.fixture(scope="module")
def small() -> ImageData:
    return load(limit=500, test_limit=100)


def test_the_split_is_stratified_disjoint_complete_and_deterministic(small: ImageData) -> None:
    split = split_validation(small, 0.1, torch.Generator().manual_seed(0))
    assert split.validation_labels.bincount().tolist() == [5] * 10
    assert split.train_labels.bincount().tolist() == [45] * 10
    train = {image.numpy().tobytes() for image in split.train_images}
    held = {image.numpy().tobytes() for image in split.validation_images}
    assert not train & held
    assert train | held == {image.numpy().tobytes() for image in small.train_images}
    assert not held & {image.numpy().tobytes() for image in small.test_images}
    label_of = {
        image.numpy().tobytes(): int(y) for image, y in zip(small.train_images, small.train_labels, strict=True)
    }
    for image, y in zip(split.validation_images, split.validation_labels, strict=True):
        assert label_of[image.numpy().tobytes()] == y
    again = split_validation(small, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(again.validation_images, split.validation_images)
    assert torch.equal(again.train_images, split.train_images)
    other = split_validation(small, 0.1, torch.Generator().manual_seed(1))
    assert not torch.equal(other.validation_images, split.validation_images)


@pytest.mark.parametrize(("fraction", "held_per_class"), [(0.001, 1), (0.999, 49), (0.5, 25)])
def test_every_class_is_in_both_parts_at_any_fraction(small: ImageData, fraction: float, held_per_class: int) -> None:
    split = split_validation(small, fraction, torch.Generator().manual_seed(0))
    assert split.validation_labels.bincount().tolist() == [held_per_class] * 10


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1(small: ImageData, fraction: float) -> None:
    with pytest.raises(DataError, match="fraction is"):
        split_validation(small, fraction, torch.Generator())


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 't-shirt' has one training image"):
        split_validation(load(limit=10), 0.5, torch.Generator())


def test_a_label_that_no_image_has_is_no_obstacle(small: ImageData) -> None:
    from dataclasses import replace

    wider = replace(small, classes=(*small.classes, "unused"))
    split = split_validation(wider, 0.1, torch.Generator().manual_seed(0))
    assert split.validation_labels.bincount().tolist() == [5] * 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_images": torch.zeros(500, 1, 28, 28)}, "train: images are torch.float32"),
        ({"train_labels": torch.zeros(500, dtype=torch.int32)}, "train: labels are torch.int32"),
        ({"test_labels": torch.full((100,), 10)}, "test: labels run from 10 to 10; expected 0 to 9"),
        ({"test_images": torch.zeros(100, 3, 28, 28, dtype=torch.uint8)}, "differ in shape"),
        ({"mean": (0.1, 0.2)}, "not one per channel"),
    ],
)
def test_image_data_checks_itself(small: ImageData, change: dict, said: str) -> None:
    from dataclasses import replace

    with pytest.raises(DataError, match=said):
        replace(small, **change)
