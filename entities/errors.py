"""The eleven cluster errors: everything but a declared failure that a caller can meet.

Each reason is an exception class with typed fields, named by what went wrong, told apart by what
the caller should do next. The list is closed: `handle_error` and a `match` on `reason` can be
checked for holes, so a twelfth class is a breaking change. What an error says is its cause; only
one without a cause says its docstring's first line, which names all that the class stands for.

`advice` and `may_have_taken_effect` are fields and not constants: whoever builds an error knows
more than the class does (an ask without a key gets the advice "check"), and both travel.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal, Self, TypeAlias, TypeVar, Union, cast, get_args

import msgspec

from .annotations import tag_of
from .tagged import Tagged, from_wire, to_wire, values_of, wire_twin

Advice: TypeAlias = Literal["wait", "retry", "retry with the same key", "fix", "check"]
"""What the caller should do next. "check": it had no key, so only a look at the state can tell."""


UNSAID = frozenset({"cause", "may_have_taken_effect", "advice", "resume_token"})
"""Fields that the text of an error says in other words, or not at all."""


class ClusterError(Tagged, kw_only=True):
    """Infrastructure refused, failed or doesn't know; exactly one of eleven reasons.

    Catch one (`except MailboxFull`), or all and tell them apart exhaustively: `except ClusterError
    as error: match error.reason: ...`, or `handle_error`.
    """

    address: str | None = None
    """The entity that it concerns: `account/a-1`."""
    key: str | None = None
    """The idempotency key of the command, if it has one."""
    request_id: str | None = None
    """The call, for logs and traces."""
    cause: str | None = None
    """What lies beneath, in words."""
    may_have_taken_effect: bool = True
    """Whether the command may have had, or may still get, its effect: True unless it is certain
    that it has not, and sticky over the attempts of one call."""
    advice: Advice = "retry with the same key"
    """What to do next."""

    def __init_subclass__(cls, *, tag: str | None = None, kw_only: bool = True) -> None:
        """Refuse a twelfth reason."""
        if cls.__module__ != __name__:
            raise TypeError(f"{cls.__name__}: the eleven reasons are closed; declare a Failure")
        super().__init_subclass__(tag=tag or cls.__name__, kw_only=kw_only)

    def __new__(cls, *args: object, **_fields: object) -> Self:
        """Refuse the base itself."""
        if cls is ClusterError:
            raise TypeError("ClusterError is the base; construct one of its eleven reasons")
        return super().__new__(cls, *args)

    def __str__(self) -> str:
        """What happened, to whom, whether it may have had its effect, and what to do."""
        shown = ", ".join(
            f"{n}={v!r}"
            for n, v in values_of(self).items()
            if n not in UNSAID and v not in (None, ())
        )
        usual = (type(self).__doc__ or self.tag).partition("\n")[0]
        what = (self.cause or usual).rstrip(".")
        effect = "may have taken effect" if self.may_have_taken_effect else "has had no effect"
        return f"{what}{f' ({shown})' if shown else ''}; it {effect}; advice: {self.advice}"

    @property
    def reason(self) -> Reason:
        """This error as the closed union, for an exhaustive `match`."""
        return cast("Reason", self)

    def encode(self) -> bytes:
        """JSON: `{"type": "MailboxFull", "address": ...}`."""
        return msgspec.json.encode(to_wire(self))

    @staticmethod
    def decode(data: bytes | bytearray | memoryview) -> Reason:
        """What `encode` wrote. Fields that a newer runner added are ignored.

        Raises SerializationError when it isn't one of the eleven.
        """
        try:
            twin: Any = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SerializationError(cause=f"not a cluster error: {error}") from error
        return cast("Reason", from_wire(_CLASSES[tag_of(type(twin))], twin))


class AlreadyProcessingMessage(ClusterError, kw_only=True):
    """The same key is being handled now; it will have its effect once."""

    advice: Advice = "wait"


class EntityNotAssignedToRunner(ClusterError, kw_only=True):
    """A runner got a message for a shard that it doesn't own."""

    advice: Advice = "retry"
    runner: str | None = None
    """The runner that refused."""


class MailboxFull(ClusterError, kw_only=True):
    """The entity's mailbox, or the runner, is at capacity."""

    may_have_taken_effect: bool = False
    advice: Advice = "retry with the same key"
    capacity: int | None = None
    """How many commands may wait."""


class MalformedMessage(ClusterError, kw_only=True):
    """Undecodable, unknown, too large, or a key used again with another payload."""

    may_have_taken_effect: bool = False
    advice: Advice = "fix"


class PersistenceError(ClusterError, kw_only=True):
    """The log refused or did not confirm."""


class RunnerNotRegistered(ClusterError, kw_only=True):
    """No runner hosts this entity type.

    Nothing was stored: nobody took the ask, or there is no stream for the tell, as no runner ever
    hosted the type. (A tell to a type that was hosted once is stored, and waits for a runner.) An
    ask that was stored before it runs can end so, too: then `may_have_taken_effect` is True.
    """

    may_have_taken_effect: bool = False
    advice: Advice = "wait"
    entity: str | None = None
    """The entity type's name."""


class RunnerUnavailable(ClusterError, kw_only=True):
    """The owner is gone and not yet replaced."""

    runner: str | None = None
    """The owner that is gone, where known."""


class SendTimeout(ClusterError, kw_only=True):
    """No acknowledgement or no reply in time."""

    after_s: float | None = None
    """How long was waited, in seconds."""


class Suspended(ClusterError, kw_only=True):
    """The flow waits: resume it, or ask for its result later."""

    advice: Advice = "wait"
    waits_for: tuple[str, ...] = ()
    """The names of what it waits for."""
    resume_token: str | None = field(default=None, repr=False)
    """The token, only where the flow shows it to its caller: who holds it can resume the flow. It
    is in neither `str` nor `repr`, which end in logs."""


class RpcClientError(ClusterError, kw_only=True):
    """The connection failed, or the handler had a defect after its retries."""


class SerializationError(ClusterError, kw_only=True):
    """A reply, event or stored commit can't be encoded or decoded."""

    advice: Advice = "fix"


Reason: TypeAlias = (
    AlreadyProcessingMessage
    | EntityNotAssignedToRunner
    | MailboxFull
    | MalformedMessage
    | PersistenceError
    | RunnerNotRegistered
    | RunnerUnavailable
    | SendTimeout
    | Suspended
    | RpcClientError
    | SerializationError
)
"""The closed union of the eleven, for an exhaustive `match`."""

REASONS: tuple[type[ClusterError], ...] = get_args(Reason)
"""The eleven classes."""

_CLASSES = {reason.tag: reason for reason in REASONS}
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    Union[tuple(wire_twin(reason) for reason in REASONS)]  # noqa: UP007 (built from a tuple)
)

AnyClusterError = TypeVar("AnyClusterError", bound=ClusterError)


def with_details(error: AnyClusterError, **changes: Any) -> AnyClusterError:
    """A copy of the error with other values in the named fields, its origin kept.

    TypeError for a name that isn't a field of its class.
    """
    copy = type(error)(**{**values_of(error), **changes})
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def advice_to(key: str | None, error: ClusterError) -> Advice:
    """The error's advice to whoever has that key; without one, as a read has none, to retry."""
    if key is None and error.advice == "retry with the same key":
        return "retry"
    return error.advice


def error_tag(error: BaseException) -> str:
    """For metrics: the tag of a cluster error or failure; `defect` for anything else."""
    return error.tag if isinstance(error, Tagged) else "defect"
