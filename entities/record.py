"""Records: what happened in a flow, in the order in which it happened.

They are stored with the outcomes of its entity, and are all that a flow is: run again over its
records, its code comes to the same line with the same values, on any runner. What has a name is
found by it, events by their place. A *segment* is what runs while the entity is held: it ends
where the flow waits, and between two of them others may have changed the entity.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType


class Began(msgspec.Struct, frozen=True, tag="began", omit_defaults=True):
    """A segment begins: the state that its lines see."""

    version: int
    state: Raw | UnsetType = UNSET
    """Left out where nobody changed it since the segment before ended."""


class Emitted(msgspec.Struct, frozen=True, tag="emitted", omit_defaults=True):
    """Events; they stand with the outcome."""

    count: int
    hash: str
    """Of them, so that other events at this place are noticed."""


class Ran(msgspec.Struct, frozen=True, tag="ran", omit_defaults=True):
    """A step ended: with a result, a declared failure, or an error after its last attempt."""

    name: str
    result: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    error: str | None = None


class Opened(msgspec.Struct, frozen=True, tag="opened", omit_defaults=True):
    """A deferred can be resolved."""

    name: str
    nonce: str
    """Part of what its token is made of; nothing can be made of it alone."""
    expires_ms: int | None = None
    """Unix time from which on the token is refused."""
    tell_caller: bool = False


class Armed(msgspec.Struct, frozen=True, tag="armed", omit_defaults=True):
    """A timer was set."""

    name: str
    due_ms: int


class Asked(msgspec.Struct, frozen=True, tag="asked", omit_defaults=True):
    """Another entity is asked."""

    name: str
    entity: str
    id: str
    command: Raw
    nonce: str = ""
    """Part of what the answer has to show; nothing can be made of it alone."""


class Waits(msgspec.Struct, frozen=True, tag="waits", omit_defaults=True):
    """A segment ends: what the flow waits for. The entity is released."""

    on: tuple[str, ...]
    exclusive: bool = False


class Resolved(msgspec.Struct, frozen=True, tag="resolved", omit_defaults=True):
    """Somebody gave a deferred its value."""

    name: str
    value: Raw


class Dropped(msgspec.Struct, frozen=True, tag="dropped", omit_defaults=True):
    """A deferred is open again: the value that was kept while its flow was parked isn't of its
    type."""

    name: str
    why: str


class Fired(msgspec.Struct, frozen=True, tag="fired", omit_defaults=True):
    """A timer's time has come."""

    name: str


class Answered(msgspec.Struct, frozen=True, tag="answered", omit_defaults=True):
    """The other entity's outcome."""

    name: str
    reply: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    error: str | None = None


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled", omit_defaults=True):
    """Somebody wants no more of it, or its deadline has passed: where it waits it ends, undone."""

    why: str


Record: TypeAlias = (
    Began
    | Emitted
    | Ran
    | Opened
    | Armed
    | Asked
    | Waits
    | Resolved
    | Dropped
    | Fired
    | Answered
    | Cancelled
)

Named: TypeAlias = Ran | Opened | Armed | Asked | Resolved | Dropped | Fired | Answered
"""Those that are found by their name."""

N = TypeVar("N", Ran, Opened, Armed, Asked, Resolved, Dropped, Fired, Answered)
