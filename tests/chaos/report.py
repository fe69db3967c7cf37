"""What callers felt of an incident: how long the worst command took, by whose shard it was.

A command is all tries of one client together, from the first one's beginning to the outcome. It
belongs to an incident if it was on its way at some time from the incident until the next one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

from .linear import NEVER, Call

MS = 1e6


class Command(Struct, frozen=True):
    """One command or query of one client, with all its tries."""

    way: str
    entity: str
    begin: int
    end: int  # NEVER without an outcome
    errors: tuple[str, ...]

    @property
    def took_ms(self) -> float:
        """How long its client waited."""
        return (self.end - self.begin) / MS


class Incident(Struct, frozen=True):
    """Something that was done to a runner, and the shards that it had."""

    kind: str
    runner: str
    at: int
    until: int
    shards: frozenset[int]


class Felt(Struct, frozen=True):
    """What callers felt of an incident."""

    kind: str
    runner: str
    shards: int  # of the runner
    commands: int
    worst_ask_ms: float | None  # None: there was none
    worst_command_ms: float | None  # asks and tells
    worst_elsewhere_ms: float | None  # asks to shards of others
    worst_before_ms: float | None  # asks in the calm before, for comparison
    errors: dict[str, int]
    errors_elsewhere: dict[str, int]


def commands(calls: Iterable[Call]) -> list[Command]:
    """Tries, put together."""
    tries: dict[tuple[str, int], list[Call]] = defaultdict(list)
    for call in calls:
        tries[call.client, call.since].append(call)
    found: list[Command] = []
    for (_, since), same in tries.items():
        end = next((call.end for call in same if call.result == "ok"), NEVER)
        errors = tuple(call.error for call in same if call.error)
        found.append(Command(same[0].way, same[0].entity, since, end, errors))
    return found


def felt(
    incident: Incident, all: Sequence[Command], shard: Callable[[str], int], calm_ns: int
) -> Felt:
    """What callers felt of it."""
    during = [c for c in all if c.begin < incident.until and c.end > incident.at]
    before = [c for c in all if incident.at - calm_ns < c.begin and c.end < incident.at]
    elsewhere = [c for c in during if shard(c.entity) not in incident.shards]
    return Felt(
        incident.kind,
        incident.runner,
        len(incident.shards),
        len(during),
        _worst(c for c in during if c.way == "ask"),
        _worst(c for c in during if c.way in ("ask", "tell")),
        _worst(c for c in elsewhere if c.way == "ask"),
        _worst(c for c in before if c.way == "ask"),
        _errors(during),
        _errors(elsewhere),
    )


def _worst(some: Iterable[Command]) -> float | None:
    worst = max((command.took_ms for command in some), default=None)
    return None if worst is None else round(worst, 1)


def _errors(some: Iterable[Command]) -> dict[str, int]:
    return dict(Counter(error for command in some for error in command.errors))


def longest_gap_ms(moments: Iterable[int], begin: int, end: int) -> float:
    """The longest time without one of these moments, ns, from begin to end."""
    inside = [begin, *sorted(m for m in moments if begin < m < end), end]
    return max(b - a for a, b in pairwise(inside)) / MS


def within(figures: Iterable[float | None], limit_ms: float) -> int:
    """How many of them keep a limit."""
    return sum(figure is not None and figure < limit_ms for figure in figures)


def lines(found: Sequence[Felt]) -> str:
    """For people: one line an incident, and the distribution."""
    head = f"{'what':<7}{'runner':<11}{'shards':>7}{'commands':>9}{'worst ask':>11}\
{'command':>11}{'elsewhere':>11}{'before':>11}  errors"
    rows = [
        f"{f.kind:<7}{f.runner:<11}{f.shards:>7}{f.commands:>9}{_ms(f.worst_ask_ms):>11}"
        f"{_ms(f.worst_command_ms):>11}{_ms(f.worst_elsewhere_ms):>11}{_ms(f.worst_before_ms):>11}"
        f"  {_told(f)}"
        for f in found
    ]
    worst = sorted(f.worst_ask_ms for f in found if f.worst_ask_ms is not None)
    return "\n".join([head, *rows, f"worst asks, sorted: {', '.join(map(_ms, worst))}"])


def _told(f: Felt) -> str:
    elsewhere = f", elsewhere {f.errors_elsewhere}" if f.errors_elsewhere else ""
    return f"{f.errors or 'none'}{elsewhere}"


def _ms(figure: float | None) -> str:
    if figure is None:
        return "-"
    return "never" if figure > 1e9 else f"{figure:.0f} ms"
