"""Which channels of different tensors are one channel, and who makes, scales and reads each.

Channels are numbers in a union-find; operators tie them, layers use them, and some stay whatever is asked, each for a
reason that is kept.  What is left at the end are groups.  It leaves out what an operator does to channels: read
coupling.py for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """Channels start, start + 1, ... of a module; as an input, channel c is the `repeat` entries from c * repeat on."""

    layer: str
    start: int = 0
    repeat: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """`width` channels that are removed one by one, each from all of these at once.

    producers: filters start + j of each layer (depthwise ones included).  norms: entries of batch norms.
    consumers: input channels of each layer; `repeat` is how many inputs one channel is, kh * kw after a
    flatten of [channels, h, w].
    """

    width: int
    producers: tuple[Span, ...]
    consumers: tuple[Span, ...]
    norms: tuple[Span, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose weights lose something with a channel, each once."""
        return tuple(dict.fromkeys(span.layer for span in (*self.producers, *self.consumers)))

    def __str__(self) -> str:
        return f"channels of {' + '.join(span.layer for span in self.producers)}"


class Followed(NamedTuple):
    """The channels of one tensor: a number per channel along dimension `axis`, where each has `repeat` entries."""

    channels: tuple[int, ...]
    repeat: int = 1
    axis: int = 1

    @property
    def width(self) -> int:
        """Entries along `axis`."""
        return len(self.channels) * self.repeat


class Unfollowed(NamedTuple):
    """A tensor of which no channel can be removed, and why."""

    why: str


Value = Followed | Unfollowed
Use = tuple[str, str, int, int]
"""(role, layer, index of the channel there, repeat)."""


@dataclass
class Ties:
    """stays: channel -> why it cannot be removed.  counted: channels whose number stands in the code of forward().
    obstacles: what could not be followed, in the order in which it runs."""

    parent: list[int] = field(default_factory=list)
    stays: dict[int, str] = field(default_factory=dict)
    counted: set[int] = field(default_factory=set)
    obstacles: dict[str, None] = field(default_factory=dict)
    uses: dict[int, list[Use]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[tuple[str, str], Followed] = field(default_factory=dict)

    def fresh(self, width: int) -> tuple[int, ...]:
        """New channels that nothing ties yet."""
        start = len(self.parent)
        self.parent.extend(range(start, start + width))
        return tuple(range(start, start + width))

    def root(self, channel: int) -> int:
        """The number by which all channels tied to this one go."""
        while self.parent[channel] != channel:
            self.parent[channel] = self.parent[self.parent[channel]]
            channel = self.parent[channel]
        return channel

    def tie(self, left: Iterable[int], right: Iterable[int]) -> None:
        """Make each channel of one the same as that of the other."""
        for a, b in zip(left, right, strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self.parent[high] = low

    def use(self, role: str, layer: str, value: Followed) -> None:
        """Note who makes ("producer"), scales ("norm") or reads ("consumer") channels."""
        first = self.seen.get((role, layer))
        if first is None:
            self.seen[role, layer] = value
            for index, channel in enumerate(value.channels):
                self.uses[channel].append((role, layer, index, value.repeat))
        elif (len(first.channels), first.repeat) == (len(value.channels), value.repeat):
            self.tie(first.channels, value.channels)  # a module that runs twice has one weight for both
        else:
            for one in (first, value):
                self.stay(one, f"{layer!r} runs twice and reads them in different places")

    def stay(self, value: Value, why: str) -> None:
        """Channels that cannot be removed; the first reason is kept."""
        for channel in value.channels if isinstance(value, Followed) else ():
            self.stays.setdefault(channel, why)

    def groups(self, resizable: bool) -> tuple[ChannelGroup, ...]:
        """Channels with the same users, at consecutive places in all of them, are one group."""
        stays = {self.root(channel) for channel in (*self.stays, *(self.counted if resizable else ()))}
        groups: list[list[list[Use]]] = []
        for root, members in sorted(self._members().items()):
            uses = [use for channel in members for use in self.uses.get(channel, ())]
            if {"producer", "consumer"} - {role for role, *_ in uses} or root in stays:
                continue
            last = groups[-1][-1] if groups else []
            if uses == [(role, layer, index + 1, repeat) for role, layer, index, repeat in last]:
                groups[-1].append(uses)
            else:
                groups.append([uses])
        return tuple(_group(channels) for channels in groups)

    def reasons(self) -> dict[str, str]:
        """{layer: why} for every layer that reads a channel which stays."""
        why: dict[int, str] = {}
        for channel, reason in self.stays.items():
            why.setdefault(self.root(channel), reason)
        found = {layer: [why[root] for channel in value.channels if (root := self.root(channel)) in why]
                 for (role, layer), value in self.seen.items() if role == "consumer"}
        return {layer: reasons[0] for layer, reasons in found.items() if reasons}

    def _members(self) -> dict[int, list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for channel in range(len(self.parent)):
            members[self.root(channel)].append(channel)
        return members


def _group(channels: list[list[Use]]) -> ChannelGroup:
    spans: dict[str, list[Span]] = {"producer": [], "consumer": [], "norm": []}
    for role, layer, index, repeat in channels[0]:
        spans[role].append(Span(layer, index, repeat))
    return ChannelGroup(len(channels), tuple(spans["producer"]), tuple(spans["consumer"]), tuple(spans["norm"]))
