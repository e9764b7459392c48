"""Does training wait for its images?  python benchmarks/image_files_speed.py [--write]

400 JPEG files of 500 x 375 (ImageNet's usual size; smooth noise, quality 92) are cropped to 224 x 224 in batches of 32.
Decoding alone: CPU time of all threads per image.  Beside it a training step of ResNet-18 on the CPU, in one thread:
CPU time per image, and the share of the wall clock that the loop waits for the next batch, the first left out.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe, write_result
from PIL import Image

from models import build
from models.batching import batches
from models.crops import random_resized_crop_and_flip
from models.data import load

FILES, BATCH, STEPS = 400, 32, 5


def write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(FILES + 4):
        part = "train" if number < FILES else "val"
        path = folder / part / f"class{number % 2}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        noise.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=92)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        data = load(f"images:{folder}")
        epoch = {"augment": random_resized_crop_and_flip, "mean": data.mean, "std": data.std}
        begin = time.process_time()
        for _ in batches(data.train_images, data.train_labels, BATCH, 0, 0, **epoch):
            pass
        decode_s = (time.process_time() - begin) / FILES

        model = build("resnet18", in_channels=3, num_classes=2, seed=0)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        waited = trained = 0.0
        given = batches(data.train_images, data.train_labels, BATCH, 0, 1, **epoch)
        for step in range(STEPS):
            asked = time.perf_counter()
            x, y = next(given)
            begun, cpu = time.perf_counter(), time.thread_time()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            step_s = (time.thread_time() - cpu) / BATCH
            if step:
                waited += begun - asked
                trained += time.perf_counter() - begun
        given.close()
    print(f"decoding {1e3 * decode_s:.1f} ms of CPU time per image; training {1e3 * step_s:.0f} ms; "
          f"{decode_s / step_s:.1%}; the loop waits {waited / (waited + trained):.1%} of its time")
    if "--write" in sys.argv:
        write_result("image_files_speed", {
            "decoding, ms of CPU time per image": round(1e3 * decode_s, 2),
            "training ResNet-18 at 224 x 224, ms of CPU time per image": round(1e3 * step_s, 1),
            "share of the wall clock that training waits": round(waited / (waited + trained), 4)}, describe())


if __name__ == "__main__":
    main()
