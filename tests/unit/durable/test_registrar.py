"""Armed first: ids are registered before their entities have a log, and nobody is held up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from perdure import Command, Decision, Entity, Event, Settings, State
from perdure.durable import registrar as module
from perdure.durable.registrar import KNOWN, PATIENCE_S, TOGETHER, Registrar, fitting
from perdure.entities.address import Address
from perdure.streams.client import Cluster
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.ids import MemoryIds
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import (
    AppendAnswer,
    Appended,
    NoAck,
    NoStream,
    PublishAnswer,
    Refused,
)
from perdure.streams.registration import decode, encode
from perdure.streams.subjects import escape
from tests.unit.streams.virtual import VirtualClock, run

from .world import World, world


class Tally(State):
    n: int = 0


class Count(Command[Tally, int]):
    pass


class Counted(Event):
    pass


def decide(state: Tally, command: Count) -> Decision[Counted]:
    return command.accept(state.n + 1, Counted())


def evolve(state: Tally, event: Counted) -> Tally:
    return Tally(state.n + 1)


tally = Entity(Tally(), decide, evolve)
COUNT = {"type": "count"}


class Desk:
    """A registrar, and a registry that answers as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = MemoryBroker(VirtualClock(), Settings(shards=2))
        self.session = self.broker.session("runner")
        self.registrar = Registrar(self.session, "tally", "r1")
        self.adds: list[tuple[str, list[str], bool]] = []
        self.answers: list[PublishAnswer | None] = []
        """What is answered instead of storing; None: it is stored, and not acknowledged."""
        self.delay_s = 0.0
        store = MemoryIds.add

        async def add(
            ids: MemoryIds, entity: str, page: str, data: bytes, *, whole: bool
        ) -> PublishAnswer:
            self.adds.append((page, decode(data) or [], whole))
            await asyncio.sleep(self.delay_s)
            if not self.answers:
                return await store(ids, entity, page, data, whole=whole)
            answer = self.answers.pop(0)
            if answer is None:
                await store(ids, entity, page, data, whole=whole)
                return NoAck("lost")
            return answer

        monkeypatch.setattr(MemoryIds, "add", add)

    async def start(self) -> Desk:
        await self.session.provision("tally")
        return self

    async def register(self, *ids: str) -> None:
        await asyncio.gather(*(self.registrar.register(Address("tally", id)) for id in ids))

    async def listed(self) -> list[str]:
        cluster = Cluster(self.session, Settings(shards=2))
        return [id async for id in cluster.ids(Tally)]


def desk(monkeypatch: pytest.MonkeyPatch, main: Callable[[Desk], Any]) -> None:
    """Run a test in virtual time."""

    async def begin() -> None:
        await main(await Desk(monkeypatch).start())

    run(begin())


# -- the registrar ----------------------------------------------------------------------------
def test_those_that_come_meanwhile_share_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(d: Desk) -> None:
        d.delay_s = 0.01
        first = asyncio.create_task(d.register("a"))
        await asyncio.sleep(0.005)
        await d.register(*(f"b-{n}" for n in range(1200)))
        assert first.done()
        assert [len(ids) for _, ids, _ in d.adds] == [1, 500, 500, 200]
        assert len(await d.listed()) == 1201

    desk(monkeypatch, main)


def test_an_id_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(d: Desk) -> None:
        await d.register("a", "a", "b")
        await d.register("a")
        assert [ids for _, ids, _ in d.adds] == [["a", "b"]]
        await d.register(*(f"c-{n}" for n in range(KNOWN)))
        d.adds.clear()
        await d.register("a")  # forgotten: it may be listed twice, and nothing grows
        assert [ids for _, ids, _ in d.adds] == [["a"]]

    desk(monkeypatch, main)


def test_pages_are_rolled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(d: Desk) -> None:
        ids = [f"a-{n}" for n in range(200)]
        for id in ids:
            await d.register(id)
        assert {page for page, _, _ in d.adds} == {"r1-1", "r1-2", "r1-3", "r1-4"}
        assert [len(found) for _, found, whole in d.adds if whole] == [64, 64, 64]
        assert sorted(await d.listed()) == sorted(ids)

    desk(monkeypatch, main)


def test_an_unacknowledged_registration_is_tried_again_on_another_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(d: Desk) -> None:
        d.answers = [None, NoAck("lost")]
        await d.register("a")
        assert [(page, ids) for page, ids, _ in d.adds] == [
            ("r1-1", ["a"]),
            ("r1-2", ["a"]),
            ("r1-3", ["a"]),
        ]
        await d.register("b")
        assert await d.listed() == ["a", "b"]

    desk(monkeypatch, main)


def test_a_whole_page_that_arrives_late_takes_nothing_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that was ever tried on a page is in its whole, confirmed or not."""

    async def main(d: Desk) -> None:
        ids = [f"a-{n}" for n in range(63)]
        for id in ids:
            await d.register(id)
        d.answers = [NoAck("on its way")]
        await d.register("b")
        page, whole, is_whole = d.adds[63]
        assert (page, whole, is_whole) == ("r1-1", [*ids, "b"], True)
        await d.register("c")
        late = b'{"v":1,"ids":["' + '","'.join(whole).encode() + b'"]}'
        await d.session.ids.add("tally", page, late, whole=True)
        assert sorted(await d.listed()) == sorted([*ids, "b", "c"])

    desk(monkeypatch, main)


@pytest.mark.parametrize("answer", [Refused(10077, "no space"), NoStream()])
def test_who_is_refused_goes_on_and_is_registered_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: PublishAnswer
) -> None:
    async def main(d: Desk) -> None:
        clock = asyncio.get_running_loop().time
        d.answers = [answer] * 5
        began = clock()
        await d.register("a")
        assert clock() - began < 1.0
        assert (d.registrar.owed, await d.listed()) == (1, [])
        began = clock()
        await d.register("b", "c")  # nobody waits any more
        assert clock() == began
        assert d.registrar.owed == 3
        await asyncio.sleep(20)
        assert (d.registrar.owed, await d.listed()) == (0, ["a", "b", "c"])
        await d.register("d")
        assert await d.listed() == ["a", "b", "c", "d"]

    desk(monkeypatch, main)
    actions = [vars(record).get("action") for record in caplog.records]
    assert actions.count("ids.owed") == 1


def test_silence_holds_an_entity_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(d: Desk) -> None:
        d.answers = [NoAck("silence")] * 1000
        d.delay_s = 2.0
        began = asyncio.get_running_loop().time()
        await d.register("a")
        assert 5.0 < asyncio.get_running_loop().time() - began <= PATIENCE_S + 2.0
        await d.registrar.close()

    desk(monkeypatch, main)


def test_what_is_owed_at_the_end_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "OWED", 2)

    async def main(d: Desk) -> None:
        d.answers = [NoStream()] * 1000
        await d.register("a", "b", "c")
        assert "2 owed" in repr(d.registrar)
        await d.registrar.close()

    desk(monkeypatch, main)
    assert "3 ids of tally have a log and aren't registered" in caplog.text


def test_a_bug_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(d: Desk) -> None:
        add = MemoryIds.add

        async def broken(*args: Any, **more: Any) -> PublishAnswer:
            raise RuntimeError("a bug")

        monkeypatch.setattr(MemoryIds, "add", broken)
        await d.register("a")
        assert d.registrar.owed == 1
        monkeypatch.setattr(MemoryIds, "add", add)
        await d.register("b")
        await asyncio.sleep(1)
        assert (d.registrar.owed, await d.listed()) == (0, ["a", "b"])

    desk(monkeypatch, main)
    assert "the registrar of tally failed" in caplog.text


def test_nobody_waits_for_a_registrar_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(d: Desk) -> None:
        d.delay_s = 100.0
        waiting = asyncio.create_task(d.register("a"))
        await asyncio.sleep(1)
        await d.registrar.close()
        await asyncio.wait_for(waiting, 1)
        assert await d.listed() == []

    desk(monkeypatch, main)


def test_5000_ids_are_listed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them came one by one, half in crowds."""

    async def main(d: Desk) -> None:
        ids = [f"c-{n}" for n in range(5000)]
        for id in ids[:2500]:
            await d.register(id)
        for start in range(2500, 5000, 100):
            await d.register(*ids[start : start + 100])
        assert sorted(await d.listed()) == sorted(ids)
        assert await pieces(d, 700) == ids
        assert await pieces(d, 1, prefix="c-49") == [id for id in ids if id[:4] == "c-49"]
        end = await d.session.ids.last("tally")
        assert len(await d.session.ids.read("tally", after=0, upto=end)) < 200

    desk(monkeypatch, main)


async def pieces(d: Desk, size: int, prefix: str = "") -> list[str]:
    """All ids, by listings that are stopped after some."""
    cluster, found, place = Cluster(d.session, Settings(shards=2)), list[str](), ""
    while True:
        listing, before = cluster.ids(Tally, prefix=prefix, after=place), len(found)
        async for id in listing:
            found.append(id)
            if len(found) - before == size:
                break
        if len(found) == before:
            return found
        place = listing.place


# -- with a runner ----------------------------------------------------------------------------
async def listed(w: World) -> list[str]:
    return [id async for id in Cluster(w.caller, w.settings).ids(Tally)]


async def test_every_entity_with_a_log_is_listed() -> None:
    async with world(tally) as w:
        await w.ask("asked", COUNT)
        await w.ask("asked", COUNT)
        await w.tell("told", COUNT)
        await w.tell("dead", b"not JSON")
        await w.ask(escape("odd id: Zoë"), COUNT)
        await w.quiet()
        assert sorted(await listed(w)) == ["asked", "dead", "odd id: Zoë", "told"]


async def test_an_entity_after_a_foreign_message_is_listed() -> None:
    async with world(tally) as w:
        w.broker.publish_foreign("perdure.log.tally.a", b"foreign")
        assert await listed(w) == []
        await w.ask("a", COUNT)
        assert await listed(w) == ["a"]


async def test_many_at_once_cost_few_registrations() -> None:
    async with world(tally) as w:
        await asyncio.gather(*(w.tell(f"c-{n}", COUNT) for n in range(300)))
        await w.quiet()
        assert sorted(await listed(w)) == sorted(f"c-{n}" for n in range(300))
        assert await w.caller.ids.last("tally") < 150


async def test_a_crash_between_registration_and_commit_leaves_an_id_without_a_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, reached = MemoryLog.append, asyncio.Event()

    async def crash(self: MemoryLog, address: Address, *args: Any, **more: Any) -> AppendAnswer:
        reached.set()
        await asyncio.sleep(3600)
        return Appended(0)

    async with world(tally) as w:
        monkeypatch.setattr(MemoryLog, "append", crash)
        await w.tell("a", COUNT)
        await reached.wait()
        assert (await listed(w), await w.commits("a")) == (["a"], [])
        runner, session = w.runners.pop()
        w.broker.disconnect(session, reconnect=False)
        await runner.abandon()
        monkeypatch.setattr(MemoryLog, "append", append)
        await w.start()
        await w.quiet()
        assert len(await w.commits("a")) == 1
        assert await listed(w) == ["a"]  # though registered by both
        assert await w.caller.ids.last("tally") == 2


async def test_without_a_registry_entities_work_and_a_rebuild_lists_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(self: MemoryIds, *args: Any, **more: Any) -> PublishAnswer:
        return Refused(403, "no permission")

    monkeypatch.setattr(module, "RETRY_S", 0.001)
    monkeypatch.setattr(MemoryIds, "add", refused)
    with caplog.at_level(logging.ERROR):
        async with world(tally) as w:
            assert (await w.ask("a", COUNT))["reply"] == 1
            assert (await w.ask("b", COUNT))["reply"] == 1
            assert await listed(w) == []
    assert "2 ids of tally have a log and aren't registered" in caplog.text


@pytest.mark.parametrize("max_payload", [4096, 65_536, 1024**2])
def test_what_is_registered_together_fits_into_a_message(max_payload: int) -> None:
    ids = ["\x01" * 255] * TOGETHER
    batch = fitting(ids, max_payload)
    assert batch
    assert len(encode(batch)) <= max(max_payload, len(encode(ids[:1])))
    assert fitting(["a"] * 1000, 1024**2) == ["a"] * TOGETHER
