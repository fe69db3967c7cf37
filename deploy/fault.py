"""Fault: one thing that `perdure verify` found to be other than it was written, and what to do."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "unreadable", "damaged", "hole", "fork", "version", "time", "snapshot", "fold"
]


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a verification."""

    fault: Kind
    address: str
    """`account/a-1`; the type alone where a message can't be read: nobody can tell whose it is."""
    seq: int
    """Of the message in the log."""
    what: str
    next: str


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """A message on a log's subject that perdure did not write. No fault: it changes nothing."""

    foreign: bool = True
    subject: str
    seq: int
    time: datetime
    bytes: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified of one type."""

    verified: str
    """The entity type."""
    messages: int
    entities: int
    foreign: int
    folded: int
    """Entities whose events were all folded with the app's code."""
    snapshots: int
    """Snapshots that were compared with a fold."""
    ignored: int
    """Snapshots that the app's code would ignore: made by other types or another `evolve`."""
    faults: int


def restore(stream: str) -> str:
    """The next step after damage to a log."""
    return f"compare with a backup of {stream}; its runner refuses the entity and nothing else"
