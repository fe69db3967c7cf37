"""An aircraft: what it flew, what was cancelled, how many miles it has behind it.

The entity of the flights example. It knows nothing of files, keys or servers; `feed.py` makes its
commands from the rows of a file, and `perdure dev examples/flights/aircraft.py` hosts it alone.

The rules, which are those of the flight records and not of this program:

- A flight departs and arrives, or it is cancelled. Each of them is one command.
- Miles count when a flight arrives, never before.
- An aircraft flies one flight at a time. If it departs although its last flight never arrived,
  that one ended elsewhere (a diversion): its miles never count. If it doesn't depart any more, the
  flight stays in the air. Either way `flights` is `arrived + cancelled + elsewhere` and one more
  while a flight is in the air, so nothing goes missing, and the state stays small for ever.
- A flight that is in the air can't depart again or be cancelled, and one that isn't can't arrive.
"""

from __future__ import annotations

from typing import TypeAlias

from perdure import Command, Decision, Entity, Event, Failure, Query, State, Value


# What it is
class Flight(Value):
    """One that departed and didn't arrive yet."""

    name: str
    miles: int


class Aircraft(State):
    """One tail number. All counts are of flights; miles are of the flights that arrived."""

    flights: int = 0
    arrived: int = 0
    cancelled: int = 0
    elsewhere: int = 0
    miles: int = 0
    in_the_air: Flight | None = None


# What it may refuse
class InTheAir(Failure):
    """It has departed: it can't depart again, and it's too late to cancel it."""

    flight: str


class NotInTheAir(Failure):
    """It can't arrive: it didn't depart, or it has arrived already."""

    flight: str


# What it is asked, what it answers
class Depart(Command[Aircraft, int, InTheAir]):
    """Answers how many flights the aircraft has now."""

    flight: str
    to: str
    miles: int


class Arrive(Command[Aircraft, int, NotInTheAir]):
    """Answers how many miles the aircraft has now."""

    flight: str


class Cancel(Command[Aircraft, int, InTheAir]):
    """Answers how many flights were cancelled by now."""

    flight: str


class Logbook(Value):
    """The totals of one aircraft, as `totals.py` counts them; `open`: departed, never arrived."""

    flights: int
    arrived: int
    cancelled: int
    open: int
    miles: int


class GetLogbook(Query[Aircraft, Logbook]):
    """What does the aircraft have behind it?"""


# What happened
class Departed(Event):
    flight: str
    to: str
    miles: int


class Arrived(Event):
    flight: str
    miles: int


class EndedElsewhere(Event):
    flight: str


class Cancelled(Event):
    flight: str


AircraftCommand: TypeAlias = Depart | Arrive | Cancel | GetLogbook
AircraftEvent: TypeAlias = Departed | Arrived | EndedElsewhere | Cancelled


def decide(state: Aircraft, command: AircraftCommand) -> Decision[AircraftEvent]:
    up = state.in_the_air
    match command:
        case GetLogbook():
            return command.answer(logbook(state))
        case Depart(flight) | Cancel(flight) if up is not None and up.name == flight:
            return command.reject(InTheAir(flight))
        case Depart(flight, to, miles) if up is not None:
            ended = EndedElsewhere(up.name)
            return command.accept(state.flights + 1, ended, Departed(flight, to, miles))
        case Depart(flight, to, miles):
            return command.accept(state.flights + 1, Departed(flight, to, miles))
        case Arrive(flight) if up is not None and up.name == flight:
            return command.accept(state.miles + up.miles, Arrived(flight, up.miles))
        case Arrive(flight):
            return command.reject(NotInTheAir(flight))
        case Cancel(flight):
            return command.accept(state.cancelled + 1, Cancelled(flight))


def evolve(state: Aircraft, event: AircraftEvent) -> Aircraft:
    match event:
        case Departed(flight, _, miles):
            return state.replace(flights=state.flights + 1, in_the_air=Flight(flight, miles))
        case Arrived(_, miles):
            return state.replace(
                arrived=state.arrived + 1, miles=state.miles + miles, in_the_air=None
            )
        case EndedElsewhere():
            return state.replace(elsewhere=state.elsewhere + 1, in_the_air=None)
        case Cancelled():
            return state.replace(flights=state.flights + 1, cancelled=state.cancelled + 1)


def logbook(state: Aircraft) -> Logbook:
    never = state.elsewhere + (state.in_the_air is not None)
    return Logbook(state.flights, state.arrived, state.cancelled, never, state.miles)


aircraft = Entity(Aircraft(), decide, evolve)
