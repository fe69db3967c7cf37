"""Steps: effects on the world outside, run by a flow at least once and recorded once.

How long an attempt may take, how often it is repeated and where a blocking function runs is the
business of whoever drives the flow; here is what is recorded of it, and that a later run gives it
back without running it.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import msgspec
from msgspec import UNSET, Raw

from .duration import Duration
from .flow import Step
from .record import Ran
from .retry import Retry
from .story import UNDO, Mismatch, Misuse
from .tagged import Failure, to_wire

if TYPE_CHECKING:
    from .flowrun import FlowRun

P = ParamSpec("P")
T = TypeVar("T")

RESULT_BYTES = 65_536
"""Of one step's result at most, as JSON: it is stored with its entity, and read at each run. What
is larger belongs into a store of its own, and its place there is the result."""


class StepFailed(Exception):
    """A step had an error at its last attempt. What it did outside isn't known.

    A flow may catch it, and do without the step; its undo steps run as after success.
    """

    def __init__(self, name: str, why: str) -> None:
        """`why` is what the last attempt raised."""
        super().__init__(f"step {name!r}: {why}")
        self.name: str = name
        self.why: str = why


@dataclass(frozen=True)
class Call:
    """What is to be run: one step, or its undo."""

    name: str
    key: str
    fn: Callable[..., Awaitable[object]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry
    timeout: Duration | None
    outcomes: tuple[type[Failure], ...] = ()
    """Failures that are its outcome when it raises them: those that its command declares. An undo
    has none; it is to be done."""


class StepRun(Step):
    """One step of a running flow."""

    def __init__(
        self, run: FlowRun[Any, Any], name: str, retry: Retry, timeout: Duration | None
    ) -> None:
        self.name: str = name
        self.used: bool = False
        self._run, self._retry, self._timeout = run, retry, timeout
        self._undo: Callable[[], Call] | None = None

    def __repr__(self) -> str:
        return f"StepRun({self.name!r})"

    @property
    def key(self) -> str:
        """Stable over retries."""
        return self._run.key_of(f"step {self.name}")

    def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run it, or give the recorded result."""
        return self._run.deed(f"step {self.name!r}", self._carry_out(fn, args, kwargs))

    async def _carry_out(
        self, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        run = self._run
        with run.watched():
            if self.used:
                raise Misuse(f"step {self.name!r} is run twice: each run is a step")
            self.used = True
            run.leave(run.story.place(Ran, self.name))
            record = run.story.find(Ran, self.name)
            if record is None:
                run.story.require_open(f"step {self.name!r} is new, and runs")
                outcomes = tuple(run.contract.failures)
                call = Call(
                    *(self.name, self.key, fn, args, kwargs, self._retry, self._timeout), outcomes
                )
                with run.alone(f"step {self.name!r}"):
                    await run.effects.flush()
                    record = await ran(run, call)
                run.story.add(record)
            if self._undo is not None and record.failure is UNSET:
                run.undos.append(self._undo)
            if run.trouble is not None:  # what it did is recorded
                raise run.trouble
            result: T = given(run, record, fn)
            return result

    def undo(
        self, fn: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Self:
        """What to do if the flow is refused, cancelled or breaks after it."""
        with self._run.watched():
            if self.used or self._undo is not None:
                where = "before it is run" if self.used else "once"
                raise Misuse(f"step {self.name!r}: say undo {where}")
        name = f"{UNDO}{self.name}"
        key = self._run.key_of(name)
        retry, timeout = self._retry, self._timeout  # with `self` in it there was a circle
        self._undo = lambda: Call(name, key, fn, args, kwargs, retry, timeout)
        return self


async def ran(run: FlowRun[Any, Any], call: Call) -> Ran:
    """What came of a call, as it is recorded."""
    try:
        result = await run.effects.perform(call)
        data = encoded(call.name, result)
        if not call.name.startswith(UNDO):  # nobody reads what an undo gives
            result_decoder(call.fn).decode(data)
    except Failure as failure:
        if type(failure) not in call.outcomes:  # as a test's step may
            declared = f"which {run.contract.tag} doesn't declare"
            return Ran(call.name, error=f"it raised {type(failure).__name__}, {declared}")
        return Ran(call.name, failure=Raw(msgspec.json.encode(to_wire(failure))))
    except StepFailed as error:
        return Ran(call.name, error=error.why)
    except msgspec.DecodeError as error:
        return Ran(call.name, error=f"its result isn't what it says: {error}")
    return Ran(call.name, result=data)


def encoded(name: str, value: object) -> Raw:
    """A result as it is recorded. Raises StepFailed for one that can't be, or is too large."""
    try:
        data = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StepFailed(name, f"its result can't be stored: {error}") from None
    if len(data) > RESULT_BYTES:
        raise StepFailed(name, f"its result has {len(data)} bytes, at most {RESULT_BYTES}")
    return Raw(data)


def given(run: FlowRun[Any, Any], record: Ran, fn: Callable[..., Any]) -> Any:
    """What a recorded step gives: its result, or what it raised."""
    if record.error is not None:
        raise StepFailed(record.name, record.error)
    data = Raw(b"null") if record.result is UNSET else record.result
    try:
        if record.failure is not UNSET:
            raise run.contract.decode_failure(record.failure)
        return result_decoder(fn).decode(data)
    except msgspec.DecodeError as error:
        what = f"step {record.name!r}: its recorded result can't be read"
        raise Mismatch(f"{what}: {error}") from None


def result_decoder(fn: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    """The decoder of what a function says that it returns; of anything, if it says nothing."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    # What is made for one flow alone would stay in memory with all that it refers to.
    lasts = isinstance(fn, FunctionType) and fn.__closure__ is None
    return _lasting_decoder(fn) if lasts else _result_decoder(fn)


def _result_decoder(fn: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    try:
        of = typing.get_type_hints(fn, include_extras=True).get("return", Any)
        return msgspec.json.Decoder(type(None) if of is None else of)
    except (NameError, TypeError, AttributeError):  # defined elsewhere, or no type of msgspec's
        return msgspec.json.Decoder(Any)


_lasting_decoder = functools.lru_cache(maxsize=1024)(_result_decoder)
