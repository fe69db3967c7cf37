"""A till for the gateway's tests: a command, two failures, queries with fields, and a flow."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

from msgspec import Meta

from perdure import Command, Decision, Entity, Event, Failure, Flow, Query, State, Value

Cents = Annotated[int, Meta(ge=0, le=1_000_000)]


class Till(State):
    cents: int = 0


class Short(Failure):
    status: int
    """Called as a member of every problem is."""


class Refused(Failure):
    by: str


class Put(Command[Till, int]):
    """Put money in."""

    cents: Cents
    note: str = ""


class Take(Command[Till, int, Short]):
    cents: Cents


class Close(Command[Till, bool, Short | Refused]):
    cents: Cents


class Wait(Command[Till, bool]):
    """Is at work until `released`."""


class Verdict(Value):
    yes: bool
    by: str


class Worth(Query[Till, dict[str, int]]):
    """What so many tills hold."""

    times: Annotated[int, Meta(ge=0, le=1000)]
    label: str | None = None
    parts: tuple[Annotated[int, Meta(ge=0, le=1000)], ...] = ()


class History(Query[Till, int]):
    """Its name is taken by GET."""

    fresh: bool = False


class Moved(Event):
    cents: int


def decide(state: Till, message: Put | Take | Worth | History) -> Decision[Moved]:
    match message:
        case Put(cents):
            return message.accept(state.cents + cents, Moved(cents))
        case Take(cents) if cents > state.cents:
            return message.reject(Short(state.cents))
        case Take(cents):
            return message.accept(state.cents - cents, Moved(-cents))
        case Worth(times, label, parts):
            return message.answer({label or "all": times * state.cents + sum(parts)})
        case History():
            return message.answer(state.cents)


def evolve(state: Till, event: Moved) -> Till:
    return state.replace(cents=state.cents + event.cents)


async def close(flow: Flow[Till, Moved], command: Close) -> Decision[Moved]:
    if command.cents > flow.state.cents:
        return command.reject(Short(flow.state.cents))
    verdict = await flow.deferred("verdict", Verdict, tell_caller=True).within(timedelta(days=1))
    if verdict is None or not verdict.yes:
        return command.reject(Refused("nobody" if verdict is None else verdict.by))
    return command.accept(True, Moved(-command.cents))


class Gate:
    """An event of whichever loop waits for it: each test has its own, and this module is one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def clear(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


released = Gate()


async def hold() -> None:
    await released.wait()


async def wait(flow: Flow[Till, Moved], command: Wait) -> Decision[Moved]:
    await flow.step("hold").run(hold)
    return command.accept(True)


till = Entity(Till(), decide, evolve, flows=[close, wait])
