"""Decision: what came of a command, as plain data.

`decide` and flows return it. It is made by `command.accept`, `command.reject` and `query.answer`,
which the type checkers hold to the message's declared reply and failures.
"""

from __future__ import annotations

from typing import Generic, Never

from msgspec import Struct
from typing_extensions import TypeVar

from .event import Event
from .tagged import Failure

Ev_co = TypeVar("Ev_co", bound=Event, covariant=True, default=Never)


class Decision(Struct, Generic[Ev_co], frozen=True):
    """What came of a command: events and a reply, or a failure. Compare with `==`.

    Gotcha: build it with `accept`, `reject` or `answer`; its constructor checks nothing.
    """

    events: tuple[Ev_co, ...] = ()
    """What happened, in order; empty if refused."""
    reply: object = None
    """What the caller gets, if accepted."""
    failure: Failure | None = None
    """Why it was refused; None if accepted."""
