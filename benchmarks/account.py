"""The entity of the benchmarks: the README's account, which only takes deposits.

Small on purpose: what is measured is the machinery around it.
"""

from __future__ import annotations

from perdure import Command, Decision, Entity, Event, State


class Account(State):
    balance: int = 0


class Deposit(Command[Account, int]):
    cents: int


class Deposited(Event):
    cents: int


def decide(state: Account, command: Deposit) -> Decision[Deposited]:
    return command.accept(state.balance + command.cents, Deposited(command.cents))


def evolve(state: Account, event: Deposited) -> Account:
    return state.replace(balance=state.balance + event.cents)


account = Entity(Account(), decide, evolve)
