"""A trip that somebody has to confirm: a flow with all that a flow takes of the server."""

from __future__ import annotations

from perdure import Command, Decision, Entity, Event, Flow, State


class Hotel(State):
    taken: int = 0


class Taken(Event):
    pass


class Take(Command[Hotel, int]):
    pass


def decide_hotel(state: Hotel, command: Take) -> Decision[Taken]:
    return command.accept(state.taken + 1, Taken())


def evolve_hotel(state: Hotel, event: Taken) -> Hotel:
    return state.replace(taken=state.taken + 1)


hotel = Entity(Hotel(), decide_hotel, evolve_hotel)


class Trip(State):
    booked: int = 0


class Booked(Event):
    pass


class Unbook(Command[Trip, int]):
    pass


class Book(Command[Trip, int]):
    pass


def decide(state: Trip, command: Unbook) -> Decision[Booked]:
    return command.accept(state.booked)


def evolve(state: Trip, event: Booked) -> Trip:
    return state.replace(booked=state.booked + 1)


async def books(flow: Flow[Trip, Booked], command: Book) -> Decision[Booked]:
    """A room, a moment to think, and somebody's word."""
    await flow.at(Hotel, "h").ask(Take())
    await flow.sleep("think", 0.1)
    confirmed = await flow.deferred("confirmed", int, tell_caller=True)
    return command.accept(confirmed, Booked())


trip = Entity(Trip(), decide, evolve, flows=[books])
