"""Entity: a kind of entity, made of a first state and pure functions.

It reads what it handles from the annotations of those functions and checks it all when it is made,
at import. So `decide` is the one list of an entity's commands, and `evolve` of its events; nothing
is registered anywhere else.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, cast, get_args, get_origin

import msgspec
from typing_extensions import TypeVar

from .address import Address, is_type
from .annotations import members, name_of, tag_of
from .clock import to_datetime
from .context import Context
from .contract import (
    NEVER,
    Contract,
    contract_of,
    decoder_of,
    parameters,
    require_struct,
    require_unique,
)
from .decision import Decision
from .event import Event
from .flow import Flow
from .label import LABELS, is_label
from .message import Command, Query
from .schedule import Schedule, parsed
from .state import State
from .tagged import Failure

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)
C = TypeVar("C", bound="Command[Any, Any, Any] | Query[Any, Any]")


class Entity(Generic[S, Ev]):
    """A kind of entity: a first state and pure functions. Complete, and checked, when made.

    The commands, queries and events are read from the annotations of `decide`, `evolve` and the
    flows; a mistake is a TypeError of one line, at import.

    Gotchas: `decide` and `evolve` must be pure: they run again after a conflict, a restart or a
    refused append, possibly on another machine. `evolve` must take every event that was ever
    stored. Count `revision` up when `evolve` gives another state for the same events: snapshots
    made by the old one are then ignored. With `label="gpu"` its entities live only in runners
    whose setting `labels` has it: while there is none, tells wait, and asks end with
    RunnerUnavailable.
    """

    name: str
    """The entity type's name: the tag of its state."""
    initial: S
    """The state at version 0."""
    evolve: Callable[[S, Ev], S]
    """The state after an event."""
    with_context: bool
    """Whether `decide` takes a context, too."""
    flows: tuple[Callable[[Flow[S, Ev], Any], Awaitable[Decision[Ev]]], ...]
    """Handlers that may wait."""
    schedules: tuple[Schedule, ...]
    """Commands that come to its entities by themselves."""
    revision: int
    """The declared revision of `evolve`."""
    events: tuple[type[Event], ...]
    """The classes of its events."""
    contracts: dict[str, Contract]
    """What each command and query promises, by its tag."""
    flow_of: dict[str, Callable[[Flow[S, Ev], Any], Awaitable[Decision[Ev]]]]
    """The flow that handles a command, by its tag; the others are handled by `decide`."""
    messages: msgspec.json.Decoder[Any]
    """Decodes a JSON command or query."""
    log: msgspec.json.Decoder[Ev]
    """Decodes one JSON event."""
    state_decoder: msgspec.json.Decoder[S]
    """Decodes a JSON state."""
    label: str | None
    """Only runners with this label own its entities; None: any that hosts the type."""
    fingerprint: str
    """16 hexadecimal digits over name, revision and the schemas of state and events: a snapshot
    with another one is ignored. The same in every process of the same code."""
    code: str
    """The same over its messages and the tags of its failures, too, what flows handle, and the
    schedules: runners with another one answer otherwise, or not at all."""

    def __init__(
        self,
        initial: S,
        decide: Callable[[S, C], Decision[Ev]] | Callable[[S, C, Context], Decision[Ev]],
        evolve: Callable[[S, Ev], S],
        *,
        flows: Sequence[Callable[[Flow[S, Ev], Any], Awaitable[Decision[Ev]]]] = (),
        schedules: Sequence[Schedule] = (),
        revision: int = 1,
        label: str | None = None,
    ) -> None:
        """Read and check all of it; TypeError, in one line, for a mistake."""
        self.initial, self.flows, self.revision = initial, tuple(flows), revision
        self.schedules = tuple(schedules)
        self.label = label
        self._decide: Any = decide
        self.evolve = evolve
        self._state: Any = _class_of(initial)
        self.name = _name_of_state(self._state)
        self._what = f"Entity {self.name!r}"
        if label is not None and not is_label(label):
            raise TypeError(f"{self._what}: label {repr(label)[:80]} isn't {LABELS}")
        self.with_context = len(inspect.signature(decide).parameters) == 3
        self._check_first_parameter()
        self.events = self._check_evolve()
        handled = self._check_decide()
        flowing = [self._check_flow(flow) for flow in self.flows]
        self._check_once_each(handled, flowing)
        self.contracts = {c.tag: c for c in [*handled, *flowing]}
        self.flow_of = {c.tag: f for c, f in zip(flowing, self.flows, strict=True)}
        for schedule in self.schedules:
            self._check_schedule(schedule)
        every = [c.message for c in self.contracts.values()]
        self.messages = decoder_of(every, f"{self._what}: commands")
        self.log = decoder_of(self.events, f"{self._what}: events")
        self.state_decoder = decoder_of([self._state], f"{self._what}: state")
        self.fingerprint = _fingerprint(self.name, revision, [self._state, *self.events])
        self.code = self._code()
        self._first = self._encode_first()

    def fresh(self) -> S:
        """The state at version 0, made anew each time.

        It shares no list or dict with `initial` or another entity's state, so that a handler that
        changes one in place by mistake spoils no neighbour.
        """
        return self.state_decoder.decode(self._first)

    def decide(self, state: S, message: Any, context: Context | None = None) -> Decision[Ev]:
        """What the user's `decide` says, with the context where it asks for one.

        A failure that the message declares may be raised as well as returned. Without a context a
        `decide` that asks for one gets one of version 0 in 1970, for tests. Raises TypeError for
        an undeclared failure, and else what the user's code raises.
        """
        try:
            if not self.with_context:
                return cast("Decision[Ev]", self._decide(state, message))
            made = self._decide(state, message, context or self._no_context())
            return cast("Decision[Ev]", made)
        except Failure as failure:
            contract = self.contracts[tag_of(type(message))]
            if type(failure) in contract.failures:
                # Without its traceback, which would keep the state and the command alive.
                return Decision((), None, failure.with_traceback(None))
            raise TypeError(_undeclared(failure, contract)) from failure

    def _code(self) -> str:
        failures = {f.tag for c in self.contracts.values() for f in c.failures}
        classes = [self._state, *self.events, *(c.message for c in self.contracts.values())]
        schedules = (f"{s.name} {s.digest}" for s in self.schedules)
        beside = [*sorted(failures), *sorted(self.flow_of), *schedules]
        return _fingerprint(" ".join([self.name, *beside]), self.revision, classes)

    def _encode_first(self) -> bytes:
        label = f"{self._what}: the first state"
        try:
            data = msgspec.json.encode(self.initial)
            self.state_decoder.decode(data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"{label} can't be stored: {' '.join(str(error).split())}") from None
        return data

    def _no_context(self) -> Context:
        return Context(Address(self.name, "test"), 0, to_datetime(0), None)

    def _check_first_parameter(self) -> None:
        """First of all, as the type checkers accept any pair of classes here."""
        count = 3 if self.with_context else 2
        of = parameters(self._decide, count, f"{self._what}: decide")[0][0]
        if of is not self._state:
            first = f"but the first state is {name_of(self._state)}"
            raise TypeError(f"{self._what}: decide takes {name_of(of)}, {first}")

    def _check_decide(self) -> list[Contract]:
        label = f"{self._what}: decide"
        count = 3 if self.with_context else 2
        (_, message, *rest), returns = parameters(self._decide, count, label)
        if rest and rest[0] is not Context:
            raise TypeError(f"{label}: the third parameter is Context")
        self._check_emitted(returns, label)
        return [contract_of(m, self._state, label) for m in members(message)]

    def _check_evolve(self) -> tuple[type[Event], ...]:
        label = f"{self._what}: evolve"
        (of, event), returns = parameters(self.evolve, 2, label)
        if of is not self._state or returns is not self._state:
            raise TypeError(f"{label} must take and return {name_of(self._state)}")
        events = members(event)
        for e in events:
            if not (isinstance(e, type) and issubclass(e, Event)):
                raise TypeError(f"{label} takes {name_of(e)}, which isn't an Event")
            if e is Event:
                raise TypeError(f"{label} takes Event: name the events that it takes")
            require_struct(e)
        require_unique([(tag_of(e), e) for e in events], f"{label}:")
        return events

    def _check_flow(self, flow: Any) -> Contract:
        label = f"{self._what}: flow {getattr(flow, '__name__', flow)}"
        if not inspect.iscoroutinefunction(flow):
            raise TypeError(f"{label} isn't an async def")
        (of, command), returns = parameters(flow, 2, label)
        if get_origin(of) is not Flow or get_args(of)[0] is not self._state:
            raise TypeError(f"{label}: the first parameter is Flow[{name_of(self._state)}, ...]")
        self._check_emitted(returns, label)
        contract = contract_of(command, self._state, label)
        if not contract.writes:
            raise TypeError(f"{label} takes {name_of(command)}, a Query")
        return contract

    def _check_schedule(self, schedule: Any) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"{self._what}: {repr(schedule)[:60]} is no schedule: cron or every")
        label = f"{self._what}: schedule {schedule.name!r}"
        if [other.name for other in self.schedules].count(schedule.name) > 1:
            raise TypeError(f"{label}: two have this name")
        contracts = self.contracts.values()
        contract = next((c for c in contracts if c.message is type(schedule.command)), None)
        if contract is None or not contract.writes:
            raise TypeError(f"{label}: {repr(schedule.command)[:60]} is no command of it")

    def occurrence(self, key: str) -> tuple[Schedule | None, int] | None:
        """The schedule whose command has this key, None if it isn't declared any more, and the
        command's time in Unix milliseconds; None for any other key."""
        found = parsed(key)
        if found is None:
            return None
        name, digest, due_ms = found
        return next(
            (s for s in self.schedules if (s.name, s.digest) == (name, digest)), None
        ), due_ms

    def _check_emitted(self, returns: Any, label: str) -> None:
        if returns is Decision:
            return
        if get_origin(returns) is not Decision:
            raise TypeError(f"{label} must return Decision[...]")
        (emitted,) = get_args(returns)
        for e in () if emitted in NEVER else members(emitted):
            if e not in self.events:
                raise TypeError(f"{label} may emit {name_of(e)}, which evolve doesn't take")

    def _check_once_each(self, handled: list[Contract], flowing: list[Contract]) -> None:
        taken = {f.message for f in flowing}
        both = [c.tag for c in handled if c.message in taken]
        if both:
            raise TypeError(f"{self._what}: {both[0]} is handled by decide and by a flow")
        if len(taken) != len(flowing):
            raise TypeError(f"{self._what}: two flows handle the same command")
        require_unique(
            [(c.tag, c.message) for c in [*handled, *flowing]], f"{self._what}: commands"
        )

    def __repr__(self) -> str:
        return f"Entity({self.name!r}: {', '.join(self.contracts)})"


def _class_of(initial: Any) -> Any:
    if isinstance(initial, type):
        name = name_of(cast("Any", initial))
        raise TypeError(f"Entity: the first state is a class: write {name}(), not {name}")
    return cast("Any", type(initial))


def _name_of_state(state: Any) -> str:
    if not issubclass(state, State):
        raise TypeError(f"Entity: the first state is {name_of(state)}, which isn't a State")
    require_struct(state)
    name = tag_of(state)
    if not is_type(name):
        wanted = "1-32 of a-z, 0-9, _ and -, a letter first"
        raise TypeError(f"{name_of(state)}: its tag {name!r} isn't {wanted}")
    return name


def _undeclared(failure: Failure, contract: Contract) -> str:
    name, raised = name_of(contract.message), f"decide raised {failure!r}"
    if not contract.writes:
        return f"{raised}: {name} is a Query, which has no failures"
    hint = f"declare {type(failure).__name__} there, and return command.reject(...)"
    return f"{raised}, which {name} doesn't declare: {hint}"


def _fingerprint(name: str, revision: int, classes: Sequence[Any]) -> str:
    schemas, definitions = msgspec.json.schema_components(classes)
    content = _without_prose([list(schemas), definitions])
    text = msgspec.json.encode([name, revision, content], order="deterministic")
    return hashlib.sha256(text).hexdigest()[:16]


def _without_prose(schema: Any) -> Any:
    """A schema without the descriptions that it takes from docstrings: prose changes nothing."""
    if isinstance(schema, dict):
        entries = cast("dict[str, Any]", schema).items()
        return {
            k: v if k == "default" else _without_prose(v)
            for k, v in entries
            if not (k == "description" and isinstance(v, str))
        }
    if isinstance(schema, list):
        return [_without_prose(part) for part in cast("list[object]", schema)]
    return schema
