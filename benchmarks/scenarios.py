"""What is measured: environments (how the server stores) and points (what is sent).

The defaults take about five minutes; the options of `python -m benchmarks` choose less or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .orders import Way

ENTITIES = 1_000
CLIENTS = (1, 64, 256)

Kind: TypeAlias = Literal["ask", "stream", "tell", "hot", "cold"]
KINDS: tuple[Kind, ...] = ("ask", "stream", "tell", "hot", "cold")


@dataclass(frozen=True)
class Environment:
    """How the server stores what it acknowledges."""

    name: str
    fsync: bool
    replicas: int
    kinds: tuple[Kind, ...]
    """What is measured there unless told otherwise."""


ENVIRONMENTS = (
    Environment("always", fsync=True, replicas=1, kinds=KINDS),
    Environment("default", fsync=False, replicas=1, kinds=KINDS),
    Environment("r3-always", fsync=True, replicas=3, kinds=("ask",)),
    Environment("r3-default", fsync=False, replicas=3, kinds=("ask",)),
)


@dataclass(frozen=True)
class Point:
    """One load, which every contender carries in turn."""

    kind: Kind
    way: Way
    clients: int
    entities: int


def points(kinds: tuple[Kind, ...], clients: tuple[int, ...]) -> Iterator[Point]:
    """The loads of some kinds. A hot entity has all clients, the most that there are."""
    for kind in kinds:
        if kind == "hot":
            yield Point(kind, "ask", max(clients), 1)
        elif kind != "cold":
            for count in clients:
                yield Point(kind, kind, count, ENTITIES)
