"""Attempt marks: how a command that kills its process is found out.

After a crash, what the dead runner had been given is suspect. Before a suspect runs, in a commit
of its own, its mark is stored; once its outcome is recorded, the mark goes. A suspect that has a
mark already runs when no other such one does: else those that are always on their way when the
process dies would collect the marks of the one that ends it. A command that is found with
`poison_marks` marks has ended that many processes: it becomes a dead letter.
"""

from __future__ import annotations

import asyncio

from ..streams.codec import digest
from ..streams.port import Members, Unreachable

RETRY_S = 0.2
"""Between tries to store a mark, in seconds: without it the suspect must not run."""


def mark_key(entity: str, cause: str) -> str:
    """The key of a command's mark in the members bucket."""
    return f"mark.{entity}.{digest(cause.encode())}"


async def add_mark(members: Members, entity: str, cause: str) -> int:
    """Store one more mark; how many there are now. Returns only when the server confirmed."""
    key = mark_key(entity, cause)
    unsure: tuple[int, int] | None = None  # count and revision of a put that nobody confirmed
    while True:
        try:
            entry = await members.get(key)
            if entry is not None and unsure is not None:
                count, expected = unsure
                if int(entry.value) == count and entry.revision > expected:
                    return count  # it was stored; only its acknowledgement is missing
            count = 1 if entry is None else int(entry.value) + 1
            expected = 0 if entry is None else entry.revision
            unsure = count, expected
            if await members.put(key, str(count).encode(), expected=expected) is not None:
                return count
            unsure = None
        except Unreachable:
            await asyncio.sleep(RETRY_S)


async def has_mark(members: Members, entity: str, cause: str) -> bool:
    """Whether it was tried since its record is missing. Returns only when the server said so."""
    while True:
        try:
            return await members.get(mark_key(entity, cause)) is not None
        except Unreachable:
            await asyncio.sleep(RETRY_S)


async def remove_mark(members: Members, entity: str, cause: str) -> None:
    """Its outcome is recorded. If this is lost, the mark stays: it counts a crash too many."""
    try:
        await members.delete(mark_key(entity, cause))
    except Unreachable:
        return
