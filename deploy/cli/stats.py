"""`perdure stats`: what the runners that live have, hold and wait for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...durable.stats import RunnerStats, TypeStats
from ...streams.caller import Caller
from .calling import connected, type_of
from .options import NO_OPTIONS, Common
from .output import Output
from .survey import ONCE, Watching, collect, nobody_hosts, watched
from .trouble import SUCCESS

MB = 1_000_000

COLUMNS = (
    "RUNNER", "TYPE", "#SHARDS", "#TERMS", "#ENTITIES", "#QUARANTINED", "#ASKS", "#TELLS",
    "#FULLEST", "#KEYS", "#EVICTED", "#COMMITS", "#PER SECOND", "#WAITING", "#BYTES",
    "#CACHED MB", "#DROPPED",
)  # fmt: skip


def stats(
    type: str | None = None,
    /,
    *,
    watching: Watching = ONCE,
    common: Common = NO_OPTIONS,
) -> int:
    """Print what each runner has: shards, terms, entities, what waits, ledgers, its connection.

    It asks all runners at once and collects answers for half a second; one that doesn't answer is
    gone or stuck. It exits with 1 if nobody answers.

    For instance:

    * `perdure stats`
    * `perdure stats account --watch --every 5`
    * `perdure stats --json | jq .asks`

    Parameters
    ----------
    type
        Only this entity type: `account`.
    """
    if type is not None:
        type_of(type)
    watching.check()
    settings, output = common.settings(), common.output()
    before: dict[str, RunnerStats] = {}

    def show(found: list[RunnerStats]) -> int:
        _print(output, found, before)
        before.clear()
        before.update({one.runner: one for one in found})
        return SUCCESS

    async def work(caller: Caller) -> int:
        async def look() -> list[RunnerStats]:
            return _of_type(await collect(caller), type)

        return await watched(output, watching, look, show)

    return connected(settings, work)


def _of_type(found: list[RunnerStats], type: str | None) -> list[RunnerStats]:
    """Only what they say of one type, and only those that host it. Raises Failed for none."""
    if type is None:
        return found
    only = [
        msgspec.structs.replace(one, types=tuple(t for t in one.types if t.entity == type))
        for one in found
    ]
    hosts = [one for one in only if one.types]
    if not hosts:
        raise nobody_hosts(type, sorted({t.entity for one in found for t in one.types}))
    return hosts


def _print(output: Output, found: list[RunnerStats], before: Mapping[str, RunnerStats]) -> None:
    for one in found if output.json else ():
        output.result(one)
    output.table(COLUMNS, [cells for one in found for cells in rows(one, before.get(one.runner))])


def _commits(type: TypeStats) -> int:
    return type.single + type.batched


def _rate(one: RunnerStats, type: TypeStats, before: RunnerStats | None) -> str:
    """Commits a second since an earlier look."""
    earlier = () if before is None else before.types
    for other in earlier:
        if before is not None and other.entity == type.entity and one.time > before.time:
            rate = (_commits(type) - _commits(other)) * 1000 / (one.time - before.time)
            return f"{rate:.0f}"
    return "-"


def rows(one: RunnerStats, before: RunnerStats | None = None) -> list[tuple[str, ...]]:
    """A runner for people: a row a type, what it has as a whole in the first.

    `before` is its earlier look, from which rates come.
    """
    whole = (
        f"{one.asks}/{one.capacity}",
        str(one.bytes),
        f"{one.cached / MB:.0f}/{one.cached_capacity / MB:.0f}",
        str(one.connection.get("dropped", "-")),
    )
    told: list[tuple[str, ...]] = []
    for number, type in enumerate(one.types):
        told.append(
            (
                "" if number else one.runner,
                type.entity,
                f"{type.owned}/{type.shards}",
                str(type.terms),
                str(type.entities),
                str(type.quarantined),
                str(type.asks),
                str(type.tells),
                str(type.fullest),
                str(type.keys + type.made),
                str(type.evicted_early),
                str(_commits(type)),
                _rate(one, type, before),
                *(("",) * len(whole) if number else whole),
            )
        )
    return told
