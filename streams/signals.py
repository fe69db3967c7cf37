"""Signals: what all runners of a type are told at once, and what each of them hears.

One message on a subject of the type, which the server copies to everybody who listens at that
moment. Nothing is stored, repeated or answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from functools import lru_cache
from types import TracebackType
from typing import Any, Generic, Self

import msgspec
from typing_extensions import TypeVar

from ..entities.annotations import name_of, tag_of
from ..entities.contract import decoder_of, require_unique
from ..entities.errors import MalformedMessage
from ..entities.signal import Signal, hearers_of
from .codec import Undecodable, decode
from .port import Message, Session, Subscription, Unreachable
from .unreachable import unreachable

logger: logging.Logger = logging.getLogger("perdure.signals")

KEPT = 1_000
KEPT_BYTES = 4 * 1024**2
"""Signals that wait for whoever iterates, and bytes of their JSON, at most (as objects they may be
ten times as large): beyond, the oldest are lost, since newer ones of the volatile say more."""

Sig = TypeVar("Sig", bound=Signal[Any])


@lru_cache(maxsize=1024)
def _entity_of(cls: type) -> str:
    return hearers_of(cls)


def entity_of(cls: Any) -> str:
    """The entity type of a class of signals. Raises MalformedMessage."""
    try:
        return _entity_of(cls)
    except TypeError as error:
        raise MalformedMessage(cause=f"signal: {error}"[:200]) from None


def encode_signal(signal: object, limit: int) -> tuple[str, bytes]:
    """The entity type whose runners hear it, and its JSON, at most `limit` bytes.

    Encoding checks no types, so the bytes are decoded again. Raises MalformedMessage.
    """
    cls = type(signal)
    if issubclass(cls, type):
        raise MalformedMessage(cause=f"signal takes a signal, not the class {name_of(signal)}")
    entity = entity_of(cls)
    try:
        data = msgspec.json.encode(signal)
        decode(_decoder((cls,)), data, limit=limit, what="signal")
    except (TypeError, ValueError, OverflowError, RecursionError, Undecodable) as error:
        raise MalformedMessage(cause=f"signal {tag_of(cls)}: {error}"[:200]) from None
    return entity, data


@lru_cache(maxsize=1024)
def _decoder(classes: tuple[type, ...]) -> msgspec.json.Decoder[Any]:
    return decoder_of(classes, "signals")


class Signals(AsyncIterator[Sig], Generic[Sig]):
    """Signals as they come: `async with cluster.signals(…) as signals`, then `async for`.

    What comes from the beginning of `async with` on is heard; the loop ends with it, or with the
    cluster. A connection that breaks is made again, and what was sent meanwhile is lost.
    """

    dropped: int
    """Signals that were lost here, since nobody took them: 1,000 wait at most, or 4 MiB."""

    def __init__(self, session: Session, classes: tuple[type[Sig], ...], limit: int) -> None:
        """Of at least one class, all for the same entity type; messages up to `limit` bytes.

        Raises MalformedMessage.
        """
        entities = {entity_of(cls) for cls in classes}
        if len(entities) != 1:
            given = ", ".join(sorted(entities)) or "none"
            raise MalformedMessage(cause=f"signals takes classes for one entity type, not {given}")
        try:
            require_unique([(tag_of(cls), cls) for cls in classes], "signals:")
        except TypeError as error:
            raise MalformedMessage(cause=str(error)) from None
        self.entity: str = entities.pop()
        self.dropped = 0
        self._session, self._limit = session, limit
        self._decoder = _decoder(classes)
        self._waiting: deque[tuple[Sig, int]] = deque()  # with its bytes
        self._bytes = 0
        self._news = asyncio.Event()
        self._ended = False
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"<Signals of {self.entity}: {len(self._waiting)} wait, {self.dropped} dropped>"

    async def __aenter__(self) -> Self:
        """On return the server knows that this process listens. Raises RpcClientError."""
        subject = self._session.subjects.signal(self.entity)
        try:
            self._subscription = await self._session.asks.subscribe(subject, self._heard)
        except Unreachable as error:
            raise unreachable(error) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        self.end()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.stop()

    async def __anext__(self) -> Sig:
        """The next one, once it comes."""
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._pop()

    def end(self) -> None:
        """Let the loop end after what waits."""
        self._ended = True
        self._news.set()

    def _heard(self, message: Message) -> None:
        if self._ended:
            return
        try:
            signal = decode(self._decoder, message.data, limit=self._limit, what="signal")
        except Undecodable as error:  # or one of another class
            logger.debug("not taken: %s", error, extra={"action": "signal.strange"})
            return
        self._waiting.append((signal, len(message.data)))
        self._bytes += len(message.data)
        while len(self._waiting) > KEPT or self._bytes > KEPT_BYTES:
            self._drop()
        self._news.set()

    def _pop(self) -> Sig:
        signal, size = self._waiting.popleft()
        self._bytes -= size
        return signal

    def _drop(self) -> None:
        self._pop()
        self.dropped += 1
        if self.dropped == 1:
            logger.warning(
                "signals of %s come faster than they are taken: the oldest are lost",
                self.entity,
                extra={"action": "signal.dropped", "entity": self.entity},
            )
