"""Provisioning: the streams of entity types, made or brought up to the settings without hosting.

A runner does the same when it starts. Done before, by a login that may create (`perdure
permissions --role runner --create`), the runners need no such right.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, TypeAlias

import msgspec

from ..streams.jetstream.session import JetStreamSession
from ..streams.port import Incompatible, Unreachable
from ..streams.topology import Difference

logger: logging.Logger = logging.getLogger("perdure.topology")

Done: TypeAlias = Literal["created", "updated", "kept"]


class Provisioned(msgspec.Struct, frozen=True):
    """What was done about one stream."""

    stream: str
    done: Done
    changes: tuple[str, ...] = ()
    """What an update changed, entry by entry."""


async def provision(
    session: JetStreamSession, entities: Sequence[str]
) -> AsyncGenerator[Provisioned]:
    """Do it, each stream once. Raises Incompatible, Halted, Unreachable, Forbidden among them.

    A stream that differs in what can't be changed is refused, and nothing of it is; so is what the
    login may not. What was done before that is told first, as far as it can be seen. Done twice,
    or by several at once, it comes to the same.
    """
    told: set[str] = set()
    for entity in entities:
        before = await session.compared(entity)
        try:
            await session.provision(entity)
        except (Incompatible, Unreachable):
            after = await _seen(session, entity) or before
            for stream, found in before.items():
                if stream not in told and found != after[stream]:
                    yield _done(stream, found)
            raise
        for stream, found in before.items():
            if stream not in told:
                told.add(stream)
                yield _done(stream, found)


async def _seen(
    session: JetStreamSession, entity: str
) -> dict[str, list[Difference] | None] | None:
    """How its streams are after a failure; None where that can't be seen either."""
    try:
        return await session.compared(entity)
    except (Incompatible, Unreachable) as error:
        logger.info("what was done for %s can't be seen: %s", entity, error)
        return None


def _entry(found: Difference) -> str:
    return f"{found.entry} {found.found} -> {found.wanted}"


def _done(stream: str, found: list[Difference] | None) -> Provisioned:
    if found is None:
        return Provisioned(stream, "created")
    changes = tuple(_entry(one) for one in found)
    return Provisioned(stream, "updated" if changes else "kept", changes)
