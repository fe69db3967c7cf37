"""Provisioning: the streams of entity types, made or brought up to the settings without hosting.

A runner does the same when it starts. Done before, by a login that may create (`perdure
permissions --role runner --create`), the runners need no such right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, TypeAlias

import msgspec

from ..streams.jetstream.session import JetStreamSession
from ..streams.port import Incompatible
from ..streams.topology import Difference

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
    """Do it, each stream once. Raises Incompatible, Halted, Unreachable.

    A stream that differs in what can't be changed is refused, and nothing of it is; what was done
    before that is told first. Done twice, or by several at once, it comes to the same.
    """
    told: set[str] = set()
    for entity in entities:
        before = await session.compared(entity)
        try:
            await session.provision(entity)
        except Incompatible:
            after = await session.compared(entity)
            for stream, found in before.items():
                if stream not in told and found != after[stream]:
                    yield _done(stream, found)
            raise
        for stream, found in before.items():
            if stream not in told:
                told.add(stream)
                yield _done(stream, found)


def _entry(found: Difference) -> str:
    return f"{found.entry} {found.found} -> {found.wanted}"


def _done(stream: str, found: list[Difference] | None) -> Provisioned:
    if found is None:
        return Provisioned(stream, "created")
    changes = tuple(_entry(one) for one in found)
    return Provisioned(stream, "updated" if changes else "kept", changes)
