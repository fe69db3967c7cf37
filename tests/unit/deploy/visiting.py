"""Visits, and a clerk whom they ask: all that a backup has to keep."""

from __future__ import annotations

from datetime import timedelta

from perdure import Command, Decision, Entity, Event, Failure, Flow, State, every


class Visit(State):
    notes: tuple[str, ...] = ()


class Noted(Event):
    text: str


class Empty(Failure):
    pass


class Note(Command[Visit, int, Empty]):
    text: str


class Open(Command[Visit, str]):
    """Waits for somebody's answer."""


class Nap(Command[Visit, str]):
    """Waits for a time."""

    ms: int


class Ask(Command[Visit, str]):
    """Waits for the clerk."""


def decide(state: Visit, command: Note) -> Decision[Noted]:
    if not command.text:
        return command.reject(Empty())
    return command.accept(len(state.notes) + 1, Noted(command.text))


def evolve(state: Visit, event: Noted) -> Visit:
    return state.replace(notes=(*state.notes, event.text))


async def opens(flow: Flow[Visit, Noted], command: Open) -> Decision[Noted]:
    number = await flow.deferred("answer", int, tell_caller=True)
    return command.accept(f"told {number}", Noted(f"answer {number}"))


async def naps(flow: Flow[Visit, Noted], command: Nap) -> Decision[Noted]:
    await flow.sleep("nap", timedelta(milliseconds=command.ms))
    return command.accept("slept", Noted("awake"))


class Clerk(State):
    stamps: int = 0


class Stamped(Event):
    pass


class Stamp(Command[Clerk, int]):
    pass


def stamp(state: Clerk, command: Stamp) -> Decision[Stamped]:
    return command.accept(state.stamps + 1, Stamped())


def stamped(state: Clerk, event: Stamped) -> Clerk:
    return state.replace(stamps=state.stamps + 1)


async def asks(flow: Flow[Visit, Noted], command: Ask) -> Decision[Noted]:
    number = await flow.at(Clerk, "c-1").ask(Stamp())
    return command.accept(f"stamp {number}", Noted("stamped"))


clerk = Entity(Clerk(), stamp, stamped)
visit = Entity(
    Visit(),
    decide,
    evolve,
    flows=[opens, naps, asks],
    schedules=[every("hourly", timedelta(hours=1), id="v-0", command=Note("hourly"))],
)
