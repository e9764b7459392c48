"""One DRAM channel: an in-order queue whose head moves a fixed number of bytes per cycle, one transfer at a time.

Bandwidth is an exact fraction, kept as integer credits; a load's data arrives a latency after its last byte.
Banks, row hits and refresh are left out.  What is queued, and when its head may begin, is systolic.py's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Job:
    """A transfer of `size` bytes: may begin when `ready` says so; `begin`, `deliver` are called when that happens."""

    size: int
    is_load: bool
    ready: Callable[[], bool]
    begin: Callable[[], None]
    deliver: Callable[[], None]
    address: int = 0  # of the first byte, for a memory with banks and rows (dram.py)


class Channel:
    """bytes_per_cycle = numerator / denominator; numerator 0 stands for no limit."""

    def __init__(self, numerator: int, denominator: int, latency_cycles: int, jobs: list[Job]) -> None:
        self.credit_per_cycle, self.credit_per_byte = numerator, denominator
        self.latency_cycles = latency_cycles
        self.queue = deque(jobs)
        self.current: Job | None = None
        self.credits_owed = 0
        self.underway: deque[tuple[int, Job]] = deque()  # loads whose bytes have left and are not there yet

    @property
    def idle(self) -> bool:
        """True when nothing is queued, moving or underway."""
        return not self.queue and self.current is None and not self.underway

    def settle(self, now: int) -> None:
        """Everything that can end, arrive or begin between two edges."""
        while True:
            if self.underway and self.underway[0][0] <= now:
                self.underway.popleft()[1].deliver()
            elif self.current is not None and self.credits_owed <= 0:
                self._end(now)
            elif self.current is None and self.queue and self.queue[0].ready():
                self.current = self.queue.popleft()
                self.credits_owed = self.current.size * self.credit_per_byte if self.credit_per_cycle else 0
                self.current.begin()
            else:
                return

    def edge(self) -> None:
        """One cycle of moving bytes."""
        if self.current is not None:
            self.credits_owed -= self.credit_per_cycle

    def _end(self, now: int) -> None:
        assert self.current is not None  # settle asks only then
        if self.current.is_load and self.latency_cycles:
            self.underway.append((now + self.latency_cycles, self.current))
        else:
            self.current.deliver()
        self.current = None
