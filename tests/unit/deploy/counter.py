"""A counter: the APP of the command line's tests, imported here and typed there."""

from __future__ import annotations

from perdure import Command, Decision, Entity, Event, Failure, Query, State


class Counter(State):
    total: int = 0


class TooFew(Failure):
    total: int


class Add(Command[Counter, int]):
    n: int
    note: str = ""


class Take(Command[Counter, int, TooFew]):
    n: int


class GetTotal(Query[Counter, int]):
    pass


class Added(Event):
    n: int


class Taken(Event):
    n: int


def decide(state: Counter, command: Add | Take | GetTotal) -> Decision[Added | Taken]:
    match command:
        case GetTotal():
            return command.answer(state.total)
        case Add(n):
            return command.accept(state.total + n, Added(n))
        case Take(n) if n > state.total:
            return command.reject(TooFew(state.total))
        case Take(n):
            return command.accept(state.total - n, Taken(n))


def evolve(state: Counter, event: Added | Taken) -> Counter:
    match event:
        case Added(n):
            return state.replace(total=state.total + n)
        case Taken(n):
            return state.replace(total=state.total - n)


counter = Entity(Counter(), decide, evolve)
