"""How far a training run is, and its whole state in and out of the checkpoint.

Whatever has a `state_dict` goes in under its name, beside the position and the random numbers of every process:
a run that goes on from here ends in the bits of one that was never stopped.  It leaves out the file itself
(checkpoint.py) and when to write it (train.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from simulator.errors import InputError

from .checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from .ddp import Team
from .run_directory import RunDirectory


@dataclass
class Position:
    """How far training is, and what it has added up: all that a checkpoint holds beside tensors."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    macs: int = 0
    dense_macs: int = 0
    events_logged: int = 0
    seconds: float = 0.0
    selection_seconds: float = 0.0
    metrics_bytes: int = 0
    timing_bytes: int = 0


def save_state(run: RunDirectory, parts: Mapping[str, Any], at: Position, device: torch.device, team: Team) -> None:
    """One checkpoint of everything that has a state; all processes take part, the first one writes."""
    random = {"torch": torch.stack(team.gather(torch.get_rng_state(), device))}
    if device.type == "cuda":
        random["cuda"] = torch.stack(team.gather(torch.cuda.get_rng_state(device), device))
    if team.leads:
        state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        save_checkpoint(run.checkpoint, {"position": asdict(at), **state, "random": random})
    team.wait()


def restore_state_(run: RunDirectory, parts: Mapping[str, Any], device: torch.device, team: Team) -> Position:
    """Put the last checkpoint back, if there is one; a run that was killed before its first starts anew."""
    if not has_checkpoint(run.checkpoint):
        if team.leads:
            run.cut(0, 0)
        return Position()
    state = load_checkpoint(run.checkpoint)
    if len(state["random"]["torch"]) != team.size:
        raise InputError(f"{team.size} processes", where=str(run.path),
                         expected=f"{len(state['random']['torch'])}, as the run was started with")
    at = Position(**state["position"])
    if team.leads:
        run.cut(at.metrics_bytes, at.timing_bytes)
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(state[name])
    torch.set_rng_state(state["random"]["torch"][team.rank])
    if device.type == "cuda" and "cuda" in state["random"]:
        torch.cuda.set_rng_state(state["random"]["cuda"][team.rank], device)
    return at
