"""Broadcasts to entities that runners have: in effect once, whoever dies, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

from perdure import BroadcastProgress, MailboxFull
from perdure.streams.client import Cluster

from .keeper import Add, Keeper
from .peers import until, virtually
from .runners import Runners, begin, runners

IDS = [f"e-{n}" for n in range(60)]


async def filled(r: Runners) -> None:
    """Each entity has taken one."""
    for id in IDS:
        await r.ask(id)
    listed = [id async for id in r.cluster.ids(Keeper)]
    assert sorted(listed) == sorted(IDS)


async def added(r: Runners) -> Counter[int]:
    """What the entities' sums are."""
    await r.quiet()
    return Counter([await r.ask(id, 0) for id in IDS])


@virtually
async def test_each_entity_does_it_once_however_often_it_is_repeated() -> None:
    async with runners("ab") as r:
        await filled(r)
        for _ in range(3):
            assert await r.cluster.broadcast(Keeper, Add(10), key="gift-1", rate=1000) == 60
        assert await added(r) == {11: 60}
        assert await r.cluster.broadcast(Keeper, Add(100), rate=1000) == 60
        assert await added(r) == {111: 60}
        names = await r.recorded("e-7")
        assert names.count("gift-1") == 1


@virtually
async def test_who_tells_and_who_does_it_both_die_in_the_middle() -> None:
    """The caller's connection breaks without a word, a runner is killed; another caller goes on
    from the last place that was told."""
    async with runners("ab") as r:
        await filled(r)
        told: list[BroadcastProgress] = []
        mine = r.broker.session(name="broadcaster")
        first = Cluster(mine, r.settings)
        telling = begin(
            first.broadcast(Keeper, Add(10), key="gift-1", rate=20, on_progress=told.append)
        )
        await until(lambda: bool(told) and told[-1].told > 10)
        last = told[-1]
        await mine.close()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await r["a"].dies()
        more = await r.cluster.broadcast(Keeper, Add(10), key=last.key, after=last.place, rate=20)
        assert more == 60 - last.told
        await r.shared("b")
        assert await added(r) == {11: 60}
        await first.close()


@virtually
async def test_a_full_mailbox_is_waited_out_until_its_owner_comes() -> None:
    async with runners("a", mailbox_capacity=2) as r:
        await filled(r)
        await r["a"].runner.drain()
        busy = r.cluster.at(Keeper, IDS[5])
        for _ in range(2):
            await busy.tell(Add(1))
        telling = begin(r.cluster.broadcast(Keeper, Add(10), rate=1000))
        await asyncio.sleep(5)
        assert not telling.done()
        await r.start("b")
        assert await telling == 60
        assert await added(r) == {11: 59, 13: 1}


@virtually
async def test_an_ask_after_a_broadcast_comes_after_it() -> None:
    async with runners("a") as r:
        await filled(r)
        await r.cluster.broadcast(Keeper, Add(10), rate=1000)
        assert [await r.ask(id) for id in IDS] == [12] * 60


@virtually
async def test_a_mailbox_that_stays_full_is_told_with_its_address() -> None:
    async with runners("a", mailbox_capacity=2) as r:
        await filled(r)
        await r["a"].runner.drain()
        busy = r.cluster.at(Keeper, IDS[5])
        for _ in range(2):
            await busy.tell(Add(1))
        failed = await asyncio.gather(
            r.cluster.broadcast(Keeper, Add(10), rate=1000), return_exceptions=True
        )
        (error,) = failed
        assert isinstance(error, MailboxFull)
        assert error.address == f"keeper/{IDS[5]}"
