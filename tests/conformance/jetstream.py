"""JetStream, as the checks see it: a real server, and a proxy in front of each session."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.session import JetStreamSession, open_session
from perdure.streams.port import Session

from ..support.server import settings_for
from .backend import SHARDS, STREAM_BYTES, TYPE, round_trip, until
from .proxy import Proxy

T = TypeVar("T")


class JetStreamBackend:
    """A namespace on a server."""

    def __init__(self, server: EmbeddedServer, namespace: str, patience_s: float = 20.0) -> None:
        self.patience_s = patience_s
        self._server = server
        self._namespace = namespace
        self._sessions: dict[JetStreamSession, Proxy] = {}
        self._numbers = itertools.count(1)
        self._copy: Path | None = None

    async def session(self, **settings: Any) -> Session:
        """A new connection, through a proxy of its own."""
        proxy = await Proxy(self._server.port).start()
        url = f"nats://127.0.0.1:{proxy.port}"
        given = {"shards": SHARDS, "command_stream_bytes": STREAM_BYTES, **settings, "url": url}
        session = await open_session(
            settings_for(self._server, self._namespace, **given), name=f"s{next(self._numbers)}"
        )
        self._sessions[session] = proxy
        return session

    async def disconnect(self, session: Session) -> None:
        """Break a session's connection; on return it has been made anew."""
        async with self.offline(session):
            pass

    @asynccontextmanager
    async def offline(self, session: Session) -> AsyncGenerator[None]:
        """Within it the session has no connection."""
        proxy = self._proxy(session)
        proxy.refusing = True
        proxy.cut()
        await until(self, lambda: not session.connected, "the end of the connection")
        yield
        proxy.refusing = False
        await self._connected(session)

    async def unanswered(self, session: Session, call: Callable[[], Awaitable[T]]) -> T:
        """The line falls silent, the call is made, the server answers, the line breaks."""
        proxy = self._proxy(session)
        proxy.mute = True
        task = asyncio.ensure_future(call())
        await until(self, lambda: b'"seq":' in proxy.unheard, "the answer that is lost")
        assert not task.done()
        await self.disconnect(session)
        return await task

    async def dead_letters(self, session: Session, token: str) -> list[bytes]:
        """The copies of dead letters under a token, read message by message."""
        subject = session.subjects.dead(TYPE, token)
        found: list[bytes] = []
        sequence = 1
        while True:
            query = json.dumps({"seq": sequence, "next_by_subj": subject}).encode()
            api = f"$JS.API.STREAM.MSG.GET.{session.subjects.dead_stream}"
            answer = json.loads((await session.asks.request(api, query, timeout_s=10)).data)
            if "message" not in answer:
                assert answer["error"]["err_code"] == 10037, answer  # no message found
                return found
            found.append(base64.b64decode(answer["message"].get("data", "")))
            sequence = answer["message"]["seq"] + 1

    async def remember(self, session: Session) -> None:
        """Copy the command stream's folder while the server is down."""
        await self._server.stop()
        folder = self._stream_folder(session)
        self._copy = folder.parent.parent.parent / "copy"
        shutil.copytree(folder, self._copy)
        await self._start()

    async def rewind(self, session: Session) -> None:
        """kill -9, and the old folder in the place of the present one."""
        assert self._copy is not None
        await self._server.kill()
        folder = self._stream_folder(session)
        shutil.rmtree(folder)
        shutil.copytree(self._copy, folder)
        await self._start()

    async def close(self) -> None:
        """End all sessions and their proxies, and give the storage back that streams reserve."""
        for session, proxy in self._sessions.items():
            await session.close()
            await proxy.close()
        session = await open_session(settings_for(self._server, self._namespace), name="cleaner")
        try:
            listed = await session.asks.request("$JS.API.STREAM.NAMES", b"", timeout_s=10)
            prefix = self._namespace.upper()
            for name in json.loads(listed.data)["streams"] or ():
                if name.startswith((f"{prefix}_", f"KV_{prefix}_")):
                    await session.asks.request(f"$JS.API.STREAM.DELETE.{name}", b"", timeout_s=10)
        finally:
            await session.close()

    def _proxy(self, session: Session) -> Proxy:
        assert isinstance(session, JetStreamSession)
        return self._sessions[session]

    def _stream_folder(self, session: Session) -> Path:
        name = session.subjects.command_stream(TYPE)
        (folder,) = self._server.folder.rglob(f"streams/{name}")
        return folder

    async def _start(self) -> None:
        await self._server.start()
        for session in self._sessions:
            await self._connected(session)

    async def _connected(self, session: Session) -> None:
        await until(self, lambda: session.connected, "the next connection")
        await round_trip(session)
