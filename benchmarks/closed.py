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
"""Before the time begins: the loop fills, and a command that ends late counts for one that began
early. Without it the slower contender would look slower still."""
LIMIT_S = 120.0
"""Beyond its time, for what a load may still wait for; later it is given up as broken."""

Call = Callable[[str], Awaitable[object]]


async def closed_loop(load: Load, call: Call, failures: tuple[type[Exception], ...]) -> Sample:
    """Run a load. Raises what `call` raises beyond `failures`, and TimeoutError if it hangs."""
    ids = drawn(load)
    took: list[float] = []
    errors: Counter[str] = Counter()
    clock = time.perf_counter
    begin = clock() + (RAMP_S if load.seconds else 0.0)
    end = begin + load.seconds if load.seconds else float("inf")
    completed = 0

    async def client() -> None:
        nonlocal completed
        for id in ids:
            began = clock()
            if began >= end:
                return
            try:
                await call(id)
            except failures as error:
                errors[type(error).__name__] += 1
                continue
            now = clock()
            completed += 1
            if begin <= now <= end:
                took.append(now - began)

    async with asyncio.timeout(load.seconds + LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(client())
    took.sort()
    length = load.seconds or clock() - begin
    return Sample(
        completed,
        len(took) / length,
        1000 * quantile(took, 0.50),
        1000 * quantile(took, 0.99),
        dict(errors),
    )


def drawn(load: Load) -> Iterator[str]:
    """The entities to send to, one after another: each once, or at random for ever."""
    ids = [f"e-{number}" for number in range(load.first, load.first + load.entities)]
    if not load.seconds:
        return iter(ids)
    return cycle(random.Random(SEED).choices(ids, k=DRAWS))


def quantile(ordered: list[float], part: float) -> float:
    """The value below which a part of them lies; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
