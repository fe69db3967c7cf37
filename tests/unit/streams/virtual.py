"""An event loop whose time jumps: calls that take half a minute are tested in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_NS = 1_800_000_000 * 1_000_000_000
"""The wall clock when the loop starts."""


class Stuck(AssertionError):
    """Everybody waits, and no timer will ever wake anyone."""


class _Jump(selectors.DefaultSelector):
    now = 0.0
    early_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        self.now += max(0.0, timeout - self.early_s)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer when nothing is ready.

    With `early_s` its timers ring so much too early by its own clock, as uvloop's may.
    """

    def __init__(self, early_s: float = 0.0) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        if early_s:
            self._jump.early_s = early_s
            self._clock_resolution = 1.25 * early_s

    def time(self) -> float:
        return self._jump.now


class VirtualClock:
    """A wall clock that goes with the loop, wrong by an offset."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ns(self) -> int:
        elapsed = round(asyncio.get_running_loop().time() * 1e9)
        return EPOCH_NS + elapsed + self.offset_ms * 1_000_000


def run(main: Coroutine[Any, Any, T], *, early_s: float = 0.0) -> T:
    """Run a test on virtual time; with timers that ring early, if wanted."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(early_s)) as runner:
        return runner.run(main)
