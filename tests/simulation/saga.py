"""The second entity of the simulation: flows that step, sleep, wait for a value, ask and undo.

What a line of a flow saw, and what its steps did outside, is written down as it happens, beside
everything that the code under test could know of.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import Any

from perdure.entities.decision import Decision
from perdure.entities.entity import Entity
from perdure.entities.event import Event
from perdure.entities.flow import Flow, Token
from perdure.entities.message import Command, Query
from perdure.entities.retry import Retry
from perdure.entities.state import State, Value
from perdure.entities.steps import StepFailed
from perdure.entities.tagged import Failure

STEP, NAP, WAIT, ALONE, ASK, FAIL, TWO = 1, 2, 4, 8, 16, 32, 64
"""What a flow does, as bits of its script."""

LINES = (1, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)
"""Where a flow's code may be wrong: after what it does there; in what undoes its steps; in what it
ends with."""
UNDOES, ENDS = 10, 11

SHAKY = Retry(attempts=3, base=0.02, factor=1.5)


@dataclass
class Outside:
    """What happened outside of the entities, in one world."""

    random: Random
    effects: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])
    tokens: dict[int, str] = field(default_factory=dict[int, str])
    sent_s: dict[int, float] = field(default_factory=dict[int, float])
    """When each token was first given to somebody, on the world's clock."""
    bugs: dict[int, int] = field(default_factory=dict[int, int])
    """At which line the code of a flow is wrong, by its uid, as long as it is."""


OUTSIDE: ContextVar[Outside] = ContextVar("OUTSIDE")


class Saga(State):
    n: int = 0
    mix: int = 0


class Ran(Value):
    uid: int
    value: int | None
    asked: int | None
    seen: tuple[tuple[int, int, int], ...]
    """Of each line that looked: its number, and the state that it saw."""


class Unwanted(Failure):
    uid: int


class Run(Command[Saga, Ran, Unwanted]):
    uid: int
    script: int
    wait_s: float
    other: str = ""


class Poke(Command[Saga, int]):
    uid: int


class Peek(Query[Saga, int]):
    pass


class Noted(Event):
    uid: int
    line: int


def decide(state: Saga, command: Poke | Peek) -> Decision[Noted]:
    match command:
        case Poke(uid):
            return command.accept(state.n + 1, Noted(uid, 0))
        case Peek():
            return command.answer(state.n)


def evolve(state: Saga, event: Noted) -> Saga:
    mix = (state.mix * 31 + event.uid * 7 + event.line) % 1_000_003
    return Saga(state.n + 1, mix)


async def act(uid: int, name: str, key: str, shaky: bool) -> int:
    outside = OUTSIDE.get()
    if name.startswith("undo"):
        trip(uid, UNDOES)
    outside.effects.append((uid, name, key))
    await asyncio.sleep(outside.random.choice([0.0, 0.001, 0.02, 0.3]))
    if shaky and outside.random.random() < 0.2:
        raise ValueError("as it happens")
    return uid


def trip(uid: int, line: int) -> None:
    if OUTSIDE.get().bugs.get(uid) == line:
        raise ValueError(f"a bug at line {line}")


async def send(uid: int, token: Token[int]) -> None:
    outside = OUTSIDE.get()
    outside.tokens[uid] = str(token)
    outside.sent_s.setdefault(uid, asyncio.get_running_loop().time())


async def run(flow: Flow[Saga, Noted], command: Run) -> Decision[Noted]:
    uid, script = command.uid, command.script
    seen: list[tuple[int, int, int]] = []

    def look(line: int) -> None:
        seen.append((line, flow.state.n, flow.state.mix))

    look(0)
    value: int | None = None
    asked: int | None = None
    if script & STEP:
        step = flow.step("one", retry=SHAKY)
        try:
            await step.undo(act, uid, "undo one", f"undo {uid}", False).run(
                act, uid, "one", step.key, True
            )
        except StepFailed:
            await flow.emit(Noted(uid, 1))
    await flow.emit(Noted(uid, 2))
    look(1)
    trip(uid, 1)
    if script & NAP:
        await flow.sleep("nap", command.wait_s)
        look(2)
        await flow.emit(Noted(uid, 3))
        await flow.step("three").run(act, uid, "three", f"three {uid}", False)
        await flow.emit(Noted(uid, 6))
        trip(uid, 2)
    if script & TWO:
        second = flow.step("two").undo(act, uid, "undo two", f"undo two {uid}", False)
        await second.run(act, uid, "two", f"two {uid}", False)
        trip(uid, 6)
    if script & WAIT:
        go = flow.deferred("go", int)
        await flow.step("send").run(send, uid, go.token)
        value = await go.within(command.wait_s * 4)
        look(3)
        await flow.emit(Noted(uid, 4))
        trip(uid, 4)
    if script & ALONE:
        async with flow.exclusive():
            trip(uid, 7)
            await flow.sleep("alone", command.wait_s / 2)
            trip(uid, 8)
        look(4)
    if script & ASK:
        asked = await flow.at(Saga, command.other).ask(Poke(uid))
        look(5)
        await flow.emit(Noted(uid, 5))
        trip(uid, 5)
    trip(uid, 9)
    if OUTSIDE.get().bugs.get(uid) == ENDS:
        wrong: Any = object()
        return command.accept(wrong)
    if script & FAIL:
        return command.reject(Unwanted(uid))
    return command.accept(Ran(uid, value, asked, tuple(seen)), Noted(uid, 9))


saga = Entity(Saga(), decide, evolve, flows=[run])
