"""What the Node.js client calls: a purse, and a large sum that its owner has to confirm.

    perdure dev examples/node/purse.py

The client knows nothing of this file but its messages: `perdure schema` prints them.
"""

from __future__ import annotations

from datetime import timedelta

from perdure import Command, Decision, Entity, Event, Failure, Flow, Query, State, Value


class Purse(State):
    cents: int = 0


class TooLittle(Failure):
    cents: int


class NotConfirmed(Failure):
    pass


class Put(Command[Purse, int]):
    cents: int


class Take(Command[Purse, int, TooLittle]):
    cents: int


class TakeMuch(Command[Purse, int, TooLittle | NotConfirmed]):
    cents: int


class Look(Query[Purse, int]):
    pass


class Filled(Event):
    cents: int


class Taken(Event):
    cents: int


class Confirmation(Value):
    yes: bool


def decide(state: Purse, command: Put | Take | Look) -> Decision[Filled | Taken]:
    match command:
        case Look():
            return command.answer(state.cents)
        case Put(cents):
            return command.accept(state.cents + cents, Filled(cents))
        case Take(cents) if cents > state.cents:
            return command.reject(TooLittle(state.cents))
        case Take(cents):
            return command.accept(state.cents - cents, Taken(cents))


def evolve(state: Purse, event: Filled | Taken) -> Purse:
    match event:
        case Filled(cents):
            return state.replace(cents=state.cents + cents)
        case Taken(cents):
            return state.replace(cents=state.cents - cents)


async def take_much(
    flow: Flow[Purse, Filled | Taken], command: TakeMuch
) -> Decision[Filled | Taken]:
    # Whoever takes may confirm it, too: so the caller is told the token.
    asked = flow.deferred("confirmation", Confirmation, tell_caller=True)
    said = await asked.within(timedelta(hours=1))
    if said is None or not said.yes:
        return command.reject(NotConfirmed())
    left = flow.state.cents - command.cents
    if left < 0:
        return command.reject(TooLittle(flow.state.cents))
    return command.accept(left, Taken(command.cents))


purse = Entity(Purse(), decide, evolve, flows=[take_much])
