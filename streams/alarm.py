"""Alarm: one timer of the event loop for all calls of a client.

A call waits for its answer, or for a moment that is hardly ever reached. A timer of the loop for
each took a twelfth of a caller's time, so here a moment is an entry of a heap, and the loop knows
of the earliest one only. An entry that was cancelled stays until its time comes, or until most
are such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import count

from msgspec import Struct

EARLY_S = 0.001
"""How much earlier than asked for a loop may ring, in seconds by its own clock: uvloop counts in
whole milliseconds, asyncio runs what is due within its clock's resolution."""

LEAST = 256
"""Entries that are not worth being tidied up."""


def over(moment: float, now: float) -> bool:
    """Whether a moment that was waited for has come, `now` being the loop's time (both in
    seconds). Whoever compares the two alone is woken too early, finds that there is time left, and
    tries again and again, as long as the clock stands: a loop with something to do doesn't look at
    it."""
    return now >= moment - EARLY_S


class Moment(Struct, order=False, eq=False):
    """One entry: what to call then; None once it is cancelled."""

    wake: Callable[[], object] | None


class Alarm:
    """Calls functions at their times, by the loop's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Moment]] = []
        self._numbers = count()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0  # of the timer

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def __repr__(self) -> str:
        return f"Alarm({len(self)} wait)"

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of all calls: which one runs costs a system call (CPython's `getpid`)."""
        return asyncio.get_running_loop()

    def at(self, when: float, wake: Callable[[], object]) -> Moment:
        """Call a function that never waits at a time (loop time, seconds)."""
        moment = Moment(wake)
        heappush(self._heap, (when, next(self._numbers), moment))
        if self._timer is None or when < self._when:
            self._arm(when)
        return moment

    def cancel(self, moment: Moment) -> None:
        """Not any more, if it wasn't called yet."""
        if moment.wake is None:
            return
        moment.wake = None
        self._cancelled += 1
        if self._cancelled > LEAST and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].wake is not None]
            heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Call nothing any more, until something else is to be called."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._when = self.loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        """The earliest moment has come: call what is due, and wait for the next."""
        self._timer = None
        # A loop may ring a little early, by its own clock.
        now = max(self.loop.time(), self._when)
        while self._heap:
            when, _, moment = self._heap[0]
            if moment.wake is not None and when > now:
                if self._timer is None or when < self._when:  # else set by one that was called
                    self._arm(when)
                return
            heappop(self._heap)
            if moment.wake is None:
                self._cancelled -= 1
            else:
                wake, moment.wake = moment.wake, None
                wake()
