"""Provisioning: the streams of entity types, made or brought up to the settings without hosting.

A runner does the same when it starts. Done before, by a login that may create (`perdure
permissions --role runner --create`), the runners need no such right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, TypeAlias

import msgspec

from ..streams.jetstream.session import JetStreamSession
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

    A stream that differs in what can't be changed is refused, and nothing of it is. Done twice, or
    by several at once, it comes to the same.
    """
    told: set[str] = set()
    for entity in entities:
        before = await session.compared(entity)
        await session.provision(entity)
        for stream, found in before.items():
            if stream not in told:
                told.add(stream)
                changes = None if found is None else [_entry(one) for one in found]
                yield _done(stream, changes)


def _entry(found: Difference) -> str:
    return f"{found.entry} {found.found} -> {found.wanted}"


def _done(stream: str, changes: list[str] | None) -> Provisioned:
    if changes is None:
        return Provisioned(stream, "created")
    return Provisioned(stream, "updated" if changes else "kept", tuple(changes))
