"""Terms: what a runner that is gone had been given is suspect, whatever is left of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Settings
from perdure.durable import append, execution
from perdure.durable.marks import add_mark
from perdure.durable.term import Term, give_back, take
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.commands import MemoryCommands
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Delivery, Refused, Unreachable
from perdure.streams.subjects import Sharding

from .keeper import add, keeper
from .world import World, world

ONE = Sharding(1, 1)
TELLS = 3


async def told() -> MemorySession:
    """A session of a broker with a few tells of a type with one shard."""
    session = MemoryBroker(SystemClock(), Settings(shards=1)).session(name="s")
    await session.provision(keeper.name)
    for n in range(TELLS):
        await session.commands.publish(Address(keeper.name, f"e-{n}"), b"{}")
    return session


async def take_as(session: MemorySession, runner: str, suspects: int = 0) -> Term:
    """A term of a runner that nobody can ping, so that it counts as gone."""

    def ignore(delivery: Delivery, suspect: bool) -> None:
        pass

    return await take(
        session, keeper.name, ONE, 0, runner=runner, suspects=suspects, on_tell=ignore
    )


async def given(session: MemorySession, term: Term) -> None:
    """Until the term was given all tells."""
    term.grant(10 * TELLS)
    while term.delivered < TELLS:
        await session.clock_ahead_s()  # a turn of the loop and of the broker


async def test_what_a_runner_that_is_gone_was_given_is_suspect() -> None:
    session = await told()
    await given(session, await take_as(session, "a"))
    assert (await take_as(session, "b")).suspects == TELLS


async def test_a_runner_that_ends_between_two_terms_leaves_its_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old consumer is deleted, the next was never made: no consumer tells of anything."""
    session = await told()
    await given(session, await take_as(session, "a"))

    async def lost(self: Any, *args: Any, **more: Any) -> Any:
        raise Unreachable("it ended here")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryCommands, "create", lost)
        with pytest.raises(Unreachable):
            await take_as(session, "b")
    assert not await session.commands.consumers(keeper.name)
    assert (await take_as(session, "c")).suspects == TELLS


async def test_a_runner_that_gave_its_shard_back_makes_no_suspects() -> None:
    session = await told()
    term = await take_as(session, "a")
    await given(session, term)
    await give_back(session, keeper.name, ONE, 0, term)
    assert (await take_as(session, "b")).suspects == 0


async def test_an_own_next_term_keeps_the_suspects_and_makes_none() -> None:
    session = await told()
    await given(session, await take_as(session, "a"))
    assert (await take_as(session, "a")).suspects == 0
    assert (await take_as(session, "a", suspects=2)).suspects == 2


async def test_a_suspect_that_ran_without_a_record_is_marked_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the log refuses: a mark that stayed would count the deaths of others as its own."""
    counts: list[int] = []
    refusals = iter(range(2 * append.REFUSALS))
    real_mark, real_append = add_mark, MemoryLog.append

    async def counted(*args: Any) -> int:
        counts.append(await real_mark(*args))
        return counts[-1]

    async def refusing(self: Any, *args: Any, **more: Any) -> Any:
        if next(refusals, None) is not None:
            return Refused(10077, "no space")
        return await real_append(self, *args, **more)

    monkeypatch.setattr(execution, "add_mark", counted)
    monkeypatch.setattr(execution, "REJECTED_S", 0.001)
    monkeypatch.setattr(append, "RETRY_BASE_S", 0.001)
    monkeypatch.setattr(MemoryLog, "append", refusing)
    async with world(keeper, runners=0, shards=1) as w:
        await w.caller.provision(keeper.name)
        await w.tell("a", add(1))
        await left_behind(w)
        await w.start()
        await w.quiet()
        assert counts == [1, 1, 1]
        assert len(await w.commits("a")) == 1


async def test_a_suspect_whose_shard_is_dropped_meanwhile_leaves_no_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process lives: shards come and go, and no mark of an innocent may add up by that."""
    counts: list[int] = []
    stuck: list[int] = []
    real_mark, real_append = add_mark, MemoryLog.append

    async def counted(*args: Any) -> int:
        counts.append(await real_mark(*args))
        return counts[-1]

    async def stalling(self: Any, *args: Any, **more: Any) -> Any:
        if len(stuck) < 2:
            stuck.append(len(counts))
            await asyncio.Event().wait()
        return await real_append(self, *args, **more)

    monkeypatch.setattr(execution, "add_mark", counted)
    monkeypatch.setattr(MemoryLog, "append", stalling)
    async with world(keeper, runners=0, shards=1) as w:
        await w.caller.provision(keeper.name)
        await w.tell("a", add(1))
        await left_behind(w)
        runner = await w.start()
        (shard,) = vars(runner)["_hosted"][0].shards
        for times in (1, 2):
            await w.until(lambda times=times: len(stuck) == times)  # type: ignore[misc]
            shard.drop("as planned")
        await w.quiet()
        assert (counts, stuck) == ([1, 1, 1], [1, 2])
        assert await w.caller.members.entries("mark.keeper") == {}


async def left_behind(w: World) -> None:
    """A runner that is gone had been given the only tell."""
    term = await take_as(w.caller, "gone")
    term.grant(1)
    await w.until(lambda: term.delivered == 1)
