"""Waits: what a running flow may await for long. Each looks only at the flow's records.

A wait is over at the place of the record that ends it, so that a later run, which knows more,
comes to the same line in the same way: `first` gives what came first in the records, whatever has
come since.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, Raw

from .contract import Contract
from .duration import Duration, seconds
from .flow import Deferred, Durable, Token
from .record import Answered, Armed, Asked, Dropped, Fired, Opened, Resolved
from .story import Mismatch, Misuse
from .tagged import Failure

if TYPE_CHECKING:
    from .flowrun import FlowRun

T = TypeVar("T")
U = TypeVar("U")
R = TypeVar("R")


class AskFailed(Exception):
    """Another entity couldn't be asked: it has no outcome, and will have none. Part of what a flow
    may catch."""


class WrongValue(Exception):
    """A deferred can't be resolved with this value: it isn't of its type."""


class Wait(Durable[T]):
    """Something that a flow waits for."""

    def __init__(self, run: FlowRun[Any, Any], what: str) -> None:
        """`what` names it where a run is compared with the first one: `deferred approval`."""
        self.run: FlowRun[Any, Any] = run
        self.what: str = what
        self.used: bool = False
        """Whether anything came of it, so that it wasn't forgotten."""
        run.made(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.what})"

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for it, however long, over restarts."""
        self.used = True
        return self.run.wait(self).__await__()

    def within(self, duration: Duration, *, name: str | None = None) -> Durable[T | None]:
        """The same, or None when `duration` has passed. What was waited for stays open."""
        timer = Sleep(self.run, f"within {self.what}" if name is None else name, duration)
        return Within(self.run, self, timer)

    @property
    @abstractmethod
    def on(self) -> tuple[str, ...]:
        """All that it waits for, by name."""

    @abstractmethod
    def place(self) -> int | None:
        """Where the record stands that ends it; None before."""

    @abstractmethod
    def value(self) -> T:
        """What it gives, once it is over. May raise a failure."""

    @abstractmethod
    def prepare(self) -> None:
        """The flow is about to wait for it, for the first time: record what that takes."""


class DeferredWait(Wait[T], Deferred[T]):
    """A value that somebody outside will give."""

    def __init__(
        self, run: FlowRun[Any, Any], decoder: msgspec.json.Decoder[T], opened: Opened
    ) -> None:
        super().__init__(run, f"deferred {opened.name}")
        self.name: str = opened.name
        self.spoilt: str | None = None
        """Why the value that is recorded isn't of its type."""
        self._decoder, self._opened = decoder, opened
        self._check()

    @property
    def token(self) -> Token[T]:
        """What they need for it."""
        self.used = True
        return Token(self.run.effects.token(self._opened))

    @property
    def on(self) -> tuple[str, ...]:
        """Itself."""
        return (self.what,)

    def place(self) -> int | None:
        """Where it was resolved."""
        return None if self.spoilt else self.run.story.place(Resolved, self.name)

    def value(self) -> T:
        """What it was resolved with."""
        found = self.run.story.find(Resolved, self.name)
        assert found is not None
        return self._decoder.decode(found.value)

    def prepare(self) -> None:
        """It was opened when it was made."""

    @property
    def is_dropped(self) -> bool:
        """Whether it is recorded that the value counts for nothing."""
        place, dropped = (self.run.story.place(of, self.name) for of in (Resolved, Dropped))
        return dropped is not None and (place is None or place < dropped)

    def _check(self) -> None:
        """That what it has just been resolved with is of its type, whatever is awaited now. What
        was recorded while nobody could tell counts for nothing if it isn't."""
        story = self.run.story
        place, found = self.place(), story.find(Resolved, self.name)
        if found is None or place is None:
            return
        try:
            self._decoder.decode(found.value)
        except msgspec.DecodeError as error:
            if place >= story.stored:
                raise WrongValue(f"{self.what}: {error}") from None
            self.spoilt = f"{self.what}: what it was resolved with can't be read: {error}"


class Sleep(Wait[None]):
    """A timer."""

    def __init__(self, run: FlowRun[Any, Any], name: str, duration: Duration) -> None:
        super().__init__(run, f"timer {name}")
        self.name: str = name
        try:
            self._seconds = seconds(duration)
        except ValueError as error:
            raise Misuse(f"timer {name!r}: {error}") from None
        run.take_name(self.what)

    @property
    def on(self) -> tuple[str, ...]:
        """Itself."""
        return (self.what,)

    def place(self) -> int | None:
        """Where it fired."""
        return self.run.story.place(Fired, self.name)

    def value(self) -> None:
        """Nothing."""

    def prepare(self) -> None:
        """Set it, unless it was."""
        if self.run.story.find(Armed, self.name) is None:
            due_ms = self.run.effects.now_ms() + round(self._seconds * 1000)
            self.run.story.add(Armed(self.name, due_ms))


class AskWait(Wait[Any]):
    """An outcome of another entity."""

    def __init__(
        self,
        run: FlowRun[Any, Any],
        asked: Asked,
        contract: Contract,
        *,
        returns: bool,
    ) -> None:
        """`returns`: a failure is returned, and not raised."""
        super().__init__(run, f"ask {asked.name}")
        self._name = asked.name
        self._asked, self._contract, self._returns = asked, contract, returns
        run.take_name(self.what)

    @property
    def on(self) -> tuple[str, ...]:
        """Itself."""
        return (self.what,)

    def place(self) -> int | None:
        """Where the answer came."""
        return self.run.story.place(Answered, self._name)

    def value(self) -> Any:
        """The reply; its failure is raised, or returned."""
        found = self.run.story.find(Answered, self._name)
        assert found is not None
        if found.error is not None:
            raise AskFailed(found.error)
        try:
            if found.failure is UNSET:
                reply = Raw(b"null") if found.reply is UNSET else found.reply
                return self._contract.reply_decoder.decode(reply)
            failure: Failure = self._contract.decode_failure(found.failure)
        except msgspec.DecodeError as error:
            raise Mismatch(f"{self.what}: its answer can't be read: {error}") from None
        if self._returns:
            return failure
        raise failure

    def prepare(self) -> None:
        """Ask, unless that was done."""
        before = self.run.story.find(Asked, self._name)
        if before is None:
            self.run.story.add(self._asked)
        elif (before.entity, before.id) != (self._asked.entity, self._asked.id):
            whom = f"{self._asked.entity}/{self._asked.id}"
            raise Mismatch(
                f"{self.what} is to {whom}, where it was to {before.entity}/{before.id}"
            )


class Within(Wait[T | None]):
    """Another wait, for so long."""

    def __init__(self, run: FlowRun[Any, Any], inner: Wait[T], timer: Sleep) -> None:
        inner.used = timer.used = True
        super().__init__(run, f"{inner.what} or {timer.what}")
        self._inner, self._timer = inner, timer

    @property
    def on(self) -> tuple[str, ...]:
        """Both."""
        return (*self._inner.on, *self._timer.on)

    def place(self) -> int | None:
        """Of what came first."""
        return earlier(self._inner.place(), self._timer.place())

    def value(self) -> T | None:
        """The inner one's, or None if the time was up before."""
        inner = self._inner.place()
        return self._inner.value() if inner is not None and inner == self.place() else None

    def prepare(self) -> None:
        """Both."""
        self._inner.prepare()
        self._timer.prepare()


class First(Wait[T | U]):
    """Whichever comes first."""

    def __init__(self, run: FlowRun[Any, Any], one: Wait[T], two: Wait[U]) -> None:
        one.used = two.used = True
        super().__init__(run, f"first of {one.what} and {two.what}")
        self._one, self._two = one, two

    @property
    def on(self) -> tuple[str, ...]:
        """Both."""
        return (*self._one.on, *self._two.on)

    def place(self) -> int | None:
        """Of what came first."""
        return earlier(self._one.place(), self._two.place())

    def value(self) -> T | U:
        """Of what came first."""
        one = self._one.place()
        return self._one.value() if one is not None and one == self.place() else self._two.value()

    def prepare(self) -> None:
        """Both."""
        self._one.prepare()
        self._two.prepare()


class All(Wait[tuple[T, U]]):
    """Both."""

    def __init__(self, run: FlowRun[Any, Any], one: Wait[T], two: Wait[U]) -> None:
        one.used = two.used = True
        super().__init__(run, f"{one.what} and {two.what}")
        self._one, self._two = one, two

    @property
    def on(self) -> tuple[str, ...]:
        """Both."""
        return (*self._one.on, *self._two.on)

    def place(self) -> int | None:
        """Of what came last."""
        one, two = self._one.place(), self._two.place()
        return None if one is None or two is None else max(one, two)

    def value(self) -> tuple[T, U]:
        """Both; the first one's failure before the second's."""
        return self._one.value(), self._two.value()

    def prepare(self) -> None:
        """Both."""
        self._one.prepare()
        self._two.prepare()


def earlier(one: int | None, two: int | None) -> int | None:
    """The smaller of two places, where there is one."""
    return min((place for place in (one, two) if place is not None), default=None)
