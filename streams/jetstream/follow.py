"""Following one entity's log: what is stored, then what comes, without a gap.

An ephemeral consumer that starts behind the last message seen. Whenever anything is unclear (a
gap in its sequence, a lost link, a consumer that went away), the next one starts there.

Who reads from another account (the setting `api_prefix`) looks again and again instead: whoever
may make a consumer may have it push to any subject of the streams' account, requests of the API
among them, so no reader there should be allowed to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

from ...entities.entropy import Entropy
from ..commit import MARK, Stored
from ..port import Forbidden, Incompatible, Unreachable
from .api import MessageResponse, Response, call
from .connection import Connection
from .consumer import delivery_of
from .direct import batch
from .errors import NO_CONSUMER, NO_MESSAGE, NO_STREAM
from .pull import Pull
from .replies import Received

logger: logging.Logger = logging.getLogger("perdure.jetstream")

CREDIT = 256
"""Messages in memory at most."""
INACTIVE_NS = 60_000_000_000
"""When the server forgets a reader that went away without a word."""
RETRY_S = 0.5
"""Between attempts while the log can't be reached."""
POLL_S = 0.25
"""Between two looks at a log that has nothing new: soon enough for a person, and four small
requests a second for the server."""


async def follow(
    connection: Connection, stream: str, subject: str, after: int, entropy: Entropy
) -> AsyncIterator[Stored]:
    """Messages of a subject beyond a sequence. Raises Unreachable if closed, without a log, and if
    nobody ever answered, as with an `api_prefix` that leads nowhere; Forbidden."""
    if not connection.at_home:
        async for stored in _poll(connection, stream, subject, after):
            yield stored
        return
    heard = False
    while True:
        await connection.wait()
        reader = _Reader(connection, stream, subject, f"follow-{entropy.token(8)}")
        try:
            await reader.open(after)
            heard = True
            while (read := await reader.next()) is not None:
                after = read.sequence
                yield read
        except (Unreachable, Incompatible) as error:
            await _again(connection, subject, error, heard=heard)
        finally:
            await reader.close()
        if reader.missing:
            raise Unreachable(f"there is no {stream} yet")


async def _again(
    connection: Connection, subject: str, error: Unreachable | Incompatible, *, heard: bool
) -> None:
    """Wait until the next try, where that may help. Raises Unreachable."""
    if isinstance(error, Forbidden):
        raise error
    if isinstance(error, Incompatible) and not heard:
        raise Unreachable(str(error)) from None
    logger.info("following %s: %s", subject, error)
    await connection.pause(RETRY_S)


async def _poll(
    connection: Connection, stream: str, subject: str, after: int
) -> AsyncIterator[Stored]:
    """The same by looking again and again."""
    heard = False
    while True:
        await connection.wait()
        try:
            found = await _news(connection, stream, subject, after)
        except (Unreachable, Incompatible) as error:
            await _again(connection, subject, error, heard=heard)
            continue
        if found is None:
            raise Unreachable(f"there is no {stream} yet")
        heard = True
        for stored in found:
            after = stored.sequence
            yield stored
        if not found:
            await connection.pause(POLL_S)


async def _news(
    connection: Connection, stream: str, subject: str, after: int
) -> list[Stored] | None:
    """What comes next, empty if nothing does by the leader's word; None if there is no stream.

    Raises Unreachable, Incompatible if nobody answers.
    """
    query, accept = {"seq": after + 1, "next_by_subj": subject}, (NO_MESSAGE, NO_STREAM)
    path = f"STREAM.MSG.GET.{stream}"
    answer = await call(connection, path, query, MessageResponse, accept=accept)
    if answer.message is None:
        missing = answer.error is not None and answer.error.err_code == NO_STREAM
        return None if missing else []
    found = await batch(connection, stream, subject, after=after)
    return found or [answer.message.stored()]  # a replica may not have it yet


class _Reader:
    """One ephemeral consumer."""

    def __init__(self, connection: Connection, stream: str, subject: str, name: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._name = name
        self._found: deque[Stored] = deque()
        self.missing = False
        self._expected = 1
        self._over = False
        self._news = asyncio.Event()
        self._pull = Pull(connection, stream, name, self._arrived, self._end)

    async def open(self, after: int) -> None:
        """Create it. Raises Unreachable, Incompatible if nobody answers."""
        await self._pull.open(self._connection.pull_inbox())
        body = {
            "stream_name": self._stream,
            "action": "create",
            "config": {
                "name": self._name,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": after + 1,
                "ack_policy": "none",
                "filter_subject": self._subject,
                "inactive_threshold": INACTIVE_NS,
                "mem_storage": True,
                "num_replicas": 1,
            },
        }
        path = f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}"
        made = await call(self._connection, path, body, Response, accept=(NO_STREAM,))
        self.missing = made.error is not None
        if self.missing:
            self._end("missing")
        self._pull.grant(CREDIT)

    async def next(self) -> Stored | None:
        """The next message; None when this reader is over."""
        while not self._found:
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        self._pull.grant(1)
        return self._found.popleft()

    async def close(self) -> None:
        """Delete it, if that is possible; else the server forgets it."""
        await self._pull.close()
        path = f"CONSUMER.DELETE.{self._stream}.{self._name}"
        with contextlib.suppress(Unreachable, Incompatible):
            await call(self._connection, path, None, Response, accept=(NO_CONSUMER, NO_STREAM))

    def _arrived(self, message: Received) -> None:
        delivery = delivery_of(message)
        if delivery.consumer_sequence != self._expected:
            self._end("gap")
        elif not self._over:
            self._expected += 1
            mark = (message.headers or {}).get(MARK)
            self._found.append(Stored(delivery.sequence, delivery.time_ns, delivery.data, mark))
            self._news.set()

    def _end(self, reason: str) -> None:
        self._over = True
        self._news.set()
