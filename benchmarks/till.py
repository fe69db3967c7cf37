"""The entity of the flows' benchmark: the same deposit, as a plain command and by flows.

Each flow does one thing beside it, so that what it costs more than the plain one is that thing's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from perdure import Command, Decision, Entity, Event, Flow, State

from .account import Account, Deposit

SLEEP = timedelta(milliseconds=100)
"""How long the one that sleeps does."""


class Till(State):
    balance: int = 0


class Plain(Command[Till, int]):
    cents: int


class Straight(Command[Till, int]):
    """A flow that doesn't wait."""

    cents: int


class Stepped(Command[Till, int]):
    """Runs one step, which does nothing."""

    cents: int


class Slept(Command[Till, int]):
    """Sleeps once."""

    cents: int


class Asked(Command[Till, int]):
    """Asks an entity of another type, once, which has the same id."""

    cents: int


class Deferred(Command[Till, int]):
    """Waits for its cents to be given by token."""


class Exclusive(Command[Till, int]):
    """The same, with the entity for itself."""


class Added(Event):
    cents: int


TillFlow: TypeAlias = Flow[Till, Added]


def decide(state: Till, command: Plain) -> Decision[Added]:
    return command.accept(state.balance + command.cents, Added(command.cents))


def evolve(state: Till, event: Added) -> Till:
    return state.replace(balance=state.balance + event.cents)


async def straight(flow: TillFlow, command: Straight) -> Decision[Added]:
    return command.accept(flow.state.balance + command.cents, Added(command.cents))


async def effect(cents: int) -> int:
    """What a step does outside: nothing, since only its record is of interest."""
    return cents


async def stepped(flow: TillFlow, command: Stepped) -> Decision[Added]:
    cents = await flow.step("effect").run(effect, command.cents)
    return command.accept(flow.state.balance + cents, Added(cents))


async def slept(flow: TillFlow, command: Slept) -> Decision[Added]:
    await flow.sleep("a while", SLEEP)
    return command.accept(flow.state.balance + command.cents, Added(command.cents))


async def asked(flow: TillFlow, command: Asked) -> Decision[Added]:
    await flow.at(Account, flow.address.id).ask(Deposit(command.cents))
    return command.accept(flow.state.balance + command.cents, Added(command.cents))


async def deferred(flow: TillFlow, command: Deferred) -> Decision[Added]:
    cents = await flow.deferred("cents", int, tell_caller=True)
    return command.accept(flow.state.balance + cents, Added(cents))


async def exclusive(flow: TillFlow, command: Exclusive) -> Decision[Added]:
    async with flow.exclusive():
        cents = await flow.deferred("cents", int, tell_caller=True)
    return command.accept(flow.state.balance + cents, Added(cents))


till = Entity(
    Till(),
    decide,
    evolve,
    flows=[straight, stepped, slept, asked, deferred, exclusive],
)
