"""The entity of the hostile tests: well-behaved commands, and one that does what is told to it.

Its messages have fields of many types, since each type is another way to send nonsense.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from perdure import Command, Decision, Entity, Event, Failure, Query, State, Value

NAMES = {"one": 1, "two": 2}
LARGE = 400_000
"""Characters; three of them are more than a server's message."""


class Victim(State):
    n: int = 0
    text: str = ""


class TooMuch(Failure):
    n: int


class Surprise(Failure):
    """Declared nowhere."""

    n: int = 0


class Note(Value):
    """Its own check raises what no decoder expects."""

    name: str = "one"

    def __post_init__(self) -> None:
        NAMES[self.name]


class Add(Command[Victim, int, TooMuch]):
    n: int


class Write(Command[Victim, str]):
    text: str = ""
    note: Note = Note()
    at: datetime | None = None
    price: Decimal = Decimal(0)
    ratio: float = 0.0
    counts: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    deep: list[Any] = msgspec.field(default_factory=list[Any])


class Work(Command[Victim, int]):
    """Takes a while, as real handlers do, and holds up everybody meanwhile."""

    ms: float


class Misbehave(Command[Victim, int]):
    how: str


class Total(Query[Victim, int]):
    how: str = ""


class Added(Event):
    n: int


class Wrote(Event):
    text: str


class Bomb(Event):
    """`evolve` raises on it, unless it is told not to."""


def decide(
    state: Victim, command: Add | Write | Work | Misbehave | Total
) -> Decision[Added | Wrote | Bomb]:
    match command:
        case Total(how=""):
            return command.answer(state.n)
        case Total():
            raise LookupError(command.how)
        case Add(n) if n > 1000:
            return command.reject(TooMuch(n))
        case Add(n):
            return command.accept(state.n + n, Added(n))
        case Write(text):
            return command.accept(text, Wrote(text))
        case Work(ms):
            time.sleep(ms / 1000)
            return command.accept(state.n + 1, Added(1))
        case Misbehave(how):
            return misbehave(command, how)


def misbehave(command: Misbehave, how: str) -> Decision[Added | Wrote | Bomb]:
    match how:
        case "exit":
            os._exit(86)
        case "raise":
            raise LookupError(how)
        case "recurse":
            return misbehave(command, how)
        case "bomb":
            return command.accept(0, Bomb())
        case "event surrogate":
            return command.accept(0, Wrote("\ud800"))
        case "large":
            return command.accept(0, *(Wrote("x" * LARGE) for _ in range(3)))
        case "grow":
            return command.accept(0, Wrote("x" * LARGE))
        case _:
            decision: Decision[Added | Wrote | Bomb] = mistyped(command, how)
            return decision


def mistyped(command: Any, how: str) -> Any:
    """What a type checker would have refused."""
    match how:
        case "reply":
            return command.accept(object(), Added(1))
        case "reply type":
            return command.accept("not a number", Added(1))
        case "reply surrogate":
            return command.accept("\ud800", Added(1))
        case "failure":
            return command.reject(Surprise())
        case "event":
            return command.accept(0, "not an event")
        case _:
            return command.missing


def evolve(state: Victim, event: Added | Wrote | Bomb) -> Victim:
    match event:
        case Added(n):
            return state.replace(n=state.n + n)
        case Wrote(text):
            return state.replace(text=(state.text + text)[-4 * LARGE :])
        case Bomb():
            if os.environ.get("PERDURE_DEFUSED"):
                return state
            raise ValueError("a bomb")


victim = Entity(Victim(), decide, evolve)
