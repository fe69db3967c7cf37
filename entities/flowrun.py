"""FlowRun: one run of a flow's code over its records. Pure but for what its `Effects` do.

Whoever drives it (a runner, or the test kit) begins the code anew for each segment: what is
recorded is given back, and only at the end of the records anything happens. Where it has to wait
the run ends, and nothing of it stays in memory. The driver then stores what is new, in one commit.

A mistake in the flow's code is remembered as well as raised (`trouble`), so that a flow that
catches everything doesn't get away with it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from hashlib import blake2b
from typing import Any, Generic, Never, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Raw
from typing_extensions import TypeForm

from .address import Address
from .annotations import require_wire, tag_of
from .askref import AskRef
from .canonical import canonical
from .contract import Contract
from .decision import Decision
from .duration import Duration, seconds
from .entity import Entity
from .event import Event
from .flow import DEFAULT_RETRY, Deferred, Durable, Flow, FlowRef, Step
from .record import Began, Dropped, Emitted, Opened, Ran, Record, Waits
from .retry import Retry
from .snowflake import Snowflake
from .state import State
from .steps import Call, StepFailed, StepRun, ran
from .story import UNDO, FlowCancelled, Mismatch, Misuse, Story
from .tagged import Failure
from .waits import All, AskFailed, DeferredWait, First, Sleep, Wait, WrongValue

S = TypeVar("S", bound=State)
S2 = TypeVar("S2", bound=State)
Ev = TypeVar("Ev", bound=Event)
T = TypeVar("T")
U = TypeVar("U")

NAME_CHARACTERS = 200
"""Of the name of a step, a wait or a timer: it is stored with its entity, and shown to people."""

RESERVED = ("ask ", "(")
"""What the runner's own timers and tokens are called."""

HASH_BYTES = 16
"""128 bits: the keys of two steps, or two lists of events, have different ones."""


Handler = Callable[[Any, Any], Awaitable[Any]]


class Effects(Protocol):
    """What a run needs of the world."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    def task(self) -> object:
        """The task that runs now; None where there are none."""
        ...

    def nonce(self) -> str:
        """What nobody can guess."""
        ...

    def token(self, opened: Opened) -> str:
        """The resume token of a deferred."""
        ...

    async def flush(self) -> None:
        """Return when all that the run has recorded so far is stored."""
        ...

    async def perform(self, call: Call) -> object:
        """Run a step's function: its result. Raises Failure, and StepFailed after all attempts."""
        ...

    async def wait(self) -> Never:
        """The flow waits. Doesn't return: the run ends here."""
        ...


class Ended(BaseException):
    """The run has ended, and the flow's code goes on: it caught what ended it."""


class FlowRun(Flow[S, Ev], Generic[S, Ev]):
    """One run."""

    def __init__(
        self,
        entity: Entity[S, Ev],
        address: Address,
        key: str,
        contract: Contract,
        story: Story,
        present: S,
        effects: Effects,
    ) -> None:
        """`key` names the flow, `present` is the entity's state now: the one that a segment sees
        that begins with this run."""
        self.story: Story = story
        self.effects: Effects = effects
        self.contract: Contract = contract
        self.events: list[Ev] = []
        """That this run has emitted anew, and the log doesn't have yet."""
        self.undos: list[Callable[[], Call]] = []
        """What is to be undone, in the order in which it was done."""
        self.deferreds: dict[str, DeferredWait[Any]] = {}
        """Those that this run came by."""
        self.trouble: Mismatch | Misuse | WrongValue | None = None
        """Why the flow can't go on, if its code is wrong, or what it was resolved with."""
        self.cancelled: FlowCancelled | None = None
        """Why it ends where it waits, if it was cancelled there."""
        self.broke: Exception | None = None
        """What its code raised last in an `exclusive`, and didn't catch there."""
        self._entity, self._address, self._key, self._present = entity, address, key, present
        self._made: list[Wait[Any]] = []
        self._deeds: list[tuple[str, Coroutine[Any, Any, Any]]] = []
        self._task: object = None  # that the code runs in
        self._names: set[str] = set()
        self._exclusive = 0
        self._busy: str | None = None  # the step that is at work
        self._alive = True
        self._returned = False  # whether the code came to its end, and wasn't ended
        self._changed = False  # whether the state is others' work, in a segment that begins here
        self._state, self._version = present, -1
        self._begin()

    def __repr__(self) -> str:
        return f"FlowRun({self._address}, {self._key}, {self.story!r})"

    # -- what a flow may say --------------------------------------------------------------------
    @property
    def address(self) -> Address:
        """Which entity."""
        return self._address

    @property
    def state(self) -> S:
        """The state that this line saw the first time."""
        return self._state

    @property
    def version(self) -> int:
        """Its version."""
        return self._version

    def emit(self, *events: Ev) -> Coroutine[Any, Any, S]:
        """Commit events; the state after them."""
        return self.deed("emit", self._emitted(events))

    async def _emitted(self, events: tuple[Ev, ...]) -> S:
        with self.watched():
            if events:
                self._emit(events)
            return self._state

    def step(
        self, name: str, *, retry: Retry = DEFAULT_RETRY, timeout: Duration | None = None
    ) -> Step:
        """An effect on the world outside."""
        with self.watched():
            self.take_name(f"step {name}")
            return StepRun(self, name, retry, timeout)

    def deferred(
        self,
        name: str,
        of: TypeForm[T],
        *,
        tell_caller: bool = False,
        expires: Duration | None = None,
    ) -> Deferred[T]:
        """A value of type `of` that somebody outside will give."""
        with self.watched():
            self.take_name(f"deferred {name}")
            decoder = _decoder(name, of)
            self.leave(self.story.place(Opened, name))
            opened = self.story.find(Opened, name)
            if opened is None:
                self.story.require_open(f"deferred {name!r} is new")
                expires_ms = self._expiry_ms(name, expires)
                opened = Opened(name, self.effects.nonce(), expires_ms, tell_caller)
                self.story.add(opened)
            made: DeferredWait[T] = DeferredWait(self, decoder, opened)
            self.deferreds[name] = made
            return made

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """While it is entered, other asks of this entity get `Suspended`, and tells wait."""
        return self._exclusively()

    def sleep(self, name: str, duration: Duration) -> Durable[None]:
        """Wait; never less than `duration`."""
        with self.watched():
            return Sleep(self, name, duration)

    def at(self, of: type[S2], id: str | Snowflake) -> FlowRef[S2]:
        """Another entity, by its state's class."""
        with self.watched():
            return AskRef(self, of, str(id))

    def first(self, one: Durable[T], two: Durable[U]) -> Durable[T | U]:
        """Whichever comes first; the other stays open."""
        with self.watched():
            return First(self, self._own(one), self._own(two))

    def all(self, one: Durable[T], two: Durable[U]) -> Durable[tuple[T, U]]:
        """Both."""
        with self.watched():
            return All(self, self._own(one), self._own(two))

    # -- for its parts --------------------------------------------------------------------------
    @contextmanager
    def watched(self) -> Generator[None]:
        """A part of the flow's code is at work: what is wrong with it is remembered."""
        if not self._alive:
            self.trouble = Misuse("it catches what ends it: say `except Exception`, or less")
            raise Ended("the flow that this belongs to has ended")
        if self.trouble is not None:  # whatever its code makes of that has no effect
            raise Ended(str(self.trouble))
        try:
            if self._task is not None and self.effects.task() is not self._task:
                raise Misuse("a flow does one thing at a time, in one task: no gather, wait_for")
            if self._busy is not None:
                what = f"{self._busy} is at work: a flow does one thing at a time"
                raise Misuse(f"{what}; several waits are for `first` and `all`")
            yield
        except (Mismatch, Misuse, WrongValue) as error:
            self.trouble = self.trouble or error
            raise

    @contextmanager
    def alone(self, what: str) -> Generator[None]:
        """Something new is done, which takes its time."""
        self._busy = what
        try:
            yield
        finally:
            self._busy = None

    def take_name(self, name: str) -> None:
        """Use a name, once. Raises Misuse."""
        kind, _, given = name.partition(" ")
        if kind in ("deferred", "timer") and given.startswith(RESERVED):
            raise Misuse(f"{kind} {given[:60]!r}: no name begins with {' or '.join(RESERVED)}")
        if kind == "step" and given.startswith(UNDO):
            raise Misuse(f"step {given[:60]!r}: undo steps' names begin with {UNDO!r}")
        if not given or len(given) > NAME_CHARACTERS:
            raise Misuse(f"{kind} {given[:60]!r}: a name has 1 to {NAME_CHARACTERS} characters")
        if name in self._names:
            own = ": name=" if kind in ("ask", "timer") else ""
            raise Misuse(f"{kind} {given!r} is named twice: each needs a name of its own{own}")
        self._names.add(name)

    def deed(self, what: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """What is done once it is awaited; it has to be, before the flow waits or ends."""
        self._deeds = [deed for deed in self._deeds if _is_idle(deed[1])]
        self._deeds.append((what, work))
        return work

    def made(self, wait: Wait[Any]) -> None:
        """A wait was made; it has to be used."""
        self._made.append(wait)

    def key_of(self, what: str) -> str:
        """An idempotency key for what this flow does elsewhere, the same in every run."""
        return flow_key(self._address, self._key, what)

    async def wait(self, wait: Wait[T]) -> T:
        """Come to a line that waits: go on if it is over, else end here."""
        with self.watched():
            story = self.story
            self._require_all_done()
            self.leave(wait.place())
            if not story.was_there(wait.place()):  # as it was when parking was no wait
                self.leave(None, at_most=1)
            if not story.was_there(wait.place()):
                goes_on = False
                if story.open and story.cancelled is not None:
                    raise self._cancel(FlowCancelled(story.cancelled.why))
                if story.open:
                    wait.prepare()
                    story.add(Waits(wait.on, self._exclusive > 0))
                else:
                    self._require_all_named()
                    goes_on = self._pass_on(wait)
                if not goes_on:
                    self._drop_spoilt()
                    self._alive = False
                    await self.effects.wait()
                self._begin()
            return wait.value()

    def leave(self, place: int | None, *, at_most: int | None = None) -> bool:
        """Come to something that stands there, or is new (None): beyond where the flow was parked,
        if it was, its code sees the state as it was when that was over. Whether it came beyond.

        Raises Mismatch if not all came up again that happened before it was parked.
        """
        left = 0
        while left != at_most and self.story.is_beyond(place):
            self._require_all_named()
            self.story.require_all_emitted()
            left += 1
            try:
                self.story.leave()
            except FlowCancelled as error:
                self._begin()
                raise self._cancel(error) from None
            self._begin()
        return left > 0

    def _pass_on(self, wait: Wait[Any]) -> bool:
        try:
            return self.story.pass_on(wait.on, wait.place())
        except FlowCancelled as error:
            self._begin()
            raise self._cancel(error) from None
        except Mismatch as error:
            spoilt = (made.spoilt for made in self.deferreds.values() if made.what in wait.on)
            why = next((why for why in spoilt if why is not None), str(error))
            raise Mismatch(why) from None

    def _drop_spoilt(self) -> None:
        """It goes on to wait: what isn't of its type is open again."""
        for made in self.deferreds.values():
            if made.spoilt is not None and not made.is_dropped:
                self.story.add(Dropped(made.name, made.spoilt))

    def _cancel(self, error: FlowCancelled) -> FlowCancelled:
        self._alive, self.cancelled = False, error
        return error

    # -- for whoever drives it ------------------------------------------------------------------
    async def carry_out(self, handler: Handler, command: Any) -> object:
        """The flow's code, and if that refuses or breaks, what undoes its steps, newest first.

        What the code returned, or the `StepFailed`, `AskFailed`, `FlowCancelled` or undeclared
        Failure that ended it; a declared one that it raises is a refusal. Raises StepFailed for an
        undo that fails, and what else the code raises.
        """
        self._task = self.effects.task()
        try:
            return await self._carried_out(handler, command)
        finally:
            self._task = None

    async def _carried_out(self, handler: Handler, command: Any) -> object:
        decision: object
        try:
            decision = await handler(self, command)
        except Failure as failure:
            declared = type(failure) in self.contract.failures
            decision = Decision((), None, failure) if declared else failure
            failure.__traceback__ = None  # it leads to this frame, which holds the decision
        except (StepFailed, AskFailed, FlowCancelled) as error:
            decision = error.with_traceback(None)
        else:
            self._returned = True
        if self.trouble is None and self.cancelled is None:
            with self.watched(), suppress(FlowCancelled):  # parked behind its last line
                self.leave(None)
        if self.cancelled is not None and self.trouble is None:  # whatever its code made of it
            decision, self._alive = self.cancelled, True
        if self.trouble is None and _is_undone(decision):
            for make in reversed(self.undos):
                await self._undo(make())
        return decision

    async def _undo(self, call: Call) -> None:
        with self.watched():
            self.leave(self.story.place(Ran, call.name))
            record = self.story.find(Ran, call.name)
            if record is None:
                self.story.require_open(f"{call.name} is new, and runs")
                with self.alone(call.name):
                    await self.effects.flush()
                    record = await ran(self, call)
                if record.error is not None:  # it isn't done: it is tried again
                    raise StepFailed(call.name, record.error)
                self.story.add(record)
            self._names.add(f"step {call.name}")

    def finish(self) -> None:
        """The flow's code has returned, or raised. Raises Mismatch, Misuse."""
        if self.trouble is not None:
            raise self.trouble
        with self.watched():
            before = self.cancelled
            with suppress(FlowCancelled):  # too late: it has come to its end
                self.leave(None)
            self.cancelled = before
            self.story.require_last()
            self._require_all_named()
            self._require_all_undone()
            self._require_all_done()
            ended = not self._returned or self.cancelled is not None  # so it came to no more
            for wait in () if ended else self._made:
                if not wait.used:
                    raise Misuse(f"{wait.what} was made and never awaited")
        self._alive = False

    def fresh(self) -> list[Record]:
        """What is to be stored now: the records that the log doesn't have, with the states that
        can't be had from those before."""
        return [self._with_state(record) for record in self.story.fresh]

    def stored(self) -> None:
        """All of that is in the log."""
        self.story.stored = len(self.story.records)
        self.events.clear()

    def part(self) -> None:
        """It is over, for good: break the circles with its parts.

        Else its command and all its records would stay until the garbage collector comes by, and
        that counts objects, not bytes: hundreds of megabytes may stay beyond every bound.
        """
        self._alive = False
        # their tracebacks lead here
        self.cancelled = self.trouble = self.broke = self._task = None
        self._made.clear()
        self._close_deeds()
        self.deferreds.clear()
        self.undos.clear()

    # -- small things ---------------------------------------------------------------------------
    def _begin(self) -> None:
        """A segment begins: its state is recorded, or the present one, or as it was left."""
        begin = self.story.begin
        if begin.state is not UNSET:
            self._state = self._recorded_state(begin.state)
        elif self.story.begin_is_fresh:
            self._changed = begin.version != self._version
            self._state = self._present
        self._version = begin.version

    def _recorded_state(self, data: Raw) -> S:
        try:
            state: S = self._entity.state_decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Mismatch(f"the state that it saw can't be read: {error}") from None
        return state

    def _with_state(self, record: Record) -> Record:
        if isinstance(record, Began) and self._changed and record.state is UNSET:
            return Began(record.version, Raw(msgspec.json.encode(self._present)))
        return record

    def _emit(self, events: Sequence[Ev]) -> None:
        entity = self._entity
        for event in events:
            if type(event) not in entity.events:
                raise Misuse(f"it emits {type(event).__name__}, which evolve doesn't take")
        raws = [msgspec.json.encode(event) for event in events]
        mark = _mark([canonical(event) for event in events])
        while not self.story.emits_again and self.leave(None, at_most=1):
            pass
        before = self.story.next_emitted()
        if before is not None and before.hash not in (mark, _mark(raws)):  # as it was once made
            names = ", ".join(tag_of(type(event)) for event in events)
            raise Mismatch(f"it emits {names}, and emitted something else here the first time")
        decoded = [entity.log.decode(raw) for raw in raws]
        state = self._state
        for event in decoded:
            state = entity.evolve(state, event)
        self._state = state
        self._version += len(events)
        if before is None:
            self.events += decoded
            self.story.add(Emitted(len(events), mark))

    def _own(self, wait: Durable[T]) -> Wait[T]:
        if not isinstance(wait, Wait) or wait.run is not self:
            raise Misuse(f"{wait!r} isn't a wait of this flow")
        return wait

    def _require_all_done(self) -> None:
        for what in self._close_deeds():
            raise Misuse(f"{what} was called and never awaited")

    def _close_deeds(self) -> list[str]:
        """End what was never awaited, and only that: its code may still be at the others."""
        left = [(what, work) for what, work in self._deeds if _is_idle(work)]
        self._deeds.clear()
        for _, work in left:
            work.close()
        return [what for what, _ in left]

    def _require_all_named(self) -> None:
        """That all which the segment recorded came up again. Raises Mismatch."""
        for record in self.story.segment:
            match record:
                case Ran(name) if not (name.startswith(UNDO) or f"step {name}" in self._names):
                    raise Mismatch(f"step {name!r} was run here, and isn't any more")
                case Opened(name) if f"deferred {name}" not in self._names:
                    raise Mismatch(f"deferred {name!r} was opened here, and isn't any more")
                case _:
                    pass

    def _require_all_undone(self) -> None:
        """That what undid something once still does. Raises Mismatch."""
        ran = (record.name for record in self.story.records if isinstance(record, Ran))
        for name in ran:
            if name.startswith(UNDO) and f"step {name}" not in self._names:
                raise Mismatch(f"step {name.removeprefix(UNDO)!r} was undone, and isn't any more")

    def _expiry_ms(self, name: str, expires: Duration | None) -> int | None:
        if expires is None:
            return None
        try:
            return self.effects.now_ms() + round(seconds(expires) * 1000)
        except ValueError as error:
            raise Misuse(f"deferred {name!r}: {error}") from None

    @asynccontextmanager
    async def _exclusively(self) -> AsyncGenerator[None]:
        with self.watched():
            self._exclusive += 1
        try:
            yield
        except Exception as error:
            self.broke = error
            raise
        finally:
            self._exclusive -= 1


def _mark(texts: list[bytes]) -> str:
    return blake2b(b"\n".join(texts), digest_size=HASH_BYTES).hexdigest()


def _is_idle(work: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(work) == inspect.CORO_CREATED


def flow_key(address: Address, flow: str, what: str) -> str:
    """An idempotency key for what a flow does elsewhere."""
    text = f"{address}\0{flow}\0{what}"
    return f"f-{blake2b(text.encode(), digest_size=HASH_BYTES).hexdigest()}"


def _decoder(name: str, of: Any) -> msgspec.json.Decoder[Any]:
    """Of a deferred's values. Raises Misuse for a type that can't travel."""
    try:
        require_wire(of, f"deferred {name!r}")
        return msgspec.json.Decoder(of)
    except TypeError as error:
        raise Misuse(str(error)) from None


def _is_undone(decision: object) -> bool:
    """Whether what the flow's code came to undoes its steps."""
    if isinstance(decision, Decision):
        return decision.failure is not None
    return isinstance(decision, BaseException)
