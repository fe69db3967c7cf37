"""`perdure runners`: which runners there are, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec

from ...durable.stats import RunnerStats
from ...streams.caller import Caller
from ...streams.members import Member
from ..fleet import Fleet
from .calling import connected
from .options import NO_OPTIONS, Common
from .survey import ONCE, Watching, fleet, watched
from .trouble import SUCCESS

State: TypeAlias = Literal["well", "leaving", "differs", "silent"]

COLUMNS = ("RUNNER", "HOST:PID", "#AGE", "SHARDS", "#WEIGHT", "LABELS", "#MACHINE", "STATE")

NONE = "-"
"""In a table: not known, or nothing."""

WELL = "runs"
"""Of a singleton, which needs no word."""

UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner has of one type."""

    entity: str
    owned: int
    assigned: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A runner, as `--json` prints it."""

    runner: str
    state: State
    differs: tuple[str, ...]
    """In what, if it does."""
    host: str
    process: int
    since: int
    """When it started, Unix milliseconds."""
    age_s: float
    types: tuple[Share, ...]
    singletons: tuple[str, ...]
    """The names of those that it has."""
    singleton_states: dict[str, str]
    """How each of them is: `runs`, `fails`, `ends` or `ended`."""
    weight: float
    labels: tuple[str, ...]
    machine: int | None


def runners(*, watching: Watching = ONCE, common: Common = NO_OPTIONS) -> int:
    """Print the runners there are, what each has of the shards, and whether they agree.

    SHARDS are those that a runner has, of those that it should have; its singletons come after
    them, with a word where one failed and is begun again (`fails`), returned (`ended`), or cleans
    up after it was cancelled (`ends`). STATE is `well`; `leaving`: it was told to drain;
    `differs`: it sees other runners than the rest, or hosts other code than the one that started
    last; `silent`: it has a record in the members bucket and doesn't answer. It exits with 1 if
    nobody answers.

    For instance:

    * `perdure runners`
    * `perdure runners --watch`
    * `perdure runners --json | jq -r .runner`
    """
    watching.check()
    settings, output = common.settings(), common.output()

    def show(found: list[Row]) -> int:
        for row in found if output.json else ():
            output.result(row)
        output.table(COLUMNS, map(cells, found))
        return SUCCESS

    async def work(caller: Caller) -> int:
        async def look() -> list[Row]:
            now_ms = caller.session.clock.now_ns() // 1_000_000
            return list(rows(await fleet(caller), now_ms))

        return await watched(output, watching, look, show)

    return connected(settings, work)


def rows(found: Fleet, now_ms: int) -> Iterator[Row]:
    """A row for each runner: those that answered, then those that are silent."""
    for one in found.told.values():
        yield _told(one, found.differs(one))
    for member in found.silent:
        yield _silent(member, now_ms)


def _told(one: RunnerStats, differs: list[str]) -> Row:
    state: State = "differs" if differs else "well"
    return Row(
        runner=one.runner,
        state="leaving" if one.leaving else state,
        differs=tuple(differs),
        host=one.host,
        process=one.process,
        since=one.since,
        age_s=_age_s(one.since, one.time),
        types=tuple(Share(entity=t.entity, owned=t.owned, assigned=t.assigned) for t in one.types),
        singletons=one.singletons,
        singleton_states=one.singleton_states,
        weight=one.weight,
        labels=one.labels,
        machine=one.machine,
    )


def _silent(member: Member, now_ms: int) -> Row:
    return Row(
        runner=member.runner,
        state="silent",
        differs=(),
        host=member.host,
        process=member.process,
        since=member.since,
        age_s=_age_s(member.since, now_ms),
        types=(),
        singletons=(),
        singleton_states={},
        weight=member.weight,
        labels=member.labels,
        machine=member.machine,
    )


def _age_s(since: int, now_ms: int) -> float:
    return max(0, now_ms - since) / 1000 if since else 0.0


def cells(row: Row) -> tuple[str, ...]:
    """A runner for people."""
    return (
        row.runner,
        f"{row.host}:{row.process}" if row.host else NONE,
        age(row.age_s) if row.since else NONE,
        ", ".join(_has(row)) or NONE,
        f"{row.weight:g}",
        ", ".join(row.labels) or NONE,
        NONE if row.machine is None else str(row.machine),
        f"{row.state}: {', '.join(row.differs)}" if row.differs else row.state,
    )


def _has(row: Row) -> list[str]:
    shares = [f"{t.entity} {t.owned}/{t.assigned}" for t in row.types]
    return [*shares, *(_singleton(name, row.singleton_states) for name in row.singletons)]


def _singleton(name: str, states: Mapping[str, str]) -> str:
    state = states.get(name, WELL)
    return f"{name} (singleton)" if state == WELL else f"{name} (singleton, {state})"


def age(seconds: float) -> str:
    """How long something has been there, in its largest unit: `3h`."""
    for unit, length in UNITS:
        if seconds >= 2 * length:  # the exact number matters while it is small
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
