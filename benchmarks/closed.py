"""The closed loop: some clients, each of which sends its next command after the last one's end.

All contenders' callers use this one, so what it costs is the same for all.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle

from .orders import Load, Sample

SEED = 7
DRAWS = 65_536
"""Entities drawn beforehand, so that drawing costs nothing while it is measured."""
RAMP_S = 0.2
"""The loop fills first: so long, and until as many commands ended as there are clients."""
LIMIT_S = 120.0
"""Beyond its time, for what a load may still wait for; later it is given up as broken."""

Call = Callable[[str], Awaitable[object]]


class Window:
    """The time that counts: from one command's end to another one's, so that no part is cut off.

    It lasts as long as ordered, and longer where a command takes about as long as that: then until
    as many commands ended in it as there are clients.
    """

    def __init__(self, load: Load, now: float) -> None:
        """A load without a time counts from now on, to its end."""
        self.over: bool = False
        self.completed: int = 0
        self.took: list[float] = []
        self._clients, self._seconds = load.clients, load.seconds
        self._ramp_end = now + RAMP_S
        self._begin: float | None = None if load.seconds else now
        self._end = now
        self._ended = 0

    def ended(self, began: float, now: float, *, well: bool) -> None:
        """A command ended."""
        self.completed += well
        if self.over:
            return
        self._ended += 1
        if self._begin is None:
            if now >= self._ramp_end and self._ended >= self._clients:
                self._begin, self._ended = now, 0
            return
        self._end = now
        if well:
            self.took.append(now - began)
        if self._seconds and now >= self._begin + self._seconds:
            self.over = self._ended >= self._clients

    def sample(self, errors: dict[str, int]) -> Sample:
        """What was seen; to be called once."""
        self.took.sort()
        length = max(1e-9, self._end - (self._begin or 0.0))
        p50, p99 = (1000 * quantile(self.took, part) for part in (0.50, 0.99))
        return Sample(self.completed, len(self.took) / length, p50, p99, errors)


async def closed_loop(load: Load, call: Call, failures: tuple[type[Exception], ...]) -> Sample:
    """Run a load. Raises what `call` raises beyond `failures`, and TimeoutError if it hangs."""
    ids = drawn(load)
    errors: Counter[str] = Counter()
    clock = time.perf_counter
    window = Window(load, clock())

    async def client() -> None:
        for id in ids:
            began = clock()
            try:
                await call(id)
            except failures as error:
                errors[type(error).__name__] += 1
                window.ended(began, clock(), well=False)
            else:
                window.ended(began, clock(), well=True)
            if window.over:
                return

    async with asyncio.timeout(load.seconds + LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(client())
    return window.sample(dict(errors))


def drawn(load: Load) -> Iterator[str]:
    """The entities to send to, one after another: each once, or at random for ever."""
    ids = [f"e-{number}" for number in range(load.first, load.first + load.entities)]
    if not load.seconds:
        return iter(ids)
    return cycle(random.Random(SEED).choices(ids, k=DRAWS))


def quantile(ordered: list[float], part: float) -> float:
    """The value below which a part of them lies; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
