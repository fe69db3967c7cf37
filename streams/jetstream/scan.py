"""Scanning: reading a whole stream in its order; for operators.

Nothing on a command's way uses this. A scan holds one request's messages in memory and no more,
whatever the stream has. It reads from any replica and asks the leader where that has nothing, so
it ends early only where the leader has nothing either. What the server can't read any more (its
checksum is wrong) is left out without a word: who needs to know looks for holes in `sequence`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from .api import RawMessage, Response, StreamNames, call, lookup, parse_time
from .connection import Connection
from .direct import Record, records
from .errors import NO_STREAM


class Bounds(msgspec.Struct, frozen=True):
    """What a stream holds, as its leader says."""

    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0


class _Info(Response, frozen=True):
    state: Bounds = Bounds()


async def bounds(connection: Connection, stream: str) -> Bounds | None:
    """The stream's ends; None if there is no such stream. Raises Unreachable, Incompatible."""
    found = await call(connection, f"STREAM.INFO.{stream}", None, _Info, accept=(NO_STREAM,))
    return None if found.error is not None else found.state


async def names(connection: Connection, subject: str) -> list[str]:
    """The streams that take a subject. Raises Unreachable, Incompatible."""
    found: list[str] = []
    while True:
        query = {"subject": subject, "offset": len(found)}
        page = await call(connection, "STREAM.NAMES", query, StreamNames)
        found += page.streams or []
        if not page.streams or len(found) >= page.total:
            return found


async def scan(
    connection: Connection, stream: str, subject: str, *, after: int = 0, upto: int
) -> AsyncIterator[Record]:
    """The messages on a subject (wildcards allowed) with `after` < sequence <= `upto`, in order.

    Raises Unreachable.
    """
    while after < upto:
        found = await records(connection, stream, subject, after=after)
        if not found:  # a stale replica, or nothing more
            record = await _next(connection, stream, subject, after)
            found = [] if record is None else [record]
        if not found:
            return
        for record in found:
            if record.sequence > upto:
                return
            yield record
        after = found[-1].sequence


async def get(connection: Connection, stream: str, sequence: int) -> Record | None:
    """One message from the leader; None if it has none there. Raises Unreachable."""
    return await _lookup(connection, stream, {"seq": sequence})


async def _next(connection: Connection, stream: str, subject: str, after: int) -> Record | None:
    return await _lookup(connection, stream, {"seq": after + 1, "next_by_subj": subject})


async def _lookup(connection: Connection, stream: str, query: dict[str, object]) -> Record | None:
    found = await lookup(connection, stream, query)
    return None if found is None else _record(found)


def _record(message: RawMessage) -> Record:
    stored = message.stored()
    time_ns = parse_time(message.time)
    return Record(message.seq, time_ns, message.subject, message.data, stored.mark)
