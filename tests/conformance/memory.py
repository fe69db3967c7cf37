"""The memory backend, as the checks see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from perdure.entities.clock import SystemClock
from perdure.entities.settings import Settings
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Session

from .backend import SHARDS, STREAM_BYTES, TYPE

T = TypeVar("T")


class LoopClock:
    """Goes on with the running loop: in virtual time whatever depends on time is virtual."""

    def __init__(self) -> None:
        self._zero_ns = SystemClock().now_ns()

    def now_ns(self) -> int:
        return self._zero_ns + round(asyncio.get_running_loop().time() * 1e9)


class MemoryBackend:
    """A broker of its own for one check."""

    def __init__(self, patience_s: float = 10.0) -> None:
        self.patience_s = patience_s
        self._settings = Settings(shards=SHARDS)
        self._broker = MemoryBroker(LoopClock(), self._settings)
        self._sessions: list[MemorySession] = []
        self._kept = 0

    async def session(self, **settings: Any) -> Session:
        """A new connection."""
        session = self._broker.session(settings=_settings(**settings))
        self._sessions.append(session)
        return session

    async def disconnect(self, session: Session) -> None:
        """Break a session's connection; on return it has been made anew."""
        self._broker.disconnect(self._own(session))

    @asynccontextmanager
    async def offline(self, session: Session) -> AsyncGenerator[None]:
        """Within it the session has no connection."""
        self._broker.disconnect(self._own(session), reconnect=False)
        yield
        self._broker.reconnect(self._own(session))

    async def unanswered(self, session: Session, call: Callable[[], Awaitable[T]]) -> T:
        """The broker acts at once and answers in the next turn: between them the line breaks."""
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        self._broker.disconnect(self._own(session))
        return await task

    async def dead_letters(self, session: Session, token: str) -> list[bytes]:
        """The copies of dead letters under a token."""
        found = self._broker.dead_letters()
        return [dead.data for dead in found if (dead.entity, dead.token) == (TYPE, token)]

    async def remember(self, session: Session) -> None:
        """Keep the command stream's last sequence."""
        self._kept = self._broker.last_tell(TYPE)

    async def rewind(self, session: Session) -> None:
        """Lose what came after it."""
        self._broker.rewind(TYPE, self._kept)

    async def close(self) -> None:
        """End all sessions."""
        for session in self._sessions:
            await session.close()

    def _own(self, session: Session) -> MemorySession:
        assert isinstance(session, MemorySession)
        return session


def _settings(
    *, shards: int = SHARDS, command_stream_bytes: int = STREAM_BYTES, **others: Any
) -> Settings:
    return Settings(shards=shards, command_stream_bytes=command_stream_bytes, **others)
