"""Resizing: another number of shards for a type that nobody hosts, and for which no tell waits.

A resize makes the next *generation*: it changes the stored subjects of tells, the names of terms
and the subjects of asks together, in one update of the command stream. Logs know no shards, so
ledgers, watermarks and snapshots stay as they are, and no data moves.

What makes it safe is the order. The type is halted first, so that no tell comes in. Only then is
looked whether a runner is there: each subscribes to that question before it reads how its type is
cut, so one that could still go by the old generation is heard, and one that comes later finds the
type halted and doesn't start. Nobody can be in between. And only a type that is seen to be empty
while it is halted is cut, so no tell is left behind under a generation that has no owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ..streams.commands import parse_term
from ..streams.port import Forbidden, Halted, Incompatible, Session, Unreachable
from ..streams.subjects import Sharding

logger: logging.Logger = logging.getLogger("perdure.resizing")

SETTLE_S = 0.25
"""Between halting and looking, in seconds: servers of a cluster tell each other within
milliseconds who listens."""

HOSTS_S = 1.0
"""How long a runner may take to say that it hosts the type, in seconds. Who listens and is silent
that long is frozen, and may wake up."""

TOKEN_BYTES = 4
"""Of what tells two resizes apart that are made at the same time."""


class InUse(Exception):
    """The type can't be cut anew now; nothing has changed. `next_step` is what to do."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


class LeftHalted(Forbidden):
    """It isn't permitted any more, and the type may be halted. `sharding` is how it is cut."""

    def __init__(self, why: str, sharding: Sharding) -> None:
        super().__init__(why)
        self.sharding = sharding


async def resize(session: Session, entity: str, shards: int) -> tuple[Sharding, Sharding]:
    """Cut a type into that many shards; how it was cut, and how it is.

    A type that was left halted is set going, also by the number that it has. If it fails, the type
    is set going as it was.
    Raises InUse; Incompatible if there is no such type; Unreachable, after which it may be done,
    or be halted: the same again ends it; Forbidden, after which it is as it was, but LeftHalted.
    """
    before, halted = await _found(session, entity)
    if not halted:
        if before.shards == shards:
            return before, before
        await _require_idle(session, entity)  # else those who use it would feel that it is halted
    token = session.entropy.token(TOKEN_BYTES)
    try:
        before = await session.halt(entity, token)
        after = before
        if before.shards != shards:
            await asyncio.sleep(SETTLE_S)
            await _require_idle(session, entity)
            after = Sharding(before.generation + 1, shards)
        await session.recut(entity, after, token)
    except BaseException as error:
        going = await asyncio.shield(_set_going(session, entity, before, token))
        if isinstance(error, Forbidden) and not going:
            raise LeftHalted(str(error), before) from error
        raise
    await _remove_terms(session, entity, after)
    return before, after


async def _found(session: Session, entity: str) -> tuple[Sharding, bool]:
    """How a type is cut, and whether it is halted. Raises Incompatible if it isn't there."""
    try:
        found = await session.sharding(entity)
    except Halted as halted:
        return halted.sharding, True
    if found is None:
        raise Incompatible(f"nothing of {entity} was ever hosted here")
    return found, False


async def _require_idle(session: Session, entity: str) -> None:
    """That no runner hosts the type, or begins to, and that no tell waits. Raises InUse."""
    try:
        subject = session.subjects.resize(entity)
        answer = await session.asks.request(subject, b"", timeout_s=HOSTS_S)
    except Unreachable as error:
        if not session.connected or isinstance(error, Forbidden):
            raise
        what = f"whether a runner hosts {entity} can't be told: {error}"
        raise InUse(what, "look for a frozen runner, and end it") from None
    if not answer.no_responders:
        runner = answer.data[:32].decode(errors="replace")
        raise InUse(f"runner {runner} hosts {entity}", "stop all of its runners, then the same")
    waiting = await session.commands.count(entity)
    if waiting:
        raise InUse(
            f"tells wait for {entity} ({waiting}), and only a runner can work them off",
            f"start one, stop it when perdure stats {entity} shows none, then the same",
        )


async def _set_going(session: Session, entity: str, sharding: Sharding, token: str) -> bool:
    """Let a type that is still halted with the token take tells again, as it was cut; False if it
    may still be halted."""
    with contextlib.suppress(Incompatible):  # somebody else is at it, or it was cut after all
        try:
            await session.recut(entity, sharding, token)
        except Unreachable as error:
            logger.warning(
                "%s may still be halted: %s",
                entity,
                error,
                extra={"action": "resize.halted", "entity": entity},
            )
            return False
    return True


async def _remove_terms(session: Session, entity: str, now: Sharding) -> None:
    """Remove what runners that are gone left of earlier generations. It does no harm if it stays.

    A runner that was cut off all the while finds its terms gone, and the next ones refused.
    """

    def is_old(consumer: str) -> bool:
        term = parse_term(consumer)
        return term is not None and term.generation < now.generation

    try:
        for info in await session.commands.consumers(entity, is_old):
            await session.commands.delete(entity, info.name)
    except Unreachable as error:
        logger.debug("terms of %s stay: %s", entity, error, extra={"action": "resize.terms_kept"})
