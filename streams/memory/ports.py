"""The ports of a session in memory to what is kept: log, snapshots, members, dead letters.

What each method means is said in `streams/port.py`. Each does its work on the broker at once and
gives the answer a turn of the loop later; so do `commands.py` and `asks.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from ...entities.address import Address
from ..commit import Sealed, Stored
from ..port import (
    Append,
    AppendAnswer,
    Entry,
    NoAck,
    Refused,
    Unreachable,
    WrongLast,
)
from ..subjects import escape
from .connection import Connection
from .core import check_subject
from .logs import LogStore

if TYPE_CHECKING:
    from .broker import MemoryBroker, Streams

BATCH = 500
"""Messages that one step of a read gives, as many as the other backend asks for at once."""
MARK_BYTES = 120
"""About what the two headers of an append take of `max_payload`."""


class MemoryLog:
    """The logs."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection
        self._sleeping: dict[asyncio.Future[None], None] = {}

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        """Store a commit if the entity's last sequence is exactly `expected`."""
        return await self._append([Append(address, commit, expected)])

    async def append_batch(self, appends: Sequence[Append]) -> AppendAnswer:
        """Store some commits of different entities, all or none."""
        return await self._append(appends)

    async def _append(self, appends: Sequence[Append]) -> AppendAnswer:
        if not self._connection.up:
            return NoAck("no connection")
        answer = self._store(appends)
        try:
            return await self._connection.answer(answer)
        except Unreachable as error:
            return NoAck(str(error))

    def _store(self, appends: Sequence[Append]) -> AppendAnswer:
        entity = appends[0].address.entity
        log = self._streams.logs.get(entity)
        if log is None:
            return Refused(503, f"no log of {entity}")
        if any(len(a.commit.data) + MARK_BYTES > self._broker.max_payload for a in appends):
            return Refused(10054, "message size exceeds maximum allowed")
        named = [(escape(a.address.id), a) for a in appends]
        if len(named) > 1 and not all(log.ends_at(token, a.expected) for token, a in named):
            return WrongLast()
        if len({token for token, _ in named}) < len(named):  # as the server: the second's is void
            return WrongLast()
        now = self._broker.clock.now_ns()
        for token, a in named[:-1]:
            log.append(token, a.commit.data, a.commit.mark, now, expected=a.expected)
        token, a = named[-1]
        return log.append(token, a.commit.data, a.commit.mark, now, expected=a.expected)

    async def last(self, address: Address) -> Stored | None:
        """The entity's last message."""
        token = escape(address.id)
        self._connection.demand()
        log = self._streams.logs.get(address.entity)
        return await self._connection.answer(None if log is None else log.last(token))

    async def count(self, address: Address) -> int:
        """How many messages the entity has."""
        token = escape(address.id)
        self._connection.demand()
        log = self._streams.logs.get(address.entity)
        return await self._connection.answer(0 if log is None else log.count(token))

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        """One message of the type's log."""
        self._connection.demand()
        log = self._streams.logs.get(entity)
        return await self._connection.answer(None if log is None else log.by_sequence(sequence))

    async def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        """The entity's messages with `after` < sequence <= `upto`; never ends before `upto`."""
        token = escape(address.id)
        while after < upto:
            self._connection.demand()
            log = self._log(address)
            batch = await self._connection.answer(log.between(token, after, upto, BATCH))
            if not batch:
                raise Unreachable(f"the log of {address} has no sequence {upto}")
            for stored in batch:
                yield stored
            after = batch[-1].sequence

    async def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        """The entity's messages beyond the sequence `after`, then live ones."""
        token = escape(address.id)
        while True:
            if self._connection.closed:
                raise Unreachable("the session was closed")
            if not self._connection.up:
                await self._sleep(None, token)
                continue
            log = self._log(address)
            await self._connection.turn()
            for stored in log.between(token, after, None, BATCH):
                after = stored.sequence
                yield stored
            if not log.between(token, after, None, 1):
                await self._sleep(log, token)

    def wake(self) -> None:
        """The connection is new, or ended: whoever waits for a commit has to look."""
        for sleeper in list(self._sleeping):
            _wake(sleeper)

    def _log(self, address: Address) -> LogStore:
        log = self._streams.logs.get(address.entity)
        if log is None:
            raise Unreachable(f"there is no log of {address.entity} yet")
        return log

    async def _sleep(self, log: LogStore | None, token: str) -> None:
        """Until something may be new."""
        sleeper: asyncio.Future[None] = self._connection.loop.create_future()
        self._sleeping[sleeper] = None
        end = None  # an empty log is false: compare with None
        if log is not None:
            end = log.watch(token, lambda: self._connection.post(_wake, sleeper))
        try:
            await sleeper
        finally:
            del self._sleeping[sleeper]
            if end is not None:
                end()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class MemorySnapshots:
    """Snapshots and their parts."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection

    async def get(self, address: Address, part: str | None = None) -> bytes | None:
        """What is stored."""
        subject = self._subject(address, part)
        self._connection.demand()
        return await self._connection.answer(self._streams.snapshots.get(subject))

    async def put(self, address: Address, data: bytes, part: str | None = None) -> bool:
        """Replace it; whether the broker confirmed."""
        subject = self._subject(address, part)
        if not self._connection.up:
            return False
        fits = len(data) <= self._broker.max_payload and address.entity in self._streams.logs
        if fits:
            self._streams.snapshots[subject] = data
        return await _confirmed(self._connection, fits)

    def _subject(self, address: Address, part: str | None) -> str:
        subject = self._streams.subjects.snapshot(address.entity, escape(address.id), part)
        check_subject(subject, wildcards=False)
        return subject


class MemoryMembers:
    """The members bucket."""

    def __init__(self, streams: Streams, connection: Connection) -> None:
        self._members = streams.members
        self._connection = connection

    async def get(self, key: str) -> Entry | None:
        """The value."""
        self._connection.demand()
        return await self._connection.answer(self._members.get(key))

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
    ) -> int | None:
        """The new revision, or None if `expected` isn't the last one."""
        self._connection.demand()
        return await self._connection.answer(self._members.put(key, value, expected, ttl_s))

    async def delete(self, key: str, *, upto: int | None = None) -> None:
        """Remove a value."""
        self._connection.demand()
        self._members.delete(key, upto)
        await self._connection.answer(None)

    async def entries(self, head: str) -> dict[str, Entry]:
        """The values of all keys `head.TOKEN`."""
        self._connection.demand()
        return await self._connection.answer(self._members.entries(head))


class MemoryDeadLetters:
    """Copies of dead-letter verdicts."""

    def __init__(self, broker: MemoryBroker, streams: Streams, connection: Connection) -> None:
        self._broker = broker
        self._streams = streams
        self._connection = connection

    async def put(self, address: Address, data: bytes) -> bool:
        """Store a copy; an id that can't be escaped is stored under `=`."""
        try:
            token = escape(address.id)
        except ValueError:
            token = "="
        return await self._put(address.entity, token, data)

    async def put_raw(self, entity: str, token: str, data: bytes) -> bool:
        """The same for a token that is no valid id."""
        return await self._put(entity, "=", data)

    async def _put(self, entity: str, token: str, data: bytes) -> bool:
        if not self._connection.up:
            return False
        subject = self._streams.subjects.dead(entity, token)
        fits = len(data) <= self._broker.max_payload
        if fits:
            self._broker.publish(self._connection, subject, data, "", None)
        return await _confirmed(self._connection, fits)


async def _confirmed(connection: Connection, stored: bool) -> bool:
    """Whether the broker's word that it stored something arrives."""
    try:
        return await connection.answer(stored)
    except Unreachable:
        return False
