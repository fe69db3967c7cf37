"""Asks on core NATS: requests, answers and pings; nothing is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from ..port import Message, Unreachable
from .connection import Connection, Listener
from .errors import TooLarge

logger: logging.Logger = logging.getLogger("perdure.jetstream")


class JetStreamAsks:
    """`port.Asks` on core NATS."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = connection.denials.asked.append
        self._now = asyncio.get_running_loop().time

    async def subscribe(
        self, subject: str, on_message: Callable[[Message], None]
    ) -> JetStreamSubscription:
        """Listen; on return the server knows of it. Raises Unreachable, ValueError."""

        listener = await self._connection.subscribe(subject, on_message)
        return JetStreamSubscription(self._connection, listener)

    def inbox(self, on_message: Callable[[Message], None]) -> JetStreamInbox:
        """A fresh inbox; cheap, one for each call."""
        return JetStreamInbox(self._connection, self._connection.inbox(on_message))

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish, at most once. Dropped while there is no connection, and if it is too large or
        its subject can't be encoded. Raises ValueError for another subject that can't be."""
        try:
            sent = self._connection.send(subject, data, reply, headers)
        except (TooLarge, UnicodeEncodeError) as error:  # one bad message, maybe a stranger's
            logger.warning("not sent to %r: %s", subject[:200], error)
            return
        if reply and sent:
            self._asked((self._now(), subject))

    def denied(self, subject: str, since: float) -> str | None:
        """Why nobody got what was sent there, with a reply subject, at that time (the loop's) or
        later; None unless that is certain."""
        return self._connection.denials.certain(subject, since)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and wait for one answer (maybe with `no_responders`). Raises Unreachable."""
        try:
            return await self._connection.request(subject, data, timeout_s=timeout_s)
        except TooLarge as error:
            raise Unreachable(f"not sent to {subject}: {error}") from None


class JetStreamSubscription:
    """`port.Subscription` on core NATS."""

    def __init__(self, connection: Connection, listener: Listener) -> None:
        self._connection = connection
        self._listener = listener

    async def stop(self) -> None:
        """Listen no more."""
        await self._connection.unsubscribe(self._listener)


class JetStreamInbox:
    """`port.Inbox` below the connection's shared wildcard."""

    __slots__ = ("_connection", "_prefix")

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix

    def subject(self, suffix: str) -> str:
        """A reply subject below this inbox."""
        return f"{self._prefix}.{suffix}"

    def close(self) -> None:
        """Forget it; later answers are dropped."""
        self._connection.forget(self._prefix)
