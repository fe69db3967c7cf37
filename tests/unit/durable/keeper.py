"""An entity that keeps a sum: the tests' plainest."""

from __future__ import annotations

from typing import Any

from perdure import Command, Decision, Entity, Event, State


class Keeper(State):
    n: int = 0


class Add(Command[Keeper, int]):
    n: int


class Added(Event):
    n: int


def decide(state: Keeper, command: Add) -> Decision[Added]:
    return command.accept(state.n + command.n, Added(command.n))


def evolve(state: Keeper, event: Added) -> Keeper:
    return Keeper(state.n + event.n)


keeper = Entity(Keeper(), decide, evolve)


def add(n: int) -> dict[str, Any]:
    return {"type": "add", "n": n}
