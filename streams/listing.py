"""Listing: the ids of a type, read from the registry, gently and without a gap.

The registry's messages (streams/registration.py) are read in their order. A page that is rolled up
meanwhile moves to the end, but once only: so it takes two rounds, one to where the registry ended
when the listing began, and one to where it ended after the first. Who registers later may be told
or not.

Between two reads it rests, for a multiple of the time that the read took, and so it does after
each half a millisecond of its own work: a busy server gets more rest, and those who publish hardly
notice (docs/adr/0008-a-registry-of-ids.md has the figures).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from ..entities.errors import MalformedMessage, SerializationError
from .commit import Stored
from .port import Session, Unreachable
from .registration import Unreadable, decode
from .seen import Seen
from .unreachable import unreachable

logger: logging.Logger = logging.getLogger("perdure.ids")

REST = 24.0
"""A listing rests that many times as long as its reads take, and what it does with what it read:
it is at work a twenty-fifth of its time. With 9.0 a million ids took 15 s instead of 38, and
publishers beside it waited twice as long as without, at the 99th percentile, instead of 1.6 times
(`benchmarks/ids.py`)."""
AT_WORK_S = 0.0005
"""How long it is at work on what it read between two rests, in seconds: who publishes on the same
machine waits no longer for it."""
REST_MAX_S = 0.5
"""At a time at most, in seconds: a server that is slow for another reason isn't helped by more."""

_PLACE = re.compile(r"(\d{1,19})\.(\d{1,9})")


def place_of(text: object) -> tuple[int, int]:
    """A listing's place from its text; empty: the beginning. Raises MalformedMessage."""
    if text == "":
        return 0, 0
    match = _PLACE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MalformedMessage(cause=f"ids: after={text!r} isn't the place of a listing"[:100])
    return int(match[1]), int(match[2])


class Work:
    """How long a listing was at work since it rested, without what its reader did meanwhile."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` tells the time in seconds."""
        self._now = now
        self._worked_s = 0.0
        self._since = now()

    def stop(self) -> None:
        """It is its reader's turn."""
        self._worked_s += self._now() - self._since

    def start(self) -> None:
        """It goes on."""
        self._since = self._now()

    def rest_s(self) -> float:
        """Stop, and rest for so many seconds: 0 before it was at work for AT_WORK_S."""
        self.stop()
        if self._worked_s < AT_WORK_S:
            return 0.0
        rest_s, self._worked_s = REST * self._worked_s, 0.0
        return min(rest_s, REST_MAX_S)  # the process may have been frozen


class Listing(AsyncIterator[str]):
    """The ids of a type that have a log, in the order of their registration.

    Iterate over it with `async for`, and stop whenever you like. `place` is how far it came: as
    `after` of another listing it goes on there, in another process too.

    Gotchas: an id may be listed that has no log, if its runner ended before its first commit. Over
    four million ids, or across `after`, one may come twice.
    """

    def __init__(self, session: Session, entity: str, prefix: str, after: tuple[int, int]) -> None:
        self._session, self._entity, self._prefix = session, entity, prefix
        # All messages before this one were given, and of it that many ids.
        self._sequence, self._given = after
        self._seen = Seen()
        self._ids = self._walk()

    def __repr__(self) -> str:
        return f"<Listing of {self._entity} at {self.place}>"

    @property
    def place(self) -> str:
        """Right behind the last id that was given."""
        return f"{self._sequence}.{self._given}"

    def resumed(self) -> Listing:
        """Another one that goes on here, after an error."""
        place = self._sequence, self._given
        return Listing(self._session, self._entity, self._prefix, place)

    async def __anext__(self) -> str:
        """The next id.

        Raises RpcClientError if the registry can't be reached (go on from `place` with another
        listing), MalformedMessage for a place that it hasn't got, SerializationError for a format
        of a newer release.
        """
        try:
            return await anext(self._ids)
        except Unreachable as error:
            raise unreachable(error) from None
        except Unreadable as error:
            raise SerializationError(cause=str(error), may_have_taken_effect=False) from None

    async def aclose(self) -> None:
        """End it before its end."""
        await self._ids.aclose()

    async def _walk(self) -> AsyncGenerator[str]:
        now = asyncio.get_running_loop().time
        end = await self._session.ids.last(self._entity)
        if self._sequence > end + 1:
            cause = f"ids: the registry of {self._entity} has no place {self.place}"
            raise MalformedMessage(cause=cause)
        for _ in range(2):
            while self._sequence <= end:
                found, rest_until = await self._read(end)
                work = Work(now)
                for stored in found:
                    for id in self._new(stored):
                        work.stop()
                        yield id
                        work.start()
                    # Also for no time: else whoever shares the loop waits for all of them.
                    await asyncio.sleep(work.rest_s())
                    work.start()
                if not found or self._sequence > end:
                    break
                await asyncio.sleep(max(0.0, rest_until - now()))
            end = await self._session.ids.last(self._entity)

    async def _read(self, end: int) -> tuple[list[Stored], float]:
        """The next messages, and when the ones after them may be read, in the loop's time."""
        now = asyncio.get_running_loop().time
        began = now()
        after = max(0, self._sequence - 1)
        found = await self._session.ids.read(self._entity, after=after, upto=end)
        ended = now()
        return found, ended + min(REST * (ended - began), REST_MAX_S)

    def _new(self, stored: Stored) -> Iterator[str]:
        """The ids of a message that weren't given yet. The place moves along with them."""
        ids = decode(stored.data)
        if ids is None:
            text = "sequence %d of the registry of %s is foreign: %d bytes"
            logger.warning(text, stored.sequence, self._entity, len(stored.data))
        given = self._given if stored.sequence == self._sequence else 0
        self._sequence = stored.sequence
        for self._given, id in enumerate((ids or ())[given:], given + 1):
            if id.startswith(self._prefix) and self._seen.add(id):
                yield id
        self._sequence, self._given = stored.sequence + 1, 0
