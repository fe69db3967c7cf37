"""Context: what `decide` may also know, as an optional third parameter.

It is recorded nowhere: after a conflict `decide` runs again, with another version and another
time. What must last goes into an event.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from .address import Address


class Context(msgspec.Struct, frozen=True):
    """What `decide` may also know about this command.

    Gotcha: `decide` may run more than once for one command, each time with another context; only
    what it puts into events and reply is kept.
    """

    address: Address
    """Which entity."""
    version: int
    """Its number of events before this command."""
    now: datetime
    """For a tell the server's timestamp of it, for an ask the owner's clock; UTC."""
    key: str | None
    """The idempotency key; None for a bare publish or request without one."""
