"""given, when, then: the tests of `decide` and `evolve`, without a server and without a loop.

    given(account, Deposited(100)).when(Withdraw(200)).rejects(InsufficientFunds(100))

Typed like the real calls: a reply of another type, another entity's event or an undeclared failure
is a type error in the test, too. What is given to `when` is encoded and decoded as it would be on
its way, and what comes out is folded, so that an `evolve` that fails is found here. So is a state
that was changed in place, which no runner looks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Never, cast

import msgspec
from typing_extensions import TypeVar

from .annotations import tag_of
from .context import Context
from .contract import Contract
from .decision import Decision
from .duration import Duration
from .entity import Entity
from .event import Event
from .message import Command, Query
from .rehearsal import Rehearsal
from .state import State
from .tagged import Failure, to_wire

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)
R = TypeVar("R")
E = TypeVar("E", bound=Failure, default=Never)

_IN_PLACE = "changed the state that it was given, in place,"
"""Wrong even though the class is frozen: a list or dict inside it is not."""


class When(Generic[R, Ev, E]):
    """What came of a command, to be compared with what should have.

    A command that a flow handles comes to its first wait. Then `resume`, `answer` and `advance`
    let it go on; each gives what came of that, and leaves this one as it is.
    """

    def __init__(
        self, decided: Decision[Any] | Rehearsal[Any, Any], told: str, contract: Contract
    ) -> None:
        """`told` says what led here, for the message of a failing comparison."""
        self._decided = decided
        self._told, self._contract = told, contract

    @property
    def decision(self) -> Decision[Any]:
        """What was decided. AssertionError while a flow waits."""
        __tracebackhide__ = True
        decided = self._decided
        if isinstance(decided, Decision):
            return decided
        if decided.decision is None:
            raise AssertionError(f"{self._told}\n     got: the flow {decided.told()}")
        return decided.decision

    @property
    def emitted(self) -> tuple[Ev, ...]:
        """All events so far, in order."""
        decided = self._decided
        return decided.events if isinstance(decided, Decision) else decided.emitted

    @property
    def performed(self) -> tuple[str, ...]:
        """The names of a flow's steps that were run so far, in order, with what was undone."""
        decided = self._decided
        return () if isinstance(decided, Decision) else decided.performed

    @property
    def cancelled(self) -> bool:
        """Whether a flow has ended since it was cancelled."""
        return isinstance(self._decided, Rehearsal) and self._decided.cancelled

    def accepts(self, reply: R, *events: Ev) -> None:
        """AssertionError unless it was accepted with exactly this reply and these events.

        A flow's events are all that it emitted, from its beginning on.
        """
        __tracebackhide__ = True
        self._compare(self.decision, Decision(events, reply))

    def rejects(self, failure: E) -> None:
        """AssertionError unless it was refused with exactly this failure.

        What a flow emitted before has happened all the same: see `emitted`.
        """
        __tracebackhide__ = True
        self._compare(self.decision, Decision((), None, failure))

    # -- flows ----------------------------------------------------------------------------------
    def waits_for(self, *names: str) -> None:
        """AssertionError unless a flow waits for exactly these deferreds, sleeps and asks.

        The time of a `within` counts where that was given a name.
        """
        __tracebackhide__ = True
        rehearsal = self._rehearsal()
        ended = rehearsal.decision is not None or rehearsal.cancelled
        if ended or set(rehearsal.waits) != set(names):
            got = f"the flow {rehearsal.told()}"
            raise AssertionError(f"{self._told}\nexpected: waits for {names}\n     got: {got}")

    def resume(self, name: str, value: object) -> When[R, Ev, E]:
        """Somebody resolves the deferred of that name."""
        __tracebackhide__ = True
        after = self._rehearsal().resumed(name, value)
        return self._then(after, f"resume: {name} with {value!r}")

    def answer(self, name: str, value: object) -> When[R, Ev, E]:
        """Another entity answers what it was asked, by its reply or a failure."""
        __tracebackhide__ = True
        after = self._rehearsal().answered(name, value)
        return self._then(after, f"answer: {name} by {value!r}")

    def cancel(self) -> When[R, Ev, E]:
        """Somebody cancels the flow where it waits: what its steps did is undone, as `performed`
        tells. It has no decision then. AssertionError if it has ended."""
        __tracebackhide__ = True
        return self._then(self._rehearsal().ended(), "cancel")

    def advance(self, duration: Duration) -> When[R, Ev, E]:
        """Time passes, and timers fire."""
        __tracebackhide__ = True
        return self._then(self._rehearsal().advanced(duration), f"after: {duration}")

    def meanwhile(self, *events: Ev) -> When[R, Ev, E]:
        """Other commands change the entity while the flow waits."""
        __tracebackhide__ = True
        return self._then(self._rehearsal().changed(*events), f"meanwhile: {events!r}")

    def _then(self, rehearsal: Rehearsal[Any, Any], told: str) -> When[R, Ev, E]:
        __tracebackhide__ = True
        _check_ended(rehearsal, self._contract)
        return When(rehearsal, f"{self._told}\n{told:>6}", self._contract)

    def _rehearsal(self) -> Rehearsal[Any, Any]:
        __tracebackhide__ = True
        if isinstance(self._decided, Decision):
            raise AssertionError("it was decided by decide, at once: there is no flow")
        return self._decided

    def _compare(self, found: Decision[Any], expected: Decision[Any]) -> None:
        __tracebackhide__ = True
        refused = found.failure is not None
        all_of_it = Decision(() if refused else self.emitted, found.reply, found.failure)
        if all_of_it != expected:
            raise AssertionError(
                f"{self._told}\nexpected: {_words(expected)}\n     got: {_words(all_of_it)}"
            )


class Given(Generic[S, Ev]):
    """An entity after some events."""

    def __init__(self, entity: Entity[S, Ev], state: S) -> None:
        """`state` is what the events folded to."""
        self.entity = entity
        self.state = state

    def when(
        self,
        command: Command[S, R, E],
        context: Context | None = None,
        *,
        steps: Mapping[str, object] | None = None,
    ) -> When[R, Ev, E]:
        """Decide the command, or run its flow to the first wait.

        The context is for a `decide` that asks for one. `steps` are the results of a flow's steps
        that aren't to be run here, by their names; an exception is raised instead.

        AssertionError for a command that the entity doesn't take, or that can't travel, and for
        a decision that a runner would refuse or couldn't fold.
        """
        __tracebackhide__ = True
        told = f"given {self.state!r}\n    when: {command!r}"
        contract = self._contract(command)
        if contract.tag not in self.entity.flow_of:
            return When(self._decide(command, context), told, contract)
        travelled = self._travelled(command)
        rehearsal = Rehearsal(self.entity, contract, travelled, self.state, steps or {}).begun()
        _check_ended(rehearsal, contract)
        return When(rehearsal, told, contract)

    def query(self, query: Query[S, R], context: Context | None = None) -> R:
        """The answer to a query; AssertionError for a `decide` that does more than answer it."""
        __tracebackhide__ = True
        return cast("R", self._decide(query, context).reply)

    def _decide(self, message: msgspec.Struct, context: Context | None) -> Decision[Ev]:
        __tracebackhide__ = True
        entity = self.entity
        contract = self._contract(message)
        travelled = self._travelled(message)
        before = _stored(entity, self.state)
        decision: Any = entity.decide(self.state, travelled, context)
        if _stored(entity, self.state) != before:
            raise AssertionError(f"decide {_IN_PLACE} for {message!r}: emit an event instead")
        if not isinstance(decision, Decision):
            raise AssertionError(f"decide returned {decision!r} for {message!r}, not a Decision")
        made = cast("Decision[Ev]", decision)
        _check_promised(made, contract)
        _check_travels(made, contract, entity)
        _fold(entity, self.state, made.events)
        return made

    def _travelled(self, message: msgspec.Struct) -> Any:
        """The message as a runner gets it."""
        __tracebackhide__ = True
        try:
            return self.entity.messages.decode(msgspec.json.encode(message))
        except (TypeError, msgspec.DecodeError) as error:
            raise AssertionError(f"{message!r} can't be sent: {error}") from error

    def _contract(self, message: msgspec.Struct) -> Contract:
        __tracebackhide__ = True
        tag = tag_of(type(message))
        contract = self.entity.contracts.get(tag)
        if contract is None or contract.message is not type(message):
            raise AssertionError(f"{self.entity!r} doesn't take {type(message).__name__}")
        return contract


def given(entity: Entity[S, Ev], *events: Ev) -> Given[S, Ev]:
    """The entity after these events, from its first state on.

    AssertionError for an `evolve` that changes the state it was given in place, or returns none
    that can be stored.
    """
    __tracebackhide__ = True
    return Given(entity, _fold(entity, entity.fresh(), events))


def _check_ended(rehearsal: Rehearsal[Any, Any], contract: Contract) -> None:
    """If the flow has ended: that it did so as its command says."""
    __tracebackhide__ = True
    if rehearsal.decision is not None:
        _check_promised(rehearsal.decision, contract)
        _check_travels(rehearsal.decision, contract, rehearsal.entity)


def _check_travels(decision: Decision[Any], contract: Contract, entity: Entity[Any, Any]) -> None:
    """What a runner would refuse to store: a bad reply, event or failure."""
    __tracebackhide__ = True
    try:
        for event in decision.events:
            entity.log.decode(msgspec.json.encode(event))
        if decision.failure is None:
            contract.reply_decoder.decode(msgspec.json.encode(decision.reply))
        else:
            msgspec.json.encode(to_wire(decision.failure))
    except (TypeError, msgspec.DecodeError) as error:
        raise AssertionError(f"what it {_words(decision)} can't be stored: {error}") from error


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
