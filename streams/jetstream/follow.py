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
from ..port import Forbidden, Incompatible, Message, Unreachable
from .api import MessageResponse, Response, call, lookup
from .connection import Connection
from .consumer import delivery_of
from .direct import batch
from .errors import NO_CONSUMER, NO_MESSAGE, NO_STREAM, ApiError
from .pull import Pull

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
LOOK_BACK = 40
"""So many looks that found nothing make one whether what was read is still there: ten seconds."""
DELETE_S = 1.0
"""How long it may take to delete a reader, in seconds; else the server forgets it, see above."""
WARN_S = 10.0
"""After so many seconds of failing tries on one connection somebody should know."""
GIVE_UP_S = 300.0
"""After so many it ends: a server that starts, or a stream that gets a new leader, takes tens of
seconds, and a cluster whose servers are replaced one by one a few minutes."""


async def follow(
    connection: Connection, stream: str, subject: str, after: int, entropy: Entropy
) -> AsyncIterator[Stored]:
    """Messages of a subject beyond a sequence.

    Raises Unreachable if closed; without a log, or if that was made anew; at once if what nobody
    ever heard is refused, as with an `api_prefix` that leads nowhere; after GIVE_UP_S of failing.
    Forbidden if this login may not.
    """
    if not connection.at_home:
        async for stored in _poll(connection, stream, subject, after):
            yield stored
        return
    patience, read = Patience(connection, subject), 0
    while True:
        await connection.wait()
        reader = _Reader(connection, stream, subject, f"follow-{entropy.token(8)}")
        try:
            await reader.open(after)
            await require_read(connection, stream, subject, read)
            patience.heard()
            while (found := await reader.next()) is not None:
                after = read = found.sequence
                yield found
            reader.check()
        except (Unreachable, Incompatible) as error:
            await patience.fail(error)
        finally:
            await reader.close()


class _Over(Unreachable):
    """There is nothing to follow any more."""


async def require_read(connection: Connection, stream: str, subject: str, read: int) -> None:
    """That the log still has what was read of it, up to that sequence (0: nothing was).

    A consumer can begin beyond the end of a log, and then waits for it in silence.
    Raises Unreachable.
    """
    if not read:
        return
    try:
        last = await lookup(connection, stream, {"last_by_subj": subject})
    except Forbidden as error:
        logger.debug("following %s: who may only follow can't look back: %s", subject, error)
        return
    if last is None or last.seq < read:
        ends = "has nothing" if last is None else f"ends at {last.seq}"
        raise _Over(
            f"{subject} {ends}, and was read up to {read}: {stream} was made anew, or lost its end"
        )


class Patience:
    """How long it is tried to follow a log whose server refuses, or is silent."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject
        self._loop = asyncio.get_running_loop()
        self._heard = False
        self._failing_at: float | None = None  # loop time, of the first failure in a row
        self._links = 0
        self._warned = False

    def heard(self) -> None:
        """It can be followed."""
        self._heard, self._failing_at, self._warned = True, None, False

    async def fail(self, error: Unreachable | Incompatible) -> None:
        """Wait until the next try, where that may help. Raises Unreachable, Forbidden."""
        if isinstance(error, Forbidden | _Over):
            raise error
        if isinstance(error, Incompatible | ApiError) and not self._heard:
            raise Unreachable(str(error)) from None
        now = self._loop.time()
        if self._failing_at is None or self._links != self._connection.links:
            self._failing_at, self._links, self._warned = now, self._connection.links, False
        failing_s = now - self._failing_at
        if failing_s >= GIVE_UP_S:
            raise Unreachable(f"not followed any more, {failing_s:.0f} s in vain: {error}")
        warn = failing_s >= WARN_S and not self._warned
        self._warned = self._warned or warn
        level = logging.WARNING if warn else logging.INFO
        logger.log(level, "following %s: %s", self._subject, error)
        await self._connection.pause(RETRY_S)


async def _poll(
    connection: Connection, stream: str, subject: str, after: int
) -> AsyncIterator[Stored]:
    """The same by looking again and again."""
    patience, read, idle = Patience(connection, subject), 0, 0
    while True:
        await connection.wait()
        try:
            found = await _news(connection, stream, subject, after)
            idle = 0 if found else idle + 1
            if idle % LOOK_BACK == LOOK_BACK - 1:
                await require_read(connection, stream, subject, read)
        except (Unreachable, Incompatible) as error:
            await patience.fail(error)
            continue
        patience.heard()
        for stored in found:
            after = read = stored.sequence
            yield stored
        if not found:
            await connection.pause(POLL_S)


async def _news(connection: Connection, stream: str, subject: str, after: int) -> list[Stored]:
    """What comes next, empty if nothing does by the leader's word.

    Raises Unreachable, Incompatible if nobody answers.
    """
    query, accept = {"seq": after + 1, "next_by_subj": subject}, (NO_MESSAGE, NO_STREAM)
    path = f"STREAM.MSG.GET.{stream}"
    answer = await call(connection, path, query, MessageResponse, accept=accept)
    if answer.message is None:
        if answer.error is not None and answer.error.err_code == NO_STREAM:
            raise _Over(f"there is no {stream} yet")
        return []
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
        self._denied = ""
        self._expected = 1
        self._over = False
        self._news = asyncio.Event()
        self._pull = Pull(connection, stream, name, self._arrived, self._end, self._deny)

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
        if made.error is not None:
            raise _Over(f"there is no {self._stream} yet")
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

    def check(self) -> None:
        """Whether it is over because this login may not go on. Raises Forbidden."""
        if self._denied:
            raise Forbidden(self._denied)

    async def close(self) -> None:
        """Delete it, if that is possible; else the server forgets it."""
        await self._pull.close()
        path, accept = f"CONSUMER.DELETE.{self._stream}.{self._name}", (NO_CONSUMER, NO_STREAM)
        with contextlib.suppress(Unreachable, Incompatible):
            await call(self._connection, path, None, Response, accept=accept, timeout_s=DELETE_S)

    def _arrived(self, message: Message) -> None:
        delivery = delivery_of(message)
        if delivery.consumer_sequence != self._expected:
            self._end("gap")
        elif not self._over:
            self._expected += 1
            mark = (message.headers or {}).get(MARK)
            self._found.append(Stored(delivery.sequence, delivery.time_ns, delivery.data, mark))
            self._news.set()

    def _deny(self, why: str) -> None:
        self._denied = why
        self._end("denied")

    def _end(self, reason: str) -> None:
        self._over = True
        self._news.set()
