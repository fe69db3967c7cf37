"""Singletons by the front door: `connect`, and `memory` with its crash."""

from __future__ import annotations

import asyncio

import pytest

from perdure import MalformedMessage, RunnerUnavailable, Singleton, connect, memory

from .keeper import Add, Keeper, keeper

PATIENCE_S = 10.0


class Work:
    """Asks an entity, then waits until it is cancelled."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.ended: list[int] = []
        self._news = asyncio.Event()

    async def __call__(self, singleton: Singleton) -> None:
        self.terms.append(singleton.term)
        self._news.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(singleton.term)

    async def begun(self) -> None:
        """Wait for the next run."""
        async with asyncio.timeout(PATIENCE_S):
            await self._news.wait()
        self._news.clear()


async def test_it_runs_beside_a_client_that_serves_and_ends_before_that_is_left() -> None:
    work = Work()
    async with connect("memory:", serving=[keeper]) as cluster:
        await cluster.singleton("work", work)
        await work.begun()
        assert await cluster.at(Keeper, "a").ask(Add(1)) == 1
        assert not work.ended
    assert (work.terms, work.ended) == ([1], [1])
    with pytest.raises(RunnerUnavailable):
        await cluster.singleton("other", work)


async def test_a_mere_client_is_refused() -> None:
    async with connect("memory:") as cluster:
        with pytest.raises(MalformedMessage, match="mere client"):
            await cluster.singleton("work", Work())


async def test_it_begins_anew_with_a_later_term_after_a_crash() -> None:
    work = Work()
    async with memory(keeper) as cluster:
        await cluster.singleton("work", work)
        await work.begun()
        await cluster.crash()
        await work.begun()
        assert work.terms == [1, 2]
    assert work.ended == [1, 2]
