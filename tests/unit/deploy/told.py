"""Runners that are only said to be there: what they would answer, and somebody who answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from perdure.durable.stats import RunnerStats, TypeStats
from perdure.streams.subjects import Subjects

from .commands import plain_client


def told_type(
    *own: int,
    shards: int = 4,
    generation: int = 1,
    version: str = "",
    label: str = "",
    entity: str = "counter",
    quarantined: int = 0,
    **changes: Any,
) -> TypeStats:
    """A type of which a runner has these shards."""
    counts: dict[str, Any] = dict.fromkeys(TypeStats.__struct_fields__, 0)
    counts |= {"counts": {}, "outdated": False}
    given = {"entity": entity, "shards": shards, "generation": generation}
    given |= {"version": version, "label": label}
    given["quarantined"] = quarantined
    more = {"own": own, "owned": len(own), "assigned": len(own), "batching": False}
    return msgspec.convert({**counts, **given, **more, **changes}, TypeStats)


def told(runner: str, *types: TypeStats, **more: Any) -> RunnerStats:
    """What a runner says."""
    counts: dict[str, Any] = dict.fromkeys(RunnerStats.__struct_fields__, 0)
    names: dict[str, Any] = {
        "runner": runner,
        "host": "h",
        "labels": (),
        "machine": None,
        "singletons": (),
        "singleton_states": {},
        "lateness": (),
        "connection": {},
    }
    usual: dict[str, Any] = {"weight": 1.0, "leaving": False, "sees": 1}
    given = {**counts, **names, **usual, "types": msgspec.to_builtins(types), **more}
    return msgspec.convert(given, RunnerStats)


@asynccontextmanager
async def answering(
    url: str, namespace: str, answers: Callable[[], list[RunnerStats]]
) -> AsyncGenerator[Any]:
    """Whenever somebody asks for statistics, these runners answer; with a client for more."""
    client = await plain_client(url)

    async def answer(message: Any) -> None:
        for one in answers():
            await client.publish(message.reply, msgspec.json.encode(one))

    await client.subscribe(Subjects(namespace).stats, cb=answer)
    await client.flush()
    try:
        yield client
    finally:
        await client.close()
