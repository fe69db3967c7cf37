"""Dead letters as an operator sees them: the copies in `PERDURE_DEAD`, and what became of them.

The verdict on a dead command is an outcome in its entity's log, for good; the copy is there to be
found, looked at, and then retried or discarded. A retry publishes the payload again, as a tell
with a key that is made from the cause, so that it takes effect once however often it is tried, and
the copy goes when that is stored. So a copy that is there is one that nobody has dealt with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from ..entities.address import Address
from ..streams.asks import open_body
from ..streams.codec import Undecodable, digest
from ..streams.commands import CAUSE, RETRY, cause_of, retry_key
from ..streams.commit import Damaged, Outcome, unseal
from ..streams.jetstream.api import delete_message
from ..streams.jetstream.connection import Connection
from ..streams.jetstream.direct import Record
from ..streams.jetstream.scan import bounds, get, scan
from ..streams.port import Incompatible
from ..streams.subjects import Subjects, escape, unescape

LARGEST = 1 << 30
"""No limit of our own for what the server stored: it has one."""

_outcomes = msgspec.json.Decoder(Outcome)


class Hopeless(Exception):
    """A dead letter that can't be retried; the text says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: a copy in the stream, or (`sequence` 0) a verdict in a log."""

    sequence: int
    """Of the copy in `PERDURE_DEAD`."""
    time: datetime
    entity: str
    id: str | None
    """None for a tell whose id can't be one: the copy is the only record then."""
    outcome: Outcome | None
    """None for a message that isn't a dead letter."""
    status: str = "open"
    """`open`: the copy is there; `retried`: its retry has an outcome; `discarded`: neither."""

    @property
    def cause(self) -> str | None:
        """What names it: the place of its tell, or the flow that ended without an outcome."""
        return None if self.outcome is None else cause_in(self.entity, self.id, self.outcome)

    @property
    def name(self) -> str:
        """The cause, or the copy's sequence where there is none."""
        return self.cause or str(self.sequence)

    @property
    def reason(self) -> str:
        """Why it is dead; `foreign` for what is no dead letter."""
        dead = None if self.outcome is None else self.outcome.dead
        return "foreign" if dead is None else dead.reason

    @property
    def where(self) -> str:
        """Its address, as far as it has one."""
        return f"{self.entity}/{'=' if self.id is None else self.id}"

    @property
    def key(self) -> str | None:
        """The key that the command came with, if any."""
        if self.outcome is None or self.outcome.dead is None:
            return None
        named = self.outcome.name
        return self.outcome.dead.key or (None if named == self.cause else named)

    @property
    def command(self) -> str:
        """The command's tag; empty where nobody can tell."""
        try:
            return tag_of(self.payload())
        except Hopeless:
            return ""

    @property
    def unsure(self) -> bool:
        """Whether the command may have taken effect, so that a retry could repeat it."""
        return bool(self.error().get("may_have_taken_effect"))

    def error(self) -> dict[str, Any]:
        """The cluster error that its callers get."""
        if self.outcome is None or self.outcome.dead is None:
            return {}
        return msgspec.json.decode(self.outcome.dead.error, type=dict[str, Any])

    def payload(self) -> Raw:
        """The command's JSON. Raises Hopeless."""
        outcome = self.outcome
        if outcome is None or outcome.dead is None:
            raise Hopeless("it is no dead letter of perdure's")
        if outcome.command is not UNSET:
            return outcome.command
        data = outcome.dead.raw or b""
        try:
            payload = open_body(data, None, limit=LARGEST, beside=LARGEST).payload
            msgspec.json.decode(payload, type=dict[str, Raw])
        except (Undecodable, msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Hopeless(f"its payload is no JSON object, or not all of it: {error}") from None
        return payload


def cause_in(entity: str, id: str | None, outcome: Outcome) -> str | None:
    """The name of a dead letter. That of a flow, which no tell's place names, is made of what its
    copy and its verdict have in common: a key may begin another flow once it is forgotten."""
    if outcome.at is not None:
        return cause_of(outcome.at, outcome.payload_hash)
    if outcome.name.startswith(CAUSE):
        return outcome.name
    if id is None:
        return None
    said = (entity, id, outcome.name, outcome.payload_hash, outcome.birth, outcome.request)
    return CAUSE + digest(msgspec.json.encode(said))


def tag_of(payload: Raw) -> str:
    """The `type` of a command's JSON; empty if it has none."""
    try:
        return msgspec.json.decode(payload, type=_Tagged).type
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""


class _Tagged(msgspec.Struct):
    type: str = ""


class DeadLetters:
    """The copies of one namespace. Every method raises Unreachable and Incompatible."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects

    async def count(self) -> int:
        """How many copies there are, of all types. Raises Incompatible if there is no stream."""
        found = await bounds(self._connection, self._subjects.dead_stream)
        if found is None:
            raise Incompatible(
                f"there is no stream {self._subjects.dead_stream}: "
                "nothing was ever hosted in this namespace"
            )
        return found.messages

    async def letters(
        self, entity: str | None = None, id: str | None = None
    ) -> AsyncIterator[Letter]:
        """The copies, oldest first, up to the newest of now."""
        stream = self._subjects.dead_stream
        found = await bounds(self._connection, stream)
        token = "*" if id is None else escape(id)
        subject = self._subjects.dead(entity or "*", token)
        last = 0 if found is None else found.last_seq
        async for record in scan(self._connection, stream, subject, upto=last):
            yield letter_of(record)

    async def find(self, names: Sequence[str]) -> dict[str, list[Letter]]:
        """The copies with these causes, or these sequences; several if one was copied twice.

        However many causes there are, the copies are read once.
        """
        found: dict[str, list[Letter]] = {name: [] for name in names}
        numbers = {name for name in found if name.isascii() and name.isdigit()}
        for name in numbers:
            record = await get(self._connection, self._subjects.dead_stream, int(name))
            if record is not None:
                found[name].append(letter_of(record))
        if len(numbers) < len(found):
            async for letter in self.letters():
                if letter.cause is not None and letter.cause in found:
                    found[letter.cause].append(letter)
        return found

    async def discard(self, letter: Letter) -> bool:
        """Remove the copy; False if it is gone already."""
        return await delete_message(self._connection, self._subjects.dead_stream, letter.sequence)

    async def verdicts(
        self, entity: str, id: str | None = None
    ) -> AsyncIterator[tuple[str | None, Letter | None]]:
        """What the log says: of each verdict a letter, of each outcome of a retry its key."""
        stream, token = self._subjects.log_stream(entity), "*" if id is None else escape(id)
        found = await bounds(self._connection, stream)
        last = 0 if found is None else found.last_seq
        subject = self._subjects.log(entity, token)
        async for record in scan(self._connection, stream, subject, upto=last):
            for said in _said(entity, record):
                yield said

    async def took_effect(self, letter: Letter, key: str) -> bool | None:
        """Whether its retry under that key did; None if its entity's log has no outcome of it."""
        last: bool | None = None
        async for found, verdict in self.verdicts(letter.entity, letter.id):
            if found == key:
                last = verdict is None
        return last


def letter_of(record: Record) -> Letter:
    """A copy as a letter."""
    _, _, entity, token = (*record.subject.split("."), "", "", "", "")[:4]
    time = datetime.fromtimestamp(record.time_ns / 1e9, UTC)
    return Letter(record.sequence, time, entity, _id(token), _outcome(record.data))


def named_by(subject: str, data: bytes) -> tuple[str, str] | None:
    """The id and the cause of a copy; None if its verdict can be in no log."""
    *_, entity, token = subject.split(".")
    id, outcome = _id(token), _outcome(data)
    cause = None if outcome is None else cause_in(entity, id, outcome)
    return None if id is None or cause is None else (id, cause)


def _outcome(data: bytes) -> Outcome | None:
    try:
        outcome = _outcomes.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return outcome if outcome.dead is not None else None


def _id(token: str) -> str | None:
    try:
        return unescape(token)
    except ValueError:
        return None


def _said(entity: str, record: Record) -> Iterator[tuple[str | None, Letter | None]]:
    try:
        commit = unseal(record.stored)
    except Damaged:  # `perdure verify` tells that; here the others count
        return
    if commit is None:
        return
    for outcome in commit.outcomes:
        verdict: Letter | None = None
        if outcome.dead is not None:
            verdict = Letter(0, commit.time, entity, _id(record.token), outcome)
        names = (outcome.name, None if outcome.dead is None else outcome.dead.key)
        key = next((name for name in names if name and name.startswith(RETRY)), None)
        if key is not None or verdict is not None:
            yield key, verdict


def settle(copies: list[Letter], verdicts: list[Letter], retried: set[str]) -> list[Letter]:
    """All dead letters, oldest first, each with what became of it."""
    there = {letter.cause for letter in copies}
    gone = [letter for letter in verdicts if letter.cause not in there]
    found: list[Letter] = []
    for letter in (*copies, *gone):
        status = "open" if letter.sequence else "discarded"
        if letter.cause is not None and retry_key(letter.cause) in retried:
            status = "retried"
        found.append(
            Letter(letter.sequence, letter.time, letter.entity, letter.id, letter.outcome, status)
        )
    return sorted(found, key=lambda letter: letter.time)


def address_of(letter: Letter) -> Address:
    """Whom it was for. Raises Hopeless."""
    if letter.id is None:
        raise Hopeless("its id can't be an entity's")
    return Address(letter.entity, letter.id)
