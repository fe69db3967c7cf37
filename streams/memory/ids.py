"""The registry of ids in memory: the store of one type, and a session's port to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..commit import Stored
from ..port import IDS_BYTES, Appended, NoAck, NoStream, PublishAnswer, Refused, Unreachable
from .connection import Connection

if TYPE_CHECKING:
    from .broker import MemoryBroker, Streams


class IdStore:
    """The pages of one type."""

    def __init__(self) -> None:
        self._last = 0
        self._messages: dict[int, tuple[str, Stored]] = {}  # by sequence, in their order
        self._pages: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, page: str, data: bytes, time_ns: int, *, whole: bool) -> Appended:
        """Store a message; a whole one replaces what its page had."""
        for sequence in self._pages.pop(page, ()) if whole else ():
            del self._messages[sequence]
        self._last += 1
        self._messages[self._last] = (page, Stored(self._last, time_ns, data, None))
        self._pages.setdefault(page, []).append(self._last)
        return Appended(self._last)

    def last(self) -> int:
        """The newest message's sequence; 0 if there is none."""
        return next(reversed(self._messages), 0)

    def between(self, after: int, upto: int, bytes: int) -> list[Stored]:
        """The first messages with `after` < sequence <= `upto`: as many as fit, one at least."""
        found: list[Stored] = []
        size = 0
        for _, stored in self._messages.values():
            if after < stored.sequence <= upto:
                size += len(stored.data)
                if found and size > bytes:
                    break
                found.append(stored)
        return found


class MemoryIds:
    """`port.Ids` in memory."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection

    async def add(self, entity: str, page: str, data: bytes, *, whole: bool) -> PublishAnswer:
        """Store a message of a page; a whole one replaces all of that page in the same step."""
        if not self._connection.up:
            return NoAck("no connection")
        answer = self._add(entity, page, data, whole=whole)
        try:
            return await self._connection.answer(answer)
        except Unreachable as error:
            return NoAck(str(error))

    def _add(self, entity: str, page: str, data: bytes, *, whole: bool) -> PublishAnswer:
        store = self._streams.ids.get(entity)
        if store is None:
            return NoStream()
        if len(data) > self._broker.max_payload:
            return Refused(10054, "message size exceeds maximum allowed")
        return store.add(page, data, self._broker.clock.now_ns(), whole=whole)

    async def last(self, entity: str) -> int:
        """The newest message's sequence; 0 if there is none."""
        self._connection.demand()
        store = self._streams.ids.get(entity)
        return await self._connection.answer(0 if store is None else store.last())

    async def read(self, entity: str, *, after: int, upto: int) -> list[Stored]:
        """The first messages with `after` < sequence <= `upto`, in order."""
        self._connection.demand()
        store = self._streams.ids.get(entity)
        found = [] if store is None else store.between(after, upto, IDS_BYTES)
        return await self._connection.answer(found)

    async def logged(self, entity: str, *, skip: int) -> list[str]:
        """Escaped ids that have a log, sorted, after the first `skip`; empty: no more."""
        self._connection.demand()
        log = self._streams.logs.get(entity)
        found = [] if log is None else sorted(log.tokens())
        return await self._connection.answer(found[skip:])
