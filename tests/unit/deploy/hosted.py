"""A runner in the test's own process, and a shell beside it that reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.entities.entity import Entity
from perdure.streams.jetstream.connection import Publish
from perdure.streams.jetstream.messages import headers_block
from perdure.streams.jetstream.scan import Bounds, bounds
from perdure.streams.jetstream.session import JetStreamSession
from perdure.streams.subjects import Subjects, escape

from ...support.server import PATIENCE_S, nats_session, settings_for
from .commands import Ran, Shell
from .counter import counter


class Place:
    """A namespace of a server: a session to plant faults with, and a shell to find them."""

    def __init__(self, session: JetStreamSession, shell: Shell) -> None:
        self.session, self.shell = session, shell
        self.subjects: Subjects = session.subjects

    async def run(self, *arguments: str) -> Ran:
        """Type a command."""
        return await asyncio.to_thread(self.shell.type, *arguments)

    async def ask(self, id: str, command: str, fields: str | None = None, *more: str) -> Ran:
        """Ask the counter."""
        given = () if fields is None else (fields,)
        return await self.run("ask", "counter", id, command, *given, *more)

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Store something, as whoever has the right to can."""
        publish = Publish(subject, data, headers_block(headers))
        result = await self.session.connection.publish(publish)
        assert b'"seq"' in getattr(result, "data", b""), result

    async def tell(self, id: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A plain tell to the counter."""
        await self.publish(self.subjects.to("counter", escape(id)), data, headers)

    async def bounds(self, stream: str) -> Bounds:
        """What a stream holds."""
        found = await bounds(self.session.connection, stream)
        assert found is not None
        return found

    async def dead(self, count: int) -> None:
        """Wait until there are that many copies of dead letters."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.bounds(self.subjects.dead_stream)).messages != count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def hosted(
    server: EmbeddedServer,
    namespace: str,
    folder: Path,
    *entities: Entity[Any, Any],
    **changes: Any,
) -> AsyncGenerator[Place]:
    """A runner with the counter (or these entities), and the place around it."""
    settings = settings_for(server, namespace, **changes)
    serving = entities or (counter,)
    async with (
        connect(serving=serving, settings=settings),
        place(server, namespace, folder, **changes) as found,
    ):
        yield found


@asynccontextmanager
async def place(
    server: EmbeddedServer, namespace: str, folder: Path, **changes: Any
) -> AsyncGenerator[Place]:
    """The place without a runner."""
    async with nats_session(server, namespace, **changes) as session:
        yield Place(session, Shell(folder, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace))
