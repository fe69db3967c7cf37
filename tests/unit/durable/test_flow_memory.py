"""What a flow's turn leaves in memory: nothing that only the garbage collector would free.

It comes by when there are so many objects more, whatever they hold: with commands of 400 kB a
runner grew by 800 kB for each flow that began, far beyond its cache.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator

import pytest

from perdure import RpcClientError
from perdure.durable.flow import Drive
from perdure.entities.flowrun import FlowRun

from .case import DAY, Ask, Book, Case, Denied, Nap, Open, Walk, hosted, suspended


@pytest.fixture
def _no_collector() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> list[str]:
    """The runs and turns that are still there."""
    return [type(o).__name__ for o in gc.get_objects() if type(o) in (Drive, FlowRun)]


@pytest.mark.usefixtures("_no_collector")
async def test_a_turn_that_is_over_leaves_nothing() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster, "waits", n=2)
        assert left() == []
        await cluster.resume(world.tokens[0], 7)
        assert await cluster.at(Case, "waits").result(Open, "k") == "7 after begun"
        assert left() == []


@pytest.mark.usefixtures("_no_collector")
async def test_nor_do_timers_and_undone_steps() -> None:
    async with hosted() as (cluster, world):
        key = await cluster.at(Case, "naps").tell(Nap(2))
        await cluster.at(Case, "asks").tell(Ask())
        await cluster.advance(2 * DAY)
        assert await cluster.at(Case, "naps").result(Nap, key) == "2"
        booked = await cluster.at(Case, "books").tell(Book())
        await cluster.quiet()
        await cluster.resume(world.tokens[-1], -1)
        with pytest.raises(Denied):
            await cluster.at(Case, "books").result(Book, booked)
        assert world.names[-2:] == ["undo car", "undo hotel"]
        assert left() == []


@pytest.mark.usefixtures("_no_collector")
async def test_nor_does_one_that_is_cancelled() -> None:
    async with hosted() as (cluster, _):
        await suspended(cluster)
        waits = asyncio.create_task(cluster.at(Case, "c").ask(Open(), key="k"))
        await cluster.at(Case, "c").cancel("k")
        with pytest.raises(RpcClientError):
            await waits
        assert left() == []


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("error", [Denied("full"), OSError("down")])
async def test_nor_does_one_whose_step_fails(error: Exception) -> None:
    async with hosted() as (cluster, world):
        world.fail = lambda name: error if name in ("1", "car") else None
        with pytest.raises(Denied if isinstance(error, Denied) else RpcClientError):
            await cluster.at(Case, "walks").ask(Walk(2))
        await cluster.quiet()
        world.calls.clear()
        error.__traceback__ = error.__context__ = None  # which the test itself keeps
        assert left() == []
