"""What a check needs of a backend beyond the port, and small helpers for all checks.

A check is a plain `async def name(backend: Backend) -> None` in `checks/`. It is run on every
backend (`test_conformance.py`) and on backends with one planted error each (`test_planted.py`),
where it has to fail. So a check never knows which backend it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

from perdure.entities.address import Address
from perdure.streams.codec import digest
from perdure.streams.commit import Sealed, Stored
from perdure.streams.port import Appended, Consumer, Delivery, Message, Session
from perdure.streams.subjects import escape

T = TypeVar("T")

TYPE = "account"
"""The entity type of all checks; each has a namespace of its own."""
SHARDS = 4
POLL_S = 0.002
"""Between two looks at a condition."""
STREAM_BYTES = 8 * 1024**2
"""A command stream's size: a server reserves it for each, and the checks make many."""


class Backend(Protocol):
    """A backend, as the checks use it."""

    patience_s: float
    """How long a check waits for something that must come."""

    async def session(self, **settings: Any) -> Session:
        """A new connection in the check's namespace, closed after the check."""
        ...

    async def disconnect(self, session: Session) -> None:
        """Break a session's connection; on return it has been made anew."""
        ...

    def offline(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Within it the session has no connection; afterwards it has one again."""
        ...

    async def unanswered(self, session: Session, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that arrives, but whose answer is lost; what the caller sees."""
        ...

    async def dead_letters(self, session: Session, token: str) -> list[bytes]:
        """The copies of dead letters under a token of TYPE, oldest first."""
        ...

    async def remember(self, session: Session) -> None:
        """Keep a copy of TYPE's command stream as it is."""
        ...

    async def rewind(self, session: Session) -> None:
        """Put the copy back, as a restart from an old backup would; sessions reconnect."""
        ...


Check: TypeAlias = Callable[[Backend], Awaitable[None]]


# -- what is sent -----------------------------------------------------------------------------
def address(id: str = "a-1") -> Address:
    """An entity of TYPE."""
    return Address(TYPE, id)


def sealed(text: str) -> Sealed:
    """Something to append; the backends don't look into it."""
    data = text.encode()
    return Sealed(text, data, digest(data))


async def append(session: Session, id: str, *texts: str, after: int = 0) -> list[int]:
    """Append commits to an entity whose last sequence is `after`; their sequences."""
    sequences: list[int] = []
    for text in texts:
        answer = await session.log.append(address(id), sealed(text), expected=after)
        assert isinstance(answer, Appended), answer
        after = answer.sequence
        sequences.append(after)
    return sequences


async def tell(session: Session, id: str, *texts: str) -> list[int]:
    """Publish tells to an entity; their sequences."""
    sequences: list[int] = []
    for text in texts:
        answer = await session.commands.publish(address(id), text.encode())
        assert isinstance(answer, Appended), answer
        sequences.append(answer.sequence)
    return sequences


async def read(session: Session, id: str, *, after: int, upto: int) -> list[Stored]:
    """What the log's `read` gives."""
    return [s async for s in session.log.read(address(id), after=after, upto=upto)]


async def shard_of(session: Session, id: str) -> int:
    """The shard of an entity."""
    sharding = await session.provision(TYPE)
    return sharding.shard(escape(id))


# -- what comes -------------------------------------------------------------------------------
async def until(backend: Backend, come: Callable[[], bool], what: str) -> None:
    """Wait until something has come. Fails when the backend's patience ends."""
    loop = asyncio.get_running_loop()
    end = loop.time() + backend.patience_s
    while not come():
        assert loop.time() < end, f"never came: {what}"
        await asyncio.sleep(POLL_S)


async def round_trip(session: Session) -> None:
    """Until the backend has read all that this session sent before, acks among it.

    A message to itself, since sends keep their order among themselves, not against requests.
    """
    loop = asyncio.get_running_loop()
    back: asyncio.Future[None] = loop.create_future()

    def heard(message: Message) -> None:
        if not back.done():
            back.set_result(None)

    inbox = session.asks.inbox(heard)
    session.asks.send(inbox.subject("1"), b"")
    async with asyncio.timeout(10):
        await back
    inbox.close()


async def settled(backend: Backend, session: Session, *sequences: int) -> None:
    """Until these tells are acknowledged, and so gone from the stream."""
    async with asyncio.timeout(backend.patience_s):
        for sequence in sequences:
            while True:
                if await session.commands.by_sequence(TYPE, sequence) is None:
                    break
                await asyncio.sleep(POLL_S)


class Term:
    """A consumer and all that it was given."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.name = name
        self.deliveries: list[Delivery] = []
        self.lost: list[str] = []
        self.consumer: Consumer
        self._backend = backend

    @property
    def texts(self) -> list[str]:
        """The payloads, in the order of arrival."""
        return [d.data.decode() for d in self.deliveries]

    @property
    def numbers(self) -> list[int]:
        """The consumer sequences, in the order of arrival."""
        return [d.consumer_sequence for d in self.deliveries]

    async def got(self, count: int) -> None:
        """Wait for deliveries; fails if there are more."""
        await until(self._backend, lambda: len(self.deliveries) >= count, f"{count} deliveries")
        assert len(self.deliveries) == count, self.texts

    async def ended(self) -> None:
        """Wait until it is told that it is lost."""
        await until(self._backend, lambda: bool(self.lost), "on_lost")


async def begin(
    backend: Backend,
    session: Session,
    name: str,
    *,
    id: str = "a-1",
    shard: int | None = None,
    credit: int = 0,
    owner: str = "runner",
) -> Term:
    """Create a consumer of a shard (of `id`, if none is given) and grant it credit."""
    term = Term(backend, name)
    if shard is None:
        shard = await shard_of(session, id)
    term.consumer = await session.commands.create(
        TYPE,
        shard,
        name,
        owner=owner,
        on_delivery=term.deliveries.append,
        on_lost=term.lost.append,
    )
    if credit:
        term.consumer.grant(credit)
    return term
