"""Storing a tell when the stream is slow, full or silent: in its time, and no answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from perdure import ClusterError, MailboxFull, SendTimeout, Settings
from perdure.entities.address import Address
from perdure.entities.retry import Retry
from perdure.streams.asks import open_body
from perdure.streams.port import Appended, Full, NoAck, PublishAnswer, Refused
from tests.bank import Account, Balance, Deposit
from tests.unit.streams.owner import World, reply, script
from tests.unit.streams.virtual import run

FIVE = Balance(5)
ACK_S = 2.0  # after which a backend gives up waiting for an acknowledgement

Publish = Callable[[int, bytes], Awaitable[PublishAnswer]]


class Slow:
    """A command stream in the hands of a test, which is given each try's number and body."""

    def __init__(self, world: World, publish: Publish) -> None:
        self._real: Any = world.session.commands
        self._publish = publish
        self.tries = 0
        session: Any = world.session
        session.commands = self

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        self.tries += 1
        return await self._publish(self.tries, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def now() -> float:
    return asyncio.get_running_loop().time()


async def unacknowledged(tried: int, data: bytes) -> PublishAnswer:
    await asyncio.sleep(ACK_S)
    return NoAck("lost")


async def never(tried: int, data: bytes) -> PublishAnswer:
    await asyncio.Event().wait()
    raise AssertionError


async def full(tried: int, data: bytes) -> PublishAnswer:
    return Full()


async def stored_fails(world: World, timeout_s: float) -> ClusterError:
    a1 = world.cluster.at(Account, "a-1")
    with pytest.raises(ClusterError) as caught:
        await a1.ask(Deposit(5), durable=True, timeout=timeout_s, key="k")
    assert (caught.value.address, caught.value.key) == ("account/a-1", "k")
    return caught.value


# -- in its time ------------------------------------------------------------------------------
@pytest.mark.parametrize("publish", [unacknowledged, never])
@pytest.mark.parametrize("timeout_s", [0.5, 2.02, 3.0])
def test_a_stored_ask_keeps_to_its_time(publish: Publish, timeout_s: float) -> None:
    async def main() -> None:
        world = await World.hosted()
        Slow(world, publish)
        told = await stored_fails(world, timeout_s)
        assert isinstance(told, SendTimeout)
        assert told.may_have_taken_effect
        assert told.cause
        assert now() == pytest.approx(timeout_s, abs=0.001)

    run(main())


def test_a_tell_keeps_to_its_time() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(ask_timeout=0.5))
        Slow(world, never)
        with pytest.raises(SendTimeout) as caught:
            await world.cluster.at(Account, "a-1").tell(Deposit(5))
        assert caught.value.may_have_taken_effect
        assert now() == pytest.approx(0.5)

    run(main())


def test_without_time_nothing_is_stored() -> None:
    async def main() -> None:
        world = await World.hosted()
        slow = Slow(world, never)
        told = await stored_fails(world, 0)
        assert told == SendTimeout(
            after_s=0,
            may_have_taken_effect=False,
            address=told.address,
            key="k",
            request_id=told.request_id,
        )
        assert slow.tries == 0

    run(main())


def test_no_try_begins_after_the_time() -> None:
    async def main() -> None:
        patient = Settings(transient_retry=Retry(attempts=100, base=0.4, factor=1.0))
        world = await World.hosted(settings=patient)
        slow = Slow(world, full)
        told = await stored_fails(world, 1)
        assert isinstance(told, MailboxFull)
        assert not told.may_have_taken_effect
        assert now() == pytest.approx(1)
        assert slow.tries >= 3

    run(main())


def test_a_cancelled_tell_is_cancelled() -> None:
    async def main() -> None:
        world = await World.hosted()
        Slow(world, never)
        telling = asyncio.create_task(world.cluster.at(Account, "a-1").tell(Deposit(5)))
        await asyncio.sleep(1)
        telling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await telling

    run(main())


# -- an answer that comes before the acknowledgement ---------------------------------------------
@pytest.mark.parametrize("then", [NoAck("lost"), Full(), Appended(9)])
@pytest.mark.parametrize("late_s", [0.0, 0.01])
def test_an_answer_to_an_unacknowledged_try_is_the_outcome(
    then: PublishAnswer, late_s: float
) -> None:
    """It comes while the try is under way, or while the next one is waited for."""

    async def main() -> None:
        world = await World.hosted(script(None))
        soon = asyncio.get_running_loop().call_later

        async def publish(tried: int, data: bytes) -> PublishAnswer:
            if tried > 1:
                return then
            reply_to = open_body(data, None, limit=1 << 20).reply_to
            assert reply_to is not None
            soon(ACK_S + late_s, world.owner.session.asks.send, reply_to, reply(FIVE, 1))
            return await unacknowledged(tried, data)

        slow = Slow(world, publish)
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5), durable=True) == FIVE
        assert now() < ACK_S + 0.1
        assert slow.tries == 1
        assert world.owner.asked == []

    run(main())


@pytest.mark.parametrize("last", [NoAck("lost"), Full(), Refused(10077, "no room")])
def test_an_answer_is_taken_though_the_stream_gave_up_or_the_connection_went(
    last: PublishAnswer,
) -> None:
    async def main() -> None:
        for impatient in (True, False):
            world = await World.hosted(
                script(None), Settings(transient_retry=Retry(attempts=1 if impatient else 3))
            )

            async def publish(tried: int, data: bytes, world: World = world) -> PublishAnswer:
                reply_to = open_body(data, None, limit=1 << 20).reply_to
                assert reply_to is not None
                world.owner.session.asks.send(reply_to, reply(FIVE, 1))
                await asyncio.sleep(ACK_S)
                world.broker.disconnect(world.session, reconnect=False)
                return last

            Slow(world, publish)
            began = now()
            assert await world.cluster.at(Account, "a-1").ask(Deposit(5), durable=True) == FIVE
            assert now() - began == pytest.approx(ACK_S)

    run(main())
