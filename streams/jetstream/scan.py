"""Scanning: reading a whole stream in its order, and removing single messages; for operators.

Nothing on a command's way uses this. A scan holds one request's messages in memory and no more,
whatever the stream has. It reads from any replica and asks the leader where that has nothing, so
it ends early only where the leader has nothing either. What the server can't read any more (its
checksum is wrong) is left out without a word: who needs to know looks for holes in `sequence`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from ..port import Incompatible, Unreachable
from .api import MessageResponse, RawMessage, Response, StreamNames, call, parse_time
from .connection import Connection
from .direct import Record, records
from .errors import NO_MESSAGE, NO_STREAM

GONE = 10043
"""The server's code for a message that isn't there to be deleted."""
KEPT = 10057
"""Its code for a stream whose messages can't be deleted."""


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


async def remove(connection: Connection, stream: str, sequence: int) -> bool:
    """Delete one message; False if it is gone already. Raises Unreachable, Incompatible."""
    body = {"seq": sequence, "no_erase": True}
    path = f"STREAM.MSG.DELETE.{stream}"
    answer = await call(connection, path, body, Response, accept=(GONE, KEPT))
    if answer.error is not None and answer.error.err_code == KEPT:
        raise Incompatible(f"{stream}: its messages can't be deleted: {answer.error}")
    return answer.error is None


async def _next(connection: Connection, stream: str, subject: str, after: int) -> Record | None:
    return await _lookup(connection, stream, {"seq": after + 1, "next_by_subj": subject})


async def _lookup(connection: Connection, stream: str, query: dict[str, object]) -> Record | None:
    path, accept = f"STREAM.MSG.GET.{stream}", (NO_MESSAGE, NO_STREAM)
    try:
        answer = await call(connection, path, query, MessageResponse, accept=accept)
    except Incompatible as error:
        raise Unreachable(str(error)) from None
    return None if answer.message is None else _record(answer.message)


def _record(message: RawMessage) -> Record:
    stored = message.stored()
    time_ns = parse_time(message.time)
    return Record(message.seq, time_ns, message.subject, message.data, stored.mark)
