"""Wakers: tells that drive a flow on, beside the command that began it.

On the wire they are a payload like a command's, whose `type` no command can have, since a class's
tag is never written so. They take an entity's mailbox, its ledger and its place in the order like
any other tell.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ..entities.record import Armed
from ..streams.asks import NULL, Answer
from ..streams.codec import TEXT_CHARS, Undecodable, decode, digest
from ..streams.resuming import ANSWER, CANCEL, RESUME, RETRY
from ..streams.token import ASK
from .item import Item

FIRED = "$fired"
OPEN = "(open)"
"""The timer of a flow that waits for no time, by which it is found: no code can name one so."""
BURIAL = "(burial)"
"""The timer of a flow that ends as a dead letter, by which that gets its copy, whoever dies."""


class Resume(msgspec.Struct, frozen=True, tag=RESUME, forbid_unknown_fields=True):
    """Somebody gives a deferred its value."""

    token: str
    value: Raw = NULL


class Cancel(msgspec.Struct, frozen=True, tag=CANCEL, forbid_unknown_fields=True):
    """Somebody wants no more of a flow."""

    flow: str


class Retry(msgspec.Struct, frozen=True, tag=RETRY, forbid_unknown_fields=True):
    """An operator lets a parked flow go on."""

    flow: str


class AnswerCame(msgspec.Struct, frozen=True, tag=ANSWER, forbid_unknown_fields=True):
    """Another entity has the outcome of what a flow asked it."""

    token: str
    answer: Answer


class TimerFired(
    msgspec.Struct, frozen=True, tag=FIRED, forbid_unknown_fields=True, omit_defaults=True
):
    """A timer's time has come, says whoever relays the schedules."""

    flow: str
    timer: str
    due_ms: int
    command: Raw | UnsetType = UNSET
    """Of a burial: what began the flow."""
    after: Annotated[int, Meta(ge=0)] = 0
    """Of a burial: the sequence that the entity's log had before the verdict."""


def timer_token(flow: str, armed: Armed) -> str:
    """The subject token of a timer: another one for each due time; but a question is asked again
    by one timer at a time, the last one that was set, and a flow is found, or buried, by one."""
    if armed.name in (OPEN, BURIAL) or armed.name.startswith(ASK):
        return digest(f"{flow}\0{armed.name}".encode())
    return digest(f"{flow}\0{armed.name}\0{armed.due_ms}".encode())


Waker: TypeAlias = Resume | Cancel | Retry | AnswerCame | TimerFired

_wakers: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Waker)


def is_waker(data: bytes) -> bool:
    """Whether a payload may be one: nearly no command has the sign in it."""
    return b'"$' in data


def waker_of(data: bytes, limit: int) -> Waker | None:
    """The waker in a payload that may be one (`is_waker`); None for one that says to be something
    else. Raises Undecodable."""
    tag = tag_of(data, limit)
    if tag is None or not tag.startswith("$"):
        return None
    if tag not in (RESUME, CANCEL, RETRY, ANSWER, FIRED):
        raise Undecodable(f"no command {tag[:60]!r}"[:TEXT_CHARS])
    made: Waker = decode(_wakers, data, limit=limit, what=tag)
    return made


class _Named(msgspec.Struct):
    """The part of a payload that says which command it is."""

    type: str


_named = msgspec.json.Decoder(_Named)


def tag_of(data: bytes, limit: int) -> str | None:
    """What a payload says that it is; None if it says nothing."""
    try:
        named: _Named = decode(_named, data, limit=limit, what="tag")
    except Undecodable:
        return None
    return named.type


def may_be_waker(item: Item) -> bool:
    """Whether a token may be in what came, however wrong it is."""
    if isinstance(item.command, Waker):
        return True
    data = bytes(item.raw)
    if item.problem is None or not is_waker(data):
        return False
    tag = tag_of(data, len(data))
    return tag is None or tag.startswith("$")
