"""Plain commands take two callbacks; what isn't plain is a worker's from where they stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.durable.activation import Activation
from perdure.streams.commit import Sealed
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import AppendAnswer, Appended, NoAck, WrongLast

from .keeper import add, keeper
from .world import World, world

Store = Callable[[], Awaitable[AppendAnswer]]


def instead(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[Store], Awaitable[AppendAnswer]]
) -> list[str]:
    """Do this instead of the next append; the commits that it was done to, one at most."""
    real: Callable[..., Awaitable[AppendAnswer]] = MemoryLog.append
    met: list[str] = []

    async def append(self: MemoryLog, address: Any, commit: Sealed, *, expected: int) -> Any:
        def store() -> Awaitable[AppendAnswer]:
            return real(self, address, commit, expected=expected)

        if met:
            return await store()
        met.append(commit.id)
        return await action(store)

    monkeypatch.setattr(MemoryLog, "append", append)
    return met


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The entities that a worker was started for, one entry each time."""
    started: list[str] = []
    real = Activation.work

    def work(self: Activation, first: Any) -> None:
        started.append(self.address.id)
        real(self, first)

    monkeypatch.setattr(Activation, "work", work)
    return started


async def warm(w: World, workers: list[str], id: str = "a") -> None:
    """Have an entity in memory, with a log."""
    await w.ask(id, add(1), key="first")
    await w.until(lambda: workers == [id])
    workers.clear()


async def test_a_plain_command_needs_no_worker(workers: list[str]) -> None:
    async with world(keeper) as w:
        await warm(w, workers)
        for n in range(2, 20):
            assert (await w.ask("a", add(1), key=f"k{n}"))["reply"] == n
        await w.tell("a", add(1))
        await w.until(lambda: w.broker.waiting("keeper") == 0)
        assert workers == []
        assert [commit.version for commit in await w.commits("a")] == list(range(1, 21))


async def test_what_arrives_in_one_round_is_one_commit(workers: list[str]) -> None:
    async with world(keeper) as w:
        await warm(w, workers)
        replies = await asyncio.gather(*(w.ask("a", add(1), key=f"k{n}") for n in range(8)))
        assert [answer["reply"] for answer in replies] == list(range(2, 10))
        assert workers == []
        assert len(await w.commits("a")) == 2


async def test_a_repeat_is_a_workers(workers: list[str]) -> None:
    async with world(keeper) as w:
        await warm(w, workers)
        again = await w.ask("a", add(1), key="first")
        assert (again["reply"], workers) == (1, ["a"])


@pytest.mark.parametrize("stored", [True, False])
async def test_an_unknown_append_is_looked_into_by_a_worker(
    workers: list[str], monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    async def lose(store: Store) -> AppendAnswer:
        if stored:
            assert isinstance(await store(), Appended)
        return NoAck("lost")

    async with world(keeper, appends="single") as w:
        await warm(w, workers)
        lost = instead(monkeypatch, lose)
        assert (await w.ask("a", add(1), key="k"))["reply"] == 2
        assert workers == ["a"]
        assert len(lost) == 1
        assert [commit.id for commit in await w.commits("a")][1:] == lost


async def test_a_refused_append_is_decided_again_by_a_worker(
    workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(store: Store) -> AppendAnswer:
        return WrongLast()

    async with world(keeper, appends="single") as w:
        await warm(w, workers)
        refused = instead(monkeypatch, refuse)
        assert (await w.ask("a", add(1), key="k"))["reply"] == 2
        assert len(refused) == 1
        assert workers == ["a"]


async def test_a_backend_that_breaks_its_promises_quarantines_one_entity(
    workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(store: Store) -> AppendAnswer:
        raise ValueError("odd")

    async with world(keeper, appends="single") as w:
        await warm(w, workers)
        failed = instead(monkeypatch, fail)
        told = await w.ask("a", add(1), key="k")  # nobody knows what happened: not another step
        assert told["error"]["type"] == "SerializationError"
        assert len(failed) == 1
        assert workers == ["a"]
        assert (await w.ask("b", add(1)))["reply"] == 1


async def test_dropped_while_an_append_is_out_nothing_is_answered(
    workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, out = asyncio.Event(), asyncio.Event()

    async def hold(store: Store) -> AppendAnswer:
        out.set()
        await gate.wait()
        return await store()

    async with world(keeper, appends="single") as w:
        await warm(w, workers)
        instead(monkeypatch, hold)
        asked = asyncio.create_task(w.ask("a", add(1), key="k"))
        await out.wait()
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (shard,) = [shard for shard in hosted.shards if "a" in shard.activations]
        activation = shard.activations["a"]
        assert activation.busy
        assert not activation.idle
        shard.drop("a test")
        told = await asked
        assert told["error"]["type"] == "EntityNotAssignedToRunner"
        assert told["error"]["may_have_taken_effect"]
        gate.set()
        assert (await w.ask("a", add(1), key="k"))["reply"] == 2  # found, not done again
        assert len(await w.commits("a")) == 2
