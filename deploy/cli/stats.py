"""`perdure stats`: what the runners that live have, hold and wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ...durable.stats import RunnerStats, TypeStats
from ...streams.caller import Caller
from ...streams.port import Incompatible, Unreachable
from .calling import connected, type_of
from .options import NO_OPTIONS, Common
from .output import Output
from .survey import ONCE, Watching, collect, nobody_hosts, watched
from .trouble import SUCCESS

MB = 1_000_000

COUNT_S = 2.0
"""How long the server may take to count a type's tells, in seconds: a login that may not ask gets
no answer."""

COLUMNS = (
    "RUNNER", "TYPE", "#SHARDS", "#TERMS", "#ENTITIES", "#QUARANTINED", "#ASKS", "#TELLS",
    "#STORED", "#FULLEST", "#KEYS", "#EVICTED", "#COMMITS", "#PER SECOND", "#WAITING", "#BYTES",
    "#CACHED MB", "#DROPPED",
)  # fmt: skip


class Look(NamedTuple):
    """What one look finds."""

    runners: list[RunnerStats]
    stored: dict[str, int]
    """Tells in each type's command stream, where that is known."""


def stats(
    type: str | None = None,
    /,
    *,
    watching: Watching = ONCE,
    common: Common = NO_OPTIONS,
) -> int:
    """Print what each runner has: shards, terms, entities, what waits, ledgers, its connection.

    It asks all runners at once and collects answers for half a second; one that doesn't answer is
    gone or stuck. TELLS are those that the runner holds; STORED are all of the type that wait in
    its command stream, told once a type. It exits with 1 if nobody answers.

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

    def show(look: Look) -> int:
        _print(output, look, before)
        before.clear()
        before.update({one.runner: one for one in look.runners})
        return SUCCESS

    async def work(caller: Caller) -> int:
        async def look() -> Look:
            found = _of_type(await collect(caller), type)
            return Look(found, await _stored(caller, found))

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


async def _stored(caller: Caller, found: list[RunnerStats]) -> dict[str, int]:
    """The tells that each type's command stream holds, where this login may ask."""
    stored: dict[str, int] = {}
    for entity in sorted({type.entity for one in found for type in one.types}):
        with contextlib.suppress(Unreachable, Incompatible, TimeoutError):
            async with asyncio.timeout(COUNT_S):
                stored[entity] = await caller.session.commands.count(entity)
    return stored


def _print(output: Output, look: Look, before: Mapping[str, RunnerStats]) -> None:
    if output.json:
        for one in look.runners:
            fields: dict[str, Any] = msgspec.to_builtins(one)
            mine = {t.entity: look.stored[t.entity] for t in one.types if t.entity in look.stored}
            output.result({**fields, "stored": mine})
        return
    stored = dict(look.stored)  # each is told in the first row of its type
    output.table(
        COLUMNS,
        [cells for one in look.runners for cells in rows(one, before.get(one.runner), stored)],
    )


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


def rows(
    one: RunnerStats, before: RunnerStats | None = None, stored: dict[str, int] | None = None
) -> list[tuple[str, ...]]:
    """A runner for people: a row a type, what it has as a whole in the first.

    `before` is its earlier look, from which rates come; what is told of `stored` is taken from it.
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
                str((stored or {}).pop(type.entity, "-")),
                str(type.fullest),
                str(type.keys + type.made),
                str(type.evicted_early),
                str(_commits(type)),
                _rate(one, type, before),
                *(("",) * len(whole) if number else whole),
            )
        )
    return told
