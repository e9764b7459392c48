"""Who is removed together: channels between convolutions, hidden units of a perceptron, heads of an attention.

Each group lists, for every one of its members, the outputs that make it and the inputs that read it, as indices into
the layers' weights.  Channels and hidden units come from coupling.py, heads from attention modules that spell them out.
It leaves out which members go; read compact.py for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simulator.errors import InputError

from .coupling import ChannelGroup, Span, couple, some


@dataclass(frozen=True, eq=False)
class Group:
    """`width` members; a place is (module, int64[width, entries]), which outputs or inputs of it belong to each.

    made_by, scaled_by: outputs of layers and entries of batch norms.  read_by: inputs of layers.  attention: the module
    whose heads the members are.
    """

    width: int
    made_by: tuple[tuple[str, Tensor], ...]
    read_by: tuple[tuple[str, Tensor], ...]
    scaled_by: tuple[tuple[str, Tensor], ...] = ()
    attention: str | None = None

    def __str__(self) -> str:
        return f"heads of {self.attention}" if self.attention else " + ".join(name for name, _ in self.made_by)


def groups_of(model: nn.Module, example_inputs: object) -> tuple[tuple[Group, ...], dict[str, str]]:
    """(the groups of `model`, {name: why its channels stay} for what cannot be taken apart)."""
    refused: dict[str, str] = {}
    modules = dict(model.named_modules())
    found: tuple[ChannelGroup, ...] = ()
    try:
        coupling = couple(model, example_inputs, resizable=True, tokens=True)
    except InputError as error:
        refused["channels"] = error.what
    else:
        found = coupling.groups
        if coupling.obstacles:
            refused["channels"] = f"what reaches one of these stays: {some(coupling.obstacles)}"
    shared = _shared(model)
    groups = []
    for group in (*(_of_channels(group) for group in found), *_heads(modules)):
        names = [name for name, _ in (*group.made_by, *group.scaled_by, *group.read_by)]
        blocked = next((name for name in names if name in shared or "weight" not in modules[name]._parameters), None)
        if blocked is None:
            groups.append(group)
        else:
            refused[str(group)] = f"the weight of {blocked!r} is shared or parametrised"
    for name, module in modules.items():
        if isinstance(module, nn.MultiheadAttention):
            refused[name] = "nn.MultiheadAttention fixes its width to heads x head width"
        elif isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups != module.in_channels:
            refused[name] = f"{module.groups} groups: one channel less would leave groups of unequal size"
    return tuple(groups), refused


def _of_channels(group: ChannelGroup) -> Group:
    def place(span: Span) -> tuple[str, Tensor]:
        first = torch.arange(group.width)[:, None] + span.start
        return span.layer, first * span.repeat + torch.arange(span.repeat)

    return Group(group.width, tuple(map(place, group.producers)), tuple(map(place, group.consumers)),
                 tuple(map(place, group.norms)))


def _heads(modules: dict[str, nn.Module]) -> list[Group]:
    """Attention as models/vit.py has it: `qkv` makes [3, heads, head_width], `project` reads [heads, head_width]."""
    found = []
    for name, module in modules.items():
        qkv, project = getattr(module, "qkv", None), getattr(module, "project", None)
        heads, width = getattr(module, "heads", None), getattr(module, "head_width", None)
        if not (isinstance(qkv, nn.Linear) and isinstance(project, nn.Linear) and isinstance(heads, int)
                and isinstance(width, int) and qkv.out_features == 3 * heads * width
                and project.in_features == heads * width):
            continue
        read = torch.arange(heads * width).reshape(heads, width)
        made = torch.cat([read + part * heads * width for part in range(3)], 1)
        found.append(Group(heads, ((f"{name}.qkv", made),), ((f"{name}.project", read),), attention=name))
    return found


def _shared(model: nn.Module) -> set[str]:
    """Modules whose weight or bias another module has too."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name for names in owners.values() if len(names) > 1 for name in names}
