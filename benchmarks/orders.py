"""What the processes of a benchmark say to each other: one JSON value a line."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Way: TypeAlias = Literal["ask", "stream", "tell", "get"]
"""`ask`: a core request. `stream`: stored first, then waited for. `tell`: stored. `get`: the last
message of the entity's log, read by one direct get; only the raw caller does that."""


class Load(msgspec.Struct, frozen=True):
    """Orders a caller to send commands, each client one after another."""

    way: Way
    clients: int
    entities: int
    seconds: float = 0.0
    """How long; 0 sends one command to each entity."""
    first: int = 0
    """The number of the first entity."""
    namespace: str = ""
    """Whose log a `get` reads."""


class Sample(msgspec.Struct, frozen=True):
    """What a caller saw."""

    completed: int
    """Commands that ended, also those that ended after the time."""
    rate: float
    """Of those that ended within the time, per second."""
    p50_ms: float
    """Of the same."""
    p99_ms: float
    errors: dict[str, int]
    """By kind; each is a command that got no outcome."""


class Sizes(msgspec.Struct, frozen=True):
    """Bytes of perdure's messages, without headers: the raw client sends as many."""

    ask: int
    tell: int
    commit: int
    outcome: int
    """Of a commit's bytes, what one more command adds."""
    reply: int


class Perdure(msgspec.Struct, frozen=True):
    """What perdure's processes need to know."""

    url: str
    namespace: str
    settings: dict[str, Any]


class Raw(msgspec.Struct, frozen=True):
    """What the raw client's processes need to know."""

    url: str
    namespace: str
    batched: bool
    settings: dict[str, Any]
    """perdure's, of which the streams' configuration follows."""
    sizes: Sizes
