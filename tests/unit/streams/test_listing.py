"""Listing ids: order, duplicates, prefixes, places, pages that are rolled up meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from perdure import MalformedMessage, RpcClientError, SerializationError, Settings
from perdure.streams.client import Cluster
from perdure.streams.commit import Stored
from perdure.streams.listing import AT_WORK_S, REST, REST_MAX_S, Work, place_of
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.ids import MemoryIds
from perdure.streams.port import IDS_BYTES, Appended
from perdure.streams.rebuild import rebuild
from perdure.streams.registration import PARTS, Page, encode
from tests.bank import Account
from tests.conformance.backend import append
from tests.unit.streams.virtual import VirtualClock, run

TYPE = "account"


class Registry:
    """A registry in memory, and a reader."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(VirtualClock(), Settings(shards=4))
        self.session = self.broker.session("writer")
        self.reader = self.broker.session("reader")
        self.cluster = Cluster(self.reader, Settings(shards=4))

    async def add(self, *ids: str, page: str = "p-1", whole: bool = False) -> None:
        answer = await self.session.ids.add(TYPE, page, encode(ids), whole=whole)
        assert isinstance(answer, Appended)

    async def list(self, prefix: str = "", after: str = "") -> list[str]:
        return [id async for id in self.cluster.ids(Account, prefix=prefix, after=after)]


async def registry() -> Registry:
    made = Registry()
    await made.session.provision(TYPE)
    return made


async def test_ids_come_in_their_order_and_once() -> None:
    r = await registry()
    assert await r.list() == []
    await r.add("c", "a")
    await r.add("b", "a", page="p-2")
    await r.add("c", "d", page="p-2")
    assert await r.list() == ["c", "a", "b", "d"]


async def test_a_prefix_chooses() -> None:
    r = await registry()
    await r.add("a-1", "b-1", "a-2", "A-3", "a")
    assert await r.list(prefix="a-") == ["a-1", "a-2"]
    assert await r.list(prefix="x") == []


async def test_a_type_that_nobody_hosted_has_none() -> None:
    assert await Registry().list() == []


async def test_a_listing_goes_on_from_any_place() -> None:
    r = await registry()
    ids = [f"a-{n}" for n in range(10)]
    for start in range(0, 10, 4):
        await r.add(*ids[start : start + 4], page=f"p-{start}")
    listing = r.cluster.ids(Account)
    assert await r.list(after=listing.place) == ids
    for given in range(1, 11):
        assert await anext(listing) == ids[given - 1]
        assert await r.list(after=listing.place) == ids[given:], listing
    assert [id async for id in listing] == []
    assert await r.list(after=listing.place) == []
    await r.add("new")
    assert await r.list(after=listing.place) == ["new"]


async def test_a_place_counts_ids_that_the_prefix_left_out() -> None:
    r = await registry()
    await r.add("a-1", "b-1", "b-2", "a-2", "b-3")
    listing = r.cluster.ids(Account, prefix="a-")
    assert [await anext(listing), await anext(listing)] == ["a-1", "a-2"]
    assert await r.list(after=listing.place) == ["b-3"]


@pytest.mark.parametrize(
    "after", ["x", "1", "1.", "-1.0", "1.2.3", "a-1", " 1.0", "9" * 30 + ".0", 5]
)
def test_what_is_no_place_is_refused(after: Any) -> None:
    with pytest.raises(MalformedMessage, match="isn't the place"):
        place_of(after)


async def test_a_place_beyond_the_end_is_refused() -> None:
    """Another registry's, or one that was lost and made anew."""
    r = await registry()
    await r.add("a")
    assert await r.list(after="2.0") == []
    with pytest.raises(MalformedMessage, match="has no place 3\\.0"):
        await r.list(after="3.0")


async def test_only_a_states_class_and_text_are_taken() -> None:
    r = await registry()
    wrong: Any = Account()
    with pytest.raises(MalformedMessage, match="ids takes the state's class"):
        r.cluster.ids(wrong)
    wrong = 5
    with pytest.raises(MalformedMessage, match="prefix=5"):
        r.cluster.ids(Account, prefix=wrong)


async def test_what_is_rolled_up_meanwhile_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page moves to the end while the listing is before it, in either round."""
    r = await registry()
    await r.add("a", page="p-1")
    await r.add("b", page="p-2")
    await r.add("c", page="p-3")
    moves = [("p-2", "b"), ("p-3", "c")]
    read = MemoryIds.read

    async def read_one(self: MemoryIds, entity: str, *, after: int, upto: int) -> list[Stored]:
        found = (await read(self, entity, after=after, upto=upto))[:1]
        if moves:
            page, id = moves.pop(0)
            await r.add(id, f"{id}-2", page=page, whole=True)
        return found

    monkeypatch.setattr(MemoryIds, "read", read_one)
    assert sorted(await r.list()) == ["a", "b", "b-2", "c", "c-2"]


async def test_a_listing_ends_while_ids_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await registry()
    await r.add("a-0")
    read, number = MemoryIds.read, 0

    async def read_and_add(self: MemoryIds, entity: str, *, after: int, upto: int) -> list[Stored]:
        nonlocal number
        number += 1
        await r.add(f"a-{number}")
        return await read(self, entity, after=after, upto=upto)

    monkeypatch.setattr(MemoryIds, "read", read_and_add)
    assert await r.list() == ["a-0", "a-1"]


async def test_foreign_messages_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    r = await registry()
    await r.add("a")
    r.broker.publish_foreign("perdure.ids.account.p-1", b'{"stream":"X","seq":1}')
    await r.add("b")
    with caplog.at_level(logging.WARNING):
        assert await r.list() == ["a", "b"]
    assert "sequence 2 of the registry of account is foreign: 22 bytes" in caplog.text


async def test_a_newer_format_is_told() -> None:
    r = await registry()
    r.broker.publish_foreign("perdure.ids.account.p-1", b'{"v":2,"ids":["a"]}')
    with pytest.raises(SerializationError, match="format 2"):
        await r.list()


async def test_a_lost_connection_is_told_and_the_listing_goes_on_from_its_place() -> None:
    r = await registry()
    await r.add("a", "b")
    await r.add("x" * 100_000, "y" * 200_000)
    await r.add("c")
    listing = r.cluster.ids(Account)
    assert [await anext(listing), await anext(listing)] == ["a", "b"]
    r.broker.disconnect(r.reader, reconnect=False)
    with pytest.raises(RpcClientError):
        [id async for id in listing]
    r.broker.reconnect(r.reader)
    assert [id[0] for id in await r.list(after=listing.place)] == ["x", "y", "c"]


def test_it_rests_for_its_own_work_and_not_for_its_readers() -> None:
    moments = [0.0, 0.25, 10.25, 10.5, 20.0, 20.75, 30.0, 30.0]
    work = Work(lambda: AT_WORK_S * moments.pop(0))
    work.stop()  # a quarter of what makes it rest
    work.start()  # after ten times that of its reader's
    assert work.rest_s() == 0.0  # a half
    work.start()
    assert work.rest_s() == pytest.approx(REST * 1.25 * AT_WORK_S)
    work.start()
    assert work.rest_s() == 0.0
    assert not moments


def test_it_rests_between_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a multiple of what a read took; a reader's own work counts as rest."""

    async def main() -> None:
        r = await registry()
        for n in range(4):
            await r.add(f"{n}" + "x" * (IDS_BYTES // 2 + 1), page=f"p-{n}")
        read = MemoryIds.read

        async def slow(self: MemoryIds, entity: str, *, after: int, upto: int) -> list[Stored]:
            await asyncio.sleep(0.1)
            return await read(self, entity, after=after, upto=upto)

        monkeypatch.setattr(MemoryIds, "read", slow)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert len(await r.list()) == 4
        rest_s = min(REST * 0.1, REST_MAX_S)
        assert loop.time() - began == pytest.approx(4 * 0.1 + 3 * rest_s)
        began = loop.time()
        async for _ in r.cluster.ids(Account):
            await asyncio.sleep(1.0)
        assert loop.time() - began == pytest.approx(4 * 0.1 + 4 * 1.0)

    run(main())


async def test_a_listing_lets_others_run() -> None:
    r = await registry()
    for n in range(20):
        await r.add(*(f"a-{n}-{i}" for i in range(10)), page=f"p-{n}")
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    turn()
    assert len(await r.list()) == 200
    assert turns > 20


async def test_a_listing_can_be_stopped_at_any_time() -> None:
    r = await registry()
    await r.add("a", "b")
    listing = r.cluster.ids(Account)
    assert await anext(listing) == "a"
    await listing.aclose()
    assert [id async for id in listing] == []
    assert repr(listing) == "<Listing of account at 1.1>"


# -- repair -----------------------------------------------------------------------------------
async def test_a_rebuild_lists_what_was_missing() -> None:
    r = await registry()
    await r.add("a-1")
    for id in "a-1", "Zoë", "a-2":
        await append(r.session, id, "one", "two")
    r.broker.publish_foreign("perdure.log.account.=zz", b"no id")
    assert [added async for added in rebuild(r.session, TYPE)] == [2]
    assert sorted(await r.list()) == sorted(["a-1", "a-2", "Zoë"])
    assert [added async for added in rebuild(r.session, TYPE)] == []


async def test_a_page_gives_back_what_the_registrar_wrote() -> None:
    """1,000 ids one by one: few messages, and none is lost."""
    r = await registry()
    page, number = Page("p-0"), 0
    for n in range(1000):
        if page.full:
            number += 1
            page = Page(f"p-{number}")
        data, whole = page.next([f"a-{n}"])
        await r.session.ids.add(TYPE, page.name, data, whole=whole)
    assert sorted(await r.list()) == sorted(f"a-{n}" for n in range(1000))
    end = await r.reader.ids.last(TYPE)
    assert len(await r.reader.ids.read(TYPE, after=0, upto=end)) < 1000 // PARTS + PARTS
