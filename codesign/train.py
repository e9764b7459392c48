"""Training from top to bottom: data, network, pruner, loop, export, score.

One function that a person can read in one sitting, deterministic given its configuration: killed at any
moment and resumed, it ends in the same weights, masks and metrics, bit for bit.  It leaves out any use of
test images before the end.  Read config.py for what can be set, pruner.py for what happens to the weights,
ddp.py for several processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from simulator import Trace, load_machine, simulate
from simulator.errors import InputError

from .config import TrainConfig, hardware_cost
from .ddp import Team, join_team
from .devices import deterministic, pick_device
from .ema import Ema
from .evaluate import EVALUATION_BATCH, accuracy_and_loss
from .export import Architecture, export
from .judge import make_judge
from .lookup import look_up
from .method import Context, Method, Place
from .optimize import learning_rate, make_optimizer, training_macs
from .precision import Precision
from .pruner import Pruner
from .report import write_report
from .resume import restore_state_, save_state
from .robustness import accuracy_under, parse_attack
from .run_directory import RunDirectory, open_run, write_whole
from .step import train_step
from .trace import Activations, measure_activations, record_activation_masks, record_calls, trace_model

SCHEMA = 1
NONE: dict[str, Any] = {}
"""Data, splits, augmentations and networks have no table of names here: they are given by dotted path."""
MEASURED_IMAGES = 256
"""Validation images that activation densities are measured on."""


class Progress(Protocol):
    """Whoever wants to watch."""

    def batch(self, epoch: int, epochs: int, batch: int, batches: int, loss: float) -> None:
        """Batch `batch` of `batches` is done, both counted from 1, as are epochs; loss: mean over the epoch so far."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A line was written to the metrics."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to: `table` is what `espalier train --json` prints."""

    run: Path
    table: Mapping[str, Any]

    @property
    def accuracy(self) -> float:
        """Percent of the test images."""
        return float(self.table["accuracy"])

    @property
    def machines(self) -> list[dict[str, Any]]:
        """A report per machine, as in simulator.Report.to_dict."""
        return list(self.table["machines"])


def run_training(
    config: TrainConfig | None,
    out_dir: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainResult:
    """Train, prune, export and score one network; everything is written to `out_dir`.

    config: None takes the one in `out_dir`, for `resume`.  device: "auto", "cpu" or "cuda".  Started by torchrun,
    every process trains on its part of each batch and the first writes the files; the others return an empty table.
    Raises InputError for a mistake in the configuration or the directory, and where training diverges.
    """
    place = pick_device(device)
    team = join_team(place)
    if team.leads:
        run, config = open_run(out_dir, config, resume=resume)
    team.wait()
    if not team.leads:
        run, config = open_run(out_dir, config, resume=True)
    if resume and run.report.is_file():
        return TrainResult(run.path, json.loads(run.report.read_text(encoding="utf-8")))
    if team.size > 1 and (config.recipe is not None or config.compare.rows):
        raise InputError("a [recipe] or [compare] section on several processes", where="train",
                         expected="[prune] and [hardware]", fix="start it without torchrun")
    try:
        with deterministic(place):
            return _train(run, config, place, progress, team)
    except InputError:
        if team.leads and not resume:  # a mistake that only shows beside the network, before anything was done
            run.discard_if_unused()
        raise


def _train(
    run: RunDirectory, config: TrainConfig, device: torch.device, progress: Progress | None, team: Team
) -> TrainResult:
    started = time.perf_counter()
    torch.manual_seed(config.seed)

    # Data: validation images are held out of the training part; test images are not looked at until the end.
    limits = {"limit": config.data.limit, "test_limit": config.data.test_limit}
    load, hold_out = look_up(config.data.load, NONE, "data.load"), look_up(config.data.split, NONE, "data.split")
    data = load(config.data.source, **{key: value for key, value in limits.items() if value is not None})
    split = hold_out(data, config.data.validation, torch.Generator().manual_seed(config.seed))
    batches = look_up(config.data.batches, NONE, "data.batches")
    augment = None if config.data.augment == "none" else look_up(config.data.augment, NONE, "data.augment")
    images, labels = split.train_images.to(device), split.train_labels.to(device)
    scale = {"mean": data.mean, "std": data.std}

    # Network and optimizer.
    kwargs = {"in_channels": int(images.shape[1]), "num_classes": len(data.classes), **config.model.kwargs}
    if config.model.name is not None:
        kwargs["name"] = config.model.name
    model: nn.Module = look_up(config.model.build, NONE, "model.build")(**kwargs).to(device)
    optimizer = make_optimizer(model, config.train)
    batch_count = -(-len(images) // config.data.batch_size)
    steps_per_epoch = -(-batch_count // config.train.accumulate)
    total_steps = config.train.epochs * steps_per_epoch
    loss_function = nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing)

    # Pruner: one validation image shows it, and the machine, how the network runs.
    measured, _ = next(
        batches(
            split.validation_images[:MEASURED_IMAGES].to(device),
            split.validation_labels[:MEASURED_IMAGES].to(device),
            MEASURED_IMAGES,
            0,
            0,
            **scale,
        )
    )
    example = measured[:1]
    calls = record_calls(model, example)
    settings = config.pruner_settings(total_steps)
    pruner, judge = None, None
    if config.hardware is not None and config.hardware.judge_steps:
        # An epoch that training never reaches: batches of its own, the same for every finalist.
        trial = partial(batches, images, labels, config.data.batch_size, config.seed, config.train.epochs, 0, augment)
        held_out = split.validation_images.to(device), split.validation_labels.to(device)
        judge = make_judge(
            partial(trial, **scale),
            partial(batches, *held_out, EVALUATION_BATCH, 0, 0, **scale),
            loss_function,
            steps=config.hardware.judge_steps,
        )
    cost = hardware_cost(config, judge)
    if settings is not None:
        # Criteria that run the network themselves see a batch of an epoch that training never reaches.
        seen = next(batches(images, labels, config.data.batch_size, config.seed, config.train.epochs, 0, **scale))
        pruner = Pruner(model, settings, optimizer=optimizer, example_inputs=example, cost=cost, probe=seen)
    elif config.recipe is not None:
        pruner = Pruner.for_given_masks(model, optimizer, example)
    how = config.train
    precision = Precision(model, device, how.precision, how.compile, how.channels_last,
                          partial(team.wrap, device=device))
    method = _method(config, model, optimizer, pruner, example, len(data.classes), loss_function, total_steps,
                     precision.forward)
    ema = Ema(model, how.ema) if how.ema else None
    machines = [load_machine(name) for name in config.machines]
    numbers = torch.arange(len(images), device=device)

    # Dropout and the like: each process has its own noise, and a checkpoint has them all.
    if not team.leads:
        torch.manual_seed(config.seed + (team.rank << 32))
    parts = {"model": model, "optimizer": optimizer, "pruner": pruner, "method": method, "precision": precision,
             "ema": ema}
    at = restore_state_(run, parts, device, team)
    seconds_before = at.seconds
    board = _tensorboard(run) if config.output.tensorboard and team.leads else None

    def log(row: dict[str, Any], seconds: float) -> None:
        if not team.leads:
            return
        at.metrics_bytes = run.append(run.metrics, row)
        at.timing_bytes = run.append(run.timing, {key: row[key] for key in ("event", "epoch")} | {"seconds": seconds})
        if progress is not None:
            progress.row(row)
        if board is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    board.add_scalar(f"{row['event']}/{key}", value, row["step"])

    def checkpoint() -> None:
        at.seconds = seconds_before + time.perf_counter() - started
        save_state(run, parts, at, device, team)

    def evaluate(part_images: Tensor, part_labels: Tensor) -> tuple[float, float]:
        return accuracy_and_loss(
            model, batches(part_images.to(device), part_labels.to(device), EVALUATION_BATCH, 0, 0, **scale)
        )

    def current_trace(provenance: Mapping[str, Any] | None = None) -> tuple[Trace, Activations]:
        activations = _activations(model, measured, config.output.activations)
        return trace_model(
            model, example, _masks(pruner), structures_of(pruner), activations, provenance=provenance
        ), activations

    rewrites = method.rewrites
    for epoch in range(at.epoch, config.train.epochs):
        epoch_started = time.perf_counter()
        per_image, installs = training_macs(calls, model, _masks(pruner)), 0 if pruner is None else pruner.installs
        model.train()
        given = numbers if method.numbered else labels
        for x, y in batches(images, given, config.data.batch_size, config.seed, epoch, at.batch, augment, **scale):
            examples, y = (y, labels[y]) if method.numbered else (None, y)
            step = epoch * steps_per_epoch + at.batch // how.accumulate
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total_steps, steps_per_epoch, how)
            first = at.batch - at.batch % how.accumulate  # the batches of one optimizer step, by their examples
            together = min(len(images), (first + how.accumulate) * config.data.batch_size) - (
                first * config.data.batch_size)
            last = (at.batch + 1) % how.accumulate == 0 or at.batch + 1 == batch_count
            weight = len(x) / together if how.accumulate > 1 else 1.0
            x, y, share, counts = team.part(x, y)
            place = Place(epoch, config.train.epochs, at.batch, batch_count, examples)
            done = train_step(model, optimizer, method, x, y, place, precision, share * weight, last)
            macs = method.macs(per_image[0], len(x), done.batch)
            sums = team.total((done.loss * done.seen, done.correct, done.seen, macs, len(x)), device, counts)
            at.loss_sum += sums[0]
            at.correct += int(sums[1])
            at.seen += int(sums[2])
            at.macs += int(sums[3])
            at.dense_macs += per_image[1] * int(sums[4])
            at.batch += 1
            if pruner is not None and last:
                pruner.step()
                if pruner.installs != installs:  # by the schedule or by the method
                    per_image, installs = training_macs(calls, model, _masks(pruner)), pruner.installs
                for entry in pruner.history[at.events_logged :]:
                    if entry["event"] == "select":
                        at.selection_seconds += entry["seconds"]
                        log(_selection_row(entry, epoch, pruner, cost), entry["seconds"])
                at.events_logged = len(pruner.history)
            if progress is not None:
                progress.batch(epoch + 1, config.train.epochs, at.batch, batch_count, at.loss_sum / max(1, at.seen))
            if ema is not None and last:
                if method.rewrites == rewrites:
                    ema.update()
                else:
                    ema.restart_()
                rewrites = method.rewrites
                ema.mask_(_all_masks(pruner))
            if at.batch < batch_count and last and (step + 1) % how.checkpoint_every == 0:
                checkpoint()
        row = {
            "event": "epoch",
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_per_epoch,
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": at.loss_sum / max(1, at.seen),
            "train_accuracy": 100.0 * at.correct / max(1, at.seen),
        }
        ended = epoch + 1 == config.train.epochs
        if ema is not None and ended:
            ema.put_in_()  # what is made of the network at the end, such as one kernel of two, is made of the average
        method.end_epoch(Place(epoch, config.train.epochs, batch_count - 1, batch_count))
        row |= method.row()
        if pruner is not None and ended:
            pruner.finalize()
        if ema is not None:
            if ended or method.rewrites != rewrites:
                ema.restart_()
            rewrites = method.rewrites
            ema.mask_(_all_masks(pruner))
        with contextlib.nullcontext() if ema is None else ema.in_place():
            found = evaluate(split.validation_images, split.validation_labels)
        row["validation_accuracy"], row["validation_loss"] = found
        row["weight_sparsity"] = 0.0 if pruner is None else pruner.sparsity
        if config.output.cost_per_epoch and machines:
            trace = current_trace()[0]
            row["machines"] = {machine.name: _brief(simulate(trace, machine)) for machine in machines}
        log(row, time.perf_counter() - epoch_started)
        at.epoch, at.batch, at.loss_sum, at.correct, at.seen = epoch + 1, 0, 0.0, 0, 0
        checkpoint()

    # The end: export, score, and only now the test images.
    if ema is not None:
        ema.put_in_()  # there already, unless training was resumed and a method has put back weights of its own
    if not team.leads:
        team.wait()
        return TrainResult(run.path, {})
    provenance = _provenance(config, data)
    trace, activations = current_trace(provenance)
    architecture = Architecture(
        config.model.build,
        kwargs,
        tuple(example.shape),
        structures_of(pruner),
        tuple(data.mean),
        tuple(data.std),
        tuple(data.classes),
    )
    export(
        model,
        run.model,
        architecture,
        _masks(pruner),
        activations,
        () if pruner is None else pruner.choices,
        provenance,
    )
    trace.save(run.trace)
    accuracy, _ = evaluate(data.test_images, data.test_labels)
    table = {
        "schema": SCHEMA,
        "run": str(run.path),
        "name": config.name,
        "seed": config.seed,
        "accuracy": accuracy,
        "weight_sparsity": 0.0 if pruner is None else pruner.sparsity,
        "training": {
            "seconds": seconds_before + time.perf_counter() - started,
            "selection_seconds": at.selection_seconds,
            "macs": at.macs,
            "dense_macs": at.dense_macs,
        },
        "machines": [simulate(trace, machine).to_dict() for machine in machines],
    }
    if summary := method.summary():
        table["recipe"] = summary
    if config.output.attacks:
        tests = data.test_images.to(device), data.test_labels.to(device)
        table["robustness"] = {
            str(attack): accuracy_under(
                model, batches(*tests, EVALUATION_BATCH, 0, 0, **scale), attack, data.mean, data.std
            )
            for attack in map(parse_attack, config.output.attacks)
        }
    write_whole(run.report, json.dumps(table, indent=1) + "\n")
    write_report(run.path)
    if board is not None:
        board.close()
    team.wait()
    return TrainResult(run.path, table)


def _method(
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: Pruner | None,
    example: Tensor,
    classes: int,
    loss_function: nn.CrossEntropyLoss,
    total_steps: int,
    forward: Callable[[Tensor], Tensor],
) -> Method:
    """The method of the [recipe] section, or ordinary training."""
    losses = nn.CrossEntropyLoss(label_smoothing=loss_function.label_smoothing, reduction="none")
    context = Context(model, optimizer, pruner, example, classes, loss_function, losses, config.seed, total_steps,
                      forward)
    if config.recipe is None:
        return Method(context)
    from .recipes import recipe, settings_of

    method: Method = recipe(config.recipe["name"]).make(settings_of(config.recipe), context)
    return method


def structures_of(pruner: Pruner | None) -> dict[str, str]:
    """Layer -> the structure that its mask was made by: what was chosen for it, else what was planned."""
    if pruner is None:
        return {}
    if pruner.choices:
        return {choice.layer: choice.structure for choice in pruner.choices}
    return {row.layer: row.structure for row in pruner.plan()}


def _masks(pruner: Pruner | None) -> dict[str, Tensor]:
    return {} if pruner is None else pruner.masks


def _all_masks(pruner: Pruner | None) -> dict[str, Tensor]:
    return {} if pruner is None else {**pruner.masks, **pruner.parameter_masks}


def _activations(model: nn.Module, images: Tensor, what: str) -> Activations:
    if what == "none":
        return {}
    return measure_activations(model, [images]) if what == "density" else record_activation_masks(model, images[:1])


def _brief(report: Any) -> dict[str, Any]:
    return {
        "cycles": report.cycles,
        "energy_pj": report.energy_pj,
        "dense_cycles": report.dense.cycles,
        "dense_energy_pj": report.dense.energy_pj,
    }


def _selection_row(entry: Mapping[str, Any], epoch: int, pruner: Pruner, cost: Any) -> dict[str, Any]:
    # Seconds are left out, and how often the oracle was asked, which a resumed run does anew: metrics.jsonl
    # holds what the seed determines.
    clock = ("event", "seconds", "prices_asked", "layers_simulated")
    row = {"event": "selection", "epoch": epoch + 1}
    for part in (entry, cost.log[-1]):
        row |= {key: value for key, value in part.items() if key not in clock}
    return row | {"choices": [asdict(choice) for choice in pruner.choices]}


def _provenance(config: TrainConfig, data: Any) -> dict[str, Any]:
    """Where the network came from: what is needed to make it again, and no path and no time."""
    return {
        "name": config.name,
        "seed": config.seed,
        "data": data.provenance,
        "config_sha256": hashlib.sha256(config.to_toml().encode()).hexdigest(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _tensorboard(run: RunDirectory) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "output.tensorboard = true, but TensorBoard is not installed",
            expected="the package tensorboard",
            fix="pip install tensorboard, or leave it out",
        ) from None
    return SummaryWriter(str(run.path / "tensorboard"))
