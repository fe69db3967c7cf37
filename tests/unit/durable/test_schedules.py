"""Schedules in a runner: told by themselves, done once each, over crashes and new code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from perdure import Entity, Incompatible, Schedule, Settings, cron, every, memory
from perdure.durable import scheduling
from perdure.durable.host import Host
from perdure.durable.testing import TestCluster
from perdure.entities.schedule import Missed

from .test_later import Bell, Rang, Ring, bell, decide, evolve, listed, rings

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def hourly(missed: Missed = "once", n: int = 1) -> Schedule:
    return every("hourly", HOUR, id="b", command=Ring(n), missed=missed)


def with_(*schedules: Schedule) -> Entity[Bell, Rang]:
    return Entity(Bell(), decide, evolve, schedules=schedules)


@asynccontextmanager
async def on_the_hour(*schedules: Schedule) -> AsyncGenerator[TestCluster]:
    """Half a minute past a full hour."""
    async with memory(with_(*schedules)) as cluster:
        past = timedelta(microseconds=cluster.clock.now_ns() // 1000 % 3_600_000_000)
        await cluster.advance(HOUR - past + timedelta(seconds=30))
        start = len(await rings(cluster))
        assert start == len(schedules)
        yield cluster


async def test_it_comes_by_itself_each_time() -> None:
    async with on_the_hour(hourly()) as cluster:
        for n in range(2, 30):
            await cluster.advance(HOUR)
            assert len(await rings(cluster)) == n


async def test_one_is_told_at_a_time_and_listed() -> None:
    async with on_the_hour(hourly()) as cluster:
        (flow,) = await listed(cluster, Bell)
        assert flow.key.startswith("schedule:hourly:")
        assert flow.due is not None
        assert (flow.due.minute, flow.due.second) == (0, 0)


async def test_it_comes_once_over_crashes() -> None:
    async with on_the_hour(hourly()) as cluster:
        for n in range(2, 6):
            await cluster.crash()
            await cluster.advance(HOUR / 2)
            await cluster.crash()
            await cluster.advance(HOUR / 2)
            assert len(await rings(cluster)) == n


@pytest.mark.parametrize(("missed", "times"), [("once", 2), ("all", 6), ("skip", 1)])
async def test_times_at_which_nobody_was_there(missed: Missed, times: int) -> None:
    async with on_the_hour(hourly(missed)) as cluster:
        await cluster.stop()
        cluster.clock.advance(5 * HOUR)
        await cluster.start()
        await cluster.advance(MINUTE)
        assert len(await rings(cluster)) == times
        await cluster.advance(HOUR)
        assert len(await rings(cluster)) == times + 1


async def test_a_time_that_finds_the_mailbox_full_is_told_later_where_all_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[int] = []
    real = scheduling._tell  # pyright: ignore[reportPrivateUsage]

    async def full_at_first(host: Host, schedule: Schedule, due_ms: int) -> bool:
        if due_ms < host.server_ms() and refused.count(due_ms) < 3:
            refused.append(due_ms)
            return False
        return await real(host, schedule, due_ms)

    async with on_the_hour(hourly("all")) as cluster:
        await cluster.stop()
        cluster.clock.advance(5 * HOUR)
        monkeypatch.setattr(scheduling, "_tell", full_at_first)
        monkeypatch.setattr(scheduling, "LOOK_S", 0.01)
        await cluster.start()
        await cluster.advance(MINUTE)
        async with asyncio.timeout(20):
            while len(await rings(cluster)) < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(refused) == 3 * 4


async def test_what_is_declared_no_more_ends_at_its_time() -> None:
    async with on_the_hour(hourly(n=1)) as cluster:
        await cluster.stop()
        await cluster.start(with_(hourly(n=2)))
        await cluster.advance(HOUR)
        assert await rings(cluster) == (1, 2)
        await cluster.stop()
        await cluster.start(with_())
        await cluster.advance(3 * HOUR)
        assert await rings(cluster) == (1, 2)
        assert await listed(cluster, Bell) == []


async def test_who_cancels_one_cancels_that_one() -> None:
    async with on_the_hour(hourly()) as cluster:
        (flow,) = await listed(cluster, Bell)
        await cluster.at(Bell, "b").cancel(flow.key)
        await cluster.advance(HOUR)
        assert len(await rings(cluster)) == 1
        await cluster.advance(HOUR)
        assert len(await rings(cluster)) == 2


async def test_a_bug_in_one_leaves_the_others_alone() -> None:
    never = cron("broken", "0 * * * *", id="b", command=Ring(-1))
    async with memory(with_(never, hourly())) as cluster:
        await cluster.advance(4 * HOUR)
        assert await rings(cluster) == (1, 1, 1, 1)
        assert len([f for f in await listed(cluster, Bell) if f.parked]) >= 1


async def test_without_timers_nothing_comes_by_itself() -> None:
    with pytest.raises(Incompatible, match="the setting `timers` is off"):
        async with memory(with_(hourly()), settings=Settings(timers=False)):
            pass
    async with memory(bell, settings=Settings(timers=False)) as cluster:
        assert await cluster.at(Bell, "b").ask(Ring(1)) == 1
