"""What one training run is: a TOML file checked field by field, with every mistake reported at once.

A TrainConfig is plain data with strict types; a key that does not exist, a wrong type and a value out of
range are each answered with file, line, what was expected and the nearest name.  It leaves out what the
parts mean: settings.py has the pruner's, cost.py the hardware's.  Read train.py next.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from simulator.errors import InputError, nearest

SHIPPED = Path(__file__).parent / "configs"
DOTTED = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"

Texts = Annotated[tuple[str, ...], Field(strict=False)]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
DottedPath = Annotated[str, Field(pattern=DOTTED)]


class Section(BaseModel):
    """Strict: no unknown key, no number for a text, no text for a number, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images.  load, split and batches are `module:function` as in models/data.py, models/batching.py."""

    source: str = "fashion-mnist-mini"
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training images held out: every decision is judged on it, never on test images."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    augment: Annotated[str, Field(pattern=rf"^none$|{DOTTED}")] = "none"
    limit: Annotated[int | None, Field(ge=1)] = None
    test_limit: Annotated[int | None, Field(ge=1)] = None
    load: DottedPath = "models.data:load"
    split: DottedPath = "models.data:split_validation"
    batches: DottedPath = "models.batching:batches"


class ModelConfig(Section):
    """Which network: `build(**kwargs)`.  in_channels and num_classes are the data's unless kwargs has them."""

    build: DottedPath = "models.nets:build"
    name: str | None = "resnet8"
    """Passed to `build` as `name`; leave it out for a builder that makes one network."""
    kwargs: dict[str, Any] = {}


class OptimizeConfig(Section):
    """How it is trained."""

    epochs: Annotated[int, Field(ge=1)] = 8
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Field(gt=0.0)] = 0.1
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    schedule: Literal["cosine", "one_cycle", "constant"] = "one_cycle"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Share = 0.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are averaged for one optimizer step; the last step of an epoch may have fewer."""
    ema: Share = 0.0
    """Decay of a running average of the weights, which is then what is validated and exported; 0 = none (ema.py)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type that products are computed in while training; fp16 on CUDA only, with a scaled loss (precision.py)."""
    compile: Literal["none", "inductor", "aot_eager", "eager"] = "none"
    """Backend of torch.compile for the forward and backward pass."""
    channels_last: bool = False
    """Memory layout of weights and images; often faster for convolutions, and never another result in meaning."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Optimizer steps between two checkpoints; one is written at the end of every epoch besides."""


class PruneConfig(Section):
    """What is pruned, as codesign.settings.PrunerConfig has it."""

    structure: str | dict[str, str] = "unstructured"
    schedule: str | dict[str, str | float] = "one_cycle"
    sparsity: Share | None = None
    criterion: str | None = None
    scope: str | dict[str, float] = "local"
    regrow: str | dict[str, str | float | int] | None = None
    skip: Texts | None = None
    update_every: Annotated[int | None, Field(ge=1)] = None


class HardwareConfig(Section):
    """The machine that chooses, as codesign.cost.HardwareCost has it: targets are shares of the dense network's."""

    machine: str = "nm_array"
    target_latency: Annotated[float | None, Field(gt=0.0, le=1.0)] = None
    target_energy: Annotated[float | None, Field(gt=0.0, le=1.0)] = None
    candidates: Texts | None = None
    """Structures to choose from; None = all that the machine gains from."""
    densities: Numbers | None = None
    """Shares kept by candidates that fix none of their own; None = the default of HardwareCost."""
    objective: str = "fisher_log"
    finalists: Annotated[int, Field(ge=1)] = 6
    judge_steps: Annotated[int, Field(ge=0)] = 141
    """Training steps that each finalist gets before validation images decide; 0 = the predicted damage decides."""
    only: str | None = None
    """The label of the one network to take: an objective's name or "uniform STRUCTURE"; None = the best finalist."""
    select_at: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = (0.25,)
    """Progress through training, 0 to 1, at which the structures are chosen; several = several events."""


class OutputConfig(Section):
    """What is written besides the run directory's own files."""

    machines: Texts | None = None
    """Machines that the network is scored on; None = the one in [hardware], if any."""
    activations: Literal["density", "mask", "none"] = "density"
    """What is measured of each layer's input on validation images: its density, one image's mask, or nothing."""
    cost_per_epoch: bool = True
    """Whether the network is simulated after each epoch as well as at the end."""
    attacks: Texts = ()
    """Attacks that the trained network's accuracy is measured under, such as "fgsm 0.03" (robustness.py)."""
    tensorboard: bool = False


class CompareConfig(Section):
    """Which networks are trained beside ours, with the same data, seed and epochs, and shown in one table with it."""

    rows: Texts = ()
    """ "dense", "magnitude" (blind to the machine, to the same number of weights), or a structure such as "2:4"."""


class TrainConfig(Section):
    """One training run.  Without [prune] it is dense, without [hardware] it is blind to any machine."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: OptimizeConfig = OptimizeConfig()
    prune: PruneConfig | None = None
    hardware: HardwareConfig | None = None
    recipe: dict[str, Any] | None = None
    """A published training method: its `name`, and the keys of its Settings (recipes/).  {name = "none"} is ordinary
    training, which is how `--set` takes a recipe out of a configuration."""
    compare: CompareConfig = CompareConfig()
    output: OutputConfig = OutputConfig()

    @field_validator("recipe")
    @classmethod
    def _none(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value == {"name": "none"} else value

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines that the trained network is scored on."""
        if self.output.machines is not None:
            return self.output.machines
        return (self.hardware.machine,) if self.hardware is not None else ()

    def pruner_settings(self, total_steps: int) -> dict[str, Any] | None:
        """The dictionary that Pruner takes, or None where nothing is pruned."""
        if self.prune is None and self.hardware is None:
            return None
        settings = (self.prune or PruneConfig()).model_dump(exclude_none=True)
        settings["total_steps"] = total_steps
        if self.hardware is not None:
            settings["select_at"] = self.hardware.select_at
        return settings

    def to_toml(self) -> str:
        """The configuration as resolved, every default written out; reading it gives an equal TrainConfig."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def hardware_cost(config: TrainConfig, judge: Any = None) -> Any:
    """The HardwareCost that [hardware] asks for, or None without one.  Raises InputError where it makes no sense."""
    hardware = config.hardware
    if hardware is None:
        return None
    from .candidates import DENSITIES
    from .cost import HardwareCost

    return HardwareCost(
        hardware.machine,
        target_latency=hardware.target_latency,
        target_energy=hardware.target_energy,
        candidates=hardware.candidates,
        densities=DENSITIES if hardware.densities is None else hardware.densities,
        objective=hardware.objective,
        finalists=hardware.finalists,
        judge=judge,
        only=hardware.only,
    )


def shipped_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def config_path(name_or_path: str) -> Path:
    """The file of a shipped name or a path.  Raises InputError where there is none."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and (SHIPPED / f"{name_or_path}.toml").is_file():
        return SHIPPED / f"{name_or_path}.toml"
    if not path.is_file():
        raise InputError(
            f"no training configuration {name_or_path!r}",
            where="train",
            expected="a .toml file or a shipped name",
            fix=nearest(name_or_path, shipped_names()),
        )
    return path


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a file or under a shipped name, with `KEY=VALUE` overrides on top.

    A key is dotted (`train.epochs=3`); a value is read as TOML, else as text; `data=...` is short for
    `data.source=...`.  Raises one InputError with all mistakes of the file and the overrides.
    """
    path = config_path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid TOML ({error})", where=str(path), fix="correct the line it names") from None
    return check_config(table, str(path), text, overrides)


def check_config(
    table: Mapping[str, Any], where: str = "config", text: str = "", overrides: Sequence[str] = ()
) -> TrainConfig:
    """The configuration in a table.  `where` and `text` are the file's name and content, for the errors."""
    merged = json.loads(json.dumps(table, default=str))  # a deep copy; TOML dates become texts that no field takes
    sources: dict[tuple[str, ...], str] = {}
    for item in overrides:
        key = _override(merged, item)
        sources[key] = f"--set {item}"
    merged.setdefault("name", Path(where).stem.replace(" ", "-"))
    try:
        config = TrainConfig.model_validate(merged)
    except ValidationError as error:
        raise InputError.collect(_explain(error, where, text, sources)) from None
    errors = _check_meaning(config, where, text, sources)
    if errors:
        raise InputError.collect(errors)
    return config


def _override(table: dict[str, Any], item: str) -> tuple[str, ...]:
    key, equals, value = item.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise InputError(
            f"--set {item!r}", expected="KEY=VALUE with a dotted key", fix="for example --set train.epochs=3"
        )
    if parts == ("data",):
        parts = ("data", "source")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    inner = table
    for part in parts[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"--set {item!r}: {part!r} holds a value, not a section",
                expected="a dotted key",
                fix="for example --set train.epochs=3",
            )
    inner[parts[-1]] = parsed
    return parts


def _explain(error: ValidationError, where: str, text: str, sources: Mapping[tuple[str, ...], str]) -> list[InputError]:
    """pydantic's errors in our form; the alternatives of a union become one message."""
    found: dict[tuple[str, ...], InputError] = {}
    for item in error.errors():
        location, section = _location(item["loc"])
        place = _place(location, where, text, sources)
        key = ".".join(location)
        if item["type"] == "extra_forbidden":
            found[location] = InputError(f"unknown key {key!r}", where=place, fix=nearest(location[-1], section))
        elif item["type"] == "missing":
            found[location] = InputError(f"key {key!r} is missing", where=place)
        elif location in found:  # another alternative of the same union
            known = found[location]
            found[location] = InputError(known.what, where=place, expected=f"{known.expected} or {_expected(item)}")
        else:
            found[location] = InputError(f"{key} = {_shown(item['input'])}", where=place, expected=_expected(item))
    return list(found.values())


def _expected(item: Any) -> str:
    words = {
        "int_type": "an integer",
        "int_from_float": "an integer",
        "float_type": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "dict_type": "a table",
        "model_type": "a table",
        "tuple_type": "a list",
        "model_attributes_type": "a table",
        "finite_number": "a finite number",
    }
    if item["type"] in words:
        return words[item["type"]]
    message = str(item["msg"])
    for start in ("Input should be ", "String should "):
        message = message.removeprefix(start)
    if DOTTED in message or DOTTED in str(item.get("ctx", {}).get("pattern", "")):
        return '"package.module:name"' + (' or "none"' if "none" in message else "")
    return message


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _location(loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """(the key's path in the file, the keys that its section knows); pydantic's names of union branches are dropped."""
    model: type[BaseModel] | None = TrainConfig
    path: list[str] = []
    known = list(TrainConfig.model_fields)
    for part in loc:
        if model is None:
            if isinstance(part, int):
                path[-1] += f"[{part}]"
            continue
        known = list(model.model_fields)
        path.append(str(part))
        field = model.model_fields.get(str(part))
        model = None
        if field is not None:
            choices = [field.annotation, *getattr(field.annotation, "__args__", ())]
            model = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return tuple(path), known


def _place(location: tuple[str, ...], where: str, text: str, sources: Mapping[tuple[str, ...], str]) -> str:
    for key, source in sources.items():
        if location[: len(key)] == key:
            return source
    line = line_of(text, [part.split("[")[0] for part in location])
    return f"{where}, line {line}" if line else where


def line_of(text: str, location: Sequence[str]) -> int | None:
    """The line of a TOML text, counted from 1, where a key path stands, or where its section begins."""
    section: list[str] = []
    best: int | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("[") and not line.startswith("[["):
            section = [part.strip(" \"'") for part in line.split("]")[0].strip("[ ").split(".")]
            if section == list(location):
                return number
            if section == list(location[: len(section)]):
                best = number
        elif "=" in line and not line.startswith("#"):
            key = [part.strip(" \"'") for part in line.split("=")[0].split(".")]
            if [*section, *key] == list(location):
                return number
    return best


def _check_meaning(
    config: TrainConfig, where: str, text: str, sources: Mapping[tuple[str, ...], str]
) -> list[InputError]:
    """Mistakes that only the parts themselves can see: names of machines, structures, schedules, criteria."""
    from simulator.hardware import load_machine

    errors: list[InputError] = []

    def check(location: tuple[str, ...], action: Any) -> None:
        try:
            action()
        except InputError as error:
            errors.append(InputError(str(error), where=_place(location, where, text, sources)))

    from .compare import check_row

    if config.compare.rows and not config.machines:
        errors.append(InputError("compare.rows without a machine to compare on",
                                 where=_place(("compare", "rows"), where, text, sources),
                                 expected="a [hardware] section or output.machines"))
    for row in config.compare.rows:
        check(("compare", "rows"), lambda row=row: check_row(row))
    from .robustness import parse_attack

    for attack in config.output.attacks:
        check(("output", "attacks"), lambda attack=attack: parse_attack(attack))
    for machine in config.output.machines or ():
        check(("output", "machines"), lambda machine=machine: load_machine(machine))
    if config.hardware is not None:
        hardware = config.hardware
        check(("hardware",), lambda: hardware_cost(config))
        for event in hardware.select_at:
            if not 0.0 <= event <= 1.0:
                errors.append(
                    InputError(
                        f"hardware.select_at = {event}",
                        where=_place(("hardware", "select_at"), where, text, sources),
                        expected="progress through training, 0 to 1",
                    )
                )
    if config.recipe is not None and (config.train.accumulate > 1 or config.train.compile != "none"):
        errors.append(InputError("train.accumulate or train.compile with a [recipe]",
                                 where=_place(("recipe",), where, text, sources),
                                 expected="accumulate = 1 and compile = \"none\": a recipe changes single steps",
                                 fix="leave them out, or the recipe"))
    if config.recipe is not None:
        from .recipes import settings_of

        check(("recipe",), lambda: settings_of(config.recipe or {}))
    if config.prune is not None or config.hardware is not None:
        from .settings import PrunerConfig

        settings = config.pruner_settings(total_steps=1) or {}
        check(("prune",), lambda: PrunerConfig.from_dict({k: v for k, v in settings.items() if k != "select_at"}))
    return errors
