"""On-device training: early instance filtering and error-map pruning, together or each alone (arXiv 2007.03213).

The filter drops easy examples before the forward pass, error maps lose channels in the backward pass, and
the network itself stays whole.  Computation is counted with the filter's own.  Left out: the
microcontroller; simulator/training.py charges iterations to a machine.  Read ../instance_filter.py and
../error_maps.py for the two parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from simulator.errors import InputError

from ..config import Section
from ..error_maps import ErrorMapPruning, prune_error_maps_
from ..instance_filter import (
    LEAST,
    ClassifyingFilter,
    Prediction,
    Threshold,
    filter_loss,
    predict,
    restore_threshold_,
    threshold_state,
)
from ..lookup import look_up
from ..method import Batch, Context, Method, Place
from ..step_macs import layer_macs


class Settings(Section):
    """The [recipe] section.

    filter: "module:function" that builds the filter, "none" for no filtering; filter_kwargs: for it, besides
    in_channels and num_classes.  classes: weight of the loss by which the filter learns the classes too and judges by
    them (ClassifyingFilter); 0 = a filter of two outputs.  ratio: R_set, the share of examples to count as high.
    entropy: above it, in nats, a predicted-low example is run forward to learn its loss.  threshold, up, down, window:
    T_l at first and its controller; least: T_l falls no further, so that fewer examples than `ratio` are high where few
    have such a loss.  filter_lr: of the filter's own Adam.  adaptive: False leaves T_l where it is.
    weighting: power of the filter's weights 1 / ratio and 1 / (1 - ratio); 0 = none.
    average: the loss is a mean over the examples "passed", or their sum over the size of the whole "batch": the step is
    then that of ordinary training in which easy examples had no loss, and train_loss is on its scale.
    kept: share of error map channels that go back, 1 for no pruning; gamma1, gamma2: what weights and errors count in
    their importance.  bits: 8 for 8-bit training, None for none.
    """

    filter: Annotated[str, Field(pattern=r"^none$|^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = "models.nets:build"
    filter_kwargs: dict[str, Any] = Field(default_factory=lambda: {"name": "lenet_filter"})
    classes: Annotated[float, Field(ge=0.0)] = 1.0
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    entropy: Annotated[float, Field(ge=0.0)] = 0.69
    threshold: Annotated[float, Field(gt=0.0)] = 0.5
    up: Annotated[float, Field(gt=1.0)] = 1.05
    down: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    window: Annotated[int, Field(ge=1)] = 10
    least: Annotated[float, Field(gt=0.0)] = LEAST
    filter_lr: Annotated[float, Field(gt=0.0)] = 0.001
    adaptive: bool = True
    weighting: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    average: Literal["passed", "batch"] = "passed"
    kept: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    gamma1: Annotated[float, Field(ge=0.0)] = 0.0
    gamma2: Annotated[float, Field(ge=0.0)] = 1.0
    bits: Annotated[int | None, Field(ge=2, le=16)] = None


class OnDevice(Method):
    """filter: the instance filter, or None; threshold: its controller."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(context)
        if settings.least > settings.threshold:
            raise InputError(f"least = {settings.least}", where="recipe on_device",
                             expected=f"at most the first threshold, {settings.threshold}")
        self.settings = settings
        self.rule = ErrorMapPruning(settings.kept, settings.gamma1, settings.gamma2, settings.bits)
        pruned = prune_error_maps_(context.model, self.rule) if settings.kept < 1.0 or settings.bits else []
        maps = {name: context.model.get_submodule(name).out_channels for name in pruned}
        kept = {name: Fraction(self.rule.channels(count), count) for name, count in maps.items()}
        self.forward_macs, self.backward_macs = _macs(context.model, context.example, kept)
        self.filter, self.optimizer = self._make_filter()
        self.filter_macs = 0 if self.filter is None else _macs(self.filter, context.example, {})[0]
        self.threshold = Threshold(settings.ratio, settings.threshold, settings.up, settings.down, settings.window,
                                   settings.adaptive, settings.least)
        self._batch: tuple[Tensor, Tensor, Prediction] | None = None
        self._losses: Tensor | None = None
        self._unsure: Tensor | None = None
        self._spent = 0
        self.counts = dict.fromkeys(("examples", "high", "unsure", "true_high", "wrong", "judged"), 0)

    def _make_filter(self) -> tuple[nn.Module | None, torch.optim.Optimizer | None]:
        if self.settings.filter == "none":
            return None, None
        made = build_filter(self.settings, int(self.context.example.shape[1]), self.context.classes)
        made = made.to(self.context.example.device)
        return made, torch.optim.Adam(made.parameters(), self.settings.filter_lr)

    def prepare(self, x: Tensor, y: Tensor, place: Place) -> Batch | None:
        """The examples predicted to have a high loss; None where there is none."""
        self._spent = 0
        self._losses = self._unsure = self._batch = None
        if self.filter is None:
            return Batch(x, y)
        self.filter.eval()
        with torch.no_grad():
            said = predict(self.filter(x), self.settings.entropy)
        self._batch = x, y, said
        self._spent += len(x) * self.filter_macs
        if bool(said.unsure.any()):
            self._unsure = self.context.losses_of(x[said.unsure], y[said.unsure])
            self._spent += int(said.unsure.sum()) * self.forward_macs
        return Batch(x[said.high], y[said.high]) if bool(said.high.any()) else None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss of the examples that passed the filter, averaged as asked; each is remembered for the filter."""
        if self.filter is None:
            return super().loss(logits, batch)
        assert self._batch is not None
        losses = self.context.losses(logits, batch.y)
        self._losses = losses.detach()
        return losses.sum() / len(losses if self.settings.average == "passed" else self._batch[0])

    def after_step(self, place: Place) -> None:
        """The filter learns from the losses that were seen, and the threshold follows."""
        if self.filter is None or self._batch is None:
            return
        assert self.optimizer is not None
        x, y, said = self._batch
        # Nothing passed where the losses are None: then there is nothing to train on, or to learn from.
        trained, unsure = (x.new_empty(0) if part is None else part for part in (self._losses, self._unsure))
        loss = torch.cat([trained, unsure])
        is_high = loss >= self.threshold.value
        true_high = int(is_high[: len(trained)].sum())
        if len(loss):
            places = torch.cat([said.high.nonzero().flatten()[: len(trained)], said.unsure.nonzero().flatten()])
            self._teach(x[places], y[places], is_high)
            self._spent += 3 * len(loss) * self.filter_macs
            self.counts["wrong"] += int((~is_high[: len(trained)]).sum()) + int(is_high[len(trained) :].sum())
            self.counts["judged"] += len(loss)
        self.threshold.update(true_high, len(x))
        for name, count in (("examples", len(x)), ("high", int(said.high.sum())), ("unsure", int(said.unsure.sum())),
                            ("true_high", true_high)):
            self.counts[name] += count

    def _teach(self, x: Tensor, y: Tensor, is_high: Tensor) -> None:
        """One step of the filter's own optimizer."""
        assert self.filter is not None and self.optimizer is not None
        self.filter.train()
        with torch.enable_grad():
            if isinstance(self.filter, ClassifyingFilter):
                said, scores = self.filter.both(x)
                extra = self.settings.classes * nn.functional.cross_entropy(scores, y)
            else:
                said, extra = self.filter(x), torch.zeros((), device=x.device)
            (filter_loss(said, is_high, self.settings.ratio, self.settings.weighting) + extra).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, per_image: int, images: int, batch: Batch | None) -> int:
        """C = m F_filter + (|P| + |U|) F_filter,train + |P| (F + kept F_back) + |U| F, in multiply-accumulates."""
        trained = 0 if batch is None else len(batch.x)
        return self._spent + trained * (self.forward_macs + self.backward_macs)

    def row(self) -> dict[str, Any]:
        """Shares of the epoch's examples, the filter's error on those it was judged by, and the threshold."""
        if self.filter is None:
            return {}
        counts, self.counts = self.counts, dict.fromkeys(self.counts, 0)
        examples = max(1, counts["examples"])
        return {"share_high": counts["high"] / examples, "share_unsure": counts["unsure"] / examples,
                "share_true_high": counts["true_high"] / examples,
                "filter_error": counts["wrong"] / max(1, counts["judged"]), "loss_threshold": self.threshold.value}

    def summary(self) -> dict[str, Any]:
        """What a forward pass of each network costs, and what error-map pruning leaves of a backward one."""
        return {"name": "on_device", "forward_macs": self.forward_macs, "backward_macs": self.backward_macs,
                "filter_forward_macs": self.filter_macs}

    def state_dict(self) -> dict[str, Any]:
        """Filter, its optimizer, the threshold and the epoch's counts."""
        if self.filter is None:
            return {}
        assert self.optimizer is not None
        return {"filter": self.filter.state_dict(), "optimizer": self.optimizer.state_dict(),
                "threshold": threshold_state(self.threshold), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        if self.filter is None:
            return
        assert self.optimizer is not None
        self.filter.load_state_dict(state["filter"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_threshold_(self.threshold, state["threshold"])
        self.counts = {name: int(value) for name, value in state["counts"].items()}


def build_filter(settings: Settings, channels: int, classes: int) -> nn.Module:
    """The filter of these settings for images of so many channels."""
    build: Any = look_up(settings.filter, {}, "recipe.filter")
    outputs = classes if settings.classes else 2
    network: nn.Module = build(**{"in_channels": channels, "num_classes": outputs, **settings.filter_kwargs})
    return ClassifyingFilter(network, classes) if settings.classes else network


def _macs(model: nn.Module, example: Tensor, kept: Mapping[str, Fraction]) -> tuple[int, int]:
    """(forward, backward) of one image."""
    layers = layer_macs(model, example, kept)
    return sum(layer.forward for layer in layers), sum(layer.backward for layer in layers)


def make(settings: Settings, context: Context) -> Method:
    """The method for a training run."""
    return OnDevice(settings, context)
