"""History: what happened to one entity, read from its log and verified link by link.

The log's messages are `streams/commit.py`'s commits; what a reader gets is one record for each
command in them, since several consecutive commands may share a message. Foreign messages are left
out. Nothing is shown from behind a break of the chain: a log that isn't what was written is a
SerializationError, never a shorter history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, Generic, Never

import msgspec
from msgspec import Raw, UnsetType
from typing_extensions import TypeVar

from ..entities.entity import Entity
from ..entities.errors import SerializationError
from ..entities.event import Event
from ..entities.key import is_key
from . import commit as wire
from .call import Target
from .caller import Caller
from .port import Unreachable
from .unreachable import unreachable

Ev_co = TypeVar("Ev_co", bound=Event, covariant=True, default=Never)


class Commit(msgspec.Struct, Generic[Ev_co], frozen=True):
    """What one command did, as the log has it."""

    version: int
    """The entity's number of events after it."""
    at: datetime
    """When it was committed, by its runner's clock; UTC."""
    events: tuple[Ev_co, ...]
    """What happened; none if it was refused, or changed nothing."""
    key: str | None = None
    """The idempotency key; None for a bare publish or request without one."""
    command: bytes | None = None
    """The command, as JSON."""
    reply: bytes | None = None
    """The reply, as JSON."""
    failure: bytes | None = None
    """The declared failure, as JSON."""
    dead: str | None = None
    """Why it became a dead letter: `poison`, `defect`, `malformed`, `unencodable`, `expired`,
    `too_old` or `too_large`."""
    sequence: int = 0
    """Of the message in the log; consecutive commands may share one."""


async def history(
    caller: Caller, target: Target, entity: Entity[Any, Any], after: int
) -> AsyncIterator[Commit[Any]]:
    """All records with a version beyond `after`, up to the newest one. Raises ClusterError."""
    with caller.checking(target):
        try:
            log = caller.session.log
            last = await log.last(target.address)
            if last is None:
                return
            reader = _Reader(entity, after)
            async for stored in log.read(target.address, after=0, upto=last.sequence):
                for record in reader.read(stored):
                    yield record
        except Unreachable as error:
            raise unreachable(error) from None
        except wire.Damaged as error:
            raise _damaged(error) from None


async def watch(
    caller: Caller, target: Target, entity: Entity[Any, Any], after: int
) -> AsyncIterator[Commit[Any]]:
    """The same, and then what comes, for ever. Raises ClusterError."""
    with caller.checking(target):
        try:
            reader = _Reader(entity, after)
            async for stored in caller.session.log.follow(target.address, after=0):
                for record in reader.read(stored):
                    yield record
        except Unreachable as error:
            raise unreachable(error) from None
        except wire.Damaged as error:
            raise _damaged(error) from None


class _Reader:
    """Follows the chain. It must begin at the first commit: only so is each link checked."""

    def __init__(self, entity: Entity[Any, Any], after: int) -> None:
        self._entity = entity
        self._after = after
        self._version = 0
        self._hash = wire.GENESIS

    def read(self, stored: wire.Stored) -> Iterator[Commit[Any]]:
        """The records of one message beyond `after`. Raises Damaged."""
        commit = wire.unseal(stored)
        if commit is None:
            return
        wire.check_link(commit, prev=self._hash, version=self._version, sequence=stored.sequence)
        for outcome in commit.outcomes:
            self._version += len(outcome.events)
            if self._version > self._after or not self._after:  # from the start: all of it
                yield self._record(commit, outcome, stored.sequence)
        self._hash = stored.mark or ""

    def _record(self, commit: wire.Commit, outcome: wire.Outcome, sequence: int) -> Commit[Any]:
        try:
            events = tuple(self._entity.log.decode(event) for event in outcome.events)
        except Exception as error:  # an event that today's code doesn't know, or refuses
            why = f"sequence {sequence}: an event can't be decoded: {error}"
            raise wire.Damaged(why) from error
        return Commit(
            self._version,
            commit.time,
            events,
            _key(outcome),
            _bytes(outcome.command),
            _bytes(outcome.reply),
            _bytes(outcome.failure),
            None if outcome.dead is None else outcome.dead.reason,
            sequence,
        )


def _bytes(raw: Raw | UnsetType) -> bytes | None:
    return None if isinstance(raw, UnsetType) else bytes(raw)


def _key(outcome: wire.Outcome) -> str | None:
    if outcome.dead is not None and outcome.dead.key is not None:
        return outcome.dead.key
    return outcome.name if is_key(outcome.name) else None


def _damaged(error: wire.Damaged) -> SerializationError:
    return SerializationError(cause=str(error), may_have_taken_effect=False)
