"""What a runner tells of itself, on the memory backend: added up right, and bounded."""

from __future__ import annotations

import asyncio

from perdure.durable.stats import RunnerStats, decode_stats
from perdure.streams.port import Message

from .test_runner import counter
from .world import World, world


async def told(w: World) -> RunnerStats:
    """The one runner's answer."""
    answers: asyncio.Queue[Message] = asyncio.Queue()
    box = w.caller.asks.inbox(answers.put_nowait)
    w.caller.asks.send(w.caller.subjects.stats, b"", reply=box.subject("1"))
    async with asyncio.timeout(5):
        message = await answers.get()
    box.close()
    return decode_stats(message.data)


async def test_stats_add_up() -> None:
    async with world(counter) as w:
        for id in ("a", "b"):
            await w.ask(id, {"type": "add", "n": 1}, key="k")
        await w.tell("a", {"type": "add", "n": 1})
        await w.quiet()
        runner, _ = w.runners[0]
        found = await told(w)
        (type,) = found.types
        own = runner.statistics()
        assert (found.runner, type.entity) == (runner.id, "counter")
        assert (type.owned, type.terms, type.entities) == (own.shards, own.terms, own.entities)
        assert type.shards == type.owned == w.settings.shards
        assert (type.entities, type.keys, type.quarantined) == (2, 3, 0)
        assert type.single + type.batched == 3
        assert (type.asks, type.tells, type.aside, type.fullest) == (0, 0, 0, 0)
        assert (found.asks, found.bytes, found.capacity) == (0, 0, w.settings.runner_capacity)
        assert (found.cached, found.evicted) == (own.cached, 0)
        assert found.cached > 0
        assert found.connection == {}


async def test_an_answer_goes_nowhere_else() -> None:
    async with world(counter) as w:
        heard: list[Message] = []
        await w.caller.asks.subscribe("elsewhere.x", heard.append)
        w.caller.asks.send(w.caller.subjects.stats, b"", reply="elsewhere.x")
        await told(w)
        assert heard == []
