"""`perdure stats`: what the runners that live have, hold and wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ...durable.stats import RunnerStats, TypeStats, decode_stats
from ...streams.caller import Caller
from ...streams.port import Message
from .advice import HOST
from .calling import connected, type_of, until_interrupted
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, Failed, UsageError

COLLECT_S = 0.5
"""How long answers are collected, in seconds: by then every runner that isn't stuck answered."""

EVERY_S = 2.0
"""Between two looks of `--watch`, in seconds."""

RUNNERS = 10_000
"""Answers of one look that are kept at most."""

MB = 1_000_000

COLUMNS = (
    "RUNNER", "TYPE", "#SHARDS", "#TERMS", "#ENTITIES", "#QUARANTINED", "#ASKS", "#TELLS",
    "#FULLEST", "#KEYS", "#EVICTED", "#COMMITS", "#PER SECOND", "#WAITING", "#BYTES",
    "#CACHED MB", "#DROPPED",
)  # fmt: skip


NOTHING: Mapping[str, RunnerStats] = MappingProxyType({})
"""No earlier look."""


def stats(
    type: str | None = None,
    /,
    *,
    watch: Annotated[bool, Parameter(negative="")] = False,
    every: float = EVERY_S,
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
    watch
        Again and again, until Ctrl-C.
    every
        With `--watch`: seconds between two looks.
    """
    if type is not None:
        type_of(type)
    if not COLLECT_S <= every <= 3600:
        raise UsageError(f"--every {every:g}", f"give seconds, {COLLECT_S:g} to 3600")
    settings, output = common.settings(), common.output()

    async def work(caller: Caller) -> int:
        if watch:
            await _watch(caller, output, type, every)
        else:
            found = await collect(caller, COLLECT_S)
            _print(output, _of_type(found, type))
        return SUCCESS

    return connected(settings, work)


async def collect(caller: Caller, window_s: float) -> list[RunnerStats]:
    """The answers of all runners, by their ids. Raises Failed if there is none."""
    session = caller.session
    found: dict[str, RunnerStats] = {}
    strange: list[str] = []
    nobody = asyncio.Event()

    def take(message: Message) -> None:
        if message.no_responders:
            nobody.set()
            return
        try:
            answer = decode_stats(message.data)
        except msgspec.DecodeError as error:  # somebody else's, or of another release
            strange.append(str(error))
            return
        if len(found) < RUNNERS:
            found[answer.runner] = answer

    inbox = session.asks.inbox(take)
    try:
        session.asks.send(session.subjects.stats, b"", reply=inbox.subject("1"))
        waits = asyncio.ensure_future(nobody.wait())
        await asyncio.wait({waits}, timeout=window_s)
        waits.cancel()
    finally:
        inbox.close()
    if not found and strange:
        raise Failed(f"an answer can't be read: {strange[0]}", "use the runners' own release")
    if not found:
        why = "no runner" if nobody.is_set() else f"no runner answered within {window_s:g} s"
        raise Failed(f"{why} in namespace {session.subjects.namespace!r}", f"start one: {HOST}")
    return [found[runner] for runner in sorted(found)]


async def _watch(caller: Caller, output: Output, type: str | None, every: float) -> None:
    """Look again and again. While nobody answers it says so, and goes on."""
    before: dict[str, RunnerStats] = {}
    with until_interrupted():
        while True:
            began = _now()
            try:
                found = _of_type(await collect(caller, COLLECT_S), type)
            except Failed as nobody:
                output.clear()
                output.trouble(nobody)
            else:
                output.clear()
                _print(output, found, before)
                before = {one.runner: one for one in found}
            await _rest(began + every - _now())


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _rest(seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)


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
        others = sorted({t.entity for one in found for t in one.types})
        raise Failed(
            f"no runner hosts {type!r}, they host {', '.join(others)}", f"start one: {HOST}"
        )
    return hosts


def _print(
    output: Output, found: list[RunnerStats], before: Mapping[str, RunnerStats] = NOTHING
) -> None:
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
