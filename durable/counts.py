"""Counts: what one entity type did in one runner, as plain numbers that only grow.

Whoever does something adds to them; `perdure.stats`, and with it `perdure stats` and the metrics
(deploy/metrics.py), read them. On a command's way an addition is all that they cost: no clock that
isn't read anyway, no lock, no object a command. Nothing decides by them.

How long something took is counted in buckets that double (`BOUNDS_S`), so that the bucket is the
number of binary digits of the time, and nothing has to be searched for.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from ..streams.commit import Outcome

Way: TypeAlias = Literal["ask", "tell", "query", "control", "flow"]
"""By which way it came: `control` asks about commands and states, `flow` is what a flow that had
waited came to."""

Result: TypeAlias = Literal[
    "reply",  # a new outcome: a reply
    "failure",  # a new outcome: a declared failure; its tag is the failure's
    "dead",  # a new outcome: a dead letter; its tag is the reason
    "error",  # a cluster error, without an outcome; its tag is the error's
    "repeat",  # the ledger had its outcome
    "processed",  # a tell below the watermark: its outcome is forgotten
    "stored",  # an ask that begins or wakes a flow: it became a tell
    "suspended",  # it began a flow, which waits
    "woke",  # it woke a flow, or would have
]

PER_S = 4000
"""What the first bucket is a part of, in a second: a quarter of a millisecond is the shortest time
that matters beside a network."""

BOUNDS_S: Final = tuple(2**n / PER_S for n in range(18))
"""The upper bounds of the buckets, exclusive, in seconds: 0.00025 to 32.768, each twice the one
before. `ask_timeout` is 30 s, beyond which nobody waits."""

BEYOND: Final = len(BOUNDS_S)
"""The bucket of what was longer than all bounds."""

SIZES: Final = tuple(2**n for n in range(9))
"""The upper bounds of a batch's commits, inclusive: 1 to 256, which is the largest batch."""

SERIES = 256
"""Different ways, results and tags that are counted apart, for one type. A type declares its
failures and the errors are eleven, so this is never reached by what is meant."""

REST = "…"
"""The tag of what came when there was no more room."""


class Times:
    """How long things took."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (BEYOND + 1)
        self.sum_s: float = 0.0

    def __repr__(self) -> str:
        return f"Times({sum(self.counts)} in {self.sum_s:.3f} s)"

    def add(self, length_s: float) -> None:
        """One more."""
        bucket = int(length_s * PER_S).bit_length()
        self.counts[bucket if bucket < BEYOND else BEYOND] += 1
        self.sum_s += length_s

    def told(self) -> TimesTold:
        """As the wire has it."""
        return TimesTold(tuple(self.counts), self.sum_s)


class TimesTold(Struct, frozen=True, array_like=True):
    """How long things took: a number for each bucket, and for what was longer than all of them."""

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0


class Answered(Struct, frozen=True, array_like=True):
    """How many were answered in one way."""

    way: str
    result: str
    tag: str
    count: int


class Counted(Struct, frozen=True, kw_only=True):
    """The counts of one type, at one moment, since its runner began."""

    commands: tuple[Answered, ...] = ()
    """By way, result and tag."""
    times: dict[str, TimesTold] = {}
    """From taking a command or query to its answer, by way; errors aside."""
    activated: int = 0
    """Entities whose log was folded into memory."""
    redelivered: int = 0
    """Tells that were given again while they waited here."""
    terms: int = 0
    """Terms begun."""
    ended: dict[str, int] = {}
    """Terms that ended before they were given back, by reason: `gap` is a lost delivery."""
    fenced: int = 0
    """Appends that another commit forestalled: another runner owned the entity, too."""
    parked: int = 0
    """Flows that were parked."""
    in_batches: int = 0
    """Commits sent in batches, whatever became of these."""
    batch_sizes: tuple[int, ...] = ()
    """Batches of up to 1, 2, 4 … 256 commits."""


class Counts:
    """What one type did so far in this runner."""

    def __init__(self) -> None:
        self.commands: dict[tuple[str, str, str], int] = {}
        self.replies: dict[str, int] = {}  # what most come to: apart, for it costs least so
        self.times: dict[str, Times] = {"ask": Times(), "tell": Times(), "query": Times()}
        self.activated: int = 0
        self.redelivered: int = 0
        self.terms: int = 0
        self.ended: dict[str, int] = {}
        self.fenced: int = 0
        self.parked: int = 0

    def __repr__(self) -> str:
        return f"Counts({self.told()})"

    def answered(self, way: Way, result: Result, tag: str = "") -> None:
        """One more was answered so."""
        key = (way, result, tag)
        if key not in self.commands and len(self.commands) >= SERIES:
            key = (way, result, REST)
        self.commands[key] = self.commands.get(key, 0) + 1

    def decided(self, way: Way, outcome: Outcome, took_s: float | None = None) -> None:
        """One more has a new outcome, after that time; None for a flow's, which waited."""
        if outcome.dead is None and outcome.failure is UNSET:
            self.replies[way] = self.replies.get(way, 0) + 1
        elif outcome.dead is not None:
            self.answered(way, "dead", outcome.dead.reason)
        else:
            assert outcome.failure is not UNSET
            self.answered(way, "failure", tag_in(outcome.failure))
        if took_s is not None:
            self.times[way].add(took_s)

    def end(self, reason: str) -> None:
        """One more term ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def told(self, in_batches: int = 0, batch_sizes: tuple[int, ...] = ()) -> Counted:
        """As of now; of batches their sender knows."""
        replies = [Answered(way, "reply", "", count) for way, count in self.replies.items()]
        others = [Answered(*key, count) for key, count in self.commands.items()]
        return Counted(
            commands=(*replies, *others),
            times={way: times.told() for way, times in self.times.items()},
            activated=self.activated,
            redelivered=self.redelivered,
            terms=self.terms,
            ended=dict(self.ended),
            fenced=self.fenced,
            parked=self.parked,
            in_batches=in_batches,
            batch_sizes=batch_sizes,
        )


def tag_in(data: msgspec.Raw) -> str:
    """The tag of a command or failure that a runner has encoded, or could read once."""
    return _typed.decode(data).type


class _Typed(Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)
