"""Training on several processes that hold the same weights and the same masks, each with its part of every batch.

Gradients are averaged by torch's DistributedDataParallel; a mask is what rank 0 says it is, so that no rounding and no
random draw can make two ranks prune differently.  Batch norm takes its statistics from each rank's part, as elsewhere.
It leaves out sharded weights.  Read train.py for the loop, pruner.py for where masks are made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from simulator.errors import InputError

from .masks import pack, unpack


@dataclass(frozen=True)
class Team:
    """The processes of one training; alone, every method is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def part(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float, bool]:
        """(this rank's images, their labels, what its mean loss counts, whether it adds to sums over the batch).

        Every `size`th image of the batch.
        The factors are such that the average of the ranks' gradients is the gradient of the whole batch's mean.  A
        batch with fewer images than ranks goes to all of them.
        """
        if self.size == 1 or len(x) < self.size:
            return x, y, 1.0, self.leads
        own = slice(self.rank, None, self.size)
        return x[own], y[own], len(x[own]) * self.size / len(x), True

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """What the forward pass must go through for gradients to be averaged."""
        if self.size == 1:
            return model
        gpu = [torch.cuda.current_device()] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=gpu)

    def total(self, numbers: Sequence[float], device: torch.device, counts: bool = True) -> list[float]:
        """Sums over all ranks that `counts`."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor([number * counts for number in numbers], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def gather(self, value: Tensor, device: torch.device) -> list[Tensor]:
        """The tensors of all ranks, by rank, on the CPU; all of one shape."""
        if self.size == 1:
            return [value]
        parts = [torch.empty_like(value, device=device) for _ in range(self.size)]
        dist.all_gather(parts, value.to(device))
        return [part.cpu() for part in parts]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


def join_team(device: torch.device) -> Team:
    """The team that torchrun has started this process in, or a team of one.

    Reads RANK, WORLD_SIZE and LOCAL_RANK.  gloo between CPUs, nccl between GPUs.  Raises InputError for a process
    without a GPU of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} on this machine has no GPU of its own", where="torchrun",
                             expected=f"at most {torch.cuda.device_count()} processes", fix="use --device cpu")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), dist.get_world_size())


def agreed(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks as rank 0 has them; as they are where there is one process.

    Every rank must call it at the same step, with masks for the same names and shapes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1 or not masks:
        return dict(masks)
    names = sorted(masks)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    packed = torch.cat([pack(masks[name]) for name in names]).to(device)
    dist.broadcast(packed, 0)
    found, start, packed = {}, 0, packed.cpu()
    for name in names:
        length = -(-math.prod(masks[name].shape) // 8)
        found[name] = unpack(packed[start : start + length], masks[name].shape).to(masks[name].device)
        start += length
    return {name: found[name] for name in masks}
