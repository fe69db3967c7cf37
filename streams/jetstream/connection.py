"""Connection: what outlives a link. It makes a new one for ever, and says what was lost.

Everything of this backend goes through here: publishes that are acknowledged, requests, sends,
subscriptions. When a link is lost, every outstanding answer ends at once; when the next one is
up, subscriptions are made again before anything else, and whoever holds a consumer is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import BadSubjectError, Error

from ...entities.entropy import Entropy
from ...entities.settings import JETSTREAM_API, Settings, without_login
from ..port import Forbidden, Incompatible, Message, Unreachable
from .denials import Denials, violation, violation_in
from .errors import Denied, Lost, TooLarge
from .link import Link, dial
from .login import options, servers
from .messages import check_subject, frame, headers_block
from .reader import Handler
from .replies import Read, Replies, itself
from .room import Room

logger: logging.Logger = logging.getLogger("perdure.jetstream")

ACK_TIMEOUT_S = 2.0
"""For acknowledgements of publishes, in seconds: 100 times a slow fsync. Later is unknown."""
TICK_S = 0.1
"""How often overdue answers are looked for while any is waited for, in seconds."""
LOOK_S = 0.5
"""How often a lost link is looked for, and those that live on one look for silence, in seconds:
there may be a thousand, and each allows whole seconds. An idle process does nothing more often."""
RETRY_BASE_S = 0.05
RETRY_MAX_S = 2.0
"""Between rounds of reconnecting: soon at first, since servers restart in well under a second."""
ENDING_S = 0.5
"""How long a server that stops may keep a connection open after its JetStream is gone."""
IN_FLIGHT_BYTES = 32 * 1024**2
"""Publishes that wait for their acknowledgement; more wait before they are sent."""
IN_FLIGHT_LEAST = 16 * 1024
"""Counted for each of them at least: so at most 2,048 are under way. A server that fsyncs each
stores some 2,600 a second, and the last of them is still acknowledged in time; without this
bound an overload would become unknown outcomes, and each of these more load."""
DEFAULT_PAYLOAD = 1024**2
"""The server's limit of one message with its headers, in bytes, until it tells another."""
INBOX_BYTES = 11
"""Of an inbox's name: nobody else may guess it, or hit it by chance."""


class Bound(Protocol):
    """Something that lives on one link: it is told when that is replaced, and looked after."""

    def tick(self, now: float) -> None:
        """Look after timeouts; `now` is the loop's time."""
        ...

    def ended(self, reason: str) -> None:
        """There is a new link ("reconnected"), or will never be one ("closed")."""
        ...


@dataclass(eq=False, slots=True)
class Listener:
    """A subscription that is made again on each link."""

    subject: str
    handler: Handler
    subscription: Subscription | None = None


class Publish(Struct, frozen=True):
    """A message to be stored."""

    subject: str
    data: bytes
    headers: bytes = b""  # as they are sent (`headers_block`)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a connection does right now, and what it had to do."""

    connected: bool
    links: int
    """Connections made so far; each after the first replaced one that was lost."""
    waiting: int
    """Requests and publishes that wait for their answer."""
    in_flight_bytes: int
    """Publishes that wait for their acknowledgement."""
    outbox_bytes: int
    """Sends that wait for the socket."""
    dropped: int
    """Sends that found no room, or no connection, on the present link."""
    violations: tuple[str, ...]
    """Permissions that the server said this login lacks, oldest first."""


class Connection:
    """The way to the server, as long as the session lives."""

    def __init__(self, settings: Settings, name: str, entropy: Entropy) -> None:
        self.denials: Denials = Denials()
        self.link: Link | None = None
        self.links: int = 0
        self.api: str = f"{settings.api_prefix}."
        """What the subject of each request of JetStream's API begins with."""
        self.api_prefix: str = settings.api_prefix
        self.at_home: bool = settings.api_prefix == JETSTREAM_API
        """Whether this login is in the account that has the streams."""
        self._urls = servers(settings)
        self._options = options(settings)
        self._name = name
        self._entropy = entropy
        self._loop = asyncio.get_running_loop()
        self.max_payload: int = DEFAULT_PAYLOAD
        prefix = f"{settings.inbox_prefix}.{entropy.token(INBOX_BYTES)}"
        self._room = Room(IN_FLIGHT_BYTES)
        self.replies: Replies = Replies(prefix, ACK_TIMEOUT_S, self._room.give)
        self._inboxes: dict[str, Handler] = {}
        self._inbox_number = 0
        self._listeners: dict[Listener, None] = {
            Listener(f"{prefix}.*", self.replies.settle): None,
            Listener(f"{prefix}.*.*", self._to_inbox): None,
        }
        self._bound: dict[Bound, None] = {}
        self._lost = asyncio.Event()
        self._closing = asyncio.Event()
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._look_at = 0.0  # loop time
        self._linked_at = 0.0  # loop time, before the newest link's first subscription
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        url = self.link.client.connected_url if self.link is not None else None
        where = "down" if url is None else without_login(url.geturl())
        return f"<Connection {self._name} {where} links={self.links} waiting={len(self.replies)}>"

    # -- its life ---------------------------------------------------------------------------------
    async def open(self) -> None:
        """Connect for the first time. Raises Unreachable, Incompatible."""
        await self._adopt(await self._dial())
        self._keeper = self._loop.create_task(self._keep(), name="perdure connection")
        self._tick()

    async def close(self) -> None:
        """Send what waits, then end it for good."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._ticker is not None:
            self._ticker.cancel()
        link, self.link = self.link, None
        if link is not None:
            await link.close(flush=True)
        self._end("the session was closed")
        for thing in list(self._bound):
            thing.ended("closed")
        self._up.set()  # who waits for a link sees that there will be none
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def alive(self) -> bool:
        """Whether there is a link right now."""
        return self.link is not None and self.link.alive

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    def statistics(self) -> Statistics:
        """A snapshot."""
        outbox = self.link.outbox if self.link is not None else None
        return Statistics(
            self.alive,
            self.links,
            len(self.replies),
            self._room.taken,
            0 if outbox is None else outbox.size,
            0 if outbox is None else outbox.dropped,
            tuple(self.denials.known),
        )

    def live(self) -> Link:
        """The link. Raises Unreachable if there is none right now."""
        link = self.link
        if link is None or not link.alive:
            raise Unreachable(self._why())
        return link

    async def wait(self) -> Link:
        """The link, or the next one. Raises Unreachable once the session is closed."""
        while not self.closed:
            if self.link is not None and self.link.alive:
                return self.link
            self._up.clear()
            await self._up.wait()
        raise Unreachable(self._why())

    async def pause(self, seconds: float) -> None:
        """Wait before trying again; shorter if the session is closed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def ends(self) -> bool:
        """Whether the link is lost just now: a server that stops leaves JetStream first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._lost.wait(), ENDING_S)
            return True
        return self.closed

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def bind(self, thing: Bound) -> None:
        """Look after something that lives on the present link."""
        self._bound[thing] = None

    def unbind(self, thing: Bound) -> None:
        """Leave it alone."""
        self._bound.pop(thing, None)

    # -- sending ----------------------------------------------------------------------------------
    def publish(self, *publishes: Publish, read: Read = itself) -> asyncio.Future[Any]:
        """Publish some messages in a row, at once if there is room for them.

        The future gets what `read` makes of the acknowledgement of the last, or of its lack (a
        `Result`). Raises TooLarge, ValueError for a subject; then none was sent.
        """
        size, most = 0, self.max_payload
        for one in publishes:
            check_subject(one.subject, "")
            length = len(one.data) + len(one.headers)
            if length > most:
                raise TooLarge(f"{length} bytes, the server takes {most}")
            size += length
        size = max(IN_FLIGHT_LEAST, size)
        if self._room.try_take(size):
            return self._publish(publishes, size, read)
        task = self._loop.create_task(self._publish_later(publishes, size, read))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _publish_later(self, publishes: tuple[Publish, ...], size: int, read: Read) -> Any:
        await self._room.take(size)
        return await self._publish(publishes, size, read)

    def _publish(
        self, publishes: tuple[Publish, ...], size: int, read: Read
    ) -> asyncio.Future[Any]:
        """Send it; its room is taken, and given back by whoever ends it."""
        link = self.link
        if link is None or not link.alive:
            self._room.give(size)
            lost: asyncio.Future[Any] = self._loop.create_future()
            lost.set_result(read(Lost(self._why())))
            return lost
        last = publishes[-1]
        reply, future = self.replies.ack(last.subject, read, size)
        for one in publishes:
            to = reply if one is last else ""
            link.client.put(frame(one.subject, to, one.headers, one.data))
        return future

    async def request(
        self,
        subject: str,
        data: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send and wait for one answer. Raises Unreachable, TooLarge, ValueError."""
        block = self._block(subject, "", data, headers)
        link = self.live()
        if len(link.outbox):  # what was sent before goes first
            await link.outbox.empty(timeout_s)
            if not link.alive:
                raise Unreachable(self._why())
        reply, future, over = self.replies.request(subject, timeout_s)
        try:
            link.client.put(frame(subject, reply, block, data))
            result = await future
        finally:
            over()
        if isinstance(result, Lost):
            deaf = self._deaf()
            raise Unreachable(result.why) if deaf is None else Forbidden(f"{result.why}: {deaf}")
        if isinstance(result, Denied):
            raise Forbidden(result.why)
        return result

    def _deaf(self) -> str | None:
        """Why no answer can come, if the server said so of this link's inbox."""
        inbox = self.replies.prefix
        told = self.denials.told("subscription", f"{inbox}*", self._linked_at)
        if told is None:
            return None
        above = inbox.rpartition(".")[0].rpartition(".")[0]
        return (
            f"{told}: this login may not subscribe to {above}.>; set inbox_prefix to what it may"
        )

    def send(
        self,
        subject: str,
        data: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Publish, at most once, some time soon. Raises TooLarge, ValueError for a subject."""
        block = self._block(subject, reply, data, headers)
        link = self.link
        if link is None or not link.alive:
            return False
        return link.outbox.put(frame(subject, reply, block, data))

    def _block(
        self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None
    ) -> bytes:
        """The headers as they are sent; raises if the server wouldn't take the message."""
        check_subject(subject, reply)
        block = headers_block(headers) if headers else b""
        size = len(data) + len(block)
        if size > self.max_payload:
            raise TooLarge(f"{size} bytes, the server takes {self.max_payload}")
        return block

    # -- receiving --------------------------------------------------------------------------------
    async def subscribe(self, subject: str, handler: Handler) -> Listener:
        """Listen, on this link and all later ones; on return the server knows of it."""
        check_subject(subject, "")
        listener = Listener(subject, handler)
        link = self.live()
        self._listeners[listener] = None
        try:
            listener.subscription = await link.subscribe(subject, handler)
            await link.sync()
        except BadSubjectError:
            self._listeners.pop(listener)
            raise ValueError(f"not a subject: {subject!r}") from None
        except Error as error:
            self._listeners.pop(listener)
            raise Unreachable(f"not subscribed to {subject}: {error!r}") from None
        except BaseException:
            await self.unsubscribe(listener)
            raise
        return listener

    async def unsubscribe(self, listener: Listener) -> None:
        """Listen no more."""
        self._listeners.pop(listener, None)
        if self.link is not None and listener.subscription is not None:
            await self.link.unsubscribe(listener.subscription)

    def inbox(self, handler: Handler) -> str:
        """A new inbox: what comes to `<its subject>.<anything>` goes to the handler."""
        self._inbox_number += 1
        token = str(self._inbox_number)
        self._inboxes[token] = handler
        return self.replies.prefix + token

    def pull_inbox(self) -> str:
        """An inbox for a subscription of its own, outside the shared ones."""
        self._inbox_number += 1
        return f"{self.replies.prefix[:-1]}-{self._inbox_number}"

    def forget(self, inbox: str) -> None:
        """Close an inbox."""
        self._inboxes.pop(inbox.rpartition(".")[2], None)

    def _to_inbox(self, message: Message) -> None:
        token = message.subject[len(self.replies.prefix) :].partition(".")[0]
        handler = self._inboxes.get(token)
        if handler is not None:
            handler(message)

    # -- keeping it alive -------------------------------------------------------------------------
    async def _dial(self) -> Link:
        return await dial(
            self._urls,
            self._options,
            self._name,
            on_end=self._ended,
            on_error=self._error,
            on_said=self._said,
        )

    async def _adopt(self, link: Link) -> None:
        """Make a link ours: subscriptions first, then everybody else. Raises Unreachable."""
        self._linked_at = self._loop.time()
        try:
            for listener in list(self._listeners):
                listener.subscription = await link.subscribe(listener.subject, listener.handler)
            await link.sync()
        except (Error, Unreachable) as error:
            self._retire(link)
            raise Unreachable(f"the new connection failed: {error!r}") from None
        except BaseException:
            self._retire(link)
            raise
        self.max_payload = link.client.max_payload
        self._add_discovered(link.client)
        self._lost.clear()
        self.link = link
        self.links += 1
        self._up.set()

    async def _keep(self) -> None:
        while not self.closed:  # nats-py may swallow the cancellation while it connects
            await self._lost.wait()
            link, self.link = self.link, None
            logger.warning("%s: the connection was lost", self._name)
            self._end("the connection was lost")
            if link is not None:
                self._retire(link)
            await self._relink()
            if self.closed:
                return
            logger.warning("%s: connected again", self._name)
            for thing in list(self._bound):
                thing.ended("reconnected")

    async def _relink(self) -> None:
        """Until there is a link. It looks at `closed`: a cancellation may be swallowed below."""
        wait_s = RETRY_BASE_S
        while not self.closed:
            try:
                await self._adopt(await self._dial())
                return
            except Unreachable as error:
                logger.info("%s: still not connected: %s", self._name, error)
            except Incompatible as error:
                logger.warning("%s: still not connected: %s", self._name, error)
            except Exception:  # whatever it is: without this task nothing would ever go on
                logger.exception("%s: connecting failed", self._name)
            delay = wait_s * self._entropy.uniform(0.5, 1.0)
            await self.pause(delay)
            wait_s = min(RETRY_MAX_S, wait_s * 2)

    def _retire(self, link: Link) -> None:
        link.ended = True
        self.later(link.close(flush=False))

    def _end(self, why: str) -> None:
        self.replies.end(why)
        self._room.end()

    def _ended(self, client: Client) -> None:
        if self.link is not None and self.link.client is client:
            self._lost.set()

    def _tick(self) -> None:
        """Overdue answers, silent consumers, and a link that ended without telling."""
        pause_s = TICK_S if len(self.replies) else LOOK_S
        self._ticker = self._loop.call_later(pause_s, self._tick)  # first: it must never stop
        now = self._loop.time()
        if self.link is not None and not self.link.alive:
            self._lost.set()
        self.replies.sweep(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for thing in list(self._bound):
                thing.tick(now)

    async def _error(self, error: Exception) -> None:
        """What nats-py reports: it is only worth a line in the log."""
        logger.warning("%s: %s", self._name, str(error) or repr(error))

    def _said(self, client: Client, error: str) -> bool:
        """Take what the server says if it is what this login may not."""
        found = violation_in(error)
        if found is None:
            return False
        verb, subject = found
        new = self.denials.tell(verb, subject, self._loop.time())
        level = logging.ERROR if new else logging.DEBUG  # it may be tried again and again
        logger.log(level, "%s: %s", self._name, violation(verb, subject))
        if verb == "publish" and (self.link is None or self.link.client is client):
            self.replies.deny(subject)
        return True

    def _add_discovered(self, client: Client) -> None:
        """Servers of the cluster that the one we know told us of."""
        for uri in client.discovered_servers:
            url = uri.geturl()
            if url not in self._urls and not url.startswith("ws") and len(self._urls) < 32:
                self._urls.append(url)

    def _why(self) -> str:
        if self.closed:
            return "the session is closed"
        return f"no connection to {', '.join(map(without_login, self._urls))}"
