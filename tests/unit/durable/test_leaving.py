"""Whoever leaves memory is freed at once: nothing that lives on refers to it.

The garbage collector is off meanwhile, since it would come too late for a bound on memory.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from perdure.durable.activation import Activation
from perdure.durable.reads import Read

from .keeper import keeper
from .world import World, world

T = TypeVar("T")


def all_of(kind: type[T]) -> list[T]:
    return [found for found in gc.get_objects() if isinstance(found, kind)]


@asynccontextmanager
async def without_collector() -> AsyncGenerator[World]:
    gc.collect()  # what other tests left behind
    gc.disable()
    try:
        async with world(keeper) as w:
            yield w
    finally:
        gc.enable()


async def leaves(w: World) -> None:
    """The only entity leaves, and is gone."""
    runner = w.runners[0][0]
    await w.until(lambda: not runner.busy)
    (gone,) = [weakref.ref(activation) for activation in all_of(Activation)]
    runner.passivate_all()
    await w.until(lambda: gone() is None)


async def test_after_commands_and_questions() -> None:
    async with without_collector() as w:
        assert (await w.ask("a", {"type": "add", "n": 1}))["reply"] == 1
        await w.tell("a", {"type": "add", "n": 1})
        await w.quiet()
        assert (await w.ask("a", [1, "state", None]))["reply"]["n"] == 2
        assert (await w.ask("a", [1, "state", {"version": 1}]))["reply"]["n"] == 1
        await leaves(w)


async def test_after_a_question_that_could_have_waited_longer() -> None:
    async with without_collector() as w:
        waiting = asyncio.create_task(w.ask("a", [1, "result", None, "later"]))
        await w.until(lambda: any(read.checked for read in all_of(Read)))
        await w.ask("a", {"type": "add", "n": 1}, key="later")
        assert (await waiting)["reply"] == 1
        await leaves(w)
