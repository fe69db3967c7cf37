"""What the checker of flows reads: plain records, and nothing of the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .evidence import Logged


@dataclass(slots=True)
class FlowCall:
    """One ask or tell that begins a flow, and what its client heard."""

    entity: str
    uid: int
    key: str
    script: int
    reply: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    error: str | None = None
    cause: str = ""
    stored: bool = False  # it is known to have been stored
    deadline_ms: int | None = None  # of its command, in the server's time


@dataclass(slots=True)
class Answered:
    """What was sent to a flow and answered, with the server's time in ms before and after."""

    uid: int
    sent_ms: int
    at_ms: int


@dataclass(slots=True)
class Sagas:
    """Everything about flows in one run."""

    calls: list[FlowCall] = field(default_factory=list[FlowCall])
    pokes: dict[int, str] = field(default_factory=dict[int, str])  # uid: entity
    logs: dict[str, list[Logged]] = field(default_factory=dict[str, list[Logged]])
    waiting: list[int] = field(default_factory=list[int])  # tells that are left
    dead_copies: list[bytes] = field(default_factory=list[bytes])
    cancelled: set[str] = field(default_factory=set[str])  # keys
    buggy: set[int] = field(default_factory=set[int])
    """Of flows whose code was wrong once, their uids."""
    retried: set[str] = field(default_factory=set[str])
    """Keys of flows that an operator, or somebody else, let go on."""
    given: dict[int, set[int]] = field(default_factory=dict[int, "set[int]"])
    """By the flow's uid, the values that its token was used with."""
    sent_ms: dict[int, int] = field(default_factory=dict[int, int])
    """By the flow's uid, when its token was first given to somebody, in the server's time."""
    resumed: list[Answered] = field(default_factory=list["Answered"])
    ended: list[Answered] = field(default_factory=list["Answered"])
    """Resumes and cancellations that were answered."""
    effects: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    untagged: list[str] = field(default_factory=list[str])
