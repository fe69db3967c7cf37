"""Recovery: which requests a cold entity costs, what proves a snapshot, how many go at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.durable import host, snapshot
from perdure.durable.activation import Activation
from perdure.durable.append import is_end
from perdure.durable.folded import Folded
from perdure.durable.ledger import LedgerLimits
from perdure.durable.recovery import recover
from perdure.entities.address import Address
from perdure.streams.commit import Stored
from perdure.streams.memory.session import MemorySession

from .keeper import add, keeper
from .world import PATIENCE_S, World, world

LIMITS = LedgerLimits(10**9, 1000, 10**6, 1000)
A = Address(keeper.name, "a")


class Counted:
    """What recovery asks for, through a session's ports."""

    def __init__(self, session: MemorySession) -> None:
        self.asked: list[str] = []
        self._read = session.log.read
        for port, name in (
            (session.log, "last"),
            (session.log, "count"),
            (session.log, "by_sequence"),
            (session.snapshots, "get"),
        ):
            vars(port)[name] = self._counted(name, getattr(port, name))
        vars(session.log)["read"] = self._counted_read

    def _counted(self, name: str, call: Any) -> Any:
        async def counted(*args: Any, **more: Any) -> Any:
            self.asked.append(name)
            return await call(*args, **more)

        return counted

    async def _counted_read(
        self, address: Address, *, after: int, upto: int
    ) -> AsyncIterator[Stored]:
        self.asked.append("read")
        async for stored in self._read(address, after=after, upto=upto):
            yield stored


async def recovered(w: World) -> tuple[list[str], Folded]:
    session = w.broker.session(name="another")
    counted = Counted(session)
    folded = await recover(session, keeper, A, LIMITS)
    await session.close()
    return sorted(counted.asked), folded


async def save(w: World) -> Folded:
    """Store a snapshot of the entity as it is now."""
    _, folded = await recovered(w)
    body = snapshot.encode(keeper, A, folded)
    assert await snapshot.put(w.caller.snapshots, A, body)
    return folded


async def test_a_cold_entity_costs_as_few_requests_as_can_be() -> None:
    async with world(keeper) as w:
        assert (await recovered(w))[0] == ["count", "get", "last"]
        for _ in range(3):
            await w.ask("a", add(1))
        asked, folded = await recovered(w)
        assert (asked, folded.state.n) == (["get", "last", "read"], 3)
        await save(w)
        asked, folded = await recovered(w)
        assert (asked, folded.state.n) == (["get", "last"], 3)
        await w.ask("a", add(1))
        asked, folded = await recovered(w)
        assert (asked, folded.state.n, folded.tail_commits) == (["get", "last", "read"], 4, 1)


async def forged(w: World) -> None:
    """A foreign message behind the entity's only commit."""
    w.caller.asks.send(w.caller.subjects.log(keeper.name, "a"), b"foreign")
    await w.until(lambda: w.broker.streams("perdure").logs[keeper.name].count("a") == 2)


async def test_foreign_messages_behind_a_snapshots_commit_are_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(keeper) as w:
        await w.ask("a", add(1))
        await forged(w)
        kept = await save(w)
        assert (kept.commit_sequence, kept.sequence) == (1, 2)
        caplog.clear()
        assert (await recovered(w))[1].sequence == 2
        w.runners[0][0].passivate_all()
        await w.ask("a", add(1))
        asked, folded = await recovered(w)
        assert asked == ["get", "last", "read"]
        assert (folded.state.n, folded.sequence) == (2, 3)
        actions = [r.__dict__.get("action") for r in caplog.records]
        assert "log.foreign" in actions  # it may be another one by now: nothing vouches for it
        assert "snapshot.ignored" not in actions


async def test_a_fold_that_ends_with_a_foreign_message_knows_it_by_its_bytes() -> None:
    async with world(keeper) as w:
        await w.ask("a", add(1))
        await forged(w)
        _, folded = await recovered(w)
        last = await w.caller.log.last(A)
        assert last is not None
        assert is_end(last, folded.sequence, folded.end)
        assert not is_end(replace(last, data=b"another"), folded.sequence, folded.end)


@pytest.mark.parametrize("tail", [0, 2])
async def test_a_snapshot_of_another_past_is_ignored(tail: int) -> None:
    async with world(keeper) as w:
        await w.ask("a", add(1))
        folded = await save(w)
        folded.state, folded.hash = folded.state.__class__(1000), "f" * 32
        assert await snapshot.put(w.caller.snapshots, A, snapshot.encode(keeper, A, folded))
        for _ in range(tail):
            await w.ask("a", add(1))
        assert (await recovered(w))[1].state.n == 1 + tail


@pytest.mark.parametrize("tail", [0, 2])
async def test_a_snapshot_whose_last_commit_is_damaged_is_no_way_around_it(
    tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.durable.snapshot.LEAVING_COMMITS", 1000)
    async with world(keeper, snapshot_min_commits=50) as w:
        await w.ask("a", add(1))
        await save(w)
        for _ in range(tail):
            await w.ask("a", add(1))
        stored = await w.caller.log.by_sequence(keeper.name, 1)
        assert stored is not None
        w.broker.tamper(A, 1, stored.data.replace(b'"n":1', b'"n":2'))
        w.runners[0][0].passivate_all()
        assert (await w.ask("a", add(1)))["error"]["type"] == "SerializationError"


async def test_few_recoveries_go_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "RECOVERIES", 3)
    async with world(keeper) as w:
        log = w.runners[0][1].log
        last, now, most = log.last, 0, 0

        async def slow(address: Address) -> Stored | None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return await last(address)

        vars(log)["last"] = slow
        answers = await asyncio.gather(*(w.ask(f"e{n}", add(1)) for n in range(40)))
        assert [answer["reply"] for answer in answers] == [1] * 40
        assert most == 3


async def test_who_leaves_memory_with_a_tail_leaves_a_snapshot() -> None:
    async with world(keeper) as w:
        await w.ask("a", add(1))
        w.runners[0][0].passivate_all()
        assert await w.caller.snapshots.get(A) is None, "one commit is read anyway"
        await w.ask("a", add(1))
        w.runners[0][0].passivate_all()
        await until_saved(w, 2)
        asked, folded = await recovered(w)
        assert (asked, folded.state.n, folded.tail_commits) == (["get", "last"], 2, 0)
        await w.ask("a", add(1))
        w.runners[0][0].passivate_all()
        await until_saved(w, 3)  # of one more commit, too, since there is one to be replaced
        assert (await w.ask("a", add(1)))["reply"] == 4


async def test_no_snapshot_is_left_that_is_far_larger_than_its_tail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure.durable.snapshot.LEAVING_BYTES", 10)
    async with world(keeper) as w:
        await w.ask("a", add(1))
        await save(w)
        (activation,) = activations(w)
        assert activation.folded is not None
        activation.folded.snapshot_bytes = 1_000_000
        for _ in range(3):
            await w.ask("a", add(1))
        w.runners[0][0].passivate_all()
        await w.quiet()
        asked, folded = await recovered(w)
        assert (asked, folded.state.n) == (["get", "last", "read"], 4)


async def until_saved(w: World, version: int) -> None:
    """Wait until the snapshot of that version is stored."""
    async with asyncio.timeout(PATIENCE_S):
        while (await stored_version(w)) != version:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)


async def stored_version(w: World) -> int:
    body = await snapshot.get(w.caller.snapshots, A)
    return 0 if body is None else snapshot.decode(keeper, A, body, LIMITS).version


def activations(w: World) -> list[Activation]:
    hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
    return [activation for shard in hosted.shards for activation in shard.activations.values()]


async def test_a_snapshot_of_several_parts_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The entity may come back while they are stored, and read some of each."""
    async with world(keeper) as w:
        await w.ask("a", add(1))
        await w.ask("a", add(1))
        monkeypatch.setattr("perdure.durable.snapshot.PART_BYTES", 10)
        w.runners[0][0].passivate_all()
        await w.quiet()
        assert await w.caller.snapshots.get(A) is None
