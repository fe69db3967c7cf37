"""Archives: what tells that one is whole. The rest is in tests/unit/deploy/test_backup.py."""

from __future__ import annotations

import asyncio

from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.api import Response, call
from perdure.streams.jetstream.archive import Archived
from perdure.streams.port import Message

from ...support.server import PATIENCE_S, nats_session


async def test_the_server_says_nothing_at_the_end_of_a_whole_archive(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    """If a newer one does, its Status can be required."""
    async with nats_session(nats_server, namespace) as session:
        connection, stream = session.connection, f"{namespace}_S"
        body = {"name": stream, "subjects": [f"{namespace}.s"]}
        await call(connection, f"STREAM.CREATE.{stream}", body, Response)
        came: asyncio.Queue[Message] = asyncio.Queue()
        inbox = connection.pull_inbox()
        listener = await connection.subscribe(inbox, came.put_nowait)
        asked = {"deliver_subject": inbox, "no_consumers": True}
        await call(connection, f"STREAM.SNAPSHOT.{stream}", asked, Archived)
        while (message := await asyncio.wait_for(came.get(), PATIENCE_S)).data:
            assert not message.reply or connection.send(message.reply, b"")
        await connection.unsubscribe(listener)
        assert not message.headers
        assert not message.reply
        await call(connection, f"STREAM.DELETE.{stream}", None, Response)
