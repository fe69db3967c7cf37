"""The entity of the crash tests: its state tells in which order its commands took effect."""

from __future__ import annotations

from perdure import Command, Decision, Entity, Event, Failure, Query, State, Value

MODULUS = 1_000_003


class Journal(State):
    n: int = 0
    digest: int = 0


class Receipt(Value):
    n: int
    digest: int


class Declined(Failure):
    n: int
    digest: int


class Write(Command[Journal, Receipt, Declined]):
    op: int


class Look(Query[Journal, Receipt]):
    pass


class Written(Event):
    op: int


def mix(digest: int, op: int) -> int:
    return (digest * 31 + op) % MODULUS


def decide(state: Journal, command: Write | Look) -> Decision[Written]:
    if isinstance(command, Look):
        return command.answer(Receipt(state.n, state.digest))
    if (command.op + state.n) % 7 == 0:
        return command.reject(Declined(state.n, state.digest))
    receipt = Receipt(state.n + 1, mix(state.digest, command.op))
    return command.accept(receipt, Written(command.op))


def evolve(state: Journal, event: Written) -> Journal:
    return Journal(state.n + 1, mix(state.digest, event.op))


journal = Entity(Journal(), decide, evolve)
