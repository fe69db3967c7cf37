"""Tells that the server has stored but gives to nobody.

nats-server's index of subjects takes a DEL byte (0x7F) for no part of one. A tell whose token has
it is stored and acknowledged, but no filter, no limit of a subject and no list of subjects ever
finds it: it would stay for ever, and enough of them would fill the command stream for everybody.
No id of ours has such a token, since `escape` writes that byte as `=7F`.

So whoever holds a type's first shard walks along its command stream now and then. What is old
enough to have been delivered, and has a token that can't be an entity's, gets a dead letter, which
is acknowledged before the tell is removed. A tell with a valid token is never touched, however
long it waits.
"""

from __future__ import annotations

import logging

from ..streams.commit import At
from ..streams.port import Delivery, Incompatible
from ..streams.subjects import Sharding, unescape
from .deadletter import bury_unaddressed
from .host import Host
from .term import Term

logger: logging.Logger = logging.getLogger("perdure.undelivered")

LOOK_S = 60.0
"""Between two looks, in seconds: they cost a request or two, and a stream takes long to fill."""

MORE_S = 5.0
"""The same after a look that came to its bound, in seconds: a flood goes at 100 tells a second,
while the runner and the server are free for other work."""

AGE_S = 60.0
"""How old a tell must be, in seconds. What can be delivered has been by then, if it has an owner,
and its dead letter is written there."""

TELLS = 500
TELL_BYTES = 16 * 1024 * 1024
"""Tells in one look at most, and their bytes: what waits for its entity is walked over, too."""


class Undelivered:
    """The walk along one type's command stream. A new term begins it anew: only then may the
    stream have been set back."""

    def __init__(self, host: Host, sharding: Sharding) -> None:
        self._host = host
        self._generation = sharding.generation
        self._term: str = ""
        self._after: int = 0  # everything up to this sequence was looked at in this term

    def __repr__(self) -> str:
        return f"Undelivered({self._host.entity.name}, looked up to {self._after})"

    async def look(self, term: Term) -> bool:
        """Go on to what is too young or to a bound; whether it was a bound. Raises Unreachable."""
        if term.name != self._term:
            self._term, self._after = term.name, 0
        commands, entity = self._host.session.commands, self._host.entity.name
        size = 0
        for _ in range(TELLS):
            found = await commands.oldest(entity, after=self._after)
            if found is None or self._young(found):
                return False
            why = _why_not(found.token)
            if why is not None:
                at = At(self._generation, found.sequence, found.time_ns)
                if not await bury_unaddressed(self._host, found, at, why):
                    return False
                if term.ended.done():  # then the sequence may be another tell's
                    return False
                await self._remove(found)
            self._after = found.sequence
            size += len(found.data)
            if size >= TELL_BYTES:
                break
        return True

    async def _remove(self, found: Delivery) -> None:
        """Take it out; where that isn't allowed, say so and go on: a term buries it once."""
        try:
            await self._host.session.commands.remove(self._host.entity.name, found.sequence)
        except Incompatible as error:
            logger.error(
                "tell %d stays in the command stream of %s: %s",
                found.sequence,
                self._host.entity.name,
                error,
                extra={"action": "undelivered.kept"},
            )

    def _young(self, found: Delivery) -> bool:
        return self._host.session.clock.now_ns() - found.time_ns < AGE_S * 1_000_000_000


def pause_s(more: bool) -> float:
    """How long to wait until the next look, in seconds; `more`: what the last one said."""
    return MORE_S if more else LOOK_S


def _why_not(token: str) -> str | None:
    """Why a token can't be an entity's; None if it can."""
    try:
        unescape(token)
    except ValueError as why:
        return str(why)
    return None
