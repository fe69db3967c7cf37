"""Timers in memory: a clock that the event loop doesn't follow to the millisecond."""

from __future__ import annotations

import asyncio

from perdure.streams.memory.timers import Timers


async def test_a_timer_that_is_looked_at_too_early_is_looked_at_again() -> None:
    looks = 0

    def behind() -> int:
        """Half a millisecond before the time, for some looks."""
        nonlocal looks
        looks += 1
        return 999_500_000 if looks < 4 else 1_000_000_000

    timers = Timers(behind)
    timers.arm("account", "a-1", "t", 1_000, b"")
    async with asyncio.timeout(5):
        while timers.next_due_ms is not None:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)
    assert repr(timers) == "<Timers 0 armed, 1 due>"
