"""The entities of the golden files of flows, as they were when those were written: a trip, and the
shop that it buys in.

Neither names, types nor what a handler does may change here: flows of the files have passed them.
A new file may have entities and cases beside these.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

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
    Token,
)
from perdure.entities.flow import Deferred
from perdure.entities.steps import StepFailed
from perdure.entities.waits import AskFailed

DAY = timedelta(days=1)
ONCE = Retry(attempts=1)


# -- the shop -------------------------------------------------------------------------------------
class Shop(State):
    left: int = 10


class SoldOut(Failure):
    left: int


class Sold(Event):
    pieces: int


class Reserve(Command[Shop, int, SoldOut]):
    pieces: int


class Break(Command[Shop, int]):
    pass


class Sell(Command[Shop, str]):
    """Handled by a flow: it takes an hour."""

    pieces: int


class Left(Query[Shop, int]):
    pass


def decide_shop(state: Shop, command: Reserve | Break | Left) -> Decision[Sold]:
    match command:
        case Reserve(pieces) if pieces > state.left:
            return command.reject(SoldOut(state.left))
        case Reserve(pieces):
            return command.accept(state.left - pieces, Sold(pieces))
        case Break():
            raise ValueError("as planned")
        case Left():
            return command.answer(state.left)


def evolve_shop(state: Shop, event: Sold) -> Shop:
    return state.replace(left=state.left - event.pieces)


async def sells(flow: Flow[Shop, Sold], command: Sell) -> Decision[Sold]:
    await flow.sleep("wrapping", timedelta(hours=1))
    left = flow.state.left - command.pieces
    return command.accept(f"sold, {left} left", Sold(command.pieces))


shop = Entity(Shop(), decide_shop, evolve_shop, flows=[sells])


# -- the trip -------------------------------------------------------------------------------------
class Trip(State):
    notes: tuple[str, ...] = ()


class Noted(Event):
    text: str


class Denied(Failure):
    why: str


class Note(Command[Trip, int]):
    text: str


class Read(Query[Trip, tuple[str, ...]]):
    pass


class Approve(Command[Trip, str]):
    """One value."""


class Twice(Command[Trip, str]):
    """Two values, one after another."""


class Expiring(Command[Trip, str]):
    """A value whose token its caller sees, for two days."""


class Nap(Command[Trip, str]):
    """Days."""

    days: int


class Within(Command[Trip, str]):
    """A value within a day."""


class Either(Command[Trip, str]):
    """A value or a day, whichever comes first."""


class Both(Command[Trip, str]):
    """Two values."""


class Buy(Command[Trip, str]):
    """What the shop sells, which takes it an hour."""


class Take(Command[Trip, str]):
    """What the shop has at once."""


class Alone(Command[Trip, str]):
    """A value, and nothing else of this trip meanwhile."""


class Walk(Command[Trip, str]):
    """Three steps."""


class Book(Command[Trip, str, Denied]):
    """Two steps that are undone unless it is paid."""


class Fail(Command[Trip, str, Denied]):
    """All that can go wrong, and a value."""


def decide_trip(state: Trip, command: Note | Read) -> Decision[Noted]:
    match command:
        case Note(text):
            return command.accept(len(state.notes) + 1, Noted(text))
        case Read():
            return command.answer(state.notes)


def evolve_trip(state: Trip, event: Noted) -> Trip:
    return state.replace(notes=(*state.notes, event.text))


class World:
    """What steps do outside."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.keys: dict[str, str] = {}
        self.tokens: dict[str, Token[int]] = {}
        self.stuck: str | None = None
        """The step that doesn't end before `go`."""
        self.go: asyncio.Event = asyncio.Event()

    async def act(self, name: str, key: str) -> str:
        self.calls.append(name)
        self.keys[name] = key
        if name == self.stuck:
            await self.go.wait()
        return f"did {name}"

    async def raises(self, denied: bool) -> None:
        self.calls.append("raises")
        raise Denied("by the step") if denied else ValueError("as it happens")

    async def send(self, name: str, token: Token[int]) -> None:
        self.calls.append(f"send {name}")
        self.tokens[name] = token

    async def called(self, name: str) -> None:
        """Return once a step was begun."""
        async with asyncio.timeout(10):
            while name not in self.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


TripFlow = Flow[Trip, Noted]


def opened(flow: TripFlow, name: str, **more: Any) -> Deferred[int]:
    return flow.deferred(name, int, **more)


def trip_of(world: World, *, changed: bool = False) -> Entity[Trip, Noted]:
    """The trip; `changed`: the code of one flow is another where it has passed."""
    flows = [*waiting(world, changed=changed), *doing(world)]
    return Entity(Trip(), decide_trip, evolve_trip, flows=flows)


def waiting(world: World, *, changed: bool) -> list[Any]:
    """The flows that wait, for the most part."""

    async def approves(flow: TripFlow, command: Approve) -> Decision[Noted]:
        await flow.emit(Noted("begun"))
        value = opened(flow, "value")
        await flow.step("another" if changed else "send").run(world.send, "value", value.token)
        before = ",".join(flow.state.notes)
        number = await value
        return command.accept(f"{number}: {before} | {','.join(flow.state.notes)}", Noted("ended"))

    async def twice(flow: TripFlow, command: Twice) -> Decision[Noted]:
        seen: list[str] = []
        for name in ("one", "two"):
            value = opened(flow, name)
            await flow.step(f"send {name}").run(world.send, name, value.token)
            seen.append(",".join(flow.state.notes))
            await flow.emit(Noted(f"{name} is {await value}"))
        return command.accept(f"{' | '.join(seen)} | {','.join(flow.state.notes)}")

    async def expires(flow: TripFlow, command: Expiring) -> Decision[Noted]:
        value = opened(flow, "value", tell_caller=True, expires=2 * DAY)
        await flow.step("send").run(world.send, "value", value.token)
        return command.accept(f"{await value.within(3 * DAY)}")

    async def naps(flow: TripFlow, command: Nap) -> Decision[Noted]:
        for day in range(command.days):
            await flow.sleep(f"day {day}", DAY)
            await flow.emit(Noted(f"slept {day}"))
        return command.accept(",".join(flow.state.notes))

    async def within(flow: TripFlow, command: Within) -> Decision[Noted]:
        value = opened(flow, "value")
        await flow.step("send").run(world.send, "value", value.token)
        return command.accept(f"{await value.within(DAY)}")

    async def either(flow: TripFlow, command: Either) -> Decision[Noted]:
        value = opened(flow, "value")
        await flow.step("send").run(world.send, "value", value.token)
        return command.accept(f"{await flow.first(value, flow.sleep('nap', DAY))}")

    async def both(flow: TripFlow, command: Both) -> Decision[Noted]:
        one, two = opened(flow, "one"), opened(flow, "two")
        await flow.step("send one").run(world.send, "one", one.token)
        await flow.step("send two").run(world.send, "two", two.token)
        return command.accept(f"{await flow.all(one, two)}")

    return [approves, twice, expires, naps, within, either, both]


def doing(world: World) -> list[Any]:
    """Those that do more than that."""

    async def buys(flow: TripFlow, command: Buy) -> Decision[Noted]:
        return command.accept(await flow.at(Shop, "s-1").ask(Sell(3)), Noted("bought"))

    async def takes(flow: TripFlow, command: Take) -> Decision[Noted]:
        left = await flow.at(Shop, "s-1").ask(Reserve(4), name="four of them")
        return command.accept(f"{left} left", Noted("taken"))

    async def alone(flow: TripFlow, command: Alone) -> Decision[Noted]:
        await flow.emit(Noted("begun"))
        value = opened(flow, "value")
        await flow.step("send").run(world.send, "value", value.token)
        async with flow.exclusive():
            number = await value
        return command.accept(f"{number}", Noted("ended"))

    async def walks(flow: TripFlow, command: Walk) -> Decision[Noted]:
        for name in ("left", "right", "left again"):
            step = flow.step(name, retry=ONCE)
            await flow.emit(Noted(await step.run(world.act, name, step.key)))
        return command.accept(",".join(flow.state.notes))

    async def books(flow: TripFlow, command: Book) -> Decision[Noted]:
        for name in ("hotel", "car"):
            step = flow.step(name).undo(world.act, f"undo {name}", f"no {name}")
            await step.run(world.act, name, step.key)
        await flow.emit(Noted("booked"))
        paid = opened(flow, "paid")
        await flow.step("send").run(world.send, "paid", paid.token)
        if await paid < 0:
            return command.reject(Denied("not paid"))
        return command.accept("paid")

    async def fails(flow: TripFlow, command: Fail) -> Decision[Noted]:
        told: list[str] = []
        for denied in (False, True):
            try:
                await flow.step(f"denied {denied}", retry=ONCE).run(world.raises, denied)
            except (StepFailed, Denied) as error:
                told.append(f"{error!r}")
        told.append(f"{await flow.at(Shop, 's-1').ask(Reserve(1), name='one')} left")
        told.append(f"{await flow.at(Shop, 's-1').outcome(Reserve(10))!r}")
        try:
            await flow.at(Shop, "s-1").ask(Break())
        except AskFailed as error:
            told.append(f"{error!r}")
        value = opened(flow, "value")
        await flow.step("send").run(world.send, "value", value.token)
        return command.accept(f"{await value}: {'; '.join(told)}")

    return [buys, takes, alone, walks, books, fails]
