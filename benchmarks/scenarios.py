"""What is measured: environments (how the server stores) and points (what is sent).

The defaults take about five minutes; the options of `python -m benchmarks` choose less or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .orders import Way
from .results import RAW, RAW_BATCHED

ENTITIES = 1_000
CLIENTS = (1, 64, 256)
ENDS = (1, 256)
"""Where what lies between adds little."""

Kind: TypeAlias = Literal["ask", "stream", "tell", "hot", "cold"]
KINDS: tuple[Kind, ...] = ("ask", "stream", "tell", "hot", "cold")


@dataclass(frozen=True)
class Environment:
    """How the server stores what it acknowledges."""

    name: str
    fsync: bool
    replicas: int
    usual: Mapping[Kind, tuple[int, ...]]
    """What is measured there unless told otherwise: kinds, and each one's numbers of clients."""


_ONE_SERVER: Mapping[Kind, tuple[int, ...]] = {
    "ask": CLIENTS,
    "stream": ENDS,
    "tell": ENDS,
    "hot": (256,),
    "cold": (1,),
}
ENVIRONMENTS = (
    Environment("always", fsync=True, replicas=1, usual=_ONE_SERVER),
    Environment("default", fsync=False, replicas=1, usual=_ONE_SERVER),
    Environment("r3-always", fsync=True, replicas=3, usual={"ask": CLIENTS}),
    Environment("r3-default", fsync=False, replicas=3, usual={"ask": ENDS}),
)


@dataclass(frozen=True)
class Point:
    """One load, which every contender carries in turn."""

    kind: Kind
    way: Way
    clients: int
    entities: int
    raws: tuple[str, ...] = (RAW, RAW_BATCHED)
    """The raw clients beside it. On one entity there is nothing to batch."""


def points(
    environment: Environment, kinds: tuple[Kind, ...] | None, clients: tuple[int, ...] | None
) -> Iterator[Point]:
    """The loads of an environment: the usual ones, or those of the kinds and clients given."""
    for kind in environment.usual if kinds is None else kinds:
        for count in clients or environment.usual.get(kind, CLIENTS):
            match kind:
                case "hot":
                    yield Point(kind, "ask", count, 1, (RAW,))
                case "ask" | "stream" | "tell":
                    yield Point(kind, kind, count, ENTITIES)
                case "cold":
                    yield Point(kind, "ask", count, 0)
