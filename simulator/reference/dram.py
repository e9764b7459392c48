"""DRAM channels clock by clock: the slow twin of ../dram_kernel.py, behind the same door as channel.py.

Every clock each channel admits, precharges, activates, reads or writes whatever its timings allow; nothing is computed
ahead.  Ranks, per-bank refresh and the command bus are left out.  Read docs/model.md section 3 for the rules.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..counts import Count
from ..dram import Device, clocks_per_cycle
from ..hardware import Memory
from .channel import Job

NEVER = -(10**15)


@dataclass
class Move:
    """A transfer on its way: its job, and the clock after its last data beat so far."""

    job: Job
    bursts_left: int
    end: int = 0


@dataclass
class Request:
    """One burst in a channel's queue."""

    move: Move
    group: int
    bank: int
    row: int
    precharged: bool = False
    activated: bool = False


@dataclass
class Bank:
    """A bank's open row (-1: closed) and the clocks of what was done to it."""

    row: int = -1
    activate: int = NEVER
    precharge: int = NEVER
    may_close: int = NEVER  # for what was read and written since the activate


@dataclass
class DramChannel:
    """The banks of one channel, its queue and the window of requests that its controller looks at."""

    device: Device
    window_size: int
    coming: deque[Request] = field(default_factory=deque)
    window: list[Request] = field(default_factory=list)
    closed_until: int = 0  # a refresh is under way
    waiting_refreshes: int = 0  # done since the last admission
    refreshes: int = 0
    activates: list[tuple[int, int]] = field(default_factory=list)  # (clock, group)
    columns: list[tuple[int, int, bool]] = field(default_factory=list)  # (clock, group, is load)

    def __post_init__(self) -> None:
        self.banks = {(g, b): Bank() for g in range(self.device.bank_groups)
                      for b in range(self.device.banks_per_group)}
        self.due = self.device.tREFI
        self.rows = {"hit": 0, "miss": 0, "conflict": 0}

    def clock(self, now: int) -> None:
        """All that happens in one clock."""
        parts = (self._refresh, self._admit, self._precharge, self._activate, self._column)
        while any(part(now) for part in parts):
            pass

    def _refresh(self, now: int) -> bool:
        if not self.device.tREFI or now < self.due or now < self.closed_until or self.window:
            return False
        open_banks = [bank for bank in self.banks.values() if bank.row >= 0]
        if any(now < max(bank.activate + self.device.tRAS, bank.may_close) for bank in open_banks):
            return False
        for bank in open_banks:
            bank.row = -1
        self.closed_until = now + self.device.tRP + self.device.tRFC
        self.due += self.device.tREFI
        self.waiting_refreshes += 1
        return True

    def _admit(self, now: int) -> bool:
        due = self.device.tREFI and now >= self.due
        if not self.coming or len(self.window) == self.window_size or due or now < self.closed_until:
            return False
        self.window.append(self.coming.popleft())
        self.refreshes += self.waiting_refreshes
        self.waiting_refreshes = 0
        return True

    def _bank(self, request: Request) -> Bank:
        return self.banks[request.group, request.bank]

    def _first_of_its_bank(self) -> list[Request]:
        seen: dict[tuple[int, int], Request] = {}
        for request in self.window:
            seen.setdefault((request.group, request.bank), request)
        return list(seen.values())

    def _precharge(self, now: int) -> bool:
        for request in self._first_of_its_bank():
            bank = self._bank(request)
            if bank.row not in (-1, request.row) and now >= max(bank.activate + self.device.tRAS, bank.may_close):
                bank.row, bank.precharge, request.precharged = -1, now, True
                return True
        return False

    def _activate(self, now: int) -> bool:
        """The oldest request without its row; nobody overtakes it."""
        device = self.device
        request = next((r for r in self.window if self._bank(r).row != r.row), None)
        if request is None or self._bank(request).row != -1 or request not in self._first_of_its_bank():
            return False
        if request.precharged and now < self._bank(request).precharge + device.tRP:
            return False
        for clock, group in self.activates[-device.bank_groups * device.banks_per_group * 4:]:
            same = group == request.group
            if now < clock + (max(device.tRRD_S, device.tRRD_L) if same else device.tRRD_S):
                return False
        if any(now < clock + device.tRRD_L for clock, group in self.activates if group == request.group):
            return False
        if len(self.activates) >= 4 and now < self.activates[-4][0] + device.tFAW:
            return False
        bank = self._bank(request)
        bank.row, bank.activate, bank.may_close, request.activated = request.row, now, NEVER, True
        self.activates.append((now, request.group))
        return True

    def _column(self, now: int) -> bool:
        if not self.window:
            return False
        request, device = self.window[0], self.device
        bank, is_load = self._bank(request), self.window[0].move.job.is_load
        if bank.row != request.row or now < bank.activate + (device.tRCD if is_load else device.tRCDW):
            return False
        if any(now < clock + self._apart(request.group == group, was_load, is_load)
               for clock, group, was_load in self.columns):
            return False
        self.window.pop(0)
        self.columns.append((now, request.group, is_load))
        self.rows["hit" if not request.activated else "conflict" if request.precharged else "miss"] += 1
        if is_load:
            bank.may_close = max(bank.may_close, now + device.tRTP)
        else:
            bank.may_close = max(bank.may_close, now + device.tCWL + device.tBL + device.tWR)
        request.move.bursts_left -= 1
        request.move.end = max(request.move.end, now + (device.tCL if is_load else device.tCWL) + device.tBL)
        self._forget(now)
        return True

    def _apart(self, same_group: bool, was_load: bool, is_load: bool) -> int:
        """Clocks that must lie between two column commands."""
        device = self.device
        spacing = max(device.tBL, device.tCCD_S, device.tCCD_L if same_group else 0)
        if was_load and not is_load:
            return max(spacing, device.tRTW)
        if is_load and not was_load:
            wait = max(device.tWTR_S, device.tWTR_L) if same_group else device.tWTR_S
            return max(spacing, device.tCWL + device.tBL + wait)
        return spacing

    def _forget(self, now: int) -> None:
        """Drop commands that no timing can refer to any more, four activates excepted."""
        device = self.device
        longest = max(device.tCCD_L, device.tCCD_S, device.tBL, device.tRTW,
                      device.tCWL + device.tBL + max(device.tWTR_S, device.tWTR_L), device.tRRD_S, device.tRRD_L)
        self.columns = [item for item in self.columns if item[0] + longest > now]
        self.activates = [item for i, item in enumerate(self.activates)
                          if item[0] + longest > now or i >= len(self.activates) - 4]


class Dram:
    """All channels, and the queue of transfers that have not been released to them; the clocks of both sides."""

    def __init__(self, memory: Memory, jobs: list[Job]) -> None:
        self.memory, self.device = memory, memory.device
        self.latency_cycles = memory.dram_latency_cycles
        self.ratio = clocks_per_cycle(self.device, memory.array_clock_hz)
        self.channels = [DramChannel(self.device, memory.dram_window) for _ in range(memory.channels)]
        self.queue = deque(jobs)
        self.moving: list[Move] = []
        self.underway: list[tuple[int, Job]] = []  # loads on their way from the controller
        self.next_clock = 0
        self.now = 0

    @property
    def idle(self) -> bool:
        """True when nothing is queued, moving or underway."""
        return not self.queue and not self.moving and not self.underway

    def settle(self, now: int) -> None:
        """Everything that can end, arrive or begin between two edges of the array."""
        self.now = now
        again = True
        while again:
            again = False
            for move in [m for m in self.moving if not m.bursts_left and m.end <= now * self.ratio]:
                self.moving.remove(move)
                if move.job.is_load and self.latency_cycles:
                    self.underway.append((now + self.latency_cycles, move.job))
                else:
                    move.job.deliver()
                again = True
            for item in [item for item in self.underway if item[0] <= now]:
                self.underway.remove(item)
                item[1].deliver()
                again = True
            if self.queue and self.queue[0].ready():
                self._release(self.queue.popleft())
                again = True

    def edge(self) -> None:
        """The clocks from this edge of the array to before the next."""
        while self.next_clock < (self.now + 1) * self.ratio:
            for channel in self.channels:
                channel.clock(self.next_clock)
            self.next_clock += 1

    def count(self) -> dict[Count, int]:
        """What the channels did."""
        return {
            Count.DRAM_ROW_HITS: sum(channel.rows["hit"] for channel in self.channels),
            Count.DRAM_ROW_MISSES: sum(channel.rows["miss"] for channel in self.channels),
            Count.DRAM_ROW_CONFLICTS: sum(channel.rows["conflict"] for channel in self.channels),
            Count.DRAM_REFRESHES: sum(channel.refreshes for channel in self.channels),
        }

    def _release(self, job: Job) -> None:
        """Cut a transfer into bursts and hand each to its channel."""
        job.begin()
        move = Move(job, job.size // self.device.burst_bytes)
        self.moving.append(move)
        first = job.address // self.device.burst_bytes
        for number in range(first, first + move.bursts_left):
            at = self._decode(number)
            self.channels[at["channel"]].coming.append(Request(move, at["group"], at["bank"], at["row"]))

    def _decode(self, number: int) -> dict[str, int]:
        """Where a burst lies; what is beyond the device wraps around."""
        device = self.device
        sizes = {"row": device.rows, "bank": device.banks_per_group, "group": device.bank_groups,
                 "column": device.columns, "channel": len(self.channels)}
        at = {}
        for name in reversed(self.memory.dram_address_mapping.split(":")):
            number, at[name] = divmod(number, sizes[name])
        return at


class Layout:
    """Where tiles lie: a quarter of the addresses for each operand, tiles in the order of their first transfer."""

    def __init__(self, memory: Memory) -> None:
        whole = 2**62  # a channel without banks has no size
        if memory.memory == "dram":
            device = memory.device
            whole = device.rows * device.row_bytes * device.banks_per_group * device.bank_groups * memory.channels
        self.next = {name: whole // 4 * i for i, name in enumerate(("weight", "input", "output", "psum"))}
        self.known: dict[tuple[str, object], int] = {}

    def address(self, operand: str, tile: object, size: int) -> int:
        """Byte address of a tile that takes `size` bytes in whole bursts."""
        if (operand, tile) not in self.known:
            self.known[operand, tile] = self.next[operand]
            self.next[operand] += size
        return self.known[operand, tile]
