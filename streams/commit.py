"""A commit: everything that came of one or more commands of one entity, in one message.

There is no second write that a crash could separate from it. Each commit names the hash of the
one before (`prev`), and carries the hash of its own bytes in a header (`MARK`), so a hole, a fork
or a flipped bit is detected when the log is read, the newest commit included. A message without
the header that isn't a commit either is foreign (somebody else's publish, or a server's
acknowledgement sent to a log subject as if it were a reply): it counts for the entity's last
sequence, is reported, and never folded.

Who writes one: `durable/append.py`. Who reads: activation, history, verify. Golden files in
`tests/compat` keep every format readable that was ever written.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..entities.record import Record
from .codec import digest

FORMAT = 1
"""The major format; a newer one is refused, never misread."""

MARK = "Perdure-Commit"
"""The header that holds the hash of the commit's bytes."""

Form: TypeAlias = Literal["json", "msgpack"]
"""How a commit is written. Its fields are the same."""

GENESIS = ""
"""`prev` of an entity's first commit."""


class Damaged(Exception):
    """A stored message that should be a commit and isn't what was written, or can't be read."""


class Stored(msgspec.Struct, frozen=True):
    """One message of a log, as the server keeps it."""

    sequence: int
    time_ns: int  # the server's timestamp
    data: bytes
    mark: str | None  # the header MARK, if there is one


class Sealed(msgspec.Struct, frozen=True):
    """A commit as bytes, ready to be stored."""

    id: str
    data: bytes
    mark: str  # the hash of `data`


class At(msgspec.Struct, frozen=True, array_like=True):
    """A tell's place: generation, sequence in the command stream, and the server's timestamp.

    A sequence alone names nothing: a stream that lost its tail gives it out again.
    """

    generation: int
    sequence: int
    time_ns: int


class Dead(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dead-letter verdict: why, and the cluster error that the caller gets."""

    reason: str  # poison | defect | malformed | unencodable | expired | too_old | too_large
    error: Raw
    key: str | None = None  # the command's key, where the outcome is named by its cause
    raw: bytes | None = None  # the payload, base64 in JSON, where it can't be decoded; its
    # first part, where the whole would not fit into a message


class FlowPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an outcome changes in a flow: what happened in it, in order."""

    key: str
    """Names the flow: the name of the command that began it."""
    records: tuple[Record, ...] = ()
    parked: str | None = None
    """Why it doesn't go on until an operator says so."""
    asker: str | None = None
    """Which other flow waits for the outcome of one that begins: without what could prove it."""
    chain: tuple[str, ...] = ()
    """All that wait for one that begins (streams/chain.py)."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one command: events and a reply, or a failure, or a verdict.

    That of a command that began a flow has none of the three while the flow is open; when it ends
    there is another one of the same name, which has.
    """

    name: str  # the idempotency key, or the reply subject of a bare ask, or a cause
    payload_hash: str
    at: At | None = None  # of every tell, keyed or not
    birth: int | None = None  # Unix ms; set if a client made the key for its own repeats
    command: Raw | UnsetType = UNSET
    events: tuple[Raw, ...] = ()
    reply: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    dead: Dead | None = None
    flow: FlowPart | None = None
    request: str | None = None  # the caller's request id
    trace: str | None = None  # W3C traceparent


def is_open(outcome: Outcome) -> bool:
    """Whether the outcome is that of a flow which has none yet."""
    if outcome.flow is None or outcome.flow.key != outcome.name or outcome.dead is not None:
        return False
    return outcome.reply is UNSET and outcome.failure is UNSET


class Commit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message in the log."""

    v: int  # FORMAT; first, so that anybody sees it
    id: str  # random, one for each decision; the same when the same commit is published again
    prev: str  # hash of the previous commit, GENESIS for the first
    version: int  # of the entity after this commit: its number of events
    runner: str
    time: datetime  # UTC; the runner's clock, never before the previous commit's
    outcomes: tuple[Outcome, ...]


_commits = msgspec.json.Decoder(Commit)
_encoder = msgspec.json.Encoder()


def seal(commit: Commit, form: Form = "json") -> Sealed:
    """The bytes of a commit, and their hash.

    What MessagePack can't hold, such as an integer beyond 64 bits, stays JSON.
    """
    data = _encoder.encode(commit)
    if form == "msgpack":
        data = _packed(data)
    return Sealed(commit.id, data, digest(data))


def _packed(data: bytes) -> bytes:
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(data))
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return data


def unseal(stored: Stored) -> Commit | None:
    """The commit in a stored message; None if the message is foreign. Raises Damaged."""
    if stored.mark is None:
        if _decode(stored.data) is None:
            return None
        raise Damaged(f"sequence {stored.sequence}: a commit without its hash")
    if stored.mark != digest(stored.data):
        raise Damaged(f"sequence {stored.sequence}: the bytes don't match their hash")
    commit = _decode(stored.data)
    if commit is None:
        raise Damaged(f"sequence {stored.sequence}: not a commit of format {FORMAT}")
    return commit


def _decode(data: bytes) -> Commit | None:
    try:
        if data[:1] != b"{":  # MessagePack: the same tree in another notation
            data = _encoder.encode(msgspec.msgpack.decode(data))
        commit: Commit = _commits.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None  # also a newer format
    return commit if commit.v == FORMAT else None


def check_link(commit: Commit, *, prev: str, version: int, sequence: int) -> None:
    """That a commit follows the one with hash `prev` at `version`. Raises Damaged."""
    if commit.prev != prev:
        raise Damaged(f"sequence {sequence}: the hash chain is broken")
    events = sum(len(outcome.events) for outcome in commit.outcomes)
    if commit.version != version + events:
        raise Damaged(
            f"sequence {sequence}: version {commit.version}, expected {version + events}"
        )
