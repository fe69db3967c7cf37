"""Resizing, on the memory backend: when it is refused, and what becomes of everybody meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.durable import resizing
from perdure.durable.resizing import InUse, resize
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Halted, Incompatible, NoStream, Unreachable
from perdure.streams.subjects import Sharding

from .keeper import keeper
from .world import World, world

ADD = {"type": "add", "n": 1}
NAME = keeper.name


async def stop(w: World) -> None:
    """Every runner leaves in peace."""
    for runner, session in w.runners:
        await runner.drain()
        await session.close()
    w.runners.clear()


def actions(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [vars(r)["action"] for r in caplog.records if r.levelname == level]


def meanwhile(patch: pytest.MonkeyPatch, work: Callable[[], Awaitable[None]]) -> None:
    """Do something when the type was just halted."""
    halt = MemorySession.halt

    async def halting(self: MemorySession, entity: str, token: str) -> Sharding:
        found = await halt(self, entity, token)
        await work()
        return found

    patch.setattr(MemorySession, "halt", halting)


async def test_what_was_recorded_outlives_it() -> None:
    """And the same tell, published again in a later generation, is still the same command."""
    async with world(keeper, shards=4) as w:
        first = {id: await w.ask(id, ADD, key=f"k-{id}") for id in "abcdef"}
        for id in "abcdef":
            await w.tell(id, ADD, key=f"t-{id}")
        await w.quiet()
        for n, shards in enumerate((9, 2), start=2):
            await stop(w)
            assert (await resize(w.caller, NAME, shards))[1] == Sharding(n, shards)
            await w.start()
            for id in "abcdef":
                assert await w.ask(id, ADD, key=f"k-{id}") == first[id]
                await w.tell(id, ADD, key=f"t-{id}")
                await w.tell(id, ADD)
            await w.quiet()
        for id in "abcdef":
            names = [o.name for commit in await w.commits(id) for o in commit.outcomes]
            assert len(names) == len(set(names)) == 4
            assert [name[:3] for name in names] == [f"k-{id}", f"t-{id}", "@2.", "@3."]


async def test_it_is_refused_while_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses it doesn't even feel that."""

    async def felt() -> None:
        pytest.fail("it was halted")

    async with world(keeper, shards=4) as w:
        await w.ask("a", ADD)
        runner = w.runners[0][0].id
        with monkeypatch.context() as patch:
            meanwhile(patch, felt)
            with pytest.raises(InUse, match=f"runner {runner} hosts keeper"):
                await resize(w.caller, NAME, 8)
        assert (await w.ask("a", ADD))["reply"] == 2
        await stop(w)
        await w.tell("a", ADD)
        with pytest.raises(InUse, match=r"tells wait for keeper \(1\)"):
            await resize(w.caller, NAME, 8)
        await w.start()
        await w.quiet()
        await stop(w)
        assert await resize(w.caller, NAME, 8) == (Sharding(1, 4), Sharding(2, 8))
        assert await resize(w.caller, NAME, 8) == (Sharding(2, 8), Sharding(2, 8))
        with pytest.raises(Incompatible, match="nothing of other"):
            await resize(w.caller, "other", 8)


async def test_a_runner_that_does_not_answer_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frozen one may wake up."""
    monkeypatch.setattr(resizing, "HOSTS_S", 0.05)
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)
        frozen = w.broker.session()
        await frozen.asks.subscribe(frozen.subjects.resize(NAME), lambda message: None)
        with pytest.raises(InUse, match="can't be told"):
            await resize(w.caller, NAME, 8)
        await frozen.close()
        await resize(w.caller, NAME, 8)


async def test_a_runner_that_starts_meanwhile_does_not_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It finds the type halted, or is heard: one of both."""
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)

        async def start() -> None:
            with pytest.raises(Halted):
                await w.start()
            runner, session = w.runners.pop()
            await runner.drain()
            await session.close()

        meanwhile(monkeypatch, start)
        assert (await resize(w.caller, NAME, 8))[1] == Sharding(2, 8)
        await w.start()
        assert (await w.ask("a", ADD))["reply"] == 1


async def test_a_runner_that_had_looked_before_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes, and it hosts the type as it is."""
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)
        looked, go_on = asyncio.Event(), asyncio.Event()
        provision = MemorySession.provision

        async def provisioning(self: MemorySession, entity: str) -> Sharding:
            found = await provision(self, entity)
            looked.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(MemorySession, "provision", provisioning)
        starting: list[asyncio.Task[Any]] = []
        require, seen = resizing._require_idle, 0  # pyright: ignore[reportPrivateUsage]

        async def idle(*args: Any) -> None:
            nonlocal seen
            await require(*args)
            seen += 1
            if seen == 1:  # it is idle, and not halted yet
                starting.append(asyncio.create_task(w.start()))
                await looked.wait()

        monkeypatch.setattr(resizing, "_require_idle", idle)
        with pytest.raises(InUse, match="hosts keeper"):
            await resize(w.caller, NAME, 8)
        go_on.set()
        await asyncio.gather(*starting)
        assert await w.caller.sharding(NAME) == Sharding(1, 4)
        assert (await w.ask("a", ADD))["reply"] == 1


async def test_a_tell_that_comes_at_the_last_moment_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the first look and the halt it is stored; afterwards it isn't."""
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)
        halt = MemorySession.halt

        async def halting(self: MemorySession, entity: str, token: str) -> Sharding:
            await w.tell("a", ADD)
            found = await halt(self, entity, token)
            assert await w.tell("a", ADD) == NoStream()
            return found

        monkeypatch.setattr(MemorySession, "halt", halting)
        with pytest.raises(InUse, match=r"tells wait for keeper \(1\)"):
            await resize(w.caller, NAME, 8)
        await w.start()
        await w.quiet()
        assert (await w.ask("a", ADD))["reply"] == 2


async def test_whatever_ends_it_the_type_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)
        halted = asyncio.Event()

        async def tell() -> None:
            halted.set()

        with monkeypatch.context() as patch:
            meanwhile(patch, tell)
            task = asyncio.create_task(resize(w.caller, NAME, 8))
            await halted.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await w.caller.sharding(NAME) == Sharding(1, 4)

        async def other() -> None:
            if w.broker.streams("perdure").queues[NAME].halted_by != "other":
                await w.caller.halt(NAME, "other")

        with monkeypatch.context() as patch:
            meanwhile(patch, other)
            with pytest.raises(Incompatible, match="by somebody else"):
                await resize(w.caller, NAME, 8)
        with pytest.raises(Halted):  # whoever took over goes on
            await w.caller.sharding(NAME)


@pytest.mark.parametrize(("shards", "cut"), [(4, Sharding(1, 4)), (8, Sharding(2, 8))])
async def test_what_was_left_halted_is_ended(
    shards: int, cut: Sharding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same again; or by the number that it has, which needs nobody to be gone."""
    async with world(keeper, runners=0, shards=4) as w:
        await w.caller.provision(NAME)
        gone = w.broker.session()

        async def cut_off() -> None:
            w.broker.disconnect(gone, reconnect=False)

        with monkeypatch.context() as patch:
            meanwhile(patch, cut_off)
            with pytest.raises(Unreachable):
                await resize(gone, NAME, 8)
        with pytest.raises(Halted, match="perdure shards resize keeper 4"):
            await w.start()
        runner, session = w.runners.pop()
        await runner.drain()
        await session.close()
        assert await resize(w.caller, NAME, shards) == (Sharding(1, 4), cut)
        await w.start()
        assert (await w.ask("a", ADD))["reply"] == 1


async def test_what_runners_left_is_removed() -> None:
    async with world(keeper, shards=4) as w:
        await w.ask("a", ADD)
        runner, session = w.runners.pop()
        w.broker.disconnect(session, reconnect=False)  # killed
        await runner.abandon()
        assert len(await w.caller.commands.consumers(NAME)) == 4
        await resize(w.caller, NAME, 8)
        assert await w.caller.commands.consumers(NAME) == []
        await w.start()
        assert len(await w.caller.commands.consumers(NAME)) == 8
        assert (await w.ask("a", ADD))["reply"] == 2


async def test_a_runner_that_was_cut_off_notices(caplog: pytest.LogCaptureFixture) -> None:
    """It leads nobody astray, and another one hosts the type."""
    async with world(keeper, shards=4) as w:
        await w.ask("a", ADD)
        session = w.runners[0][1]
        w.broker.disconnect(session, reconnect=False)
        await resize(w.caller, NAME, 8)
        w.broker.reconnect(session)
        await w.until(lambda: "shards.outdated" in actions(caplog, "ERROR"))
        with pytest.raises(Unreachable):
            await w.caller.asks.request(w.caller.subjects.info(NAME), b"", timeout_s=0.05)
        await w.until(lambda: not w.runners[0][0].statistics().shards)
        await w.start()
        await w.tell("a", ADD)
        await w.quiet()
        assert (await w.ask("a", ADD))["reply"] == 3
        assert len(await w.caller.commands.consumers(NAME)) == 8
    assert actions(caplog, "ERROR") == ["shards.outdated"]
    assert actions(caplog, "WARNING") == []
