"""Dedup with pages on the memory backend: whatever happens to what is stored beside the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from perdure.durable import pages
from perdure.durable.activation import Activation
from perdure.entities.address import Address
from perdure.streams.port import Unreachable

from .keeper import add, keeper
from .world import World, world

NAMES = 60
"""Keys of one entity in these tests: more than ten pages of four, in groups of three."""


SETTINGS: dict[str, Any] = {"snapshot_min_commits": 2, "snapshot_max_commits": 5}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE_NAMES", 4)
    monkeypatch.setattr(pages, "FILTER_PAGES", 3)


def stored(w: World) -> dict[str, bytes]:
    """What is stored beside the log, by part; the head is called `head`."""
    prefix = w.caller.subjects.snapshot(keeper.name, "a")
    kept = w.broker.streams("perdure").snapshots
    return {subject[len(prefix) + 1 :] or "head": data for subject, data in kept.items()}


def store(w: World, part: str, data: bytes | None) -> None:
    subject = w.caller.subjects.snapshot(keeper.name, "a", None if part == "head" else part)
    kept = w.broker.streams("perdure").snapshots
    if data is None:
        del kept[subject]
    else:
        kept[subject] = data


def no_pages(w: World) -> None:
    for part in set(stored(w)) - {"head"}:
        store(w, part, None)


def flip(w: World, part: str) -> None:
    data = bytearray(stored(w)[part])
    data[len(data) // 2] ^= 1
    store(w, part, bytes(data))


def activation(w: World) -> Activation:
    hosted = w.runners[-1][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
    (found,) = [shard.activations["a"] for shard in hosted.shards if "a" in shard.activations]
    return found


async def fill(w: World, names: int = NAMES) -> list[Any]:
    """Replies of that many keyed commands; the last ones are in the snapshot, too."""
    replies = [await w.ask("a", add(1), key=f"k{n}") for n in range(names)]
    await w.until(lambda: not activation(w).busy)
    return replies


async def repeat(w: World, names: int = NAMES) -> list[Any]:
    return [await w.ask("a", add(1), key=f"k{n}") for n in range(names)]


async def restart(w: World) -> None:
    runner, session = w.runners.pop()
    await runner.drain()
    await session.close()
    await w.start()


async def test_repeats_are_recognised_over_restart_and_eviction() -> None:
    async with world(keeper, **SETTINGS) as w:
        replies = await fill(w)
        assert {"p0", "p10", "f0", "f2"} <= set(stored(w))
        assert await repeat(w) == replies
        w.runners[0][0].passivate_all()
        assert await repeat(w) == replies
        await restart(w)
        assert await repeat(w) == replies
        assert (await w.ask("a", add(2), key="k3"))["error"]["type"] == "MalformedMessage"
        assert (await w.ask("a", add(1), key="new"))["reply"] == NAMES + 1
        assert len(await w.commits("a")) == NAMES + 1


async def test_the_result_of_an_old_key_is_found_in_its_page() -> None:
    async with world(keeper, **SETTINGS) as w:
        await w.tell("a", b'{"type":"nope"}', key="refused")
        await fill(w)
        w.runners[0][0].passivate_all()
        assert (await w.ask("a", [1, "result", None, "k1"]))["reply"] == 2
        error = (await w.ask("a", [1, "result", None, "refused"]))["error"]
        assert (error["type"], error["key"]) == ("MalformedMessage", "refused")


async def test_results_from_more_pages_than_stay_in_memory_are_found_at_once() -> None:
    """They must not push each other's pages out for ever."""
    async with world(keeper, **SETTINGS) as w:
        await fill(w)
        w.runners[0][0].passivate_all()
        keys = [f"k{n}" for n in range(0, 4 * (pages.LOADED_PAGES + 2), 4)]
        found = await asyncio.gather(*(w.ask("a", [1, "result", None, key]) for key in keys))
        assert [answer["reply"] for answer in found] == [int(key[1:]) + 1 for key in keys]


async def test_a_tell_is_recognised_by_key_and_by_place() -> None:
    async with world(keeper, **SETTINGS) as w:
        await w.tell("a", add(1), key="told")
        await w.tell("a", add(1))
        await w.quiet()
        await fill(w)
        await restart(w)
        await w.tell("a", add(1), key="told")
        await w.quiet()
        assert (await w.ask("a", add(1), key="told"))["reply"] == 1
        assert (await w.ask("a", add(1)))["reply"] == NAMES + 3


BREAK: dict[str, Callable[[World], None]] = {
    "all snapshots gone": lambda w: w.broker.drop_snapshots(),
    "the head gone": lambda w: store(w, "head", None),
    "an older head": lambda w: None,
    "a page gone": lambda w: store(w, "p1", None),
    "all pages gone": lambda w: no_pages(w),
    "a flipped bit": lambda w: flip(w, "p1"),
    "another page": lambda w: store(w, "p1", stored(w)["p2"]),
    "a blank page": lambda w: store(w, "p1", b""),
    "a filter gone": lambda w: store(w, "f0", None),
    "another filter": lambda w: store(w, "f0", stored(w)["f1"]),
    "a cut filter": lambda w: store(w, "f0", stored(w)["f0"][:-3]),
}


@pytest.mark.parametrize("how", BREAK)
async def test_repeats_are_recognised_whatever_is_lost(how: str) -> None:
    async with world(keeper, **SETTINGS) as w:
        await fill(w, 40)
        old = stored(w)["head"]
        replies = await fill(w)
        if how == "an older head":
            store(w, "head", old)
        BREAK[how](w)
        w.runners[0][0].passivate_all()
        assert await repeat(w) == replies
        assert (await w.ask("a", add(1), key="new"))["reply"] == NAMES + 1
        assert len(await w.commits("a")) == NAMES + 1
        await w.until(lambda: not activation(w).busy)
        await restart(w)
        assert await repeat(w) == replies


async def test_a_lost_page_is_stored_again(caplog: pytest.LogCaptureFixture) -> None:
    async with world(keeper, **SETTINGS) as w:
        replies = await fill(w)
        page = stored(w)["p1"]
        store(w, "p1", None)
        w.runners[0][0].passivate_all()
        assert await w.ask("a", add(1), key="k5") == replies[5]
        assert [r for r in caplog.records if r.__dict__.get("action") == "snapshot.distrusted"]
        await w.until(lambda: stored(w).get("p1") == page)  # without a new commit
        await w.until(lambda: not activation(w).busy)
        store(w, "p1", None)  # once more, while the entity is in memory
        assert await repeat(w) == replies


async def test_pages_are_read_only_when_a_repeat_needs_them() -> None:
    async with world(keeper, **SETTINGS) as w:
        await fill(w)
        w.runners[0][0].passivate_all()
        read: list[str | None] = []
        snapshots = w.runners[0][1].snapshots
        get = snapshots.get

        async def counted(address: Address, part: str | None = None) -> bytes | None:
            read.append(part)
            return await get(address, part)

        snapshots.get = counted  # type: ignore[method-assign]
        newest = await w.ask("a", add(1), key=f"k{NAMES - 1}")
        assert (newest["reply"], read) == (NAMES, [None])
        await w.ask("a", add(1), key="new")
        whole = [part for part in read if part and part.startswith("p")]
        assert [part for part in read if part and part.startswith("f")] == ["f0", "f1", "f2", "f3"]
        assert len(whole) < 3  # of the group that isn't full
        await w.ask("a", add(1), key="k1")
        assert read[-1] == "p0"


async def test_an_unreachable_page_is_waited_for() -> None:
    async with world(keeper, **SETTINGS) as w:
        replies = await fill(w)
        w.runners[0][0].passivate_all()
        snapshots = w.runners[0][1].snapshots
        get, failed = snapshots.get, list[str]()

        async def flaky(address: Address, part: str | None = None) -> bytes | None:
            if part is not None and part not in failed:
                failed.append(part)
                raise Unreachable("no connection")
            return await get(address, part)

        snapshots.get = flaky  # type: ignore[method-assign]
        assert await w.ask("a", add(1), key="k1") == replies[1]
        assert {"f0", "p0"} <= set(failed)


async def test_evictions_before_their_time_are_told_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(keeper, dedup_keys=20, **SETTINGS) as w:
        await fill(w)
        assert w.runners[0][0].statistics().evicted_early == NAMES - 20
        told = [r for r in caplog.records if r.__dict__.get("action") == "ledger.evicted_early"]
        assert [(r.levelno, r.__dict__["address"]) for r in told] == [
            (logging.WARNING, "keeper/a")
        ]
        assert "dedup_keys (20)" in told[0].getMessage()
        await w.until(lambda: not activation(w).busy)
        blank = {part for part, data in stored(w).items() if not data}
        assert {"p0", "p5", "f0"} <= blank
        assert "p9" not in blank
        await restart(w)
        assert (await w.ask("a", add(1), key=f"k{NAMES - 20}"))["reply"] == NAMES - 19
        assert w.runners[0][0].statistics().evicted_early == 0
