"""A consumer of one shard: one term, on one link.

Its name is never used again, it is created with `action: create`, and its metadata holds a
nonce, so that a second creation is always refused. Acknowledgements go out on the link on which
it was created, or never: after a reconnect or a restart the stream may have lost its tail, and an
old acknowledgement would remove a new command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..port import ConsumerInfo, Delivery, Incompatible, Message, Unreachable
from .api import ConsumerResponse
from .connection import Connection
from .pull import Pull, info

logger: logging.Logger = logging.getLogger("perdure.jetstream")

OWNER = "perdure-owner"
NONCE = "perdure-nonce"

ACK = b"+ACK"
PROGRESS = b"+WPI"

LOST_S = 15.0
"""How long a delivery that the server has counted may take to arrive, in seconds. That of a
replicated consumer is counted first, and sent once a majority knows of it, which may be long where
there is none; a new term for each such delivery would only make that worse."""


class Missing:
    """Whether something is lost of what the server says that it has given."""

    def __init__(self) -> None:
        self.arrived: int = 0  # the consumer sequence of what came last
        self._given = 0
        self._since = 0.0

    def is_lost(self, given: int, now: float) -> bool:
        """`given` is the server's word at `now`: whether an earlier one hasn't come true since."""
        if self.arrived >= self._given:
            self._given, self._since = given, now
        return self.arrived < self._given and now - self._since >= LOST_S


class JetStreamConsumer:
    """`port.Consumer` on JetStream."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        name: str,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.name = name
        self.pull: Pull = Pull(
            connection, stream, name, self._arrived, self._ended, on_given=self._given
        )
        self._connection = connection
        self._stream = stream
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._lost = False
        self._missing = Missing()

    def grant(self, credit: int) -> None:
        """Allow this many more deliveries than were allowed so far."""
        if credit > 0:
            self.pull.grant(credit)

    def ack(self, handle: str) -> None:
        """Remove the message from the stream. May be lost; then it is delivered again."""
        if not self._lost:
            self.pull.send(handle, ACK)

    def progress(self, handle: str) -> None:
        """Still at work: don't deliver it again for another `ack_wait`."""
        if not self._lost:
            self.pull.send(handle, PROGRESS)

    async def info(self) -> ConsumerInfo | None:
        """What the server says; None if the consumer is gone. Raises Unreachable."""
        try:
            found = await info(self._connection, self._stream, self.name)
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        return None if found is None else described(found)

    async def stop(self) -> None:
        """Take nothing more. The consumer stays, so that its successor can read it."""
        await self.pull.close()

    def _ended(self, reason: str) -> None:
        self._lost = True
        if reason != "closed":  # whoever closes the session knows
            self._on_lost(reason)

    def _arrived(self, message: Message) -> None:
        delivery = delivery_of(message)
        self._missing.arrived = delivery.consumer_sequence
        self._on_delivery(delivery)

    def _given(self, given: int) -> None:
        """The server has given so many. What was lost on its way, between servers for instance,
        it would give again after `ack_wait` only, and nothing need ever come behind it."""
        now = asyncio.get_running_loop().time()
        if not self._lost and self._missing.is_lost(given, now):
            logger.info("pull of %s: a delivery got lost", self.name)
            self._lost = True
            self._on_lost("gap")


def delivery_of(message: Message) -> Delivery:
    """A delivered tell. What belongs to it is in the subject of its acknowledgement.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, and
    with a domain and an account before the stream, from 11 parts on.
    """
    parts = message.reply.split(".")
    at = 2 if len(parts) < 11 else 4
    return Delivery(
        parts[at + 1],
        int(parts[at + 4]),
        int(parts[at + 3]),
        int(parts[at + 5]),
        message.subject.rpartition(".")[2],
        message.data,
        message.headers,
        message.reply,
    )


def described(found: ConsumerResponse) -> ConsumerInfo:
    """A consumer, as the port describes it."""
    owner = found.config.metadata.get(OWNER, "")
    given = found.delivered
    return ConsumerInfo(found.name, owner, given.stream_seq, found.num_pending, given.consumer_seq)
