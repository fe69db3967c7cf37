"""Rehearsal: a flow in a test, from wait to wait, without a runner and without waiting.

The code is begun anew for each segment, as a runner does it, so that a flow that isn't
deterministic is found here. Time passes only by `advance`; steps are run, or given by the test.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any, Generic, Never, TypeVar, cast

import msgspec
from msgspec import Raw

from .address import Address
from .contract import Contract
from .decision import Decision
from .duration import Duration, seconds
from .entity import Entity
from .event import Event
from .flow import Flow
from .flowrun import Ended, FlowRun
from .record import Answered, Armed, Asked, Began, Cancelled, Fired, N, Opened, Record, Resolved
from .state import State
from .steps import Call, StepFailed
from .story import CANCELLED, UNDO, FlowCancelled, Mismatch, Misuse, Story
from .tagged import Failure, to_wire
from .waits import WrongValue

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)

KEY = "test"
"""The key of every flow in a test."""

TURNS = 10_000
"""Timers that fire in one `advance` at most: a flow that sleeps for no time would never end."""

Handler = Callable[[Flow[S, Ev], Any], Awaitable[Decision[Ev]]]


class _Stop:
    """What the flow's code gives to whoever drives it, where it waits."""

    def __await__(self) -> Generator[object, None, Never]:
        while True:
            yield self


_STOP = _Stop()


class _Effects:
    """What a run can do in a test."""

    def __init__(self, stage: Rehearsal[Any, Any]) -> None:
        self._stage = stage

    def now_ms(self) -> int:
        return self._stage.now_ms

    def task(self) -> object:
        return None

    def nonce(self) -> str:
        return f"nonce-{len(self._stage.records)}"

    def token(self, opened: Opened) -> str:
        return f"token-of-{opened.name}"

    async def flush(self) -> None:
        """Nothing ends in a test before its time."""

    async def perform(self, call: Call) -> object:
        stage = self._stage
        stage.performed = (*stage.performed, call.name)
        if call.name in stage.steps:
            return _scripted(call, stage.steps[call.name])
        if call.name.startswith(UNDO) and call.name.removeprefix(UNDO) in stage.steps:
            return None  # nothing was done that could be undone
        for attempt in range(call.retry.attempts):
            try:
                made: Any = call.fn(*call.args, **call.kwargs)
                return await made if inspect.isawaitable(made) else made
            except Exception as error:
                if type(error) in call.outcomes:
                    raise
                if attempt + 1 == call.retry.attempts:
                    raise StepFailed(call.name, f"{type(error).__name__}: {error}") from error
        raise AssertionError("a policy of no attempts")

    async def wait(self) -> Never:
        while True:
            await _STOP


def _scripted(call: Call, value: object) -> object:
    """What the test says that the step gives, or raises."""
    if isinstance(value, Failure):
        raise value
    if isinstance(value, Exception):
        raise StepFailed(call.name, f"{type(value).__name__}: {value}") from value
    return value


class Rehearsal(Generic[S, Ev]):
    """One flow: what is recorded of it, and the entity beside it."""

    def __init__(
        self,
        entity: Entity[S, Ev],
        contract: Contract,
        command: Any,
        state: S,
        steps: Mapping[str, object],
    ) -> None:
        """`steps` are the results of steps that aren't to be run, by their names; an exception is
        raised instead."""
        self.state: S = state
        self.version: int = 0
        self.now_ms: int = 0
        self.records: tuple[Record, ...] = ()
        self.emitted: tuple[Ev, ...] = ()
        self.performed: tuple[str, ...] = ()
        self.steps: dict[str, object] = dict(steps)
        self.waits: tuple[str, ...] = ()
        self.decision: Decision[Ev] | None = None
        self.cancelled: bool = False
        self.entity: Entity[S, Ev] = entity
        self._contract, self._command = contract, command

    def _copy(self) -> Rehearsal[S, Ev]:
        made = Rehearsal(self.entity, self._contract, self._command, self.state, self.steps)
        made.version, made.now_ms = self.version, self.now_ms
        made.records, made.emitted, made.performed = self.records, self.emitted, self.performed
        made.cancelled = self.cancelled
        return made

    # -- what happens to it ---------------------------------------------------------------------
    def begun(self) -> Rehearsal[S, Ev]:
        """Run to its first wait, or its end."""
        made = self._copy()
        made._run([])
        return made

    def resumed(self, name: str, value: object) -> Rehearsal[S, Ev]:
        """Somebody resolves a deferred. AssertionError if none of that name is open."""
        __tracebackhide__ = True
        opened = None if self.cancelled else self._find(Opened, name)
        if opened is None or self._find(Resolved, name) is not None:
            raise AssertionError(f"no deferred {name!r} is open; the flow {self.told()}")
        if opened.expires_ms is not None and opened.expires_ms <= self.now_ms:
            raise AssertionError(f"the token of deferred {name!r} has expired")
        return self._woken(Resolved(name, _raw(value, f"deferred {name!r}")))

    def answered(self, name: str, value: object) -> Rehearsal[S, Ev]:
        """Another entity answers, by its reply or a failure. AssertionError if it isn't asked."""
        __tracebackhide__ = True
        asked = None if self.cancelled else self._find(Asked, name)
        if asked is None or self._find(Answered, name) is not None:
            raise AssertionError(f"nobody is asked {name!r}; the flow {self.told()}")
        if isinstance(value, Failure):
            return self._woken(Answered(name, failure=_raw(to_wire(value), name)))
        return self._woken(Answered(name, reply=_raw(value, name)))

    def ended(self) -> Rehearsal[S, Ev]:
        """Somebody cancels it where it waits. AssertionError if it has ended."""
        __tracebackhide__ = True
        if self.decision is not None or self.cancelled:
            raise AssertionError(f"nothing is to be cancelled: the flow {self.told()}")
        return self._woken(Cancelled(CANCELLED))

    def advanced(self, duration: Duration) -> Rehearsal[S, Ev]:
        """Time passes; timers fire in their order."""
        __tracebackhide__ = True
        until_ms = self.now_ms + round(seconds(duration) * 1000)
        stage = self._copy()
        stage.waits, stage.decision = self.waits, self.decision
        for _ in range(TURNS):
            due = min(stage._pending(), key=lambda armed: armed.due_ms, default=None)
            ended = stage.cancelled or stage.decision is not None
            if ended or due is None or due.due_ms > until_ms:
                stage.now_ms = until_ms
                return stage
            stage.now_ms = max(stage.now_ms, due.due_ms)
            stage = stage._woken(Fired(due.name))
        raise AssertionError(f"more than {TURNS} timers fire in {duration}")

    def changed(self, *events: Ev) -> Rehearsal[S, Ev]:
        """Others change the entity while the flow waits."""
        __tracebackhide__ = True
        stage = self._copy()
        stage.waits, stage.decision = self.waits, self.decision
        for event in events:
            stage.state = self.entity.evolve(stage.state, event)
            stage.version += 1
        return stage

    def told(self) -> str:
        """What it does, in words."""
        if self.cancelled:
            return "was cancelled"
        if self.decision is not None:
            return "has ended"
        return f"waits for {' and '.join(self.waits)}"

    # -- running --------------------------------------------------------------------------------
    def _woken(self, record: Record) -> Rehearsal[S, Ev]:
        __tracebackhide__ = True
        made = self._copy()
        made._run([record])
        return made

    def _run(self, woken: list[Record]) -> None:
        """One segment."""
        __tracebackhide__ = True
        records = [*self.records, *woken, Began(self.version)]
        stored = len(self.records)
        story = Story(records, stored)
        address = Address(self.entity.name, KEY)
        run = FlowRun(
            *(self.entity, address, KEY, self._contract, story, self.state), _Effects(self)
        )
        handler = self.entity.flow_of[self._contract.tag]
        try:
            ended, decision = _driven(run.carry_out(handler, self._command))
            if ended:
                run.finish()
            elif run.trouble is not None:
                raise run.trouble
        except (Mismatch, Misuse, WrongValue) as error:
            raise AssertionError(f"the flow can't go on: {run.trouble or error}") from error
        self._take(run)
        if ended:
            self._end(run, decision)

    def _take(self, run: FlowRun[S, Ev]) -> None:
        waits = run.story.waits
        self.waits = () if waits is None else _names(waits.on)
        self.records = (*self.records, *run.fresh())
        self.emitted = (*self.emitted, *run.events)
        for event in run.events:
            self.state = self.entity.evolve(self.state, event)
            self.version += 1

    def _end(self, run: FlowRun[S, Ev], decision: Any) -> None:
        if isinstance(decision, FlowCancelled):
            self.cancelled = True
            return
        if isinstance(decision, BaseException):
            raise decision
        if not isinstance(decision, Decision):
            raise AssertionError(f"the flow returned {decision!r}, not a Decision")
        self.decision = cast("Decision[Ev]", decision)
        self.emitted = (*self.emitted, *self.decision.events)
        for event in self.decision.events:
            self.state = self.entity.evolve(self.state, event)
            self.version += 1

    # -- looking --------------------------------------------------------------------------------
    def _find(self, kind: type[N], name: str) -> N | None:
        return Story(self.records).find(kind, name) if self.records else None

    def _pending(self) -> Iterator[Armed]:
        fired = {record.name for record in self.records if isinstance(record, Fired)}
        return (r for r in self.records if isinstance(r, Armed) and r.name not in fired)


def _driven(coroutine: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    """Run to the end or to a wait: whether it ended, and what it returned.

    Raises Misuse for a flow that goes on where it waits.
    """
    try:
        given = coroutine.send(None)
    except StopIteration as stop:
        return True, stop.value
    except Ended:  # at what woke it, which can't be taken
        return False, None
    if not isinstance(given, _Stop):
        coroutine.close()
        raise AssertionError(
            "a step waits for something that takes an event loop: give its result by steps={...}, "
            "or test the flow with memory()"
        )
    try:
        coroutine.throw(Ended())
    except Ended:
        return False, None
    except StopIteration:
        pass
    else:
        coroutine.close()
    raise Misuse("it catches what ends it where it waits: say `except Exception`, or less")


def _names(on: tuple[str, ...]) -> tuple[str, ...]:
    """The names that the flow gave, without what `within` names by itself."""
    given = (what.partition(" ")[2] for what in on)
    return tuple(name for name in given if not name.startswith("within "))


def _raw(value: object, what: str) -> Raw:
    __tracebackhide__ = True
    try:
        return Raw(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise AssertionError(f"{what}: {value!r} can't be sent: {error}") from error
