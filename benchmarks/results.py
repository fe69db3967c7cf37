"""What a run found, as it is kept in JSON, and what follows from it: medians, spreads, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec

from .contenders import Slice
from .orders import Sizes


class Row(msgspec.Struct, frozen=True):
    """One contender at one point."""

    environment: str
    kind: str
    clients: int
    contender: str
    slices: list[Slice]

    def median(self, of: Callable[[Slice], float | None]) -> float | None:
        """The median of something over the slices; None if nobody knows it."""
        known = [value for value in map(of, self.slices) if value is not None]
        return statistics.median(known) if known else None

    def spread(self, of: Callable[[Slice], float]) -> tuple[float, float]:
        """The least and the most."""
        found = [of(one) for one in self.slices]
        return min(found), max(found)

    def ratio(self, other: Row, of: Callable[[Slice], float]) -> float:
        """The median, over the rounds, of what this one did beside the other in the same round."""
        pairs = zip(self.slices, other.slices, strict=True)
        return statistics.median(of(mine) / max(of(theirs), 1e-9) for mine, theirs in pairs)

    @property
    def errors(self) -> int:
        """Commands that got no outcome."""
        return sum(one.errors for one in self.slices)


class Machine(msgspec.Struct, frozen=True):
    """Where it ran."""

    system: str
    processor: str
    cores: int
    python: str
    nats_server: str
    nats_py: str
    load_before: float
    """The load average of the minute before: 0 is a quiet machine."""
    load_after: float


class Results(msgspec.Struct, frozen=True):
    """One run."""

    time: str
    commit: str
    machine: Machine
    seconds: float
    rounds: int
    settings: dict[str, str]
    sizes: dict[str, Sizes]
    """By environment."""
    rows: list[Row]

    def find(self, environment: str, kind: str, clients: int, contender: str) -> Row | None:
        """One row, if it was measured."""
        wanted = (environment, kind, clients, contender)
        for row in self.rows:
            if (row.environment, row.kind, row.clients, row.contender) == wanted:
                return row
        return None


def recorded(one: Slice) -> float:
    """Commands a second whose outcome was recorded: what a rate is compared by."""
    return one.recorded


def cpu(one: Slice) -> float | None:
    """Processor time a command, in ms."""
    return one.cpu_ms


def p50(one: Slice) -> float:
    """The median time of a command, in ms."""
    return one.p50_ms


def p99(one: Slice) -> float:
    """The 99th percentile of the time of a command, in ms."""
    return one.p99_ms
