"""What a run leaves behind for the checker: plain records, and nothing of the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Way: TypeAlias = Literal[
    "ask",
    "tell",
    "query",
    "result",
    "status",
    "state",
    "plain ask",
    "plain tell",
    "plain query",
]


@dataclass(slots=True)
class Call:
    """One call of one client, from its beginning to its end, in ticks of one counter."""

    client: str
    way: Way
    entity: str
    uid: int
    kind: str  # the command's tag
    key: str | None
    begin: int
    end: int = -1  # -1: it never ended, as its process was killed
    lasted_s: float = 0.0  # in virtual seconds, what its client slept left out
    again: bool = False  # the same key and payload were used before
    other: bool = False  # the key was used before, with another payload
    fresh: bool = False
    version: int = 0  # of the state that is asked for
    calm: bool = False  # begun when no fault was left
    reply: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    error: str | None = None  # the tag
    may: bool | None = None  # may_have_taken_effect
    cause: str = ""
    told: str | None = None  # the key that a tell returned
    untagged: str | None = None  # what came out and is neither error nor failure

    @property
    def ok(self) -> bool:
        """Whether it ended with what was asked for, a failure included."""
        return self.reply is not None or self.failure is not None or self.told is not None


@dataclass(frozen=True, slots=True)
class Logged:
    """One message of an entity's log."""

    sequence: int
    time_ns: int
    data: bytes
    mark: str | None


@dataclass(slots=True)
class Accepted:
    """One tell that the stream acknowledged or stored."""

    entity: str
    sequence: int
    time_ns: int
    uid: int | None  # None: garbage on purpose
    key: str | None
    lost: bool = False  # the stream lost its tail, and this with it


@dataclass(slots=True)
class Evidence:
    """Everything of one run."""

    calls: list[Call] = field(default_factory=list[Call])
    logs: dict[str, list[Logged]] = field(default_factory=dict[str, list[Logged]])
    accepted: list[Accepted] = field(default_factory=list[Accepted])
    waiting: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    dead_copies: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    damaged: set[str] = field(default_factory=set[str])  # entities whose log is damaged
    healed: set[str] = field(default_factory=set[str])  # entities whose log was damaged once
    torn: dict[str, list[Logged]] = field(default_factory=dict[str, list[Logged]])
    """By entity, what its log lost when it lost its tail."""
    rewound: bool = False
    watched: dict[str, list[tuple[int, int | None]]] = field(
        default_factory=dict[str, list[tuple[int, "int | None"]]]
    )  # by entity, what a watcher saw: sequence and uid
    told: list[bytes] = field(default_factory=list[bytes])  # answers that a runner sent
    processed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Entity and name of each tell of which, delivered again, was known that it had its outcome,
    but not which."""
    uncaught: list[str] = field(default_factory=list[str])
    unbounded: list[str] = field(default_factory=list[str])
    unanswered: list[str] = field(default_factory=list[str])
    killed: dict[int, int] = field(default_factory=dict[int, int])  # uid: processes it ended
    garbage: set[int] = field(default_factory=set[int])  # uids sent malformed on purpose
    births: dict[int, int] = field(default_factory=dict[int, int])  # uid: Unix ms, told by hand
    deadlines: dict[int, int] = field(default_factory=dict[int, int])  # uid: Unix ms
    boom_times: dict[int, int] = field(default_factory=dict[int, int])  # uid: times to raise
    cut_off: set[str] = field(default_factory=set[str])  # clients that lost their connection
    skew_ms: float = 0.0  # of the clocks, at most
