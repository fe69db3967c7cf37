"""Takings: every night at three the provider's books are added up, and the day is closed.

The command comes by itself: it is declared beside the handlers, and stored for its time like any
command for later. A night at which no runner was there is closed when one is.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import provider

from perdure import Command, Decision, Entity, Event, Flow, Query, State, cron

SHOP = "shop"
"""There is one shop, so one entity of this type."""


class Takings(State):
    nights: int = 0
    cents: int = 0
    """What the provider had taken, when it was added up last."""


class CloseDay(Command[Takings, int]):
    """Add up; answers what came in since the night before, in cents."""


class GetTakings(Query[Takings, int]):
    """What had come in by last night?"""


class DayClosed(Event):
    cents: int


TakingsEvent: TypeAlias = DayClosed


def decide(state: Takings, command: GetTakings) -> Decision[TakingsEvent]:
    return command.answer(state.cents)


def evolve(state: Takings, event: TakingsEvent) -> Takings:
    return state.replace(nights=state.nights + 1, cents=event.cents)


async def close_day(
    flow: Flow[Takings, TakingsEvent], command: CloseDay
) -> Decision[TakingsEvent]:
    before = flow.state.cents
    total = await flow.step("add up").run(add_up)
    return command.accept(total - before, DayClosed(total))


async def add_up() -> int:
    return sum((await asyncio.to_thread(provider.books)).values())


nightly = cron("nightly", "0 3 * * *", id=SHOP, command=CloseDay(), zone="Europe/Berlin")
takings = Entity(Takings(), decide, evolve, flows=[close_day], schedules=[nightly])
