"""One command on its way through a runner: what came, from whom, by which way.

Made by `durable/intake.py` from an ask or a tell, queued in a mailbox, removed when it is
answered. A tell's body may be evicted while it waits (`command` is None, `evicted` is true): the
command stream still has it, and it is read again by its sequence before its turn.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Raw, Struct

from ..streams.commit import At

Way: TypeAlias = Literal["ask", "tell"]


class Asker(Struct, frozen=True):
    """Somebody who waits for an answer."""

    reply: str
    request: str | None = None
    plain: bool = False  # a bare client, which can't repeat with the same key
    told: bool = False  # a tell's Reply-To: hears its outcome, once, and nothing before


class Item(Struct, eq=False):
    """A command that waits for its turn. Mutable: its handle, askers and counters change."""

    way: Way
    name: str  # the key, or a bare ask's reply subject, or a tell's cause
    payload_hash: str
    raw: Raw  # the command as it came
    command: Any = None  # decoded
    key: str | None = None
    cause: str | None = None  # of a tell
    at: At | None = None  # of a tell
    birth: int | None = None  # Unix ms; the key was made by a client for its own repeats
    deadline: int | None = None  # Unix ms
    after: int | None = None  # of an ask: wait for this tell first
    later: int | None = None  # of a tell: Unix ms before which it isn't done
    chain: tuple[str, ...] = ()  # of a flow's tell: the flows that wait for it
    moves: bool = False  # it begins a flow, or wakes one
    request: str | None = None
    trace: str | None = None
    askers: list[Asker] = []
    handle: str = ""  # of a tell: the newest delivery's
    consumer: str = ""  # of a tell: the term that delivered it last
    since: float = 0.0  # loop time of arrival, seconds
    problem: str | None = None  # why a tell's payload can't be decoded: it becomes a dead letter
    suspect: bool = False  # it may have killed the process that had it
    marked: bool = False  # a mark of its attempt is stored
    published: bool = False  # a commit with it was sent to the log
    overtakes: bool = False  # taken before earlier tells, which its outcome mustn't tell as done
    attempts: int = 0  # how often its handler had a defect
    evicted: bool = False  # its body is not in memory
    credit: bool = False  # it uses one of its term's credits
    held: bool = False  # evicted, and counted among those that its shard holds
    size: int = 0  # bytes that it keeps, for the bounds

    @property
    def place(self) -> At | None:
        """The place that its outcome tells, from which the watermark is made."""
        return None if self.overtakes else self.at
