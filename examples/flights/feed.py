"""Feed a plan of commands to the aircraft, and read their logbooks.

Each aircraft has one queue: its commands are asked one after another, each after the reply to the
one before. Many aircraft are fed at once, the ones with the most flights first, so that no long
queue is left alone at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aircraft import Aircraft, GetLogbook, Logbook
from records import Plan

from perdure import Cluster, Failure

AT_ONCE = 64  # asks in flight: enough to keep the disk busy, few enough to answer each in time


@dataclass
class Fed:
    """How far it came; read it at any time."""

    rows: int = 0
    commands: int = 0
    refused: int = 0
    """Commands answered by a declared failure: the records contradict themselves."""


async def feed(cluster: Cluster, plan: Plan, fed: Fed, row_done: Callable[[], object]) -> None:
    """Ask all of the plan. Raises the ClusterError of the first command that got no outcome.

    It may be stopped and started again at any point: the keys see to it that what has an outcome
    already gets the same outcome again and changes nothing.
    """
    waiting = iter(sorted(plan.aircraft.items(), key=lambda item: len(item[1]), reverse=True))

    async def work() -> None:
        for tail, flights in waiting:  # shared: each worker takes the next aircraft
            ref = cluster.at(Aircraft, tail)
            for commands in flights:
                for keyed in commands:
                    outcome = await ref.outcome(keyed.command, key=keyed.key)
                    fed.commands += 1
                    fed.refused += isinstance(outcome, Failure)
                fed.rows += 1
                row_done()

    await _together(work)


async def logbooks(cluster: Cluster, plan: Plan) -> dict[str, Logbook]:
    """The logbook of every aircraft of the plan. Raises ClusterError."""
    waiting, found = iter(plan.aircraft), dict[str, Logbook]()

    async def work() -> None:
        for tail in waiting:
            found[tail] = await cluster.at(Aircraft, tail).query(GetLogbook())

    await _together(work)
    return found


async def _together(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    except ExceptionGroup as errors:  # the first one ended the others
        raise errors.exceptions[0] from None
