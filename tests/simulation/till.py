"""The toy entity of the simulation: a till whose every command can be recomputed from the log.

`mix` depends on each event and on their order, so no reply is right by chance. Each command
carries a number that no other command has (`uid`), by which the checker finds it again. Some
commands are there to do harm: they kill the process, fail a few times, or can't be encoded.
`arithmetic.py` computes the same without a line of this file.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeAlias

from perdure.entities.context import Context
from perdure.entities.decision import Decision
from perdure.entities.entity import Entity
from perdure.entities.event import Event
from perdure.entities.message import Command, Query
from perdure.entities.state import State, Value
from perdure.entities.tagged import Failure

from .loop import Killed

MODULUS = 1_000_003


class Till(State):
    n: int = 0
    total: int = 0
    mix: int = 0


class Receipt(Value):
    uid: int
    n: int
    total: int
    mix: int


class Stamped(Value):
    uid: int
    version: int
    key: str | None


class Refused(Failure):
    uid: int
    total: int


class Add(Command[Till, Receipt, Refused]):
    """Refused for about one total in seven."""

    uid: int
    amount: int


class Split(Command[Till, Receipt]):
    """Two events at once."""

    uid: int
    amount: int


class Touch(Command[Till, Receipt]):
    """No event, and an outcome all the same."""

    uid: int


class Stamp(Command[Till, Stamped]):
    """Answers what its context says."""

    uid: int


class Boom(Command[Till, Receipt]):
    """`decide` raises the first `times` times."""

    uid: int
    times: int


class Poison(Command[Till, Receipt]):
    """Kills the process that handles it."""

    uid: int


class Sour(Command[Till, Receipt]):
    """Its event is one that `evolve` raises on."""

    uid: int


class Mute(Command[Till, Receipt]):
    """Its reply can't be encoded."""

    uid: int


class Look(Query[Till, Receipt]):
    """What is in the till."""

    uid: int


class Put(Event):
    uid: int
    amount: int


class Soured(Event):
    uid: int


TillCommand: TypeAlias = Add | Split | Touch | Stamp | Boom | Poison | Sour | Mute | Look
TillEvent: TypeAlias = Put | Soured


class Hazards:
    """What the harmful commands do in one world."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.kill = kill
        self.raised: Counter[int] = Counter()
        self.killed: Counter[int] = Counter()


BOOMS: list[type[BaseException]] = [
    RuntimeError,
    asyncio.CancelledError,
    StopIteration,
    RecursionError,
    StopAsyncIteration,
]
"""What user code may raise by mistake; none of it may end a task of the runner."""

HAZARDS: ContextVar[Hazards] = ContextVar("HAZARDS")


def _put(state: Till, uid: int, amount: int) -> Till:
    mix = (state.mix * 31 + uid * 7 + amount) % MODULUS
    return Till(state.n + 1, state.total + amount, mix)


def _receipt(uid: int, state: Till) -> Receipt:
    return Receipt(uid, state.n, state.total, state.mix)


def decide(state: Till, command: TillCommand, context: Context) -> Decision[TillEvent]:
    match command:
        case Look(uid):
            return command.answer(_receipt(uid, state))
        case Add(uid, amount):
            if (state.total + uid) % 7 == 0:
                return command.reject(Refused(uid, state.total))
            return command.accept(_receipt(uid, _put(state, uid, amount)), Put(uid, amount))
        case Split(uid, amount):
            after = _put(_put(state, uid, amount), uid, 1)
            return command.accept(_receipt(uid, after), Put(uid, amount), Put(uid, 1))
        case Touch(uid):
            return command.accept(_receipt(uid, state))
        case Stamp(uid):
            reply = Stamped(uid, context.version, context.key)
            return command.accept(reply, Put(uid, 2))
        case Boom(uid, times):
            _raise_at_first(uid, times)
            return command.accept(_receipt(uid, _put(state, uid, 3)), Put(uid, 3))
        case Poison(uid):
            hazards = HAZARDS.get()
            hazards.killed[uid] += 1
            hazards.kill()
            raise Killed
        case Sour(uid):
            return command.accept(_receipt(uid, state), Soured(uid))
        case Mute(uid):
            return Decision((Put(uid, 1),), object())


def _raise_at_first(uid: int, times: int) -> None:
    hazards = HAZARDS.get()
    hazards.raised[uid] += 1
    if hazards.raised[uid] <= times:
        raise BOOMS[uid % len(BOOMS)](f"boom {uid}, {hazards.raised[uid]} of {times}")


def evolve(state: Till, event: TillEvent) -> Till:
    match event:
        case Put(uid, amount):
            return _put(state, uid, amount)
        case Soured(uid):
            raise RuntimeError(f"sour {uid}")


till = Entity(Till(), decide, evolve)
