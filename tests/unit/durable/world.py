"""A runner on the memory backend and a plain caller beside it, for tests of the whole path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from perdure import Entity, Settings
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.streams.commit import Commit, unseal
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import PublishAnswer

PATIENCE_S = 5.0


class World:
    """A broker, the entities, and whoever talks to them."""

    def __init__(self, entities: Sequence[Entity[Any, Any]], settings: Settings) -> None:
        self.entities, self.settings = entities, settings
        self.broker = MemoryBroker(SystemClock(), settings)
        self.caller = self.broker.session(name="caller")
        self.runners: list[tuple[Runner, MemorySession]] = []

    async def start(self) -> Runner:
        session = self.broker.session(name=f"runner-{len(self.runners)}")
        runner = Runner(session, self.entities, self.settings)
        self.runners.append((runner, session))
        await runner.start()
        return runner

    async def ask(self, id: str, body: Any, key: str | None = None) -> Any:
        """A plain ask, as any program sends it."""
        name = self.entities[0].name
        subject = self.caller.subjects.ask(name, id)
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        inbox: asyncio.Queue[bytes] = asyncio.Queue()
        box = self.caller.asks.inbox(lambda message: inbox.put_nowait(message.data))
        headers = {"Idempotency-Key": key} if key else None
        self.caller.asks.send(subject, data, reply=box.subject("1"), headers=headers)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return msgspec.json.decode(await inbox.get())
        finally:
            box.close()

    async def tell(
        self, id: str, body: Any, key: str | None = None, reply_to: str | None = None
    ) -> PublishAnswer:
        """A plain publish to the command subject."""
        headers = {"Idempotency-Key": key} if key else {}
        if reply_to:
            headers["Perdure-Reply-To"] = reply_to
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        address = Address(self.entities[0].name, id)
        return await self.caller.commands.publish(address, data, headers or None)

    async def commits(self, id: str) -> list[Commit]:
        address = Address(self.entities[0].name, id)
        last = await self.caller.log.last(address)
        if last is None:
            return []
        read = self.caller.log.read(address, after=0, upto=last.sequence)
        found = [unseal(stored) async for stored in read]
        return [commit for commit in found if commit is not None]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 (any condition)
                await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Until no tell waits any more."""
        await self.until(lambda: not self.broker.waiting(self.entities[0].name))


@asynccontextmanager
async def world(
    *entities: Entity[Any, Any], runners: int = 1, **settings: Any
) -> AsyncGenerator[World]:
    given: dict[str, Any] = {"shards": 2, "drain_timeout": 2, **settings}
    made = World(entities, Settings(**given))
    for _ in range(runners):
        await made.start()
    try:
        yield made
    finally:
        for runner, session in made.runners:
            await runner.drain()
            await session.close()
        await made.caller.close()
