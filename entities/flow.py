"""What a flow may say: a handler that may wait, for seconds or months, on any runner.

All here but `Token` is abstract: durable/ gives the objects that a running flow is handed, and the
test kit others. Everything that a flow waits for has a *name*, not a number, so that code may be
added, removed and moved before what was not reached yet.

Names must be the same on every run: no time, no randomness, no counters that depend on either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Never, ParamSpec, Self

from typing_extensions import TypeForm, TypeVar

from .address import Address
from .duration import Duration
from .event import Event
from .message import Command
from .retry import Retry
from .snowflake import Snowflake
from .state import State
from .tagged import Failure

S = TypeVar("S", bound=State)
S2 = TypeVar("S2", bound=State)
S_co = TypeVar("S_co", bound=State, covariant=True)
Ev_contra = TypeVar("Ev_contra", bound=Event, contravariant=True, default=Never)
R = TypeVar("R")
E = TypeVar("E", bound=Failure, default=Never)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
P = ParamSpec("P")

DEFAULT_RETRY = Retry()
"""The policy of a step that names none."""


class Token(Generic[T]):
    """A capability to resume one deferred, once: who holds it may decide the flow.

    `str(token)` to send it, `Token[Verdict](text)` to have it back. Its repr hides it, as it is a
    secret. The type parameter is the type of the value that it resumes with.
    """

    def __init__(self, text: str) -> None:
        """From the text that `str()` gave; whether it is genuine, the runner tells."""
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        shown = self._text[-4:] if len(self._text) >= 12 else ""
        return f"Token(...{shown})"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Token) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)


class Durable(ABC, Generic[T_co]):
    """Something that a flow may await, for seconds or months, on any runner.

    Gotcha: nothing happens until it is awaited.
    """

    @abstractmethod
    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait for it, however long, over restarts."""

    @abstractmethod
    def within(self, duration: Duration, *, name: str | None = None) -> Durable[T_co | None]:
        """The same, or None when `duration` has passed. What was waited for stays open."""


class Deferred(Durable[T]):
    """A value that somebody outside will give, by the token."""

    @property
    @abstractmethod
    def token(self) -> Token[T]:
        """What they need for it: `cluster.resume(token, value)`."""


class Step(ABC):
    """One named effect: at least once outside, recorded once."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Stable over retries. Hand it to the other side as its idempotency key."""

    @abstractmethod
    def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Run it, or, if it was recorded before, give the recorded result. To be awaited at once.

        Gotcha: a crash between the effect and the record runs it again, with the same `key`.
        """

    @abstractmethod
    def undo(
        self, fn: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Self:
        """What to do, newest first, if the flow is refused, cancelled or breaks after it."""


class FlowRef(ABC, Generic[S]):
    """Another entity, seen from a flow."""

    @abstractmethod
    def ask(self, command: Command[S, R, Any], *, name: str | None = None) -> Durable[R]:
        """Exactly once; a failure is raised. Its name is the command's tag, if not given."""

    @abstractmethod
    def outcome(self, command: Command[S, R, E], *, name: str | None = None) -> Durable[R | E]:
        """Exactly once; a failure is returned, for `match`."""


class Flow(ABC, Generic[S_co, Ev_contra]):
    """What a handler that may wait can do. It is a `decide` with time.

    Between awaits on steps the entity is held; at a deferred, a sleep or an ask it is released and
    other commands go on, so look at `state` again afterwards.
    """

    @property
    @abstractmethod
    def address(self) -> Address:
        """Which entity, as `Context.address` tells `decide`; in a `given(...)` its id is test."""

    @property
    @abstractmethod
    def state(self) -> S_co:
        """The state that this line saw the first time, also on replay."""

    @abstractmethod
    def emit(self, *events: Ev_contra) -> Coroutine[Any, Any, S_co]:
        """Commit events now; the state after them. To be awaited at once."""

    @abstractmethod
    def step(
        self, name: str, *, retry: Retry = DEFAULT_RETRY, timeout: Duration | None = None
    ) -> Step:
        """An effect on the world outside. `timeout` bounds each attempt."""

    @abstractmethod
    def deferred(
        self,
        name: str,
        of: TypeForm[T],
        *,
        tell_caller: bool = False,
        expires: Duration | None = None,
    ) -> Deferred[T]:
        """A value of type `of` that somebody outside will give.

        `tell_caller=True` lets the asking client see the token in `Suspended.resume_token`:
        whoever asks could then approve their own request. After `expires` the token is refused.
        """

    @abstractmethod
    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """While it is entered, other asks of this entity get `Suspended`, and tells wait."""

    @abstractmethod
    def sleep(self, name: str, duration: Duration) -> Durable[None]:
        """Wait; never less than `duration`, over restarts."""

    @abstractmethod
    def at(self, of: type[S2], id: str | Snowflake) -> FlowRef[S2]:
        """Another entity, by its state's class."""

    @abstractmethod
    def first(self, one: Durable[T], two: Durable[U]) -> Durable[T | U]:
        """Whichever comes first; the other stays open."""

    @abstractmethod
    def all(self, one: Durable[T], two: Durable[U]) -> Durable[tuple[T, U]]:
        """Both."""
