"""What a run found, as it is kept in JSON, and what follows from it: medians, spreads, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec

from .orders import Sizes

PERDURE = "perdure"
RAW, RAW_BATCHED = "raw", "raw batched"


class Cpu(msgspec.Struct, frozen=True):
    """Processor time in seconds, by who took it."""

    server: float
    """All servers of a cluster together."""
    worker: float
    """perdure's runner, or the raw client's worker."""
    caller: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(
            round(self.server - other.server, 3),
            round(self.worker - other.worker, 3),
            round(self.caller - other.caller, 3),
        )


class Slice(msgspec.Struct, frozen=True):
    """What one contender did in one slice."""

    rate: float
    """Commands a second as the caller saw them: answered, or for a tell stored."""
    recorded: float
    """Commands a second until the last one's outcome was recorded. Only a tell's differs."""
    p50_ms: float
    p99_ms: float
    completed: int
    """Commands in all, also those before and after the time of the rate."""
    cpu_s: Cpu | None
    """What all of these took; None if it isn't known."""
    errors: int


class Row(msgspec.Struct, frozen=True):
    """One contender at one point."""

    environment: str
    kind: str
    clients: int
    contender: str
    slices: list[Slice]

    def median(self, of: Callable[[Slice], float]) -> float:
        """The median of something over the slices."""
        return statistics.median(map(of, self.slices))

    def spread(self, of: Callable[[Slice], float]) -> tuple[float, float]:
        """The least and the most."""
        found = [of(one) for one in self.slices]
        return min(found), max(found)

    def ratio(self, other: Row, of: Callable[[Slice], float]) -> float:
        """The median, over the rounds, of what this one did beside the other in the same round."""
        pairs = zip(self.slices, other.slices, strict=True)
        return statistics.median(of(mine) / max(of(theirs), 1e-9) for mine, theirs in pairs)

    @property
    def cpu_parts_ms(self) -> tuple[float, float, float] | None:
        """Processor time a command in ms, of server, worker and caller.

        Over all slices, since one alone is short for a clock that counts in 10 ms.
        """
        known = [one.cpu_s for one in self.slices if one.cpu_s is not None]
        scale = 1000 / max(1, sum(one.completed for one in self.slices))
        if not known:
            return None
        return (
            scale * sum(one.server for one in known),
            scale * sum(one.worker for one in known),
            scale * sum(one.caller for one in known),
        )

    @property
    def cpu_ms(self) -> float | None:
        """Processor time a command in ms, over all processes."""
        parts = self.cpu_parts_ms
        return None if parts is None else sum(parts)

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

    def json(self) -> bytes:
        """As JSON, a row a line, so that a difference can be read."""
        head = msgspec.structs.replace(self, rows=[])
        text = msgspec.json.format(msgspec.json.encode(head), indent=1)
        rows = b",\n  ".join(msgspec.json.encode(row) for row in self.rows)
        return text.removesuffix(b"[]\n}") + b"[\n  " + rows + b"\n ]\n}\n"

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


def p50(one: Slice) -> float:
    """The median time of a command, in ms."""
    return one.p50_ms


def p99(one: Slice) -> float:
    """The 99th percentile of the time of a command, in ms."""
    return one.p99_ms
