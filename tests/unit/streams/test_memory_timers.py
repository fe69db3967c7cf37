"""Timers in memory: a clock that the event loop doesn't follow to the millisecond."""

from __future__ import annotations

import asyncio

from perdure.entities.address import Address
from perdure.entities.settings import Settings
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.timers import ACK_WAIT_S, Timers
from perdure.streams.port import Firing

from .virtual import VirtualClock, run


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


def test_a_firing_that_nobody_acknowledges_is_given_again() -> None:
    async def main() -> None:
        broker = MemoryBroker(VirtualClock(), Settings())
        session = broker.session("runner")
        given: list[Firing] = []
        relay = await session.schedules.relay(given.append, lambda reason: None)
        relay.grant(10)
        assert await session.schedules.arm(Address("account", "a-1"), "t", 1, b"")
        await asyncio.sleep(ACK_WAIT_S - 1)
        assert len(given) == 1
        await asyncio.sleep(2)
        assert [firing.handle for firing in given] == [given[0].handle] * 2
        relay.ack(given[0].handle)
        await asyncio.sleep(3 * ACK_WAIT_S)
        assert len(given) == 2

    run(main())
