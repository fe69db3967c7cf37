"""given, when, then: the tests of `decide` and `evolve`, without a server and without a loop.

    given(account, Deposited(100)).when(Withdraw(200)).rejects(InsufficientFunds(100))

Typed like the real calls: a reply of another type, another entity's event or an undeclared failure
is a type error in the test, too. What is given to `when` is encoded and decoded as it would be on
its way, and what comes out is folded, so that an `evolve` that fails is found here. So is a state
that was changed in place, which no runner looks for.
"""

from __future__ import annotations

from typing import Any, Generic, Never, cast

import msgspec
from typing_extensions import TypeVar

from .annotations import tag_of
from .context import Context
from .contract import Contract
from .decision import Decision
from .entity import Entity
from .event import Event
from .message import Command, Query
from .state import State
from .tagged import Failure, to_wire

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)
R = TypeVar("R")
E = TypeVar("E", bound=Failure, default=Never)

_IN_PLACE = "changed the state that it was given, in place,"
"""Wrong even though the class is frozen: a list or dict inside it is not."""


class When(Generic[R, Ev, E]):
    """What came of a command, to be compared with what should have."""

    def __init__(self, decision: Decision[Any], told: str) -> None:
        """`told` says what led here, for the message of a failing comparison."""
        self.decision = decision
        self._told = told

    def accepts(self, reply: R, *events: Ev) -> None:
        """AssertionError unless it was accepted with exactly this reply and these events."""
        __tracebackhide__ = True
        self._compare(Decision(events, reply))

    def rejects(self, failure: E) -> None:
        """AssertionError unless it was refused with exactly this failure."""
        __tracebackhide__ = True
        self._compare(Decision((), None, failure))

    def _compare(self, expected: Decision[Any]) -> None:
        __tracebackhide__ = True
        if self.decision != expected:
            raise AssertionError(
                f"{self._told}\nexpected: {_words(expected)}\n     got: {_words(self.decision)}"
            )


class Given(Generic[S, Ev]):
    """An entity after some events."""

    def __init__(self, entity: Entity[S, Ev], state: S) -> None:
        """`state` is what the events folded to."""
        self.entity = entity
        self.state = state

    def when(self, command: Command[S, R, E], context: Context | None = None) -> When[R, Ev, E]:
        """Decide the command. The context is for a `decide` that asks for one.

        AssertionError for a command that `decide` doesn't handle, or that can't travel, and for
        a decision that a runner would refuse or couldn't fold.
        """
        __tracebackhide__ = True
        return When(self._decide(command, context), f"given {self.state!r}\n    when: {command!r}")

    def query(self, query: Query[S, R], context: Context | None = None) -> R:
        """The answer to a query; AssertionError for a `decide` that does more than answer it."""
        __tracebackhide__ = True
        return cast("R", self._decide(query, context).reply)

    def _decide(self, message: msgspec.Struct, context: Context | None) -> Decision[Ev]:
        __tracebackhide__ = True
        entity = self.entity
        contract = self._contract(message)
        try:
            travelled = entity.messages.decode(msgspec.json.encode(message))
        except (TypeError, msgspec.DecodeError) as error:
            raise AssertionError(f"{message!r} can't be sent: {error}") from error
        before = _stored(entity, self.state)
        decision: Any = entity.decide(self.state, travelled, context)
        if _stored(entity, self.state) != before:
            raise AssertionError(f"decide {_IN_PLACE} for {message!r}: emit an event instead")
        if not isinstance(decision, Decision):
            raise AssertionError(f"decide returned {decision!r} for {message!r}, not a Decision")
        made = cast("Decision[Ev]", decision)
        _check_promised(made, contract)
        self._check_travels(made, contract.reply_decoder)
        _fold(entity, self.state, made.events)
        return made

    def _contract(self, message: msgspec.Struct) -> Contract:
        __tracebackhide__ = True
        tag = tag_of(type(message))
        contract = self.entity.contracts.get(tag)
        if contract is None or contract.message is not type(message):
            raise AssertionError(f"{self.entity!r} doesn't take {type(message).__name__}")
        if tag in self.entity.flow_of:
            raise AssertionError(
                f"{tag} is handled by a flow, not by decide: test it with memory()"
            )
        return contract

    def _check_travels(self, decision: Decision[Ev], reply: msgspec.json.Decoder[Any]) -> None:
        """What a runner would refuse to store: a bad reply, event or failure."""
        __tracebackhide__ = True
        try:
            for event in decision.events:
                self.entity.log.decode(msgspec.json.encode(event))
            if decision.failure is None:
                reply.decode(msgspec.json.encode(decision.reply))
            else:
                msgspec.json.encode(to_wire(decision.failure))
        except (TypeError, msgspec.DecodeError) as error:
            raise AssertionError(f"what it {_words(decision)} can't be stored: {error}") from error


def given(entity: Entity[S, Ev], *events: Ev) -> Given[S, Ev]:
    """The entity after these events, from its first state on.

    AssertionError for an `evolve` that changes the state it was given in place, or returns none
    that can be stored.
    """
    __tracebackhide__ = True
    return Given(entity, _fold(entity, entity.fresh(), events))


def _check_promised(decision: Decision[Any], contract: Contract) -> None:
    """What the type checkers hold `accept`, `reject` and `answer` to, but no constructor does."""
    __tracebackhide__ = True
    name = contract.message.__name__
    if not contract.writes and (decision.events or decision.failure is not None):
        raise AssertionError(
            f"decide {_words(decision)} for {name}, a Query: it only answers, "
            "with query.answer(...)"
        )
    if decision.failure is not None and type(decision.failure) not in contract.failures:
        declared = ", ".join(f.__name__ for f in contract.failures) or "none"
        raise AssertionError(
            f"decide {_words(decision)}, which {name} doesn't declare (declared: {declared})"
        )


def _fold(entity: Entity[S, Ev], state: S, events: tuple[Ev, ...]) -> S:
    __tracebackhide__ = True
    for event in events:
        before = _stored(entity, state)
        evolved: Any = entity.evolve(state, event)
        if type(evolved) is not type(entity.initial):
            wanted = type(entity.initial).__name__
            raise AssertionError(f"evolve returned {evolved!r} for {event!r}, not {wanted}")
        if _stored(entity, state) != before:
            raise AssertionError(f"evolve {_IN_PLACE} for {event!r}: return state.replace(...)")
        state = evolved
        _stored(entity, state)
    return state


def _stored(entity: Entity[S, Ev], state: S) -> bytes:
    """The state as a snapshot would have it."""
    __tracebackhide__ = True
    try:
        data = msgspec.json.encode(state)
        entity.state_decoder.decode(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise AssertionError(f"the state {state!r} can't be stored: {error}") from error
    return data


def _words(decision: Decision[Any]) -> str:
    if decision.failure is not None:
        return f"rejects {decision.failure!r}"
    events = ", ".join(map(repr, decision.events)) or "no events"
    return f"accepts {decision.reply!r} with {events}"
