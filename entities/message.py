"""Command and Query: what an entity is asked. With `Event` and `snake`, all that has a tag.

The state is the first type parameter: it ties a message to its entity, so that a reference to an
account takes an account's commands only. The reply and the failures follow, and `accept` and
`reject` live here because the message is what knows them.

Reply and failures are covariant although methods take them: with an invariant reply mypy refuses
`print(await ref.ask(...))`, as it then solves for the `object` that `print` takes. The price is
one hole, an explicit upcast to `Command[S, object, Any]`.

Messages refuse fields that they don't know, so that a typing error or a newer caller is told and
not half obeyed: deploy runners before callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Never

import msgspec
from typing_extensions import TypeVar, dataclass_transform

from .annotations import name_of
from .decision import Decision
from .event import Event as Event
from .naming import Tags
from .naming import snake as snake
from .state import State
from .tagged import Failure

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)
R_co = TypeVar("R_co", covariant=True)
E_co = TypeVar("E_co", bound=Failure, default=Never, covariant=True)


def _require_reply(base: bool, name: str, arguments: object) -> None:
    if base and not isinstance(arguments, tuple):
        of = name_of(arguments)
        raise TypeError(f"{name}[{of}]: the reply's type is missing: {name}[{of}, None] for none")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Command(
    msgspec.Struct,
    Generic[S, R_co, E_co],
    metaclass=Tags,
    frozen=True,
    tag=snake,
    forbid_unknown_fields=True,
):
    """Asks an entity with state `S` to change; answered by `R`, or refused with `E`.

    `class Withdraw(Command[Account, int, InsufficientFunds])`; several failures are a union, none
    is left out.
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, arguments):
            """Python's own refusal of `Command[Account]` names neither of the two."""
            _require_reply(cls is Command, "Command", arguments)
            return super().__class_getitem__(arguments)

    # Covariant parameters on purpose: see the module's docstring.
    def accept(
        self,
        reply: R_co,  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        *events: Ev,
    ) -> Decision[Ev]:
        """Yes: these events happen, together, and the caller gets the reply. No events is fine."""
        return Decision(events, reply)

    def reject(
        self,
        failure: E_co,  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    ) -> Decision[Never]:
        """No: nothing happens, and the caller gets the failure, one that the command declares."""
        return Decision((), None, failure)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Query(
    msgspec.Struct,
    Generic[S, R_co],
    metaclass=Tags,
    frozen=True,
    tag=snake,
    forbid_unknown_fields=True,
):
    """Asks an entity with state `S` something; answered by `R`. It writes nothing."""

    if not TYPE_CHECKING:

        def __class_getitem__(cls, arguments):
            """Python's own refusal of `Query[Account]` names neither of the two."""
            _require_reply(cls is Query, "Query", arguments)
            return super().__class_getitem__(arguments)

    def answer(
        self,
        reply: R_co,  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    ) -> Decision[Never]:
        """The answer. There is no way to emit an event from a query."""
        return Decision((), reply)
