"""Answers: one call's inbox, and its only way to wait.

A call waits for one thing at a time: the next answer, or a moment. Each attempt has its own suffix
below the inbox, so that a late answer is known for what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from .alarm import Alarm
from .port import Asks, Inbox, Message

HELD = 64
"""Answers held for one call, far more than it ever waits for: an inbox is a subject, and anybody
who learns it may flood it. What is dropped is the oldest; a recorded outcome comes again."""


class Closed(Exception):
    """The client was closed while the call waited."""


class Answers:
    """What arrives for one call. The inbox is made when its first subject is wanted.

    Used in a `with`: at its end the inbox is forgotten, and `ended` is told.
    """

    __slots__ = ("_alarm", "_asks", "_closed", "_ended", "_held", "_inbox", "_waiter")

    def __init__(self, asks: Asks, alarm: Alarm, ended: Callable[[Answers], object]) -> None:
        self._asks = asks
        self._alarm = alarm
        self._ended = ended
        self._inbox: Inbox | None = None
        self._held: list[Message] = []
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def subject(self, attempt: int) -> str:
        """Where the answer to an attempt goes."""
        if self._inbox is None:
            self._inbox = self._asks.inbox(self._arrived)
        return self._inbox.subject(str(attempt))

    @property
    def held(self) -> bool:
        """Whether an answer is there already."""
        return bool(self._held)

    def check(self) -> None:
        """Raises Closed once the client is closing."""
        if self._closed:
            raise Closed

    def pop(self) -> Message | None:
        """The oldest answer that is there, if any."""
        return self._held.pop(0) if self._held else None

    async def wait(self, until: float) -> None:
        """Until an answer is there, or the moment `until` (loop time, seconds). Raises Closed."""
        if self._held:
            return
        self.check()
        self._waiter = waiter = self._alarm.loop.create_future()
        moment = self._alarm.at(until, self._wake)
        try:
            await waiter
        finally:
            self._alarm.cancel(moment)
            self._waiter = None
        if not self._held:
            self.check()

    def stop(self) -> None:
        """Let the call end: the client is closing."""
        self._closed = True
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended(self)
        if self._inbox is not None:
            self._inbox.close()

    def _arrived(self, message: Message) -> None:
        held = self._held
        if len(held) >= HELD:
            del held[0]
        held.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def attempt_of(subject: str) -> int:
    """The attempt that an answer's subject names; -1 for one that no attempt has."""
    suffix = subject.rpartition(".")[2]
    return int(suffix) if suffix.isascii() and suffix.isdigit() and len(suffix) <= 9 else -1
