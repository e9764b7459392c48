"""What share of a training step is spent on making its batch: the images lie in memory, one process does both.

    .venv/bin/python benchmarks/data_loading.py [--write]

Batches of 32x32 images as models/batching.py makes them (drawn, cropped, mirrored, normalised), beside the training
step of a network on them, on one thread.  Medians over 30 batches.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from machine import describe, write_result

from models import batches, build
from models.batching import crop_and_flip

NETWORKS = ("resnet8", "resnet20")
BATCH, ROUNDS = 64, 30


def main() -> None:
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (ROUNDS * BATCH, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),))
    rows = []
    for name in NETWORKS:
        net = build(name, in_channels=3, num_classes=10, seed=0).train()
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
        making, training = [], []
        feed = batches(images, labels, BATCH, 0, 0, 0, crop_and_flip, (0.5,) * 3, (0.25,) * 3)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            x, y = next(feed)
            made = time.perf_counter()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            making.append(made - started)
            training.append(time.perf_counter() - made)
        batch_ms, step_ms = (1e3 * statistics.median(times) for times in (making, training))
        share = batch_ms / (batch_ms + step_ms)
        rows.append({"network": name, "batch_ms": batch_ms, "step_ms": step_ms, "share": share})
        print(f"{name:10} batch {batch_ms:6.2f} ms, step {step_ms:7.2f} ms: {100 * share:.1f} % of the time")
    if "--write" in sys.argv:
        write_result("data_loading", {"batch": BATCH, "image": 32, "rounds": ROUNDS, "rows": rows},
                     describe() | {"torch": torch.__version__, "threads": 1})


if __name__ == "__main__":
    main()
