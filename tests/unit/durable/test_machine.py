"""Machine numbers: unique among the living, kept over lost acknowledgements, noticed when lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Settings
from perdure.durable import machine
from perdure.durable.machine import HEAD, LONGER, MachineLease
from perdure.entities.snowflake import MACHINES
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.ports import MemoryMembers
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Entry, Unreachable

from ..streams.virtual import VirtualClock
from .peers import virtually

TTL_S = 2


class Low:
    """Entropy that always begins with the first number."""

    def token(self, size: int) -> str:
        return "0" * 2 * size

    def uniform(self, low: float, high: float) -> float:
        return low


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(VirtualClock(), Settings())


def lease(session: MemorySession, runner: str) -> MachineLease:
    return MachineLease(session, runner, TTL_S)


def low(broker: MemoryBroker) -> MemorySession:
    return broker.session(entropy=Low())


async def holder(session: MemorySession, number: int) -> bytes | None:
    entry = await session.members.get(f"{HEAD}.{number}")
    return None if entry is None else entry.value


@virtually
async def test_concurrent_takers_get_different_numbers(broker: MemoryBroker) -> None:
    """Though all of them begin to look at the same one, and list it as free."""
    leases = [lease(low(broker), f"r{n}") for n in range(30)]
    numbers = await asyncio.gather(*(lease.take() for lease in leases))
    assert sorted(numbers) == list(range(30))
    assert [lease.number for lease in leases] == numbers
    assert await holder(low(broker), numbers[7]) == b"r7"


@virtually
async def test_numbers_begin_anywhere(broker: MemoryBroker) -> None:
    numbers = {await lease(broker.session(), f"r{n}").take() for n in range(20)}
    assert len(numbers) == 20
    assert max(numbers) > 100
    assert all(0 <= number < MACHINES for number in numbers)


@virtually
async def test_a_lease_outlives_a_member_s_record_and_is_kept_by_renewing(
    broker: MemoryBroker,
) -> None:
    session = low(broker)
    kept, dropped = lease(session, "kept"), lease(session, "dropped")
    await kept.take()
    await dropped.take()
    for _ in range(3):
        await asyncio.sleep(TTL_S * LONGER - 1)
        assert await kept.renew() is False
    assert await holder(session, kept.number) == b"kept"
    assert await holder(session, dropped.number) is None
    await asyncio.sleep(TTL_S * LONGER - 1)
    assert await holder(session, kept.number) == b"kept"
    await asyncio.sleep(2)
    assert await holder(session, kept.number) is None


@virtually
async def test_a_lost_lease_is_noticed_and_another_number_taken(broker: MemoryBroker) -> None:
    session = low(broker)
    first = lease(session, "first")
    assert await first.take() == 0
    await asyncio.sleep(TTL_S * LONGER + 1)  # frozen
    second = lease(session, "second")
    assert await second.take() == 0
    assert await first.renew() is True
    assert first.number == 1
    assert await first.renew() is False
    assert await holder(session, 0) == b"second"
    assert await second.renew() is False


@virtually
async def test_one_that_went_by_itself_and_nobody_took_is_kept(broker: MemoryBroker) -> None:
    session = low(broker)
    first = lease(session, "first")
    await first.take()
    await asyncio.sleep(TTL_S * LONGER + 1)
    assert await holder(session, 0) is None
    assert await first.renew() is False
    assert (first.number, await holder(session, 0)) == (0, b"first")


@virtually
async def test_a_lost_acknowledgement_keeps_it(broker: MemoryBroker) -> None:
    session = low(broker)
    first = lease(session, "first")
    await first.take()
    with pytest.MonkeyPatch.context() as patch:
        lose_acknowledgements(patch)
        with pytest.raises(Unreachable):
            await first.renew()
    for _ in range(2):
        assert await first.renew() is False
    assert first.number == 0


@virtually
async def test_a_stale_listing_does_not_make_two_holders(broker: MemoryBroker) -> None:
    session = low(broker)
    assert await lease(session, "first").take() == 0

    async def stale(self: Any, head: str) -> dict[str, Entry]:
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryMembers, "entries", stale)
        assert await lease(session, "second").take() == 1
    assert await holder(session, 0) == b"first"


@virtually
async def test_where_all_are_leased_the_error_says_so(broker: MemoryBroker) -> None:
    session = low(broker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "MACHINES", 3)
        held = [lease(session, f"r{n}") for n in range(3)]
        assert [await one.take() for one in held] == [0, 1, 2]
        with pytest.raises(Unreachable, match="all 3 machine numbers are leased"):
            await lease(session, "late").take()
        await held[1].give_back()
        assert await lease(session, "late").take() == 1


@virtually
async def test_only_the_own_lease_is_given_back(broker: MemoryBroker) -> None:
    session = low(broker)
    first = lease(session, "first")
    await first.take()
    await asyncio.sleep(TTL_S * LONGER + 1)
    second = lease(session, "second")
    assert await second.take() == 0
    await first.give_back()
    assert await holder(session, 0) == b"second"
    await second.give_back()
    assert await holder(session, 0) is None


@virtually
async def test_without_a_connection_nothing_is_given_back_nor_raised(
    broker: MemoryBroker,
) -> None:
    session, other = low(broker), low(broker)
    first = lease(session, "first")
    await first.take()
    await session.close()
    await first.give_back()
    assert await holder(other, 0) == b"first"


def lose_acknowledgements(patch: pytest.MonkeyPatch) -> None:
    real = MemoryMembers.put

    async def put(self: Any, *args: Any, **more: Any) -> int | None:
        await real(self, *args, **more)
        raise Unreachable("stored, but nobody heard")

    patch.setattr(MemoryMembers, "put", put)
