"""A case that somebody decides: flows of all kinds, for the tests of flows in a runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    Query,
    Retry,
    State,
    Suspended,
    Token,
    memory,
)
from perdure.durable.testing import TestCluster

DAY = timedelta(days=1)


class Case(State):
    notes: tuple[str, ...] = ()


class Denied(Failure):
    why: str


class Noted(Event):
    text: str


class Note(Command[Case, int]):
    text: str


class Read(Query[Case, tuple[str, ...]]):
    pass


class Open(Command[Case, str, Denied]):
    n: int = 0


class Nap(Command[Case, str]):
    days: int


class Ask(Command[Case, str]):
    pass


class Book(Command[Case, str, Denied]):
    pass


class Walk(Command[Case, str, Denied]):
    steps: int


def decide(state: Case, command: Note | Read) -> Decision[Noted]:
    match command:
        case Note(text):
            return command.accept(len(state.notes) + 1, Noted(text))
        case Read():
            return command.answer(state.notes)


def evolve(state: Case, event: Noted) -> Case:
    return state.replace(notes=(*state.notes, event.text))


class World:
    """What steps did outside, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.keys: dict[str, set[str]] = {}
        self.tokens: list[Token[int]] = []
        self.fail: Callable[[str], BaseException | None] = lambda name: None
        self.gate: asyncio.Event | None = None

    async def act(self, name: str, key: str) -> str:
        self.calls.append(("act", name))
        self.keys.setdefault(name, set()).add(key)
        if self.gate is not None:
            await self.gate.wait()
        error = self.fail(name)
        if error is not None:
            raise error
        return f"did {name}"

    @property
    def names(self) -> list[object]:
        return [name for _, name in self.calls]

    async def called(self, name: str) -> None:
        """Return once a step of that name was begun."""
        async with asyncio.timeout(10):
            while ("act", name) not in self.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def send(self, token: Token[int]) -> None:
        self.tokens.append(token)


def case_of(world: World) -> Entity[Case, Noted]:
    async def approved(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.emit(Noted("begun"))
        answer = flow.deferred("answer", int, tell_caller=command.n == 1)
        await flow.step("send").run(world.send, answer.token)
        seen = flow.state.notes
        if command.n == 3:
            async with flow.exclusive():
                number = await answer
        else:
            number = await answer
        if number < 0:
            return command.reject(Denied(f"{number}"))
        assert seen == ("begun",) or command.n != 0
        return command.accept(f"{number} after {','.join(flow.state.notes)}", Noted("ended"))

    async def walks(flow: Flow[Case, Noted], command: Walk) -> Decision[Noted]:
        for n in range(command.steps):
            step = flow.step(f"step {n}", retry=Retry(attempts=2, base=0.001))
            await flow.emit(Noted(await step.run(world.act, str(n), step.key)))
        return command.accept(f"{len(flow.state.notes)}")

    async def naps(flow: Flow[Case, Noted], command: Nap) -> Decision[Noted]:
        for n in range(command.days):
            await flow.sleep(f"day {n}", DAY)
            await flow.emit(Noted(f"slept {n}"))
        return command.accept(f"{len(flow.state.notes)}")

    async def asks(flow: Flow[Case, Noted], command: Ask) -> Decision[Noted]:
        answer = flow.deferred("answer", int)
        await flow.step("send").run(world.send, answer.token)
        return command.accept(f"{await answer.within(DAY)}")

    async def books(flow: Flow[Case, Noted], command: Book) -> Decision[Noted]:
        for name in ("hotel", "car"):
            step = flow.step(name).undo(world.act, f"undo {name}", f"undo {name}")
            await step.run(world.act, name, step.key)
        await flow.emit(Noted("booked"))
        paid = flow.deferred("paid", int)
        await flow.step("send").run(world.send, paid.token)
        if await paid < 0:
            return command.reject(Denied("not paid"))
        return command.accept("booked")

    return Entity(Case(), decide, evolve, flows=[approved, walks, naps, asks, books])


@asynccontextmanager
async def hosted() -> AsyncGenerator[tuple[TestCluster, World]]:
    world = World()
    async with memory(case_of(world)) as cluster:
        yield cluster, world


async def suspended(cluster: TestCluster, id: str = "c", key: str = "k", n: int = 0) -> Suspended:
    with pytest.raises(Suspended) as caught:
        await cluster.at(Case, id).ask(Open(n), key=key, on_suspend="raise")
    return caught.value
