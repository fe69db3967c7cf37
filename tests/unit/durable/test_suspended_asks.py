"""Asks whose flows wait for months: they keep no other work away, and no entity in memory."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Suspended
from perdure.durable.host import Load

from .case import Case, Note, Open, World, case_of
from .peers import until, virtually
from .runners import Runners, runners

FLOWS = 12
MOST = 4


async def suspend(r: Runners, n: int) -> None:
    with pytest.raises(Suspended):
        await r.cluster.at(Case, f"c-{n}").ask(Open(2), key=f"k-{n}", on_suspend="raise")


def in_memory(r: Runners) -> int:
    return r["a"].runner.statistics().entities


@virtually
async def test_they_dont_count_as_work() -> None:
    async with runners("a", entity=case_of(World()), runner_capacity=4) as r:
        for n in range(FLOWS):
            await suspend(r, n)
        assert await r.cluster.at(Case, "other").ask(Note("x")) == 1
        waits = [
            asyncio.create_task(r.cluster.at(Case, f"c-{n}").ask(Open(2), key=f"k-{n}"))
            for n in range(FLOWS)
        ]
        await asyncio.sleep(1)
        assert await r.cluster.at(Case, "other").ask(Note("y")) == 2
        assert not any(task.done() for task in waits)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@virtually
async def test_nor_do_they_keep_their_entities_in_memory() -> None:
    world = World()
    async with runners("a", entity=case_of(world), resident_entities=3) as r:
        for n in range(FLOWS):
            await suspend(r, n)
        assert in_memory(r) <= 3
        for n, token in enumerate(world.tokens):
            await r.cluster.resume(token, n)
            outcome = await r.cluster.at(Case, f"c-{n}").result(Open, f"k-{n}")
            assert outcome == f"{n} after begun"


@virtually
async def test_who_waits_hears_of_it_though_the_entity_had_left_memory() -> None:
    world = World()
    async with runners("a", entity=case_of(world), resident_entities=3) as r:
        waits = asyncio.create_task(r.cluster.at(Case, "c").ask(Open(2), key="k"))
        await until(lambda: bool(world.tokens))
        for n in range(FLOWS):
            assert await r.cluster.at(Case, f"other-{n}").ask(Note("x")) == 1
        [token] = world.tokens
        await r.cluster.resume(token, 7)
        assert await waits == "7 after begun"


def test_of_many_who_ask_under_one_key_no_more_wait_than_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    add = Load.add

    def seen_after(load: Load, size: int) -> None:
        add(load, size)
        seen.append(load.asks)

    monkeypatch.setattr(Load, "add", seen_after)
    many_ask()
    assert 1 < max(seen) <= MOST


@virtually
async def many_ask() -> None:
    world = World()
    async with runners("a", entity=case_of(world), runner_capacity=MOST) as r:
        ref = r.cluster.at(Case, "c")
        waits = [asyncio.create_task(ref.ask(Open(2), key="k")) for _ in range(5 * MOST)]
        await until(lambda: bool(world.tokens))
        await r.cluster.resume(world.tokens[0], 7)
        assert set(await asyncio.gather(*waits)) == {"7 after begun"}
