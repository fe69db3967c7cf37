"""One key, one outcome: over restarts, evictions and lost snapshots; a thousand times."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from perdure import MailboxFull, MalformedMessage, Settings, connect
from perdure.durable.runner import Runner
from perdure.streams.connect import open_session

from .client import PAUSE_S, Plain
from .harness import NAMESPACE, World, world
from .victim import Add, Victim, victim

T = TypeVar("T")
COMMANDS = 1000
AT_ONCE = 100


async def at_most(calls: Iterable[Callable[[], Awaitable[T]]], number: int) -> list[T]:
    """Make calls, at most so many at once; what they return, in order."""
    free = asyncio.Semaphore(number)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls))


def commands() -> list[tuple[str, str, dict[str, Any]]]:
    """Id, key and message: accepted ones, declined ones, large ones, queries' worth of ids."""
    draw = random.Random(7)
    found: list[tuple[str, str, dict[str, Any]]] = []
    for n in range(COMMANDS):
        message: dict[str, Any] = {"type": "add", "n": draw.choice([1, 5, 2000])}
        if n % 5 == 0:
            message = {"type": "write", "text": "x" * draw.choice([0, 10, 3000])}
        found.append((f"é-{draw.randrange(40)}", f"k:{n}", message))
    return found


async def outcomes(client: Plain) -> list[dict[str, Any]]:
    """All commands by ask."""
    calls = [partial(client.ask, id, body, Idempotency_Key=key) for id, key, body in commands()]
    return await at_most(calls, AT_ONCE)


class Here:
    """A runner in this process, whose memory can be emptied."""

    def __init__(self, w: World) -> None:
        self.settings = Settings(
            url=w.server.url,
            namespace=NAMESPACE,
            shards=4,
            snapshot_min_commits=5,
            snapshot_max_commits=10,
        )

    async def start(self) -> None:
        self._session = await open_session(self.settings, "runner")
        self._runner = Runner(self._session, [victim], self.settings)
        await self._runner.start()

    async def stop(self) -> None:
        await self._runner.drain()
        await self._session.close()

    async def evict(self) -> None:
        """Let every entity leave memory; those at work a little later."""
        async with asyncio.timeout(10):
            while self._runner.statistics().entities:
                self._runner.passivate_all()
                await asyncio.sleep(0.01)


async def test_a_thousand_outcomes_are_remembered(tmp_path: Path) -> None:
    async with world(tmp_path, serving=False) as w:
        here = Here(w)
        await here.start()
        for id, key, message in commands()[: COMMANDS // 2]:
            await w.client.tell(id, message, Idempotency_Key=key)
        first = await outcomes(w.client)
        kinds = {kind for answer in first for kind in answer}
        assert kinds == {"reply", "failure", "seq", "version"}
        await w.client.settled()
        commits = await w.client.count("LOG")
        assert await w.client.count("SNAP") > 0

        await here.evict()
        assert await outcomes(w.client) == first, "from snapshots"
        await here.stop()
        await here.start()
        assert await outcomes(w.client) == first, "after a restart"
        await here.stop()
        await w.client.js.purge_stream(w.client.stream("SNAP"))
        await here.start()
        assert await outcomes(w.client) == first, "from the log alone"
        await here.evict()
        for id, key, message in commands():
            await w.client.tell(id, message, Idempotency_Key=key)
        await w.client.settled()
        assert await w.client.count("LOG") == commits, "no new commit"
        assert await w.client.count("DEAD") == 0
        await here.stop()


async def answered(client: Plain, key: str, message: object) -> dict[str, Any]:
    """A tell and its answer, by the subject that it names."""
    inbox = client.nc.new_inbox()
    subscription = await client.nc.subscribe(inbox)
    try:
        while True:
            ack = await client.tell("a", message, Idempotency_Key=key, Perdure_Reply_To=inbox)
            if "error" not in ack:
                break
            assert ack["error"]["err_code"] == 10077
            await asyncio.sleep(PAUSE_S)
        found: dict[str, Any] = json.loads((await subscription.next_msg(timeout=20)).data)
        return found
    finally:
        await subscription.unsubscribe()


async def test_the_same_key_a_thousand_times_by_both_ways(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        add = {"type": "add", "n": 5}
        asks, tells = await asyncio.gather(
            at_most(
                [lambda: w.client.ask("a", add, Idempotency_Key="k") for _ in range(500)], AT_ONCE
            ),
            at_most([lambda: answered(w.client, "k", add) for _ in range(500)], AT_ONCE),
        )
        assert len(asks + tells) == COMMANDS
        assert [a for a in asks + tells if a != asks[0]] == []
        assert asks[0] == {"reply": 5, "seq": 1, "version": 1}
        await w.client.settled()
        assert await w.client.count("LOG") == 1
        await another_payload(w)


async def another_payload(w: World) -> None:
    """The same key with another payload: refused; a tell of that kind is a dead letter."""
    other = {"type": "add", "n": 6}
    error = (await w.client.ask("a", other, Idempotency_Key="k"))["error"]
    assert error["type"] == "MalformedMessage"
    assert error["may_have_taken_effect"] is False
    assert (error["key"], error["advice"]) == ("k", "fix")
    assert await w.client.count("LOG") == 1, "nothing was written"
    same = b'{"n":5 ,\n"type":"\\u0061dd"}'
    assert (await w.client.ask("a", same, Idempotency_Key="k"))["reply"] == 5
    assert await w.client.count("LOG") == 1
    await w.client.tell("a", other, Idempotency_Key="k")
    (letter,) = await w.client.dead()
    assert (letter["dead"]["reason"], letter["dead"]["key"]) == ("malformed", "k")
    assert letter["name"].startswith("@")
    assert (await w.client.ask("a", {"type": "total"}))["reply"] == 5
    assert (await w.client.ask("a", {"type": "add", "n": 5}, Idempotency_Key="k"))["reply"] == 5


async def test_the_same_key_a_thousand_times_by_the_python_client(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        settings = Settings(url=w.server.url, namespace=NAMESPACE)
        async with connect(settings=settings) as cluster:
            ref = cluster.at(Victim, "a")

            async def told() -> int:
                while True:
                    try:
                        return await ref.result(Add, await ref.tell(Add(5), key="k"))
                    except MailboxFull:  # its copies wait to be acked; the outcome is known
                        await asyncio.sleep(PAUSE_S)

            asks, tells = await asyncio.gather(
                at_most([lambda: ref.ask(Add(5), key="k") for _ in range(500)], AT_ONCE),
                at_most([told for _ in range(500)], AT_ONCE),
            )
            assert asks + tells == [5] * COMMANDS
            with pytest.raises(MalformedMessage) as refused:
                await ref.ask(Add(6), key="k")
            assert refused.value.may_have_taken_effect is False
            await w.client.settled()
            assert await w.client.count("LOG") == 1
