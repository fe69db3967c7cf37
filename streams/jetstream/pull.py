"""A standing pull: deliveries of a consumer come into one callback, as far as credit reaches.

nats-py's `fetch` is several times slower, and swallows statuses. Here a pull request stays open
at the server; another is sent when as much credit is free as is still out, so that a busy
consumer sends one request for many messages. Each end of a request (expiry, change of leader,
silence) leads to the next one.

A pull belongs to one link. When the consumer is gone, the link was replaced or the stream came
back from a restart, it ends, once, with the reason, and does nothing any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from nats.aio.subscription import Subscription

from ..port import Forbidden, Incompatible, Message, Unreachable
from .api import TIMEOUT_S, ConsumerResponse, call
from .connection import Connection
from .errors import NO_CONSUMER, NO_STREAM
from .link import Link
from .messages import frame

logger: logging.Logger = logging.getLogger("perdure.jetstream")

EXPIRES_S = 30.0
"""How long one request stays open."""
HEARTBEAT_S = 3.0
"""How often the server shows that a request is still open, in seconds: most of what an idle runner
hears, so seldom; no more than half of EXPIRES_S, as the server demands."""
SILENCE_S = HEARTBEAT_S + 2.0
"""After this the server is asked whether the consumer is still there. A server that is merely slow
answers, and nothing is lost by asking."""
CHECK_S = 2.0
"""How long it may take to answer that. Nobody answers for a consumer without a leader, and it may
get one at any moment, so it is asked again at once."""

_NS = 1_000_000_000


class Credit:
    """How many deliveries may still come, and how many were asked for."""

    def __init__(self) -> None:
        self.free: int = 0
        self.out: int = 0

    def grant(self, credit: int) -> None:
        """This many more may come."""
        self.free += credit

    def take(self) -> int:
        """How many to ask for now: all that is free, once that is as much as what is out."""
        if self.free == 0 or self.free < self.out:
            return 0
        batch, self.free = self.free, 0
        self.out += batch
        return batch

    def arrived(self) -> None:
        """One came."""
        self.out = max(0, self.out - 1)

    def returned(self, remaining: int) -> None:
        """A request ended with this many not delivered."""
        remaining = min(remaining, self.out)
        self.out -= remaining
        self.free += remaining

    def forget(self) -> None:
        """All requests ended, and nobody said with how many."""
        self.free += self.out
        self.out = 0


class Pull:
    """The standing pull of one consumer; `requests` counts what it asked for.

    `on_denied` is told if this login may not pull, or not hear what comes. Without it that is only
    logged, and the pull goes on trying: a runner survives a moment of wrong permissions.
    `on_given` is told now and then how much this consumer has given so far, to whomever.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        on_message: Callable[[Message], None],
        on_end: Callable[[str], None],
        on_denied: Callable[[str], None] | None = None,
        on_given: Callable[[int], None] | None = None,
    ) -> None:
        self.over: bool = False
        self.requests: int = 0
        self.inbox: str = ""
        self._connection = connection
        self._link: Link = connection.live()
        self._stream = stream
        self._consumer = consumer
        self._on_message = on_message
        self._on_end = on_end
        self._on_denied = on_denied
        self._on_given = on_given
        self._denied = False  # and that was told
        self._credit = Credit()
        self._loop = asyncio.get_running_loop()
        self._heard = self._opened_at = self._loop.time()
        self._unanswered = False  # nobody said whether the consumer is there
        self._subject = f"{connection.api}CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._subscription: Subscription | None = None
        self._check: asyncio.Task[None] | None = None

    async def open(self, inbox: str) -> None:
        """Listen below the inbox; to be called before the consumer is created."""
        self.inbox = inbox
        self._subscription = await self._link.subscribe(f"{inbox}.*", self._receive)
        self._connection.bind(self)

    async def close(self) -> None:
        """Take nothing more. The consumer stays."""
        self.over = True
        self._connection.unbind(self)
        if self._check is not None:
            self._check.cancel()
        if self._subscription is not None:
            await self._link.unsubscribe(self._subscription)

    def send(self, subject: str, data: bytes) -> None:
        """Send something on the link of this pull, or never."""
        if self._link.alive:
            self._link.outbox.put(frame(subject, "", b"", data))

    def grant(self, credit: int) -> None:
        """Allow this many more deliveries."""
        self._credit.grant(credit)
        self._ask()

    # -- what comes -------------------------------------------------------------------------------
    def _receive(self, message: Message) -> None:
        if self.over:
            return
        self._heard = self._loop.time()
        if message.reply.startswith("$JS.ACK."):
            self._credit.arrived()
            self._on_message(message)
        elif message.headers is not None:
            self._status(message.headers)

    def _status(self, headers: Mapping[str, str]) -> None:
        status, text = headers.get("Status", ""), headers.get("Description", "")
        match status, text.lower():
            case "100", _:  # a heartbeat
                given = headers.get("Nats-Last-Consumer", "")
                if self._on_given is not None and given.isascii() and given.isdigit():
                    self._on_given(int(given))
            case "409", "consumer deleted":
                self._end("deleted")
            case "409", "server shutdown":
                self._end("restarted")
            case "408", _:
                self._returned(headers)
            case "503", _:
                self._verify()
            case _:
                logger.info("pull of %s: %s %s", self._consumer, status, text)
                self._returned(headers)

    def _returned(self, headers: Mapping[str, str]) -> None:
        remaining = headers.get("Nats-Pending-Messages", "")
        if remaining.isdigit():
            self._credit.returned(int(remaining))
        else:
            self._credit.forget()
        self._ask()

    def _ask(self) -> None:
        batch = 0 if self.over or not self._link.alive else self._credit.take()
        if batch:
            self.requests += 1
            reply = f"{self.inbox}.{self.requests}"
            if not self._link.outbox.put(frame(self._subject, reply, b"", _request(batch))):
                self._credit.forget()  # asked again after the silence that follows

    # -- what doesn't come ------------------------------------------------------------------------
    def tick(self, now: float) -> None:
        """Whether the server has been silent for too long; without a request out it always is."""
        denials, since = self._connection.denials, self._opened_at
        why = denials.told("publish", self._subject, since)
        if why := why or denials.told("subscription", f"{self.inbox}.*", since):
            self._deny(why)
        if now - self._heard > (SILENCE_S if self._credit.out else HEARTBEAT_S):
            self._verify()

    def ended(self, reason: str) -> None:
        """The link was replaced, or there will be none any more."""
        self._end(reason)

    def _verify(self) -> None:
        if self._check is None or self._check.done():
            self._check = self._loop.create_task(self._verified(self._heard))

    async def _verified(self, heard: float) -> None:
        """Ask for the consumer; pull again if it is there and nothing came meanwhile."""
        try:
            found = await info(self._connection, self._stream, self._consumer, CHECK_S)
        except Forbidden as error:
            self._deny(str(error))
            return
        except (Unreachable, Incompatible) as error:
            level = logging.DEBUG if self._unanswered else logging.INFO
            logger.log(level, "pull of %s: %s", self._consumer, error)
            self._unanswered = True
            return
        self._unanswered = False
        if self.over:
            return
        if found is None:
            self._end("deleted")
        elif self._heard == heard:
            if found.cluster is not None and not found.cluster.replicas and self._credit.out:
                # The only server that has the stream was silent: it may be back with less.
                self._end("restarted")
                return
            self._heard = self._loop.time()
            self._credit.forget()
            self._ask()

    def _deny(self, why: str) -> None:
        """This login may not: say so once."""
        if self.over or self._denied:
            return
        self._denied = True
        if self._on_denied is not None:
            self._on_denied(why)
        else:
            logger.warning("pull of %s: tried until it may: %s", self._consumer, why)

    def _end(self, reason: str) -> None:
        if self.over:
            return
        self.over = True
        self._connection.unbind(self)
        if self._subscription is not None:
            self._connection.later(self._link.unsubscribe(self._subscription))
        try:
            self._on_end(reason)
        except Exception:
            logger.exception("on_lost of %s failed", self._consumer)


def _request(batch: int) -> bytes:
    expires, heartbeat = int(EXPIRES_S * _NS), int(HEARTBEAT_S * _NS)
    return f'{{"batch":{batch},"expires":{expires},"idle_heartbeat":{heartbeat}}}'.encode()


async def info(
    connection: Connection, stream: str, consumer: str, timeout_s: float = TIMEOUT_S
) -> ConsumerResponse | None:
    """What the server says of a consumer; None if it is gone. Raises Unreachable."""
    found = await call(
        connection,
        f"CONSUMER.INFO.{stream}.{consumer}",
        None,
        ConsumerResponse,
        accept=(NO_CONSUMER, NO_STREAM),
        timeout_s=timeout_s,
    )
    return None if found.error is not None else found
