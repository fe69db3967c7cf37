"""Core NATS of a session in memory. What is meant is said in `streams/port.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...entities.entropy import Entropy
from ..port import Message, Unreachable
from .connection import Connection
from .core import Listener, check_subject

if TYPE_CHECKING:
    from .broker import MemoryBroker


class MemorySubscription:
    """Something that listens."""

    def __init__(self, broker: MemoryBroker, listener: Listener) -> None:
        self._broker = broker
        self._listener = listener

    async def stop(self) -> None:
        """Listen no more."""
        self._broker.core.forget(self._listener)


class MemoryInbox:
    """A place for answers."""

    def __init__(self, broker: MemoryBroker, prefix: str, listener: Listener) -> None:
        self._broker = broker
        self._prefix = prefix
        self._listener = listener

    def subject(self, suffix: str) -> str:
        """A reply subject below this inbox."""
        return f"{self._prefix}.{suffix}"

    def close(self) -> None:
        """Forget it."""
        self._broker.core.forget(self._listener)


class MemoryAsks:
    """Core NATS."""

    def __init__(self, broker: MemoryBroker, connection: Connection, entropy: Entropy) -> None:
        self._broker = broker
        self._connection = connection
        self._prefix = f"_INBOX.{entropy.token(11)}"
        self._inboxes = 0

    async def subscribe(
        self, subject: str, on_message: Callable[[Message], None]
    ) -> MemorySubscription:
        """Listen; on return the broker knows of it."""
        self._connection.demand()
        listener = self._broker.core.listen(subject, self._connection, on_message)
        return await self._connection.answer(MemorySubscription(self._broker, listener))

    def inbox(self, on_message: Callable[[Message], None]) -> MemoryInbox:
        """A fresh inbox."""
        self._inboxes += 1
        prefix = f"{self._prefix}.{self._inboxes}"
        listener = self._broker.core.listen(f"{prefix}.*", self._connection, on_message)
        return MemoryInbox(self._broker, prefix, listener)

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish, at most once."""
        check_subject(subject, wildcards=False)
        if self._connection.up and len(data) <= self._broker.max_payload:
            self._broker.publish(self._connection, subject, data, reply, headers)

    def denied(self, subject: str, since: float) -> str | None:
        """Nobody is denied anything here."""
        return None

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Send and wait for one answer."""
        self._connection.demand()
        loop = self._connection.loop
        answered: asyncio.Future[Message] = loop.create_future()

        def on_message(message: Message) -> None:
            if not answered.done():
                answered.set_result(message)

        def on_timeout() -> None:
            if not answered.done():
                answered.set_exception(Unreachable(f"no answer on {subject} in {timeout_s} s"))

        inbox = self.inbox(on_message)
        timer = loop.call_later(timeout_s, on_timeout)
        try:
            self.send(subject, data, reply=inbox.subject("0"))
            return await answered
        finally:
            timer.cancel()
            inbox.close()
