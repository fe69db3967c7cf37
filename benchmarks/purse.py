"""The entity of the leak test: an account that may refuse, and that can be asked."""

from __future__ import annotations

from typing import TypeAlias

from perdure import Command, Decision, Entity, Event, Failure, Query, State


class Purse(State):
    coins: int = 0


class Empty(Failure):
    coins: int


class Put(Command[Purse, int]):
    coins: int


class Take(Command[Purse, int, Empty]):
    coins: int


class Count(Query[Purse, int]):
    pass


class Changed(Event):
    by: int


Message: TypeAlias = Put | Take | Count


def decide(state: Purse, message: Message) -> Decision[Changed]:
    match message:
        case Count():
            return message.answer(state.coins)
        case Put(coins):
            return message.accept(state.coins + coins, Changed(coins))
        case Take(coins) if coins > state.coins:
            return message.reject(Empty(state.coins))
        case Take(coins):
            return message.accept(state.coins - coins, Changed(-coins))


def evolve(state: Purse, event: Changed) -> Purse:
    return state.replace(coins=state.coins + event.by)


purse = Entity(Purse(), decide, evolve)
